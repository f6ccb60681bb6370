"""The engine for several processes, GPUs and machines: Ray Data hands parts to a pool of actors, which label them.

This process, the driver, plans parts while others are labelled, moves each into the run when it is written, and counts.
Ray starts an actor that died again, and its part with it (`ray_actor` knows photos that kill); where a node is gone for
good, the rest is divided anew among those that are left.
"""

from __future__ import annotations

import logging
import math
import pickle
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice, takewhile
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from annotator.engines.crew import Crew
from annotator.engines.faults import describe
from annotator.engines.photo_folders import holds_something
from annotator.engines.ray_actor import Foreman, Orders, Roster
from annotator.engines.ray_cluster import Cluster, Placement
from annotator.engines.ray_todo import Todo, remove_todo
from annotator.errors import AnnotatorError, RunError
from annotator.images import ImageRef
from annotator.listing import Listing
from annotator.models.devices import kind_of
from annotator.parts import part_path, read_columns
from annotator.record import LABELS, ROW, ImageRecord, from_row
from annotator.run import RunWriter
from annotator.vocabulary import Vocabulary

PART_PHOTOS = {"cpu": 32, "cuda": 256}
"""Most photos of a part: progress is seen, and work is lost, by the part, so that slow devices get small ones."""
PARTS_EACH = 4
"""Where photos are few, parts are so small that every actor gets as many."""
GLANCE_SECONDS = 0.2
"""How often the driver looks whether it shall stop."""
NODES_SECONDS = 2.0
"""How often it looks whether the nodes are still there."""
PATIENCE_SECONDS = 30.0
"""Until then nothing is said about actors that are still to come."""
STOP_SECONDS = 60.0
"""So long a stop waits for the batches under way; what takes longer is dropped."""

_log = logging.getLogger(__name__)

Records = Generator[ImageRecord, None, None]


def execute(
    cluster: Cluster,
    crew: Crew,
    vocabulary: Vocabulary | None,
    writer: RunWriter,
    listing: Listing,
    should_stop: Callable[[], bool] = lambda: False,
) -> Records:
    """Labels these photos into the run; every record, without its masks, once its part is there.

    crew: what labels in this process; actors must have the same weights.
    """
    todo = Todo(writer.directory)
    try:
        size, few = _part_size(listing, cluster.placement)
        if not few:
            return
        orders = Orders(
            config=replace(cluster.config, precision=cluster.precision),
            vocabulary=vocabulary,
            placement=cluster.placement,
            weights=crew.weights,
            root=few[0].root,
            has_photos=holds_something(few[0].root),
            todo=todo.folder,
            working_folder=str(Path.cwd()),
            python_path=tuple(sys.path),
        )
        if not should_stop():
            planner = _Planner(todo, chain(few, listing), size, should_stop)
            yield from _Driver(cluster, orders, planner, writer, todo, should_stop).records()
    finally:
        remove_todo(writer.directory)


def _part_size(listing: Listing, placement: Placement) -> tuple[int, list[ImageRef]]:
    """Photos of a part, and those that were listed to know it."""
    most = PART_PHOTOS[kind_of(placement.device)]
    parts = placement.actors * PARTS_EACH
    few = list(islice(listing, most * parts))
    size = min(most, math.ceil(len(few) / parts))
    listing.at_once = max(size, 1) * placement.actors
    return size, few


