"""Label Studio's predictions, with its masks unpacked by another's decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers_formats import HOSTILE, objects_of, same
from label_studio_brush_rle_rs import decode_rle
from numpy.typing import NDArray

from annotator.errors import ConfigError
from annotator.vocabulary import ClassEntry, Vocabulary
from exporters.base import ExportSummary, export
from exporters.label_studio import brush_rle

NAMES = ["background", "cat", "dog", "bird"]


def studio(run: Any, out: Path, **options: Any) -> tuple[ExportSummary, list[dict[str, Any]]]:
    summary = export("label-studio", run, out, options)
    return summary, json.loads(out.read_text(encoding="ascii"))


def unpacked(rle: list[int] | bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The alpha channel, as Label Studio's own converter takes it; all channels are alike."""
    pixels = np.asarray(decode_rle(list(rle), False), dtype=np.uint8).reshape(*size, 4)
    assert (pixels == pixels[..., :1]).all()
    assert set(np.unique(pixels)) <= {0, 255}
    mask: NDArray[np.bool_] = pixels[..., 3] > 0
    return mask


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 40000])
@pytest.mark.parametrize("first", [False, True])
def test_runs_of_every_length(length: int, first: bool) -> None:
    """On either side of what each width of a length holds: 8, 16, 256 and 65,536 values, four to a pixel."""
    mask = np.array([[first] * length + [not first] * 3 + [first] * length])
    assert np.array_equal(unpacked(brush_rle(mask), mask.shape), mask)


def test_bits_by_hand() -> None:
    """Two pixels outside the mask, then one inside: 12 values of 8 bits; lengths of 3, 4, 8 or 16 bits."""
    head = f"{12:032b}" + f"{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    bits = head + "1" + "00" + "111" + "00000000" + "1" + "00" + "011" + "11111111"
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    assert brush_rle(np.array([[False, False, True]])) == int(padded, 2).to_bytes(len(padded) // 8, "big")


def test_masks_come_back(make_run, noise, tmp_path) -> None:
    maps = {f"sub/{index}/{size}.jpg": noise(index, size, size + 7, 4) for index in range(3) for size in (1, 5, 64)}
    summary, tasks = studio(make_run({**maps, "bad.jpg": None}, NAMES), tmp_path / "tasks.json", instances=True)
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={path}" for path in sorted(maps)]
    total = 0
    for task, path in zip(tasks, sorted(maps), strict=True):
        (prediction,) = task["predictions"]
        found = []
        for result in prediction["result"]:
            size = result["original_height"], result["original_width"]
            assert size == maps[path].shape
            (label,) = result["value"]["brushlabels"]
            found.append((NAMES.index(label), unpacked(result["value"]["rle"], size)))
        assert same(found, objects_of(maps[path]))
        assert len({result["id"] for result in prediction["result"]}) == len(found)
        total += len(found)
    assert (summary.images, summary.skipped, summary.annotations) == (len(maps), 1, total)


def test_what_is_in_a_task(make_run, tmp_path) -> None:
    label_map = np.array([[1, 1, 1, 2, 0]], dtype=np.int32)
    maps = {"a b/ü.jpg": label_map, "nothing.jpg": np.zeros((1, 1), dtype=np.int32)}
    run = make_run(maps, NAMES, scores=[0.9, 0.5, 0.1, 0.9])
    _, (task, nothing) = studio(run, tmp_path / "tasks.json", prefix="https://x.test/")
    assert task["data"] == {"image": "https://x.test/a%20b/%C3%BC.jpg"}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "annotate 1.2 test"
    assert prediction["score"] == 0.4  # (3 * 0.5 + 0.1) / 4
    cat = prediction["result"][0]
    assert {name: cat[name] for name in ("type", "from_name", "to_name", "image_rotation", "score")} == {
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "image_rotation": 0,
        "score": 0.5,
    }
    assert cat["value"]["format"] == "rle"
    assert nothing["predictions"][0] == {"model_version": "annotate 1.2 test", "score": 0.0, "result": []}


def test_the_interface_fits_the_tasks(make_run, tmp_path) -> None:
    names = ["cat", "<b>\"&'\t\n", "bird"]
    vocabulary = Vocabulary(tuple(ClassEntry(name, (name,)) for name in names))
    _, (task,) = studio(make_run({"a.jpg": np.array([[1]], dtype=np.int32)}, vocabulary), tmp_path / "tasks.json")
    (result,) = task["predictions"][0]["result"]
    view = ElementTree.parse(tmp_path / "tasks.config.xml").getroot()
    image, brush = view.find("Image"), view.find("BrushLabels")
    assert image is not None
    assert brush is not None
    assert (image.attrib["name"], brush.attrib["toName"], brush.attrib["name"]) == ("image", "image", "label")
    assert (result["to_name"], result["from_name"]) == ("image", "label")
    assert image.attrib["value"] == "$" + next(iter(task["data"]))
    assert [label.attrib["value"] for label in brush] == names
    assert result["value"]["brushlabels"] == [names[1]]


def test_hostile_names(make_run, tmp_path) -> None:
    run = make_run(dict.fromkeys(HOSTILE, np.array([[1, 2]], dtype=np.int32)), NAMES)
    _, tasks = studio(run, tmp_path / "tasks.json")
    assert [parse_qs(urlsplit(task["data"]["image"]).query)["d"] for task in tasks] == [
        [path] for path in sorted(HOSTILE)
    ]


def test_refusals(make_run, tmp_path) -> None:
    run = make_run({"a.jpg": np.ones((1, 1), dtype=np.int32)}, NAMES)
    with pytest.raises(
        ConfigError, match=r"expected out, for the format label-studio, to name a file that ends in \.json"
    ):
        studio(run, tmp_path / "tasks")
