"""What runs on the nodes of a Ray cluster: actors that label parts, one that hands parts out to them, and one that
remembers what they are busy with.

An actor that is broken (its device, its node's disk or mount, its installation) gives its parts back, and the others
get them. Whatever is raised in an actor leaves it as one line.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from annotator.config import RunConfig
from annotator.engines.crew import Crew, assemble
from annotator.engines.faults import describe
from annotator.engines.photo_folders import require_photos
from annotator.engines.ray_cluster import Placement
from annotator.engines.ray_todo import read_plan, refs_of
from annotator.errors import AnnotatorError, BrokenError, RunError, WeightsError
from annotator.images import ImageRef
from annotator.maker import maker
from annotator.models.devices import keep_freed_memory
from annotator.parts import write_part
from annotator.record import ImageRecord
from annotator.vocabulary import Vocabulary

DEATHS = 2
"""A photo that killed its worker so often is not tried again."""
KILLER = "labelling it killed its worker twice"
UNEXPLAINED = 4
"""After so many deaths on one part that no photo can have caused, the run ends; the first may be one of a batch."""
ASK_SECONDS = 1.0
"""An actor asks no more often than this whether to stop."""
PLANS_SECONDS = 0.1
"""How often it is asked whether there is another plan."""
REST_SECONDS = 5.0
"""A broken actor keeps each part so long before it gives it back; else it would draw all parts to itself."""


@dataclass(frozen=True)
class Orders:
    """What every actor is told.

    config:  its precision is the concrete one.
    weights: slot -> SHA-256, which its networks must be made from for its masks to fit the others'.
    has_photos: the driver finds something in the folder `root`, and so must every node.
    working_folder, python_path: of the driver; relative names of files mean the same on every node.
    """

    config: RunConfig
    vocabulary: Vocabulary | None
    placement: Placement
    weights: dict[str, str]
    root: Path
    has_photos: bool
    todo: Path
    working_folder: str
    python_path: tuple[str, ...]


@dataclass
class _Note:
    """at_hand: the photo that is labelled alone. deaths: of workers, by the photo at hand, "" where none was."""

    under_way: bool = False
    at_hand: str = ""
    deaths: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Start:
    """What an actor is told when it begins a part. deaths: how often workers died of it, by photo; "" is none."""

    stop: bool = False
    deaths: dict[str, int] = field(default_factory=dict)


class Roster:
    """Remembers which plans there are, which parts are being labelled, of which photos actors died, and which actors
    are broken. It lives beside the driver, where no actor's death can reach it."""

    def __init__(self) -> None:
        self._plans: list[str] = []
        self._all_planned = False
        self._notes: dict[int, _Note] = {}
        self._ended: list[int] = []
        self._given_back: list[tuple[str, int]] = []
        self._broken: dict[str, str] = {}
        self._stop = False
        self._begun = False
        self._died = 0

    def plan(self, name: str | None) -> None:
        """A plan file is there; None: it was the last one."""
        if name is None:
            self._all_planned = True
        else:
            self._plans.append(name)

    def plans(self, start: int) -> tuple[list[str], bool]:
        """Names of the plan files from number `start` on, and whether these are all."""
        return self._plans[start:], self._all_planned

    def progress(self, ended: int, given_back: int) -> tuple[list[int], list[tuple[str, int]], bool]:
        """Parts that ended and parts that were given back, by plan file and number, but for as many as are known; and
        whether the driver wants to stop."""
        return self._ended[ended:], self._given_back[given_back:], self._stop

    def begin(self, part: int, actor: str) -> Start:
        """Whoever begins a part that is under way takes the place of an actor that died."""
        self._broken.pop(actor, None)  # it was started anew
        if self._stop:
            self._notes.pop(part, None)
            return Start(stop=True)
        self._begun = True
        note = self._notes.setdefault(part, _Note())
        if note.under_way:
            self._died += 1
            note.deaths[note.at_hand] += 1
        note.under_way, note.at_hand = True, ""
        return Start(deaths=dict(note.deaths))

    def take(self, part: int, path: str) -> None:
        """This photo is labelled next, alone; "" is none."""
        self._notes[part].at_hand = path

    def end(self, part: int) -> None:
        del self._notes[part]
        self._ended.append(part)

    def give_back(self, part: int, plan: str, actor: str, reason: str) -> None:
        """The actor is broken, and another one must label the part."""
        self._broken[actor] = reason
        self._given_back.append((plan, part))
        if part in self._notes:
            self._notes[part].under_way, self._notes[part].at_hand = False, ""

    def stop(self) -> int:
        """Whoever begins a part from now on is told to leave it, and parts under way close after their batch; returns
        how many these are."""
        self._stop = True
        return sum(note.under_way for note in self._notes.values())

    def stopping(self) -> bool:
        return self._stop

    def cut_off(self) -> None:
        """The driver ended all actors: nothing is under way, nobody died of it, and nobody is broken."""
        self._broken.clear()
        self._ended.clear()
        self._given_back.clear()
        for note in self._notes.values():
            note.under_way = False

    def news(self) -> tuple[bool, int, dict[str, str]]:
        """Whether any actor is up, how often one died while it labelled, and which are broken, with their reasons."""
        return self._begun, self._died, self._broken


