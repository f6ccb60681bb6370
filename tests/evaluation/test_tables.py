"""The papers' tables: that their YAML files can be run, what is written of them, and pictures pixel by pixel."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from annotator.errors import ConfigError
from evaluation.benchmarks import load_benchmark
from evaluation.report import ClassScore
from evaluation.table_picture import COLORS, Bar, color_of, draw_bars, draw_classes
from evaluation.table_report import Cell, Table, _bars, as_dict, header, rows, write_table
from evaluation.tables import MIOU, Column, Preset, Row, available, load_preset
from labelers.base import find, resolve_parameters

PUBLISHED = {
    ("dinoiser-table1", "MaskCLIP"): "32.9 22.9 16.4 61.8 25.6 17.6 25.0 14.3",
    ("dinoiser-table1", "CLIP-DIY"): "59.9 31.0",
    ("dinoiser-table1", "CLIP-DINOiser"): "62.1 32.4 34.8 80.9 35.9 24.6 31.7 20.0",
    ("dinoiser-table2a", "MaskCLIP"): "32.9 16.4 61.8 25.6 17.6 14.3",
    ("dinoiser-table2a", "CLIP keys"): "39.2 73.2 23.0 12.6 7.7",
    ("dinoiser-table2a", "DINO"): "53.7 79.1 35.5 24.7 20.4",
    ("dinoiser-table2a", "trained"): "54.0 80.9 35.9 24.6 20.0",
    ("dinoiser-table2a", "trained, trained objectness"): "62.1 34.8",
    ("diy-table2", "256"): "56.0 25.9",
    ("diy-table2", "256 + 128 + 64"): "59.9 31.0",
    ("diy-table3", "none"): "24.1 15.5",
    ("diy-table3", "FOUND"): "59.9 31.0",
    ("diy-table4", "mean of three scales"): "24.1 15.5",
    ("diy-table4", "one scale, FOUND"): "56.0 25.9",
    ("diy-table4", "mean of three scales, FOUND"): "59.9 31.0",
    ("zeroguide-table3", "full"): "17.5-19.6 15.0 19.0 20.1",
}
"""The papers' figures in the order of the columns that have one."""


@pytest.mark.parametrize("name", available())
def test_preset_can_be_run(name: str) -> None:
    """Every setting is one that the labeler takes, every benchmark is there, and the two fit each other."""
    preset = load_preset(name)
    assert preset.title
    assert preset.paper
    for row, benchmark, metrics in preset.runs():
        resolve_parameters(row.labeler, row.settings)  # refuses names, types and values
        spec, classes = find(row.labeler).spec, load_benchmark(benchmark)
        assert spec.needs_vocabulary == (metrics == [MIOU])
        assert classes.background or not spec.needs_background


def test_figures_are_the_papers() -> None:
    found = {}
    for preset in map(load_preset, available()):
        for row in preset.rows:
            if figures := [row.paper[text] for text in preset.columns if text in row.paper]:
                found[preset.name, row.name] = " ".join("-".join(map(str, each)) for each in figures)
    assert found == PUBLISHED


def test_rows_of_table_1_agree_with_the_benchmarks() -> None:
    preset = load_preset("dinoiser-table1")
    assert len(list(preset.runs())) == 8 + 2 + 8
    for row, benchmark, _ in preset.runs():
        assert row.paper[benchmark] == (load_benchmark(benchmark).paper[row.labeler],)


def test_columns_and_runs() -> None:
    assert [(c.benchmark, c.metric) for c in map(Column, ("voc21", "voc21 st", "my bench.yaml tgq", "tgq"))] == [
        ("voc21", "miou"), ("voc21", "st"), ("my bench.yaml", "tgq"), ("tgq", "miou")
    ]  # fmt: skip
    preset = load_preset("zeroguide-table3")
    assert preset.benchmarks() == ["context59", "voc21"]
    assert [metrics for row, _, metrics in preset.runs() if row.name == "no merge"] == [["st", "recall", "tt"], ["st"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x", "rows: expected a list"),
        ("{rows: [{name: a, labeler: b, setting: {}}]}", "no setting 'setting'.*did you mean 'settings'"),
        ("{rows: [{name: a, labeler: b}]}", "title, paper, columns must be set"),
        ("{title: x, paper: y, columns: [], rows: [{name: a, labeler: b}]}", "columns: expected different ones"),
        (
            "{title: x, paper: y, columns: [voc21], rows: [{name: A b, labeler: b}, {name: a-B, labeler: b}]}",
            "names of rows: expected different ones, but got a-b, a-b",
        ),
        (
            "{title: x, paper: y, columns: [voc21], rows: [{name: a, labeler: b, columns: [voc20]}]}",
            r"a: 'voc20' is none of its columns \(voc21\)",
        ),
        (
            "{title: x, paper: y, columns: [v, w], rows: [{name: a, labeler: b, columns: [v], paper: {w: 1}}]}",
            r"a: 'w' is none of its columns \(v\)",
        ),
        (
            "{title: x, paper: y, columns: [v], rows: [{name: a, labeler: b, paper: {v: [1, 2, 3]}}]}",
            "a: v: expected a number or",
        ),
        ("{title: x, paper: y, columns: [v], rows: [{name: a, labeler: b, paper: {v: high}}]}", "expected float"),
    ],
)
def test_mistakes_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_preset(file)


