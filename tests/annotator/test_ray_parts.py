"""What needs no cluster: where actors go, what is remembered of them, what lies in `todo/`, and what is refused."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from helpers_runs import VOCAB, rows, write_photos
from helpers_runs import manifest as some_manifest

from annotator import pipeline
from annotator.config import RunConfig
from annotator.engines import ray_actor
from annotator.engines.photo_folders import holds_something, require_photos
from annotator.engines.ray_actor import Labelling, Roster, Start
from annotator.engines.ray_cluster import Cluster, Placement, Resources, place
from annotator.engines.ray_todo import Todo, read_plan, refs_of, remove_todo
from annotator.errors import BrokenError, ConfigError
from annotator.images import ImageRef
from annotator.parts import write_part
from annotator.run import ImageRecord, RunWriter

CPUS: list[Resources] = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 2.0}]
GPUS: list[Resources] = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}]


def wanted(**given: object) -> RunConfig:
    return RunConfig(engine="ray", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "given", "expected"),
    [
        (CPUS, {}, Placement(5, 0, 2)),
        (CPUS, {"actors": 1}, Placement(1, 0, 8)),
        (CPUS, {"actors": 2}, Placement(2, 0, 4)),  # 5 each would find room for one only
        (CPUS, {"actors": 3}, Placement(3, 0, 2)),
        (CPUS, {"actors": 10}, Placement(10, 0, 1)),
        ([{"CPU": 1.0}], {}, Placement(1, 0, 1)),
        (GPUS, {}, Placement(4, 1, 8)),
        (GPUS, {"device": "cuda"}, Placement(4, 1, 8)),
        (GPUS, {"gpus_per_actor": 2.0}, Placement(2, 2, 16)),
        (GPUS, {"gpus_per_actor": 0.4}, Placement(8, 0.4, 4)),  # two on each GPU
        (GPUS, {"gpus_per_actor": 0.0}, Placement(18, 0, 2)),
        (GPUS, {"device": "cpu", "actors": 3}, Placement(3, 0, 8)),
        (GPUS, {"actors": 1}, Placement(1, 1, 16)),
    ],
)
def test_actors_are_placed(nodes: list[Resources], given: dict[str, object], expected: Placement) -> None:
    assert place(nodes, wanted(**given)) == expected


@pytest.mark.parametrize(
    ("nodes", "given", "message"),
    [
        (CPUS, {"actors": 11}, "--actors 11: expected at most 10, as the cluster has 10 CPUs and 0 GPUs"),
        (
            CPUS,
            {"gpus_per_actor": 1.0},
            "no node has the CPU and 1 GPUs that an actor takes; the cluster has 10 CPUs and 0",
        ),
        (CPUS, {"device": "cuda"}, "--device cuda: .* but an actor gets 0 of the cluster's 0"),
        (GPUS, {"device": "cpu", "gpus_per_actor": 1.0}, "--device cpu: .* but an actor gets 1 of the cluster's 4"),
        (GPUS, {"gpus_per_actor": 1.5}, "--gpus-per-actor 1.5: expected a whole number, or a share of one GPU"),
    ],
)
def test_what_has_no_room_is_refused(nodes: list[Resources], given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place(nodes, wanted(**given))


def test_what_an_actor_sees() -> None:
    assert [Placement(1, gpus, 1).device for gpus in (0, 0.5, 1, 2)] == ["cpu", "cuda", "cuda", "cuda:*"]


def test_a_photo_is_suspected_only_when_its_worker_died_on_it() -> None:
    roster = Roster()
    assert roster.begin(7, "a") == Start()
    assert roster.begin(7, "a") == Start(deaths={"": 1})  # the first attempt died, on whatever
    roster.take(7, "a.jpg")
    roster.take(7, "b.jpg")
    assert roster.begin(7, "a") == Start(deaths={"": 1, "b.jpg": 1})
    roster.take(7, "a.jpg")
    roster.take(7, "b.jpg")
    assert roster.begin(7, "a") == Start(deaths={"": 1, "b.jpg": 2})
    roster.take(7, "c.jpg")
    roster.take(7, "")  # all labelled, the part is being written
    assert roster.begin(7, "a") == Start(deaths={"": 2, "b.jpg": 2})
    assert roster.begin(8, "a") == Start()
    assert roster.news() == (True, 4, {})


def test_what_the_driver_cuts_off_died_of_nothing() -> None:
    roster = Roster()
    for part in (1, 2):
        roster.begin(part, "a")
    roster.begin(2, "a")
    roster.cut_off()
    assert roster.begin(1, "a") == Start()
    assert roster.begin(2, "a") == Start(deaths={"": 1})
    assert roster.news() == (True, 1, {})


def test_a_stop_waits_for_what_is_under_way() -> None:
    roster = Roster()
    for part in (1, 2, 3):
        roster.begin(part, "a")
    roster.end(1)
    assert roster.stop() == 2
    assert roster.stopping()
    roster.end(2)
    assert roster.begin(4, "a") == Start(stop=True)
    assert roster.stop() == 1
    assert roster.begin(3, "a") == Start(stop=True)  # its worker died after the stop
    assert roster.stop() == 0


def test_what_a_broken_actor_gives_back_is_labelled_by_another() -> None:
    roster = Roster()
    roster.begin(1, "a")
    roster.begin(2, "b")
    roster.give_back(1, "plan-0", "a", "its device")
    assert roster.news() == (True, 0, {"a": "its device"})
    assert roster.progress(0, 0) == ([], [("plan-0", 1)], False)
    assert roster.begin(1, "b") == Start()  # nobody died
    roster.end(1)
    roster.end(2)
    assert roster.progress(1, 1) == ([2], [], False)
    roster.begin(3, "a")  # Ray started it anew
    assert roster.news() == (True, 0, {})
    roster.give_back(3, "plan-0", "a", "its device")
    roster.cut_off()
    assert roster.news() == (True, 0, {})
    assert roster.progress(0, 0) == ([], [], False)
    roster.stop()
    assert roster.progress(0, 0)[2]


class HereOnly(Labelling):
    """An actor in this process, with a roster that may be gone."""

    def __init__(self, error: BaseException, roster: Roster | None) -> None:
        super().__init__(None, roster)  # type: ignore[arg-type]
        self._fault = error

    def _label(self, row: dict[str, Any]) -> list[ImageRecord]:
        raise self._fault

    def _ask(self, question: str, *arguments: Any) -> Any:
        return getattr(self._roster, question)(*arguments)

    def _name(self) -> str:
        return "a"

    def answer(self) -> Any:
        table = self(pa.table({"part": [7], "plan": ["plan-0"]}))
        return pickle.loads(table["answer"].to_pylist()[0])[1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BrokenError("the device is broken"), "the device is broken"),
        (RuntimeError("CUDA out\nof memory"), "RuntimeError: CUDA out of memory"),
        (KeyError("x"), "KeyError: 'x'"),
        (ImportError("no module named x"), "ImportError: no module named x"),
        (AssertionError(), "AssertionError:"),
        (OSError(errno.ENOSPC, "No space left on device", "/shm/x"), "/shm/x: No space left on device"),
        (OSError("odd"), "the system: odd"),
        (MemoryError(), "MemoryError:"),
    ],
    ids=repr,
)
def test_whatever_an_actor_raises_is_one_line_and_its_part_goes_to_others(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(ray_actor, "REST_SECONDS", 0.0)
    roster = Roster()
    actor = HereOnly(error, roster)
    assert actor.answer() == []
    assert roster.news()[2] == {"a": f"{socket.gethostname()}: {reason}"}
    actor._fault = SystemExit("labels although it is broken")
    assert actor.answer() == []
    assert roster.progress(0, 0)[1] == [("plan-0", 7)] * 2


def test_errors_of_the_user_end_the_run() -> None:
    roster = Roster()
    answer = HereOnly(ConfigError("odd"), roster).answer()
    assert (type(answer), str(answer)) == (ConfigError, "odd")
    assert roster.news()[2] == {}


def test_an_actor_without_its_roster_answers_too() -> None:
    answer = HereOnly(KeyError("x"), None).answer()
    assert isinstance(answer, BrokenError)
    assert str(answer) == f"{socket.gethostname()}: KeyError: 'x'"


def test_a_broken_actor_rests_so_that_others_get_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actor, "REST_SECONDS", 0.3)
    actor = HereOnly(KeyError("x"), Roster())
    actor.answer()
    begun = time.monotonic()
    actor.answer()
    assert time.monotonic() - begun >= 0.3


def test_a_node_without_the_photos_is_broken(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not mounted"):
        assert not holds_something(folder)
        with pytest.raises(BrokenError, match="the photos cannot be read here any more"):
            require_photos(folder)
    (tmp_path / "a.jpg").touch()
    assert holds_something(tmp_path)
    require_photos(tmp_path)


def test_a_plan_comes_back_as_it_went(tmp_path: Path) -> None:
    refs = [ImageRef(tmp_path, f"{number:03d}.jpg") for number in range(700)]
    refs[5] = ImageRef(tmp_path, r"caf\xe9.jpg", os.fsdecode(b"caf\xe9.jpg"))
    todo = Todo(tmp_path)
    names = list(todo.plan(iter(refs), 2, 40))
    parts = [row for name in names for row in read_plan(todo.folder / name)]
    assert len(names) == 5  # of 16, 32, 64, 128 and the last 110 parts
    assert [part["part"] for part in parts] == list(range(40, 390))
    assert [ref for part in parts for ref in refs_of(part, tmp_path)] == refs


def test_an_actor_that_outlived_its_driver_cannot_touch_the_run(tmp_path: Path) -> None:
    record = ImageRecord("a.jpg", "failed", error="none")
    with RunWriter.open(tmp_path, some_manifest()) as writer:
        old = Todo(tmp_path)
        write_part(old.folder, 3, [record])
    with RunWriter.open(tmp_path, some_manifest()) as writer:
        new = Todo(tmp_path)
        with pytest.raises(FileNotFoundError):
            write_part(old.folder, 4, [record])
        write_part(new.folder, 0, [record])
        assert new.written() == [0]
        new.commit(0)
        writer.adopt(0)
        assert new.written() == []
    assert rows(tmp_path) == [record]
    remove_todo(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parts", "run.json", "run.lock"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "spark"}, "engine: expected one of local, ray, but got 'spark'"),
        ({"actors": 2}, "actors: expected with the engine 'ray' only, but the engine is 'local'"),
        ({"engine": "ray", "actors": 0}, "actors: expected at least 1, but got 0"),
        ({"engine": "ray", "gpus_per_actor": -1}, "gpus_per_actor: expected at least 0, but got -1"),
        ({"engine": "ray", "device": "cuda:1"}, "--device cuda:1: with --engine ray, expected auto, cpu or cuda"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(tmp_path, **given)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_is_too_long_for_rays_sockets_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with TemporaryDirectory(prefix="x" * 90) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        with pytest.raises(ConfigError, match=r"^cannot start Ray on this machine: .*107 bytes.* a short name"):
            Cluster.join(wanted())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "head", ":", "nowhere.invalid:6379"])
def test_an_address_where_no_ray_is_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Ray itself is not asked: it would try for a quarter of an hour."""
    ray = pytest.importorskip("ray")
    asked: list[object] = []
    monkeypatch.setattr(ray, "init", lambda *given, **_: asked.append(given))
    with pytest.raises(ConfigError, match=f"--ray-address {address}: expected HOST:PORT or auto of a Ray cluster"):
        Cluster.join(wanted(ray_address=address))
    assert asked == []


def test_without_ray_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ConfigError, match=r"--engine ray needs more packages .*: pip install 'annotate\[ray\]'"):
        prepare(tmp_path, engine="ray")


def prepare(folder: Path, **given: object) -> pipeline.Job:
    write_photos(folder / "photos", ["a.png"])
    options = {"images": str(folder / "photos"), "vocab": VOCAB, "out": str(folder / "run"), **given}
    return pipeline.prepare(RunConfig.load(None, options))