class Labelling:
    """An actor of the pool: its own networks, and `label` as with the local engine, a part at a time."""

    def __init__(self, orders: Orders, roster: Any) -> None:
        self._orders = orders
        self._roster = roster
        self._crew: Crew | None = None
        self._error: AnnotatorError | None = None
        self._broken = ""
        self._asked = 0.0

    def __call__(self, table: pa.Table) -> pa.Table:
        """A plan's row in; its number, and its records without masks or an error, out."""
        (row,) = table.to_pylist()
        return pa.table({"answer": [pickle.dumps((row["part"], self._answer(row)))]})

    def _answer(self, row: dict[str, Any]) -> list[ImageRecord] | AnnotatorError:
        """Nothing is raised: Ray would take it for an error of its own and hide it in a traceback.

        An error of the user, who every actor would meet, is the answer; any other is this actor's alone.
        """
        if self._broken:
            self._rest()
            return self._give_back(row)
        try:
            return [replace(record, segments=(), history=None) for record in self._label(row)]
        except BrokenError as error:
            reason = str(error)
        except AnnotatorError as error:
            return error
        except OSError as error:
            reason = f"{error.filename or 'the system'}: {error.strerror or error}"
        except Exception as error:
            reason = describe(error)
        self._broken = f"{socket.gethostname()}: {reason}"
        return self._give_back(row)

    def _give_back(self, row: dict[str, Any]) -> list[ImageRecord] | AnnotatorError:
        try:
            self._ask("give_back", row["part"], row["plan"], self._name(), self._broken)
        except Exception:  # without a roster the driver is gone, too
            return BrokenError(self._broken)
        return []

    def _rest(self) -> None:
        until = time.monotonic() + REST_SECONDS
        while time.monotonic() < until and not self._stopping():
            time.sleep(PLANS_SECONDS)

    def _name(self) -> str:
        """The same when Ray starts this actor anew."""
        import ray

        return str(ray.get_runtime_context().get_actor_id())

    def _label(self, row: dict[str, Any]) -> list[ImageRecord]:
        """Labels and writes a part; nothing is returned of one that was not begun, for the driver wants to stop."""
        part, refs = row["part"], refs_of(row, self._orders.root)
        start: Start = self._ask("begin", part, self._name())
        if start.stop:
            return []
        if start.deaths.get("", 0) >= UNEXPLAINED:
            raise RunError(
                f"{socket.gethostname()}: {UNEXPLAINED} actors died on one part before a photo was at hand, as when "
                "memory runs out while networks are opened; try fewer --actors"
            )
        records = list(self._one_by_one(part, refs, start.deaths) if start.deaths else self._at_once(refs))
        if records:
            write_part(self._orders.todo, part, records, maker(self._assembled().devices))
        self._ask("end", part)
        return records

    def _at_once(self, refs: Sequence[ImageRef]) -> Iterator[ImageRecord]:
        crew = self._assembled()
        return crew.execute(refs, self._decoders, self._stopping, self._failures)

    def _one_by_one(self, part: int, refs: Sequence[ImageRef], deaths: dict[str, int]) -> Iterator[ImageRecord]:
        """After a death that may be a photo's doing: each alone, so that it is known which."""
        crew = self._assembled()
        for ref in refs:
            if self._stopping():
                break
            if deaths.get(ref.path, 0) >= DEATHS:
                yield ImageRecord(ref.path, "failed", error=KILLER)
                continue
            self._ask("take", part, ref.path)
            yield from crew.execute([ref], self._decoders, failures=self._failures)
        self._ask("take", part, "")

    def _stopping(self) -> bool:
        now = time.monotonic()
        if now - self._asked < ASK_SECONDS:
            return False
        self._asked = now
        return bool(self._ask("stopping"))

    def _ask(self, question: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._roster, question).remote(*arguments))

    def _assembled(self) -> Crew:
        """Opens the networks before the first photo, and not again where that failed."""
        if self._error is not None:
            raise self._error
        if self._crew is None:
            if self._orders.has_photos:
                require_photos(self._orders.root)
            try:
                self._crew = self._assemble()
            except BrokenError:
                raise
            except AnnotatorError as error:
                self._error = type(error)(f"{socket.gethostname()}: {error}")
                raise self._error from None
            self._decoders = self._crew.decoders()
            self._failures = self._crew.failures()
        return self._crew

    def _assemble(self) -> Crew:
        import torch

        orders = self._orders
        keep_freed_memory()
        with contextlib.suppress(OSError):
            os.chdir(orders.working_folder)
        sys.path += [entry for entry in orders.python_path if entry not in sys.path]
        torch.set_num_threads(orders.placement.cpus)
        crew = assemble(orders.config, orders.vocabulary, orders.placement.device)
        if crew.config.workers is None:
            workers = max(1, min(crew.networks.decode_workers, orders.placement.cpus))
            crew = replace(crew, config=replace(crew.config, workers=workers))
        if crew.weights != orders.weights:
            wrong = sorted(slot for slot, sha256 in orders.weights.items() if crew.weights.get(slot) != sha256)
            raise WeightsError(
                f"expected the weights that the run began with, but this node has others ({', '.join(wrong)}); "
                "give every node the same files"
            )
        return crew


