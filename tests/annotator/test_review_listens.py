"""Where `annotate review` listens, with a server and a database of FiftyOne's own: on this machine only."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from helpers_processes import PATIENCE, free_port, started, wait_until
from helpers_runs import ROOT
from reference.open_runs import Labelled, write_run

from annotator.vocabulary import Vocabulary

FIFTYONE = importlib.util.find_spec("fiftyone")
MONGOD = Path(str(FIFTYONE and FIFTYONE.origin)).parent / "db" / "bin" / "mongod"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.stress,
    pytest.mark.timeout(900),  # FiftyOne is imported twice, and starts a database each time
    pytest.mark.skipif(not MONGOD.exists(), reason="needs pip install 'annotate[review]' and a mongod"),
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads what listens from Linux's /proc"),
]
LISTENS = "0A"
EVERYWHERE = {"00000000", "0" * 32}
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


def processes_of(home: Path) -> list[Path]:
    """All that were started with this home, whoever their parent is by now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process)
        except OSError:  # it has ended, or is another user's
            continue
    return found


def listening(processes: list[Path]) -> set[tuple[str, int]]:
    """(address as /proc writes it, port) of their sockets."""
    sockets = set()
    for process in processes:
        for handle in (process / "fd").glob("*"):
            try:
                sockets.update(re.findall(r"socket:\[(\d+)\]", str(handle.readlink())))
            except OSError:  # closed meanwhile
                continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENS and rest[5] in sockets:
                address, port = local.split(":")
                found.add((address, int(port, 16)))
    return found


@pytest.mark.parametrize("remote", [False, True])
def test_only_the_app_listens_elsewhere_and_only_when_asked(tmp_path: Path, remote: bool) -> None:
    run = write_run(tmp_path / "run", {"a.jpg": Labelled([[0]], ["cat"])}, Vocabulary.of(["cat"]))
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FIFTYONE", "MPL"))}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from annotator.cli import main; main()", "review", str(run.directory)]
    flags = ["--no-browser", "--port", str(port), *(["--remote"] if remote else [])]
    said, warned = tmp_path / "said", tmp_path / "warned"
    with (
        said.open("w") as out,
        warned.open("w") as err,
        started([*command, *flags], env=environment, stdout=out, stderr=err) as process,
    ):
        wait_until(lambda: "the app: http://" in said.read_text(), process)
        wait_until(lambda: port in {number for _, number in listening(processes_of(home))}, process)
        found = listening(processes_of(home))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    wait_until(lambda: not listening(processes_of(home)))
    databases = {(address, number) for address, number in found if number != port}
    assert databases, "the database is not FiftyOne's own"
    assert {address for address, _ in databases} <= LOOPBACK
    assert {address for address, number in found if number == port} <= (EVERYWHERE if remote else LOOPBACK)
    assert ("anyone who reaches this port can read the files that you can read" in warned.read_text()) == remote