def test_bars_are_of_shares(table: Table) -> None:
    """Scores are shares already, the paper's figures percents."""
    found = _bars(table)
    assert list(found) == header(table)[1:]
    wide, narrow = next(iter(found.values()))
    assert wide == Bar(0, 0.25, (pytest.approx(0.317),))
    assert (narrow.row, narrow.paper) == (1, ())


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"no table 'voc'; known are .*dinoiser-table1"):
        load_preset("voc")


HOSTILE = "a|b <script>"


@pytest.fixture
def table() -> Table:
    """Two rows and three columns; the second row has two of them, and ade20k is not there."""
    columns = ("cityscapes", "voc21", "ade20k")
    paper = {"cityscapes": (31.7,), "ade20k": (17.5, 19.6)}
    wide = Row(HOSTILE, "dinoiser", {"affinity": "dino", "gamma": 0.2}, paper=paper)
    preset = Preset("mine", "My table", "A paper", columns, (wide, Row("b", "maskclip", columns=columns[:2])))
    classes = load_benchmark("cityscapes").classes
    scores = tuple(ClassScore(name, 0.25 if name == "road" else None, None, None, 0, 0) for name in classes)
    cells = {
        (HOSTILE, "cityscapes"): Cell(
            {MIOU: 0.25}, 2, 1, "runs/a/c", "embedded", "fp32", {"clip": "ab", "heads": "cd"},
            ("runs/a/c/eval/confusion.png",), ("A note.",), scores,
        ),
        ("b", "cityscapes"): Cell(
            {MIOU: float("nan")}, 3, 0, "runs/b/c", "embedded", "fp32", {"clip": "ab"}, (), ("A note.",),
        ),
        ("b", "voc21"): Cell({MIOU: 0.5}, 3, 0, "runs/b/v", "paper", "bf16", {"clip": "ef"}, ()),
    }  # fmt: skip
    benchmarks = {name: load_benchmark(name) for name in columns}
    return Table(preset, "annotate report --preset mine", benchmarks, {"ade20k": "ade20k is left out"}, cells)


def test_rows_show_ours_beside_the_papers(table: Table) -> None:
    assert header(table) == ["", "cityscapes", "voc21", "ade20k"]
    assert list(rows(table)) == [[HOSTILE, "25.0 (31.7)", "–", "– (17.5–19.6)"], ["b", "–", "50.0", ""]]
    assert table.failed == 1


def test_json_holds_every_number(table: Table) -> None:
    found = json.loads(json.dumps(as_dict(table)))
    assert [column["photos_of_benchmark"] for column in found["columns"]] == [500, 1449, 2000]
    assert [column["missing"] for column in found["columns"]] == [None, None, "ade20k is left out"]
    assert found["rows"][0]["cells"]["cityscapes"] == {
        "value": 0.25,
        "paper": [pytest.approx(0.317)],
        "difference": pytest.approx(-0.067),
        "images": 2,
        "images_failed": 1,
        "run": "runs/a/c",
        "pack": "embedded",
        "precision": "fp32",
        "weights": {"clip": "ab", "heads": "cd"},
    }
    unmeasured = found["rows"][0]["cells"]["ade20k"]
    assert (unmeasured["value"], unmeasured["paper"]) == (None, [pytest.approx(0.175), pytest.approx(0.196)])
    assert (unmeasured["difference"], unmeasured["images"], unmeasured["run"]) == (None, 0, None)
    assert found["rows"][1]["cells"]["cityscapes"]["value"] is None  # NaN is no JSON
    assert found["rows"][1]["cells"].keys() == {"cityscapes", "voc21"}


