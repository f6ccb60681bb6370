"""A database that anybody wrote to: a photo that holds nonsense is named and left alone, and no other file is touched.

The values are set behind FiftyOne's back, as its own checks are not ours.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_runs import write_photos
from reference.open_runs import Labelled, write_run

from annotator.corrections import corrected, pulls
from annotator.errors import ConfigError, RunError
from annotator.review.database import cache_folder
from annotator.review.dataset import Opened, open_dataset
from annotator.review.folder import export_folder
from annotator.review.pull import pull
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stress,
    pytest.mark.skipif(importlib.util.find_spec("fiftyone") is None, reason="needs pip install 'annotate[review]'"),
]

NAMES = ("background", "cat", "dog")
SCENE = np.zeros((24, 32), dtype=np.int32)
SCENE[2:10, 3:12], SCENE[12:22, 18:30] = 1, 2
DETECTION, CLASS, MASK = "instances.detections.0.", "labels.classifications.0.", "segments."


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    write_photos(tmp_path / "photos", ["a.jpg", "b.jpg"])
    photos = {name: Labelled(SCENE, NAMES) for name in ("a.jpg", "b.jpg")}
    return write_run(tmp_path / f"run-{tmp_path.name}", photos, Vocabulary.of(NAMES), image_root=tmp_path / "photos")


@pytest.fixture
def opened(fiftyone: Any, run: RunReader) -> Opened:
    """Its second photo is tagged in the app: whatever becomes of the first, that is pulled."""
    opened = open_dataset(fiftyone, run)
    raw(fiftyone, opened, "b.jpg", {"tags": ["approve"]})
    return opened


def raw(fiftyone: Any, opened: Opened, path: str, values: dict[str, Any]) -> None:
    samples = fiftyone.core.odm.get_db_conn()[opened.dataset._sample_collection_name]
    assert samples.update_one({"path": path}, {"$set": values}).modified_count == 1
    opened.dataset.reload()


def packed(array: np.ndarray) -> bytes:
    """As FiftyOne keeps a mask."""
    file = BytesIO()
    np.save(file, array)
    return zlib.compress(file.getvalue())


NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "box of NaN": ({DETECTION + "bounding_box": [float("nan"), 0, 0.5, 0.5]}, "four numbers"),
    "box of infinity": ({DETECTION + "bounding_box": [0, 0, float("inf"), 0.5]}, "four numbers"),
    "huge box": ({DETECTION + "bounding_box": [0, 0, 1e9, 1e9]}, "within the photo"),
    "box of negative width": ({DETECTION + "bounding_box": [0, 0, -0.5, 0.5]}, "within the photo"),
    "box of three": ({DETECTION + "bounding_box": [0, 0, 0.5]}, "four numbers"),
    "no box": ({DETECTION + "bounding_box": None}, "four numbers"),
    "instance without a name": ({DETECTION + "label": None}, "a label with a name"),
    "instance named by a number": ({DETECTION + "label": 5}, "cannot be read from the database"),
    "instance with ESC in its name": ({DETECTION + "label": "c\x1b[31mat"}, r"the character \\x1b"),
    "instance with a line break": ({DETECTION + "label": "ca\u2028t"}, r"the character \\u2028"),
    "class in other letters": ({DETECTION + "label": "CAT"}, "'CAT' is the class 'cat' but for its case"),
    "label without a name": ({CLASS + "label": ""}, "a label with a name"),
    "mask of three channels": ({DETECTION + "mask": packed(np.zeros((2, 2, 3), np.uint8))}, r"shape \(2, 2, 3\)"),
    "mask of texts": ({DETECTION + "mask": packed(np.array([["a"]]))}, "one channel of numbers"),
    "mask that is none": ({DETECTION + "mask": b"no mask"}, "cannot be read from the database"),
    "mask of objects": ({DETECTION + "mask": zlib.compress(b"\x93NUMPY")}, "cannot be read from the database"),
    "instance's mask elsewhere": (
        {DETECTION + "mask": None, DETECTION + "mask_path": "/etc/passwd"},
        "its mask to be in",
    ),
    "mask elsewhere": ({MASK + "mask_path": "/etc/passwd"}, "its mask to be in"),
    "mask above": ({MASK + "mask_path": "../../../etc/passwd"}, "its mask to be in"),
    "mask at NUL": ({MASK + "mask_path": "a\0b"}, "its mask to be in"),
    "mask of another size": ({MASK + "mask": packed(np.zeros((3, 3), np.uint8))}, "32 x 24 whole numbers"),
    "mask of NaN": ({MASK + "mask": packed(np.full(SCENE.shape, np.nan))}, "32 x 24 whole numbers"),
    "mask of unknown values": ({MASK + "mask": packed(np.full(SCENE.shape, 77, np.uint8))}, "but found 77"),
    "instances that are none": (
        {"instances": {"_cls": "Classification", "label": "cat"}},
        "cannot be read from the database",
    ),
    "labels that are none": ({"labels": {"_cls": "Detections", "detections": []}}, "cannot be read from the database"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_named_and_holds_up_nothing(fiftyone: Any, run: RunReader, opened: Opened, name: str) -> None:
    values, reason = NONSENSE[name]
    raw(fiftyone, opened, "a.jpg", values)
    pulled = pull(fiftyone, run)
    assert list(pulled.refused) == ["a.jpg"]
    with pytest.raises(RunError, match=reason):
        raise RunError(pulled.refused["a.jpg"])
    assert pulled.refused["a.jpg"].isprintable()
    assert pulled.pull is not None
    assert (pulled.pull.photos, pulled.pull.verdicts["approve"]) == (1, 1)
    assert [record.prediction().label_map.tolist() for record in corrected(run.records(), run)] == [SCENE.tolist()] * 2


@pytest.mark.parametrize(
    "values",
    [
        {DETECTION + "part": [1, 2]},
        {DETECTION + "part": {"a": 1}},
        {CLASS + "segment": [0]},
        {"status": "failed"},
        {"shown": None},
        {"content": 5},
        {"tags": ["approve", "reject", 5]},
        {"tags": None},
        {"path": None},
        {"path": "../../etc/passwd"},
        {"instances.detections": None},
        {"labels.classifications": None},
        {"segments": None, "instances": None, "labels": None},
    ],
    ids=str,
)
def test_other_nonsense_is_no_accident(fiftyone: Any, run: RunReader, opened: Opened, values: dict[str, Any]) -> None:
    """Whatever it is taken for, the other photo is pulled, and the app opens again."""
    raw(fiftyone, opened, "a.jpg", values)
    pulled = pull(fiftyone, run)
    assert pulled.pull is not None
    open_dataset(fiftyone, run)


def test_classes_that_the_database_makes_up(fiftyone: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / f"open-{tmp_path.name}", {"b.jpg": Labelled(SCENE, ["grass", "a cat", "a dog"])})
    dataset = open_dataset(fiftyone, run).dataset
    for known in (["cat", "cat", 5, None, "\x1b", "The Dogs"], "cat", {"a": 1}, None):
        dataset.info["classes"] = known
        dataset.save()
        assert list(open_dataset(fiftyone, run).samples.legend.classes.names)[-2:] == ["dog", "grass"]


@pytest.mark.parametrize("bring", ["copy", "link"])
@pytest.mark.parametrize("path", ["{secret}", "../secret.txt", "a/../../secret.txt", ".", "./", ""])
def test_a_foreign_photo_is_not_exported(
    fiftyone: Any, run: RunReader, opened: Opened, tmp_path: Path, path: str, bring: Any
) -> None:
    (tmp_path / "secret.txt").write_text("TOP SECRET")
    raw(fiftyone, opened, "a.jpg", {"path": path.format(secret=tmp_path / "secret.txt")})
    refuse_export(fiftyone, run, opened, tmp_path, bring, "expected a photo of the run")


@pytest.mark.parametrize("kind", ["elsewhere", "link", "above"])
def test_a_foreign_mask_is_not_exported(
    fiftyone: Any, run: RunReader, opened: Opened, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET")
    cache = cache_folder(run)
    (cache / "link.png").symlink_to(secret)
    place = {"elsewhere": secret, "link": cache / "link.png", "above": f"{cache}/../../secret.txt"}[kind]
    raw(fiftyone, opened, "a.jpg", {MASK + "mask_path": str(place)})
    refuse_export(fiftyone, run, opened, tmp_path, "none", "expected its mask to be in")


def refuse_export(fiftyone: Any, run: RunReader, opened: Opened, folder: Path, bring: Any, reason: str) -> None:
    with pytest.raises(RunError, match=reason) as caught:
        export_folder(fiftyone, opened, run, folder / "out", bring, lambda done, total: None)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()
    assert not any(file.read_bytes() == b"TOP SECRET" for file in folder.glob("*out*/**/*") if file.is_file())


def test_a_pipe_in_the_place_of_a_mask_is_not_waited_for(
    fiftyone: Any, run: RunReader, opened: Opened, tmp_path: Path
) -> None:
    pipe = cache_folder(run) / "pipe.png"
    os.mkfifo(pipe)
    raw(fiftyone, opened, "a.jpg", {MASK + "mask_path": str(pipe)})
    assert pull(fiftyone, run).pull is not None
    export_folder(fiftyone, opened, run, tmp_path / "out", "none", lambda done, total: None)


@pytest.mark.parametrize("link", ["review", "review/masks", "review/matplotlib"])
def test_masks_are_not_written_through_a_link(fiftyone: Any, run: RunReader, tmp_path: Path, link: str) -> None:
    from annotator.review.database import open_fiftyone

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.directory / link).parent.mkdir(exist_ok=True)
    (run.directory / link).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"expected a folder inside .* but found a link"):
        open_dataset(open_fiftyone(run), run)
    assert list(elsewhere.iterdir()) == []
    assert pulls(run.directory) == []
