"""The FiftyOne app over a dataset, on this machine alone unless asked."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from annotator.errors import ConfigError

PORT = 5151
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"


@contextmanager
def serving(fiftyone: Any, dataset: Any, port: int = PORT, *, remote: bool = False) -> Iterator[str]:
    """Yields the address to open; the server stops when the block ends.

    The server alone, without FiftyOne's session, which is for notebooks and greets at length.
    """
    refuse_taken(port, remote=remote)
    service = fiftyone.core.service.ServerService(port, EVERYWHERE if remote else LOOPBACK, do_not_track=True)
    try:
        yield f"http://{socket.gethostname() if remote else LOOPBACK}:{port}/datasets/{quote(dataset.slug)}"
    finally:
        service.stop()


def refuse_taken(port: int, *, remote: bool = False) -> None:
    """FiftyOne would join a server that is there already, which may show another dataset."""
    host = EVERYWHERE if remote else LOOPBACK
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            raise ConfigError(
                f"expected a free port, but {port} cannot be had on {host}; choose another --port"
            ) from None


def show(address: str) -> bool:
    """Opens the user's browser there; False where there is none."""
    try:
        return webbrowser.open(address, new=2)
    except webbrowser.Error:
        return False
