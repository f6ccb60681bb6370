"""Decoding in worker processes and labelling in batches: the order holds, memory is bounded, and a bad photo or one
that the labeler fails on costs itself only."""

from __future__ import annotations

import signal
import subprocess
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import PATIENCE, started
from helpers_runs import DEADLY, PLUGINS, VOCAB, environment, python, write_photos
from PIL import Image as PillowImage

from annotator.config import RunConfig
from annotator.engines import local
from annotator.engines.crew import assemble
from annotator.engines.decoding import Decoded, DecodePool
from annotator.errors import ImageError, RunError
from annotator.images import MAX_PIXELS, ImageRef, Photo
from annotator.prediction import Prediction
from annotator.run import ImageRecord
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size

NAMES = [f"{number:02d}.png" for number in range(12)]


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Photos of two sizes; 03 is missing, 07 is empty."""
    write_photos(tmp_path, NAMES)
    write_photos(tmp_path, NAMES[4:8], (90, 30))
    (tmp_path / "03.png").unlink()
    (tmp_path / "07.png").write_bytes(b"")
    return [ImageRef(tmp_path, name) for name in NAMES]


@pytest.fixture
def slow_photo(tmp_path: Path) -> ImageRef:
    """A small file that takes a good part of a second to decode."""
    PillowImage.new("L", (7000, 7000)).save(tmp_path / "slow.png")
    return ImageRef(tmp_path, "slow.png")


def pool(workers: int, ahead: int = 4, working_side: int | None = None) -> DecodePool:
    return DecodePool(workers, ahead, working_side=working_side, max_pixels=MAX_PIXELS)


def decode(workers: int, refs: Iterable[ImageRef], ahead: int = 4) -> list[Decoded]:
    with pool(workers, ahead) as decoders:
        return list(decoders.decode(refs))


def ok(answers: Sequence[Decoded]) -> list[bool]:
    return [isinstance(answer, Photo) for _, answer in answers]


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (0, 5), (1, 1), (1, 5), (3, 7)])
def test_the_order_holds_whatever_the_workers(refs: list[ImageRef], workers: int, ahead: int) -> None:
    answers = decode(workers, refs, ahead)
    assert [ref for ref, _ in answers] == refs
    for ref, answer in answers:
        if ref.path in ("03.png", "07.png"):
            assert isinstance(answer, ImageError)
            assert str(answer).startswith("file not found" if ref.path == "03.png" else "the file is empty")
        else:
            assert isinstance(answer, Photo)
            np.testing.assert_array_equal(answer.pixels, np.asarray(PillowImage.open(ref.file)))
            assert (answer.height, answer.width) == answer.pixels.shape[:2]
            assert (answer.bytes, answer.mtime) == (ref.file.stat().st_size, ref.file.stat().st_mtime)


def test_workers_get_the_working_side(tmp_path: Path) -> None:
    write_photos(tmp_path, ["large.jpg"], (400, 800))
    with pool(1, working_side=100) as decoders:
        ((_, photo),) = decoders.decode([ImageRef(tmp_path, "large.jpg")])
    assert isinstance(photo, Photo)
    assert (photo.height, photo.width, photo.pixels.shape) == (400, 800, (100, 200, 3))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ahead", [1, 5])
def test_decoding_runs_only_so_far_ahead(refs: list[ImageRef], workers: int, ahead: int) -> None:
    taken = 0

    def counted() -> Iterator[ImageRef]:
        nonlocal taken
        for ref in refs:
            taken += 1
            yield ref

    with pool(workers, ahead) as decoders:
        for given, _ in enumerate(decoders.decode(counted()), start=1):
            assert taken == min(given + ahead, len(refs))


@pytest.mark.stress
@pytest.mark.parametrize("given", [0, 1])
def test_workers_end_with_the_pool(
    refs: list[ImageRef], slow_photo: ImageRef, processes: list[subprocess.Popen[bytes]], given: int
) -> None:
    """At once: what they are at is not waited for."""
    with pool(2, ahead=3) as decoders:
        answers = decoders.decode([refs[0], slow_photo, slow_photo, refs[1]])
        for _ in range(given):
            next(answers)
    assert {process.returncode for process in processes} <= {-signal.SIGKILL}


ABANDON = """
import sys
from pathlib import Path
from annotator.engines.decoding import DecodePool
from annotator.images import MAX_PIXELS, ImageRef
pool = DecodePool(3, 3, working_side=None, max_pixels=MAX_PIXELS)
names = ("00.png", "01.png", "slow.png", "02.png", "04.png")
answers = pool.decode([ImageRef(Path(sys.argv[1]), name) for name in names])
next(answers), next(answers)
print("decoding", flush=True)
sys.stdin.read()
"""


@pytest.mark.stress
def test_workers_end_when_the_program_is_killed(refs: list[ImageRef], slow_photo: ImageRef) -> None:
    pipe = subprocess.PIPE
    command = python("-c", ABANDON, slow_photo.root)
    with started(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"decoding\n"
        program.kill()
        _, complaints = program.communicate(timeout=PATIENCE)  # returns when the last process that holds stderr is gone
    assert complaints == b""


class Picky:
    """Labels bright pixels; refuses photos that are 30 wide, and answers wrongly for those that are 31 wide."""

    spec = LabelerSpec("picky", needs_vocabulary=False, paper="none", roles=())
    working_side = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, vocabulary: object) -> None: ...

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        self.batches.append(len(images))
        if any(image.shape[1] == 30 for image in images):
            raise RuntimeError("out of\nmemory")
        return [self._label(image) for image in images if image.shape[1] != 32]

    @staticmethod
    def _label(image: Image) -> Prediction:
        crop = image[:, :-1] if image.shape[1] == 31 else image
        return Prediction((crop[..., 1] > 127).astype(np.int32) - 1, ("bright",), (-1,), (1.0,))


def execute(refs: Iterable[ImageRef], batch_size: int, workers: int = 0) -> list[ImageRecord]:
    with pool(workers) as decoders:
        records = list(local.execute(refs, Picky(), decoders, batch_size))
    return [replace(record, seconds=0.0) for record in records]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (5, 0), (100, 3)])
def test_batches_and_workers_change_nothing(refs: list[ImageRef], batch_size: int, workers: int) -> None:
    records = execute(refs, batch_size, workers)
    assert records == execute(refs, 1)
    assert sorted(record.path for record in records) == NAMES
    assert [record.path for record in records if record.status == "ok"] == [*NAMES[:3], *NAMES[8:]]


def test_a_photo_that_the_labeler_fails_on_costs_itself_only(refs: list[ImageRef]) -> None:
    records = {record.path: record for record in execute(refs, 8)}
    failed = records["05.png"]
    assert (failed.status, failed.error) == ("failed", "labelling failed: RuntimeError: out of memory")
    assert failed.size == (90, 30)  # it could be decoded
    assert failed.segments == ()
    bright = np.asarray(PillowImage.open(refs[0].file))[..., 1] > 127
    np.testing.assert_array_equal(records["00.png"].prediction().label_map >= 0, bright)


@pytest.mark.parametrize(
    ("width", "complaint"),
    [
        (31, r"Expected predictions of sizes [(40, 31)], but the labeler gave [(40, 30)]"),
        (32, "but the labeler gave []"),
    ],
)
def test_a_prediction_of_the_wrong_size_or_none_at_all_is_caught(tmp_path: Path, width: int, complaint: str) -> None:
    write_photos(tmp_path, NAMES[:3])
    write_photos(tmp_path, [NAMES[1]], (40, width))
    records = execute([ImageRef(tmp_path, name) for name in NAMES[:3]], 3)
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert complaint in records[1].error


def test_only_two_batches_of_photos_are_held(tmp_path: Path) -> None:
    write_photos(tmp_path, [f"{number:02d}.png" for number in range(40)])
    alive: weakref.WeakSet[Photo] = weakref.WeakSet()
    held: list[int] = []

    class Watched(DecodePool):
        def decode(self, refs: Iterable[ImageRef]) -> Iterator[Decoded]:
            for ref, photo in super().decode(refs):
                assert isinstance(photo, Photo)
                alive.add(photo)
                yield ref, photo
                del photo

    class Watching(Picky):
        def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
            held.append(len(alive))
            return super().label(images, sizes)

    with Watched(0, 4, working_side=None, max_pixels=MAX_PIXELS) as decoders:
        for _ in local.execute(
            (ImageRef(tmp_path, f"{number:02d}.png") for number in range(40)), Watching(), decoders, 4
        ):
            pass
    assert len(held) == 10
    assert max(held) <= 8  # one batch is labelled while another is encoded


def test_networks_that_cannot_be_opened_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (PLUGINS, DEADLY):
        monkeypatch.syspath_prepend(str(folder))
    (tmp_path / "no-memory").touch()  # see tests/plugins/deadly
    config = RunConfig(labeler="deadly", pack="embedded", device="cpu", settings={"diary": str(tmp_path)})
    with pytest.raises(RunError) as caught:
        assemble(config, Vocabulary.of(VOCAB.split(", ")), "cpu")
    assert str(caught.value) == (
        "cpu: the networks cannot be opened: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.; "
        "end what else runs there"
    )


def test_a_stop_is_heeded_between_batches(refs: list[ImageRef]) -> None:
    labeler = Picky()
    with pool(0) as decoders:
        records = list(local.execute(refs, labeler, decoders, 3, lambda: len(labeler.batches) >= 1))
    assert [record.path for record in records] == NAMES[:3]