def test_files_are_the_same_every_time(table: Table, tmp_path: Path) -> None:
    files = write_table(table, tmp_path / "one")
    assert [file.name for file in files] == ["table.md", "table.json", "bars.png", "classes-cityscapes.png"]
    again = write_table(table, tmp_path / "two")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    text = files[0].read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "<script>" not in text
    assert r"| a\|b &lt;script&gt; | 25.0 (31.7) | – | – (17.5–19.6) |" in lines
    assert "| cityscapes: Cityscapes | 2 to 3 | 500 |" in lines
    assert "| ade20k: ADE20K | – | 2,000 |" in lines
    assert r"| a\|b &lt;script&gt; | dinoiser | affinity=dino, gamma=0.2 | embedded | fp32 |" in lines
    assert "| b | maskclip | as they come | embedded, paper | fp32, bf16 |" in lines
    assert "| clip | ab | all |" in lines
    assert r"| heads | cd | a\|b &lt;script&gt; |" in lines
    assert lines.count("- A note.") == 1
    assert "- ade20k is left out" in lines
    assert "(runs/a/c/eval/confusion.png)" in text
    assert lines[-3:] == ["```", "annotate report --preset mine", "```"]
    with Image.open(files[2]) as image:
        assert image.format == "PNG"


def test_a_bar_is_as_high_as_its_value() -> None:
    """In pixels between the axis and its uppermost line, which is the next ten percent above all."""
    bars = [Bar(0, 0.62, (0.3,)), Bar(1, 0.31), Bar(2, 0.0), Bar(3, None, (0.55,))]
    pixels = np.asarray(draw_bars("t", ["a", "b", "c", "d"], {"voc21": bars}))
    grid = np.flatnonzero((pixels == (232, 235, 238)).all(axis=2).mean(axis=1) > 0.3)
    axis = np.flatnonzero((pixels == (118, 125, 134)).all(axis=2).mean(axis=1) > 0.3)
    scale = (axis[-1] - grid[0]) / 70  # pixels per percent
    plot = pixels[grid[0] - 20 : axis[-1]]
    for bar, percent in ((0, 62), (1, 31), (2, 0), (3, 0)):
        inside = (plot == color_of(bar)).all(axis=2)
        height = len(plot) - int(np.flatnonzero(inside.any(axis=1))[0]) if inside.any() else 0
        assert height == pytest.approx(percent * scale, abs=1)
    ink = (plot == (38, 43, 51)).all(axis=2)
    marks = [len(plot) - int(line) for line in np.flatnonzero(ink.sum(axis=1) >= 30)]  # wider than any letter
    assert np.median(marks[:3]) == pytest.approx(55 * scale, abs=2)
    assert np.median(marks[3:]) == pytest.approx(30 * scale, abs=2)
    assert len(marks) == 6


def test_a_classs_bar_is_as_long_as_its_share() -> None:
    shares = {0: [0.25, None, 1.0], 2: [0.5, None, None]}
    pixels = np.asarray(draw_classes("t", ["a", "b", "c"], ["cat", "dog", "cow"], shares))
    lines = pixels[90:]  # below the legend
    track = (lines == (242, 243, 245)).all(axis=2)
    lengths = {}
    for row in (0, 2):
        filled = (lines == color_of(row)).all(axis=2)
        lengths[row] = sorted({int(count) for count in filled.sum(axis=1) if count})
    whole = lengths[0][-1]
    assert lengths == {0: [pytest.approx(whole / 4, abs=1), whole], 2: [pytest.approx(whole / 2, abs=1)]}
    assert track.any(axis=1).sum() == 2 * 12  # two classes; the one without a share is left out
    assert not (lines == color_of(1)).all(axis=2).any()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, ...]]]:
    """Every text that is drawn from now on, and the box that it fills."""
    texts: list[tuple[str, tuple[float, ...]]] = []
    draw_text = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, at: Any, words: str, fill: Any, font: Any, anchor: str | None = None) -> None:
        texts.append((words, self.textbbox(at, words, font, anchor)))
        draw_text(self, at, words, fill, font, anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def words_of(texts: list[tuple[str, tuple[float, ...]]]) -> list[str]:
    return [words for words, _ in texts]


def test_pictures_say_what_they_are_of(table: Table, drawn: list, tmp_path: Path) -> None:
    """Photos and pack: by benchmark where they differ, and of one benchmark in the picture of its classes."""
    write_table(table, tmp_path)
    assert words_of(drawn).count("cityscapes: 2 to 3 of 500 photos, embedded pack") == 1
    assert words_of(drawn).count("voc21: 3 of 1,449 photos, paper pack") == 1
    assert words_of(drawn).count("2 to 3 of 500 photos, embedded pack") == 1
    assert not any("ade20k:" in words for words in words_of(drawn))  # not measured


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"voc21": (2, "embedded"), "voc20": (2, "embedded")}, "2 of 1,449 photos, embedded pack"),
        (
            {"voc21": (1449, "embedded"), "coco-object": (5000, "embedded")},
            "voc21: all 1,449 photos; coco-object: all 5,000 photos; embedded pack",
        ),
        (
            {"voc21": (2, "embedded"), "voc20": (2, "paper")},
            "voc21: 2 of 1,449 photos, embedded pack; voc20: 2 of 1,449 photos, paper pack",
        ),
        ({}, ""),
    ],
)
def test_one_line_where_benchmarks_agree(
    cells: dict[str, tuple[int, str]], expected: str, drawn: list, tmp_path: Path
) -> None:
    names = ("voc21", "voc20", "coco-object")
    preset = Preset("mine", "My table with a title that is long enough", "A paper", names, (Row("a", "maskclip"),))
    made = {
        ("a", name): Cell({MIOU: 0.5}, count, 0, "r", pack, "fp32", {}, ()) for name, (count, pack) in cells.items()
    }
    write_table(Table(preset, "", {name: load_benchmark(name) for name in names}, {}, made), tmp_path)
    head = [words for words, box in drawn if words.endswith("pack") or " photos" in words]
    assert "; ".join(head) == expected