class Foreman:
    """Runs Ray Data in a process of its own, which can be ended at any moment, and its actors with it."""

    def answers(self, orders: Orders, roster: Any, done: set[int]) -> Iterator[bytes]:
        """What the actors say, a part at a time as they close them: its number, and its records or an error, pickled.

        done: parts to leave out.
        """
        import ray.data
        from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # a block is one row: parts go out, and answers come in, one by one
        placement = orders.placement
        parts = ray.data.from_items([{"folder": str(orders.todo)}]).flat_map(
            _planned,
            fn_kwargs={"folder": orders.todo, "roster": roster, "done": done},
            num_cpus=0,
            compute=TaskPoolStrategy(size=1),
        )
        answers = parts.map_batches(
            Labelling,
            fn_constructor_kwargs={"orders": orders, "roster": roster},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            compute=ActorPoolStrategy(size=placement.actors, max_tasks_in_flight_per_actor=2),
        )
        for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for answer in batch["answer"].to_pylist():  # noqa: UP028  Ray sends to what it iterates
                yield answer


def _planned(row: dict[str, Any], folder: Path, roster: Any, done: set[int]) -> Iterator[dict[str, Any]]:
    """The parts of all plans, in their order, while the driver is still planning, and then those that broken actors
    gave back, until every part has ended. A second call gives the same."""
    try:
        yield from _parts(folder, roster, done)
    except Exception as error:  # in one line, as Ray changes others to ones without a file
        raise RunError(f"{socket.gethostname()}: parts cannot be handed out: {describe(error)}") from None


def _parts(folder: Path, roster: Any, done: set[int]) -> Iterator[dict[str, Any]]:
    import ray

    read = 0
    left: set[int] = set()
    are_all = False
    while not are_all:
        names, are_all = ray.get(roster.plans.remote(read))
        for name in names:
            for part in read_plan(folder / name):
                if part["part"] not in done:
                    left.add(part["part"])
                    yield {**part, "plan": name}
        read += len(names)
        if not names and not are_all:
            time.sleep(PLANS_SECONDS)
    known_ended, known_given_back, stop = 0, 0, False
    while left and not stop:
        ended, given_back, stop = ray.get(roster.progress.remote(known_ended, known_given_back))
        known_ended += len(ended)
        known_given_back += len(given_back)
        left.difference_update(ended)
        for name, number in given_back:
            if number not in done:
                yield from ({**part, "plan": name} for part in read_plan(folder / name) if part["part"] == number)
        if left and not given_back:
            time.sleep(PLANS_SECONDS)
