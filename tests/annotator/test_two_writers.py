"""Two writers of a run in S3, in processes of their own, whose clocks differ and of which one sleeps too long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from helpers_processes import started, wait_until
from helpers_runs import environment, manifest, python
from helpers_writers import PHOTOS, TAKEN_OVER, paths, photo

from annotator import conditional, locks, storage
from annotator.errors import RunError
from annotator.run import RunWriter, part_files
from annotator.storage import place

pytestmark = [pytest.mark.slow, pytest.mark.stress]  # a server, and locks that have to grow old

WRITER = """
import json, os, signal, sys, time
sys.path[:0] = [sys.argv[1]]
skew, real_time = 0.0, time.time
time.time = lambda: real_time() + skew
from annotator import conditional, locks
from annotator.run import RunWriter
from annotator.storage import place
from helpers_runs import manifest
from helpers_writers import PHOTOS, photo
locks.FRESH_SECONDS, locks.BEAT_SECONDS = 4.0, 0.5
stop_before_writing = False
create = conditional.create
def stopping(path, content):
    if stop_before_writing and path.name.startswith("part-"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return create(path, content)
conditional.create = stopping
for line in sys.stdin:
    what, *given = json.loads(line)
    try:
        if what == "take":
            (url, part_size, skew), stop_before_writing = given, False
        elif what == "open":
            writer = RunWriter.open(place(url), manifest())
            left = iter([photo(name) for name in PHOTOS if name not in writer.finished])
        elif what == "close":
            for record in left:
                writer.write(record)
            writer.close()
        else:
            stop_before_writing = what == "part, stopping"
            for _, record in zip(range(part_size), left):
                writer.write(record)
            writer.flush()
        print("done", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


class Process:
    """A writer in a process of its own, which does what it is told a line at a time.

    is_free: it has closed its run, and may take another.
    """

    def __init__(self, stack: ExitStack) -> None:
        command = python("-c", WRITER, Path(__file__).parent)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = stack.enter_context(started(command, env=environment(), **pipes))
        self.is_free = True

    def begin(self, what: str, *given: object) -> None:
        self.is_free = False
        self.process.stdin.write(f"{json.dumps([what, *given])}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return str(self.process.stdout.readline().strip())

    def do(self, what: str, *given: object) -> str:
        self.begin(what, *given)
        answer = self.answer()
        self.is_free = what == "close"
        return answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.wait_for_stop()

    def wait_for_stop(self) -> None:
        status = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", self.process)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def processes(s3: Any) -> Iterator[Callable[[], Process]]:
    """Gives one that is free: a start takes seconds."""
    there: list[Process] = []
    with ExitStack() as stack:

        def free() -> Process:
            if not any(each.is_free for each in there):
                there.append(Process(stack))
            return next(each for each in there if each.is_free)

        yield free


@pytest.fixture
def writer(processes: Callable[[], Process], bucket: str) -> Callable[[int, float], Process]:
    """Gives one for the run in the bucket, with parts of so many photos and a clock that differs by so much."""

    def at_work(part_size: int, skew: float) -> Process:
        process = processes()
        assert process.do("take", f"s3://{bucket}/run", part_size, skew) == "done"
        return process

    return at_work


@pytest.mark.parametrize("skew", [(-300, 0), (0, -300), (3600, 0)], ids=lambda skew: f"clocks of {skew} s")
def test_clocks_that_differ_let_nobody_in(
    bucket: str, writer: Callable[[int, float], Process], skew: tuple[float, float]
) -> None:
    url = f"s3://{bucket}/run"
    first, second = map(writer, (3, 10), skew)
    assert first.do("open") == first.do("part") == "done"
    lock, seen = place(url) / locks.NAME, set()
    wait_until(lambda: seen.add(storage.describe(lock).stamp) or len(seen) > 10)  # longer than it is fresh
    assert "is writing this run; wait for it" in second.do("open")
    assert first.do("part") == "done"
    first.process.kill()
    wait_until(lambda: second.do("open") == "done", second.process)
    assert second.do("close") == "done"
    assert paths(place(url)) == PHOTOS


@pytest.mark.parametrize("where", ["between parts", "while it writes"])
@pytest.mark.parametrize("early", [0, 1], ids=["the new owner has written nothing", "or a part"])
@pytest.mark.parametrize("sizes", [(3, 3), (3, 10), (10, 3)], ids=str)
def test_a_stopped_process_wakes_up_after_the_take_over(
    bucket: str, writer: Callable[[int, float], Process], sizes: tuple[int, int], early: int, where: str
) -> None:
    """Their clocks are five minutes apart, too."""
    url = f"s3://{bucket}/run"
    first, second = map(writer, sizes, (-300, 0))
    assert first.do("open") == first.do("part") == "done"
    if where == "between parts":
        first.stop()
        first.begin("part")
    else:
        first.begin("part, stopping")
        first.wait_for_stop()
    wait_until(lambda: second.do("open") == "done", second.process)
    for _ in range(early):
        assert second.do("part") == "done"
    first.go_on()
    late = first.answer()
    if early == 0 and where == "while it writes":  # it was the first, though late; the new owner takes that in
        assert late == "done"
        late = first.do("part")
    assert late.startswith("RunError: ")
    assert TAKEN_OVER in late
    assert second.do("part") == "done"
    assert TAKEN_OVER in first.do("close")
    assert second.do("close") == "done"
    assert paths(place(url)) == PHOTOS
    assert storage.exists(place(url) / locks.NAME) is False


@pytest.fixture
def forgetful(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A way to the server on which answers to PUT get lost: one to each object whose name begins as in this list."""
    from s3fs import S3FileSystem

    lost: list[str] = []
    server = urlsplit(os.environ["AWS_ENDPOINT_URL"])

    class Way(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            assert server.hostname
            connection = HTTPConnection(server.hostname, server.port)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            name = next((each for each in lost if f"/{each}" in self.path), None)
            if self.command == "PUT" and name:
                lost.remove(name)
                self.close_connection = True
                return
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{way.server_port}")
        S3FileSystem.clear_instance_cache()
        yield lost
        S3FileSystem.clear_instance_cache()
        way.shutdown()


def test_an_answer_that_got_lost_is_no_conflict(bucket: str, forgetful: list[str]) -> None:
    """The driver asks again, and is refused because of its own object."""
    file = place(f"s3://{bucket}/x")
    forgetful.append("x")
    stamp = conditional.create(file, b"mine")
    assert stamp == storage.describe(file).stamp
    assert conditional.create(file, b"yours") is None
    forgetful.append("x")
    newer = conditional.replace(file, b"mine too", stamp)
    assert newer == storage.describe(file).stamp
    assert conditional.replace(file, b"yours", stamp) is None
    assert storage.read_bytes(file) == b"mine too"
    storage.delete(file)
    assert conditional.replace(file, b"yours", newer) is None
    assert not storage.exists(file)
    assert forgetful == []


def test_a_run_whose_answers_get_lost(bucket: str, forgetful: list[str], caplog: pytest.LogCaptureFixture) -> None:
    out = place(f"s3://{bucket}/run")
    parts = [f"part-00000{number}" for number in range(3)]
    forgetful += ["run.lock", "run.json", "run.json", "run.json", *parts]
    with RunWriter.open(out, manifest()) as writer:
        for number, name in enumerate(PHOTOS):
            writer.write(photo(name))
            if number % 8 == 7:
                writer.flush()
    assert paths(out) == PHOTOS
    assert len(part_files(out)) == 3
    RunWriter.open(out, manifest(), overwrite=True).close()
    assert paths(out) == []
    assert forgetful == []
    assert caplog.messages == []


def test_of_many_who_take_over_one_gets_it(s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them have found the lock stale before the first one takes it."""
    out = place(f"s3://{bucket}/run")
    storage.write_bytes(out / locks.NAME, json.dumps({"holder": "pid 1 on x", "token": "t"}).encode())
    monkeypatch.setattr(locks, "FRESH_SECONDS", 0.0)
    held: list[locks.Lock] = []
    refused: list[str] = []
    together = threading.Barrier(4)
    real = conditional.replace

    def at_once(*given: Any) -> str | None:
        together.wait(60)
        return real(*given)

    monkeypatch.setattr(conditional, "replace", at_once)

    def attempt() -> None:
        try:
            held.append(locks.acquire(out))
        except RunError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(held), len(refused)) == (1, 3)
    assert all("took this run over just now" in each for each in refused)
    held[0].release()
    assert storage.list_files(out) == []
