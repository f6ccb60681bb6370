"""Photos are listed while a run labels: each once, in order, and only as far as needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
from helpers_runs import PLUGINS, VOCAB, write_photos

from annotator import cli, pipeline
from annotator import listing as module
from annotator.images import ImageRef
from annotator.listing import Listing
from annotator.pipeline import Job
from annotator.run import ImageRecord, RunWriter, open_run

ROOT = Path("photos")


def refs(number: int) -> list[ImageRef]:
    return [ImageRef(ROOT, f"{index:06d}.jpg", "odd" if index % 7 == 0 else None) for index in range(number)]


@dataclass
class Counted:
    """Counts how far it was iterated, over all iterations."""

    photos: list[ImageRef]
    root: Path = ROOT
    listed: int = 0
    marks: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[ImageRef]:
        for ref in self.photos:
            self.listed += 1
            yield ref


@pytest.mark.parametrize("looks", [[], [0], [5, 3000], [10**9], [1, 1, 2047, 1, 10**9]])
@pytest.mark.parametrize("given_between", [0, 1, 2500])
def test_looking_ahead_changes_neither_photos_nor_order(looks: list[int], given_between: int) -> None:
    photos = refs(6000)
    source = Counted(photos)
    listing = Listing(source)
    given: list[ImageRef] = []
    for most in looks:
        listing.look_ahead(60, most=most)
        given += islice(listing, given_between)
    if 10**9 in looks:
        assert listing.total == 6000
    given += listing
    assert given == photos
    assert source.listed == 6000
    assert listing.total == 6000
    assert not listing.leaves_photos()


def test_a_look_goes_no_further_than_asked() -> None:
    source = Counted(refs(100))
    listing = Listing(source)
    listing.look_ahead(60, most=30)
    assert (source.listed, listing.total) == (30, None)
    listing.look_ahead(0)
    assert source.listed == 30
    next(listing)
    assert source.listed == 30


def test_no_more_is_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AHEAD", 40)
    source = Counted(refs(100))
    listing = Listing(source)
    listing.look_ahead(60)
    assert (source.listed, listing.total) == (40, None)
    given = [next(listing) for _ in range(61)]
    listing.look_ahead(60)
    assert listing.total == 100
    assert [*given, *listing] == source.photos


@pytest.mark.parametrize(
    ("limit", "total", "leaves"), [(None, 9, False), (0, 0, True), (4, 4, True), (9, 9, False), (20, 9, False)]
)
def test_a_limit(limit: int | None, total: int, leaves: bool) -> None:
    listing = Listing(refs(9), limit)
    listing.look_ahead(60)
    assert listing.total == total
    assert list(listing) == refs(9)[:total]
    assert listing.leaves_photos() == listing.leaves_photos() == leaves


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Counted]:
    """Runs `annotate run` over these photos; notes how far they were listed as each was labelled."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", [ref.path for ref in refs(40)])
    real, write = pipeline.prepare, RunWriter.write

    def run(number: int, *options: str) -> Counted:
        source = Counted([ImageRef(tmp_path / "photos", ref.path) for ref in refs(number)], tmp_path / "photos")

        def prepare(*arguments: object, **named: object) -> Job:
            job = real(*arguments, **named)  # type: ignore[arg-type]
            job.source = source  # type: ignore[assignment]
            return job

        def writing(writer: RunWriter, record: ImageRecord) -> None:
            source.marks.append(source.listed)
            write(writer, record)

        monkeypatch.setattr(pipeline, "prepare", prepare)
        monkeypatch.setattr(RunWriter, "write", writing)
        command = ["annotate", "run", "--labeler", "bands", "--vocab", VOCAB, "--pack", "embedded", "--out", "run"]
        monkeypatch.setattr(sys, "argv", [*command, "--images", "photos", "--workers", "0", *options])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return source

    return run


@pytest.mark.slow
def test_a_run_does_not_list_all_photos_before_it_labels_the_first(run_of: Callable[..., Counted]) -> None:
    source = run_of(200_000, "--limit", "20")
    assert source.marks[0] <= 20_000
    assert len(open_run("run")) == 20


def test_a_run_lists_each_photo_once(run_of: Callable[..., Counted]) -> None:
    run_of(40, "--limit", "15")
    source = run_of(40)
    assert source.listed == 40
    assert len(open_run("run")) == 40