def test_groups_spread_over_the_plot() -> None:
    """A title wider than the bars leaves no empty half: as much is free to the right of the bars as to the left."""
    picture = draw_bars("A title that is much wider than two bars would ever be " * 2, ["a"], {"x": [Bar(0, 0.5)]})
    filled = np.flatnonzero((np.asarray(picture) == color_of(0)).all(axis=2)[120:].any(axis=0))
    axis = np.flatnonzero((np.asarray(picture) == (118, 125, 134)).all(axis=2).mean(axis=1) > 0.3)[-1]
    plot = np.flatnonzero((np.asarray(picture)[axis] == (118, 125, 134)).all(axis=1))
    assert filled[0] - plot[0] == pytest.approx(plot[-1] - filled[-1], abs=8)


def overlapping(texts: list[tuple[str, tuple[float, ...]]]) -> Iterator[tuple[str, str]]:
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
            yield one, other


@pytest.mark.parametrize("count", [1, 3, 20])
def test_no_text_covers_another(count: int, drawn: list) -> None:
    rng = np.random.default_rng(count)
    names = [f"a row with a rather long name, {number}" for number in range(count)]
    benchmarks = ("voc21", "context60", "coco-object", "voc20", "context59", "coco-stuff", "cityscapes", "ade20k")
    values = rng.uniform(0, 1, (len(benchmarks), count)).tolist()
    groups = {
        name: [Bar(row, value, (value + rng.uniform(-0.04, 0.04),)) for row, value in enumerate(line)]
        for name, line in zip(benchmarks, values, strict=True)
    }
    basis = [f"{name}: 100 of 1,449 photos" for name in benchmarks]
    image = draw_bars("A table", names, groups, [*basis, "embedded pack"])
    assert len(drawn) > 2 * count * len(benchmarks)
    assert list(overlapping(drawn)) == []
    assert all(min(box) >= 0 and box[2] <= image.width and box[3] <= image.height for _, box in drawn)


@pytest.mark.parametrize(("benchmark", "count"), [("coco-stuff", 2), ("ade20k", 8), ("voc21", 1), ("cityscapes", 20)])
def test_no_class_covers_another(benchmark: str, count: int, drawn: list) -> None:
    classes = load_benchmark(benchmark).classes
    rng = np.random.default_rng(0)
    shares = {row: rng.uniform(0, 1, len(classes)).tolist() for row in range(count)}
    basis = ["from 2 to 2,000 of 5,000 photos, packs embedded, paper"] * 3
    image = draw_classes("A table: IoU per class", [f"row {row}" for row in range(count)], classes, shares, basis)
    words = [text for text, _ in drawn]
    assert [name for name in classes if name not in words] == []  # none is cut
    assert list(overlapping(drawn)) == []
    assert all(min(box) >= 0 and box[2] <= image.width and box[3] <= image.height for _, box in drawn)


@pytest.mark.parametrize("name", ["", "猫", "x" * 400, "\n"])
def test_odd_names_are_drawn(name: str) -> None:
    for picture in (
        draw_bars(name, [name], {name: [Bar(0, 1.0, (0.2, 0.4))]}),
        draw_bars(name, [], {}),
        draw_classes(name, [name], [name], {0: [0.5]}),
        draw_classes(name, [name], [], {}),
    ):
        assert picture.mode == "RGB"
        assert max(picture.size) < 4000


DICHROMATS = {
    "protanope": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranope": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}
"""Viénot, Brettel and Mollon (1999): linear RGB as these people see it."""


@pytest.mark.parametrize("matrix", DICHROMATS.values(), ids=DICHROMATS)
def test_colours_differ_for_colour_blind_people(matrix: list[list[float]]) -> None:
    """In steps of 8-bit RGB; a red and a green of one brightness are eight apart for a deuteranope."""
    seen = 255 * np.clip((np.array(COLORS) / 255) ** 2.2 @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 30