class _Planner:
    """A thread that plans while parts are labelled, since listing millions of photos takes long."""

    def __init__(self, todo: Todo, refs: Iterable[ImageRef], size: int, should_stop: Callable[[], bool]) -> None:
        self._ended = threading.Event()
        wanted = takewhile(lambda ref: not (self._ended.is_set() or should_stop()), refs)
        self._plans = todo.plan(wanted, size)
        self._error: BaseException | None = None

    @contextmanager
    def telling(self, roster: Any) -> Iterator[None]:
        """Plans, and tells the roster of each plan file, as long as the context lasts."""
        thread = threading.Thread(target=self._plan, args=(roster,), name="plan", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def check(self) -> None:
        """Raises the error that ended the planning."""
        if self._error is not None:
            raise self._error

    def _plan(self, roster: Any) -> None:
        try:
            for name in self._plans:
                _ask(roster, "plan", name)
            _ask(roster, "plan", None)
        except BaseException as error:  # the driver raises it
            self._error = error


class _Driver:
    """Sees to it that all that is planned is labelled."""

    def __init__(
        self,
        cluster: Cluster,
        orders: Orders,
        planner: _Planner,
        writer: RunWriter,
        todo: Todo,
        should_stop: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._orders = orders
        self._planner = planner
        self._writer = writer
        self._todo = todo
        self._should_stop = should_stop
        self._committed: set[int] = set()
        self._begun = time.monotonic()
        self._died = 0
        self._broken: set[str] = set()

    def records(self) -> Records:
        with _actor_here(Roster) as roster, self._planner.telling(roster):
            while True:
                before = len(self._committed)
                with _actor_here(Foreman) as foreman:
                    all_answered = yield from self._round(foreman, roster)
                _ask(roster, "cut_off")
                yield from self._unanswered()
                if all_answered or self._should_stop():
                    return
                if self._cluster.is_whole() and len(self._committed) == before:
                    raise RunError(f"Ray ended before any part was labelled; its logs in {gettempdir()}/ray say why")
                self._cluster = self._cluster.regroup()
                self._orders = replace(self._orders, placement=self._cluster.placement)
                _log.warning("Ray lost a process or a node; going on with %s", self._cluster.placement)

    def _round(self, foreman: Any, roster: Any) -> Generator[ImageRecord, None, bool]:
        """Labels what is not committed yet with the nodes there are; whether every part was answered."""
        import ray

        answers = foreman.answers.remote(self._orders, roster, self._committed)
        looked, stopped_at = time.monotonic(), math.inf
        while True:
            self._planner.check()
            ready, _ = ray.wait([answers], timeout=GLANCE_SECONDS)
            if ready:
                try:
                    part, answer = pickle.loads(ray.get(next(answers)))
                except StopIteration:
                    return True
                except ray.exceptions.RayActorError:  # the foreman died
                    return False
                except ray.exceptions.RayError as error:
                    raise RunError(f"{_in_one_line(error)}; Ray's logs in {gettempdir()}/ray say more") from None
                if isinstance(answer, AnnotatorError):
                    raise answer
                yield from self._commit(part, answer)
            now = time.monotonic()
            if self._should_stop():
                stopped_at = min(stopped_at, now)
                if not _ask(roster, "stop") or now - stopped_at > STOP_SECONDS:
                    return False
            if now - looked > NODES_SECONDS:
                looked = now
                self._tell(*_ask(roster, "news"))
                if not self._cluster.is_whole():
                    return False

    def _tell(self, begun: bool, died: int, broken: dict[str, str]) -> None:
        if not begun and time.monotonic() - self._begun > PATIENCE_SECONDS:
            self._begun = math.inf
            _log.warning("no Ray actor is up yet: Ray is still starting them, or the cluster is busy")
        if died > self._died:
            self._died = died
            _log.warning("%s: Ray starts it anew, and its part too", "an actor died" if died == 1 else f"{died} died")
        new = [reason for actor, reason in broken.items() if actor not in self._broken]
        self._broken |= broken.keys()
        if len(broken) >= self._cluster.placement.actors:
            all_of_them = "" if len(broken) == 1 else f"all {len(broken)} actors are broken; the last one: "
            raise RunError(f"{all_of_them}{list(broken.values())[-1]}")
        for reason in new:
            _log.warning("an actor is broken, and others get its photos: %s", reason)

    def _commit(self, part: int, records: list[ImageRecord]) -> Iterator[ImageRecord]:
        """Moves a part into the run; none was written where there are no records."""
        if records and part not in self._committed:
            self._writer.adopt(part_path(self._todo.folder, part))  # which complains where the run's lock was lost
            self._committed.add(part)
            yield from records

    def _unanswered(self) -> Iterator[ImageRecord]:
        """Takes over the parts that were written when the round was cut off."""
        columns = [name for name in ROW.names if name not in LABELS]
        for part in self._todo.written():
            rows = read_columns(part_path(self._todo.folder, part), columns).to_pylist()
            yield from self._commit(part, [from_row(row) for row in rows])


@contextmanager
def _actor_here(kind: type) -> Iterator[Any]:
    """An actor on the driver's node, so that it is there as long as the driver is; it ends with the context."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


def _ask(roster: Any, question: str, *arguments: Any) -> Any:
    import ray

    try:
        return ray.get(getattr(roster, question).remote(*arguments))
    except ray.exceptions.RayError as error:
        raise RunError(f"Ray lost the process that hands out the photos: {_in_one_line(error)}") from None


def _in_one_line(error: BaseException) -> str:
    """What Ray wraps, without the traceback and the advice that it makes of it."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return str(error.args[0]).split("\n")[0] if isinstance(error, AnnotatorError) else describe(error)
