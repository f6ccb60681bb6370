"""The stage before every format: splits, scores, what people said, which photos."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from annotator.errors import ConfigError
from annotator.prediction import Prediction
from exporters.base import export
from exporters.options import SplitOptions

NAMES = ["background", "cat", "dog"]
PATHS = [f"{folder}/{index:04d}.jpg" for folder in "abc" for index in range(700)]


def paths_in(labels: Path) -> list[str]:
    return [image["file_name"] for image in json.loads(labels.read_text())["images"]]


@pytest.mark.parametrize(("split", "shares"), [("0.9/0.1", (0.9, 0.1)), ("70/20/10", (0.7, 0.2, 0.1)), ("", (1.0,))])
def test_shares_of_a_split(split: str, shares: tuple[float, ...]) -> None:
    options = SplitOptions(split=split)
    found = [options.split_of(path) for path in PATHS]
    assert options.splits == ("train", "val", "test")[: len(shares)]
    for name, share in zip(options.splits, shares, strict=True):
        # within four standard deviations of a coin that falls so
        assert abs(found.count(name) / len(PATHS) - share) <= 4 * np.sqrt(share * (1 - share) / len(PATHS))


def test_a_photo_stays_where_it_is_whatever_is_added() -> None:
    """Pinned: another version of the tool must not move photos either."""
    options = SplitOptions(split="0.5/0.5")
    found = {path: options.split_of(path) for path in ("a.jpg", "b.jpg", "sub/a.jpg", "ü.jpg", "new\nline.jpg", "c")}
    # `printf 0/PATH | sha256sum` begins with f, e, a, c, 8 and 2; the upper half of the digits is val
    assert list(found.values()) == ["val", "val", "val", "val", "val", "train"]
    assert any(replace(options, seed=1).split_of(path) != found[path] for path in found)


@pytest.mark.parametrize("split", ["0.9", "a/b", "0.9/0.1/0/0", "-1/2", "0/0", "nan/1", "inf/1"])
def test_wrong_splits(make_run, tmp_path, split) -> None:
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, NAMES)
    with pytest.raises(ConfigError, match="split: expected shares of train/val"):
        export("coco", run, tmp_path / "labels.json", {"split": split})


def test_a_format_of_one_file_gets_one_per_split(make_run, noise, tmp_path) -> None:
    maps = {path: noise(index, 6, 6, 3) for index, path in enumerate(PATHS[:40])} | {"z.jpg": None}
    run = make_run(maps, NAMES)
    whole = export("coco", run, tmp_path / "whole.json")
    summary = export("coco", run, tmp_path / "labels.json", {"split": "0.6/0.2/0.2"})
    assert (summary.images, summary.annotations, summary.skipped) == (whole.images, whole.annotations, 1)
    found = {split: paths_in(tmp_path / f"labels-{split}.json") for split in ("train", "val", "test")}
    assert sorted(chain(*found.values())) == paths_in(tmp_path / "whole.json")
    assert min(map(len, found.values())) > 0
    assert f"train: {len(found['train'])} photos" in summary.notes
    assert not (tmp_path / "labels.json").exists()
    # the same command over fewer photos: those that are there stay in their split
    export("coco", make_run(dict(list(maps.items())[::2]), NAMES), tmp_path / "fewer.json", {"split": "0.6/0.2/0.2"})
    assert set(paths_in(tmp_path / "fewer-val.json")) < set(found["val"])


@pytest.mark.parametrize("name", ["coco", "mask-png", "cvat", "label-studio"])
def test_segments_under_the_score_count_as_unlabelled(make_run, tmp_path, name) -> None:
    label_map = np.array([[0, 1, 2]], dtype=np.int32)
    run = make_run({"a.jpg": label_map}, NAMES, scores=[0.9, 0.4, 0.5])
    without = make_run({"a.jpg": np.array([[0, -1, 2]], dtype=np.int32)}, NAMES, scores=[0.9, 0.4, 0.5])
    found, expected = ((tmp_path / each / "out").with_suffix(SUFFIXES[name]) for each in ("found", "expected"))
    summary = export(name, run, found, {"min_score": 0.5})
    export(name, without, expected)
    assert summary.notes[-1] == "1 segment is left out: the score is under 0.5"
    written = sorted(path.relative_to(found.parent) for path in found.parent.rglob("*.*"))
    assert len(written) > 0
    assert all((found.parent / path).read_bytes() == (expected.parent / path).read_bytes() for path in written)


SUFFIXES = {"coco": ".json", "mask-png": "", "cvat": ".xml", "label-studio": ".json"}


def test_what_people_said_comes_before_all_else(make_run, tmp_path) -> None:
    """Corrections replace a photo's segments, then only approved photos are kept, then the score is asked."""
    cat, dog = np.full((2, 3), 1, dtype=np.int32), np.full((2, 3), 2, dtype=np.int32)
    run = make_run({"a.jpg": cat, "b.jpg": cat, "c.jpg": cat}, NAMES, scores=[0.1, 0.1, 0.1])
    by_hand = tuple(Prediction(dog, NAMES, (0, 1, 2), (1.0, 1.0, 1.0)).segments())

    def corrected(records):
        return (replace(record, segments=by_hand) if record.path == "b.jpg" else record for record in records)

    summary = export(
        "coco",
        run,
        tmp_path / "labels.json",
        {"min_score": 0.2},
        amend=corrected,
        keep=lambda record: record.path != "c.jpg",
    )
    content = json.loads((tmp_path / "labels.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg"]
    assert [(each["image_id"], each["category_id"]) for each in content["annotations"]] == [(2, 3)]
    assert (summary.images, summary.annotations) == (2, 1)


def test_classes_are_those_of_the_labels_that_are_left(make_run, tmp_path) -> None:
    """Of free-text labels: a name that a person gave becomes a class, one that is gone is none; alike in all splits."""
    maps = {f"{index}.jpg": np.array([[0, 1]], dtype=np.int32) for index in range(8)}
    run = make_run(maps, None, labels=["a dog", "fog"], scores=[0.9, 0.1])
    by_hand = tuple(Prediction(maps["0.jpg"], ("Cats", "fog"), (-1, -1), (1.0, 0.1)).segments())

    def corrected(records):
        return (replace(record, segments=by_hand) if record.path == "0.jpg" else record for record in records)

    options = {"min_score": 0.5, "split": "0.5/0.5"}
    export("coco", run, tmp_path / "labels.json", options, amend=corrected)
    for split in ("train", "val"):
        content = json.loads((tmp_path / f"labels-{split}.json").read_text())
        assert [category["name"] for category in content["categories"]] == ["cat", "dog"]
        assert len(content["annotations"]) == len(content["images"]) > 0


def test_hidden_photos_are_still_not_written_over(make_run, tmp_path) -> None:
    """A photo that is not exported may lie where the export would go."""
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, NAMES, root=tmp_path / "photos")
    with pytest.raises(ConfigError, match="apart from the photos"):
        export("mask-png", run, tmp_path / "photos", keep=lambda record: False)
