"""Fetching one file, over connections that nobody on the way can change.

That is https, and plain http only from this machine to itself. A redirect must lead to such an address, too.
"""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from http.client import HTTPMessage
from ipaddress import ip_address
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from annotator.errors import WeightsError
from annotator.files import replacing

CONNECT_SECONDS = 5.0
INSECURE = "anyone on the way could change the file"


class NotThere(Exception):
    """The server answers and has no such file."""


class Unreachable(Exception):
    """No answer."""


def is_secure(address: str) -> bool:
    """Whether a file may be fetched from there."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        return host != "" and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host)))
    except ValueError:  # what is no address at all
        return False


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def from_hub(repository: str, file: str, revision: str) -> Path:
    """The file in the Hugging Face cache, to which it is downloaded."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    address = hub.hf_hub_url(repository, file, revision=revision)
    if not is_secure(address):
        raise WeightsError(f"expected HF_ENDPOINT to begin with https://, but the hub's file is {address}; {INSECURE}")
    try:
        # The download itself tries again and again for half a minute, so one short question goes first.
        place = hub.get_hf_file_metadata(address, timeout=CONNECT_SECONDS).location
        _refuse_detour(address, place)
        return Path(hub.hf_hub_download(repository, file, revision=revision))
    except WeightsError:
        raise
    except LocalEntryNotFoundError as error:
        raise Unreachable(_first_line(error.__cause__ or error)) from None
    except EntryNotFoundError:
        raise NotThere(f"{repository} has no {file}") from None
    except Exception as error:  # each version of the library has its own errors for a network that fails
        raise Unreachable(_first_line(error)) from None


def from_url(address: str, target: Path) -> Path:
    """The file at `target`, which it gets when it is whole."""
    from rich.console import Console
    from rich.progress import wrap_file

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        opener = urllib.request.build_opener(_SecureRedirects)
        with opener.open(address, timeout=CONNECT_SECONDS) as response, replacing(target) as file:
            total = int(response.headers.get("Content-Length") or 0)
            with wrap_file(response, total, description=target.name, console=Console(stderr=True)) as body:
                shutil.copyfileobj(body, file)
            if total and file.tell() != total:
                raise Unreachable(f"connection lost after {file.tell()} of {total} bytes")
    except urllib.error.HTTPError as error:
        raise NotThere(f"{address} answers {error.code} {error.reason}") from None
    except OSError as error:
        raise Unreachable(_first_line(error)) from None
    return target


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_detour(req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_detour(address: str, onward: str) -> None:
    """Raises where an address leads on to one that is less secure than itself."""
    if not is_secure(onward) or (address.startswith("https:") and not onward.startswith("https:")):
        raise WeightsError(
            f"expected {address} to lead to an https address, but it leads to {onward}; {INSECURE}; get it in another "
            "way, check it, and pass it with --weights ROLE=FILE"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
