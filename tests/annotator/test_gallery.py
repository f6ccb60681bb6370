"""The pages of `annotate report`, read without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers_gallery import HOSTILE, SIZE, Reader, halves, names_on, pages_of, write_hostile_run, write_plain_run
from helpers_runs import manifest, write_photos
from PIL import Image

from annotator.characters import visible
from annotator.errors import ConfigError
from annotator.gallery import cards
from annotator.gallery.markup import Markup, escaped, fill, joined, script_json
from annotator.gallery.pages import ClassPages, page_links
from annotator.gallery.report import make_report
from annotator.gallery.survey import confidence
from annotator.prediction import Prediction
from annotator.run import ImageRecord, RunReader, RunWriter
from annotator.show import tree_lines
from exporters.classes import voc_color

EVENT = re.compile("on[a-z]+")


# --- escaping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_read_back_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    """As text, in an attribute and in JSON."""
    page = tmp_path / "page.html"
    body = f'<p class="{escaped(name)}">{escaped(name)}</p><script id="index">{script_json(name)}</script>'
    page.write_text(body, encoding="utf-8")
    reader = Reader(page)
    assert reader.elements == [("p", {"class": visible(name)}), ("script", {"id": "index"})]
    assert reader.texts[visible(name)] == [visible(name)]
    assert reader.index == name
    assert not re.search("[<>&\u2028\u2029]", script_json(name))


def test_what_cannot_be_seen_is_spelt_out() -> None:
    assert visible("a\nb\x00\u202ec\u2028\x7f\ud800") == "a\\nb\\x00\\u202ec\\u2028\\x7f\\ud800"
    assert visible("日本 é ½ क्‍ष 👩‍👧") == "日本 é ½ क्‍ष 👩‍👧"


def test_only_markup_stays_as_it_is() -> None:
    assert fill("reason", times=Markup("<i>1</i>"), reason="<b>$times") == "<li><b><i>1</i></b> &lt;b&gt;$times</li>"
    assert joined(["<", Markup("<br>")]) == "&lt;<br>"
    with pytest.raises(KeyError):
        fill("reason", times=1)


@pytest.mark.parametrize("open_labels", [False, True])
def test_hostile_names_add_no_element_and_no_attribute(tmp_path: Path, open_labels: bool) -> None:
    """Elements and attributes of the page are those of the same run with harmless names."""
    run = write_hostile_run(tmp_path, open_labels=open_labels)
    done = make_report(run, tmp_path / "report")
    assert (done.photos, done.failed, done.shown, done.missing, done.pages) == (12, 12, 12, 0, 1)
    reader = Reader(done.index)
    assert len(reader.all("script")) == 2
    assert {tag for tag, _ in reader.elements}.isdisjoint({"b<", "iframe", "object", "base", "form", "style"})
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == 2 * len(HOSTILE)
    assert not [attrs for _, attrs in reader.elements if any(EVENT.fullmatch(name) for name in attrs)]
    links = [attrs.get("href") or attrs.get("src") or "" for _, attrs in reader.elements]
    assert all(re.fullmatch(r"|data:,|#photos|(files-1/[\w./-]+|index\.html)(#class=\d+)?", link) for link in links)

    shown = sorted(visible(f"{name}.png") for name in HOSTILE)
    assert sorted(reader.texts["path"]) == ["", *shown]  # the empty one is the dialog's
    assert sorted(photo["path"] for photo in reader.index["photos"]) == shown
    for name in HOSTILE:
        assert f"failed/{visible(name)}" in reader.texts["td"] or name in sorted(HOSTILE)[10:]
    every = Reader(tmp_path / "report" / "files-1" / "failures-0001.html")
    assert sorted(every.texts["td"][::2]) == sorted(f"failed/{visible(name)}" for name in HOSTILE)
    assert sorted(every.texts["td"][1::2]) == sorted(f"{visible(name)} is damaged" for name in HOSTILE)


def test_files_are_named_by_number(tmp_path: Path) -> None:
    make_report(write_hostile_run(tmp_path), tmp_path / "report")
    found = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*") if path.is_file()}
    pictures = {f"files-1/images/000/{n:06d}.{kind}" for n in range(len(HOSTILE)) for kind in ("jpg", "png")}
    others = {"index.html", "files-1/report.css", "files-1/report.js", "files-1/failures-0001.html"}
    assert found == pictures | others


# --- pictures --------------------------------------------------------------------------------------------------------


def test_masks_are_palette_pictures_of_the_labels(tmp_path: Path) -> None:
    """Small photos one to one: the left half is class 0, the right half class 1, in the colours of both."""
    run = write_hostile_run(tmp_path)
    make_report(run, tmp_path / "report")
    paths = [record.path for record in run.records() if record.status == "ok"]
    for number, path in enumerate(paths):
        place = [f"{name}.png" for name in HOSTILE].index(path)
        mask = Image.open(tmp_path / "report" / f"files-1/images/000/{number:06d}.png")
        assert mask.mode == "P"
        pixels = np.asarray(mask.convert("RGBA"))
        assert pixels.shape == (*SIZE, 4)
        for half, label in ((pixels[:, :16], place), (pixels[:, 16:], (place + 1) % len(HOSTILE))):
            assert (half == (*voc_color(label + 1), 255)).all()
        small = Image.open(tmp_path / "report" / f"files-1/images/000/{number:06d}.jpg")
        assert np.abs(gray(small) - gray(Image.open(tmp_path / "photos" / path))).mean() < 8


def gray(image: Image.Image) -> np.ndarray:
    """Brightness, which JPEG keeps better than colour."""
    return np.asarray(image.convert("L"), int)


def test_large_photos_are_shown_small(tmp_path: Path) -> None:
    """1600 x 96 becomes 640 x 38; each pixel of the mask is the label at its own centre, nothing is transparent."""
    labels = np.random.default_rng(0).integers(-1, 5, (96, 1600), dtype=np.int32)
    prediction = Prediction(labels, "abcde", [-1] * 5, [0.5] * 5)
    record = ImageRecord("a.jpg", "ok", width=1600, height=96, segments=tuple(prediction.segments()))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (1600, 96), (10, 200, 30)).save(tmp_path / "photos" / "a.jpg")
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        writer.write(record)
    run = RunReader(tmp_path / "run")
    run.manifest.image_root = str(tmp_path / "photos")
    make_report(run, tmp_path / "report")
    photo = Image.open(tmp_path / "report/files-1/images/000/000000.jpg")
    assert photo.size == (640, 38)
    assert np.abs(np.asarray(photo, int) - (10, 200, 30)).max() <= 3
    mask = np.asarray(Image.open(tmp_path / "report/files-1/images/000/000000.png").convert("RGBA"))
    for y in range(38):
        for x in range(640):
            label = labels[int((y + 0.5) * 96 / 38), int((x + 0.5) * 2.5)]
            assert tuple(mask[y, x]) == ((*voc_color(label + 1), 255) if label >= 0 else (0, 0, 0, 0))


def test_confidence_is_that_of_the_pixels() -> None:
    """30 pixels of 0.9 and 10 of 0.1; those without a label do not count."""
    labels = np.repeat(np.array([0, 1, -1], np.int32), [30, 10, 60]).reshape(10, 10)
    segments = tuple(Prediction(labels, ["a", "b"], [0, 1], [0.9, 0.1]).segments())
    assert confidence(ImageRecord("a", "ok", width=10, height=10, segments=segments)) == pytest.approx(0.7)
    assert confidence(ImageRecord("a", "ok", width=10, height=10)) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    prediction = Prediction(np.zeros(size, np.int32), ["a"], [-1], [1.0])
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        segments = tuple(prediction.segments())
        writer.write(ImageRecord("a.jpg", "ok", width=size[1], height=size[0], segments=segments))
    make_report(RunReader(tmp_path / "run"), tmp_path / "report")
    mask = Image.open(tmp_path / "report/files-1/images/000/000000.png")
    assert mask.size == (min(size[1], 640), min(size[0], 640))


def test_more_labels_than_a_palette_holds(tmp_path: Path) -> None:
    """Of 300 labels the 45 smallest are not painted, but said."""
    labels = np.arange(300, dtype=np.int32).repeat(2)[:-1].reshape(1, -1)  # the last has one pixel, the others two
    prediction = Prediction(labels, [f"thing {n}" for n in range(300)], [-1] * 300, [0.5] * 300)
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        writer.write(ImageRecord("a.jpg", "ok", width=599, height=1, segments=tuple(prediction.segments())))
    done = make_report(RunReader(tmp_path / "run"), tmp_path / "report")
    mask = np.asarray(Image.open(tmp_path / "report/files-1/images/000/000000.png"))
    assert np.bincount(mask.ravel()).tolist() == [599 - 2 * cards.MOST_COLORS, *[2] * cards.MOST_COLORS]
    assert len(Reader(done.index).all("span", "label")) == 300


def test_photos_that_are_gone_or_changed(tmp_path: Path) -> None:
    run = write_plain_run(tmp_path, {"changed.png": [(1, 0.5)], "gone.png": [(1, 0.5)], "same.png": [(1, 0.5)]})
    write_photos(tmp_path / "photos", ["same.png"], (6, 4))
    write_photos(tmp_path / "photos", ["changed.png"], (12, 24))
    done = make_report(run, tmp_path / "report")
    assert (done.shown, done.missing) == (3, 1)
    reader = Reader(done.index)
    assert reader.texts["problem"] == [
        "the photo has changed since: it is 24 x 12 now",
        "file not found: it vanished, or it is a broken link",
    ]
    assert len(reader.all("span", "missing")) == 1
    assert [attrs["alt"] for attrs in reader.all("img", "photo")] == ["changed.png", "same.png"]
    assert len(reader.all("img", "mask")) == 3


# --- pages -----------------------------------------------------------------------------------------------------------


def test_order_limit_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confidence is the mean over pixels: of b 0.5, of d 0.4 in spite of its background; a has no label at all."""
    monkeypatch.setattr("annotator.gallery.report.PER_PAGE", 2)
    found = {"a": [], "b": [(1, 0.9), (2, 0.1)], "c": [(2, 0.7)], "d": [(0, 0.6), (1, 0.2)], "e": [(2, 0.5)]}
    run = write_plain_run(tmp_path, found)
    make_report(run, tmp_path / "name")
    assert [names_on(page) for page in pages_of(tmp_path / "name")] == [["a", "b"], ["c", "d"], ["e"]]
    make_report(run, tmp_path / "confidence", sort="confidence")
    by_confidence = [names_on(page) for page in pages_of(tmp_path / "confidence")]
    assert by_confidence == [["a", "d"], ["b", "e"], ["c"]]
    make_report(run, tmp_path / "three", sort="confidence", limit=3)
    assert [names_on(page) for page in pages_of(tmp_path / "three")] == [["a", "d"], ["b"]]
    assert "5" in Reader(tmp_path / "three" / "index.html").texts["dd"]  # the overview counts all
    make_report(run, tmp_path / "two", limit=2)
    assert [names_on(page) for page in pages_of(tmp_path / "two")] == [["a", "b"]]
    with pytest.raises(ConfigError, match="limit: expected at least 1, but got 0"):
        make_report(run, tmp_path / "none", limit=0)


def test_the_index_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dogs (2) are on pages 1 and 3, cats (1) on 1 and 2; links lead from page to page in the same class."""
    monkeypatch.setattr("annotator.gallery.report.PER_PAGE", 2)
    run = write_plain_run(
        tmp_path, {"a": [(1, 1), (2, 1)], "b": [(1, 1)], "c": [(1, 1)], "d": [], "e": [(2, 1), (0, 1)]}
    )
    make_report(run, tmp_path / "report")
    first, second, third = (Reader(page).index["classes"] for page in pages_of(tmp_path / "report"))
    cat = {"name": "cat", "photos": 3, "pages": 2}
    dog = {"name": "dog", "photos": 2, "pages": 2}
    assert first == {
        "1": {**cat, "here": 2, "previous": None, "next": "files-1/page-0002.html"},
        "2": {**dog, "here": 1, "previous": None, "next": "files-1/page-0003.html"},
    }
    assert second == {"1": {**cat, "here": 1, "previous": "../index.html", "next": None}}
    assert third["2"] == {**dog, "here": 1, "previous": "../index.html", "next": None}
    assert third["0"] == {"name": "background", "photos": 1, "pages": 1, "here": 1, "previous": None, "next": None}
    photos = Reader(tmp_path / "report/index.html").index["photos"]
    assert photos[0] == {"path": "a", "labels": [[1, "#008000"], [2, "#808000"]]}  # VOC's colours of values 2 and 3
    assert Reader(pages_of(tmp_path / "report")[2]).index["photos"][0]["labels"] == [[2, "#808000"], [0, ""]]
    bars = Reader(tmp_path / "report/index.html").all("a")
    links = {attrs["title"]: attrs["href"] for attrs in bars if "title" in attrs}
    assert links == {
        "Photos with background": "files-1/page-0003.html#class=0",
        "Photos with cat": "index.html#class=1",
        "Photos with dog": "index.html#class=2",
    }


def test_every_link_leads_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.gallery.report.PER_PAGE", 2)
    monkeypatch.setattr("annotator.gallery.overview.FAILURES_PER_PAGE", 5)
    names = [f"{n}.png" for n in range(15)]
    write_photos(tmp_path / "photos", names, (6, 4))
    make_report(write_plain_run(tmp_path, {name: [(1, 1)] for name in names}, failed=12), tmp_path / "report")
    html = sorted((tmp_path / "report").rglob("*.html"))
    assert len(html) == 8 + 3
    for page in html:
        links = [attrs.get("href") or attrs.get("src") for _, attrs in Reader(page).elements]
        for link in {link.split("#")[0] for link in links if link and link != "data:,"} - {""}:
            assert (page.parent / link).is_file(), f"{page} -> {link}"


@pytest.mark.parametrize(
    ("number", "of", "expected"),
    [
        (1, 1, ""),
        (1, 2, "1 2 Next →"),
        (2, 3, "← Previous 1 2 3 Next →"),
        (1, 9, "1 2 3 … 9 Next →"),
        (5, 9, "← Previous 1 … 3 4 5 6 7 … 9 Next →"),
        (1234, 1667, "← Previous 1 … 1,232 1,233 1,234 1,235 1,236 … 1,667 Next →"),
    ],
)
def test_links_to_other_pages(number: int, of: int, expected: str) -> None:
    html = page_links(number, of, lambda page: f"{page}")
    assert " ".join(re.findall(r">([^<>]+)<", html)) == expected


def test_pages_around_a_class() -> None:
    where, label = ClassPages(), cards.Label("a", 3, "", 1.0, 1.0)
    for page in (2, 5, 9):
        where.add(page, [cards.Card("x", "y", True, 1, 1, None, (label, label))])
    assert [where.around(3, page) for page in (2, 5, 9)] == [(None, 5, 3), (2, 9, 3), (5, None, 3)]
    assert where.first() == {3: 2}


def test_an_empty_run(tmp_path: Path) -> None:
    done = make_report(write_plain_run(tmp_path, {}), tmp_path / "report")
    assert (done.shown, done.pages) == (0, 1)
    assert "No photo has a label." in done.index.read_text()
    make_report(write_plain_run(tmp_path, {"a": []}, failed=1), tmp_path / "report")
    assert "no label" in done.index.read_text()


# --- the overview ----------------------------------------------------------------------------------------------------


def test_bars_by_hand(tmp_path: Path) -> None:
    """Four labels: two in the bin from 0.5 on, one in the first and one in the last; the chart is 120 high."""
    found = {"a": [(1, 0.5), (2, 0.549)], "b": [(1, 0.0)], "c": [(1, 1.0)], "d": []}
    run = write_plain_run(tmp_path, found, ("background", "cat", "dog", "unicorn"))
    reader = Reader(make_report(run, tmp_path / "report").index)
    rects = [attrs for tag, attrs in reader.elements if tag == "rect" and "y" in attrs]
    heights = {n: float(attrs["height"]) for n, attrs in enumerate(rects) if float(attrs["height"])}
    assert heights == {0: 60, 10: 120, 19: 60}
    assert all(float(attrs["y"]) + float(attrs["height"]) == 120 for attrs in rects)
    assert [float(attrs["x"]) for attrs in rects] == [1 + 20 * n for n in range(20)]
    # cat has 4 x 6 pixels in each of a, b and c; dog those in a; a is 8 wide and d has 4 x 6 of nothing
    widths = [float(attrs["width"]) for tag, attrs in reader.elements if tag == "rect" and "y" not in attrs]
    assert widths == [100, pytest.approx(100 / 3, abs=1e-3)]
    assert reader.texts["value"][:4] == ["60.0%", "3", "20.0%", "1"]
    figures = dict(zip(reader.texts["dt"], reader.texts["dd"], strict=True))
    assert figures["classes found"] == "2 of 4"
    assert figures["pixels labelled"] == "80%"
    assert figures["mean confidence"] == "0.51"
    assert figures["labels per photo"] == "1.0"
    assert figures["config.settings.delta"] == "0.9"
    assert any("background, unicorn" in text for text in reader.texts["fold"])


def test_failures_are_counted_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.gallery.overview.FAILURES_PER_PAGE", 5)
    make_report(write_plain_run(tmp_path, {"a": []}, failed=13), tmp_path / "report")
    overview = Reader(tmp_path / "report/index.html")
    assert overview.texts["td"][::2] == [f"z{n:04d}.jpg" for n in range(10)]
    assert [text for text in overview.texts["li"] if "×" in text and "reason" in text] == [
        "5 × reason 0",
        "4 × reason 1",
        "4 × reason 2",
    ]
    lists = [Reader(page).texts["td"] for page in sorted((tmp_path / "report").glob("files-1/failures-*.html"))]
    assert [len(each) for each in lists] == [10, 10, 6]
    assert [path for each in lists for path in each[::2]] == [f"z{n:04d}.jpg" for n in range(13)]
    assert lists[0][1] == "reason 0"


def test_captions_and_their_tree(tmp_path: Path) -> None:
    """Chips say free-text labels as they were written, classes are normalised, and the tree is that of `show`."""
    shared = {"label": None, "merged": False, "score": None, "segments": None, "captions": None}
    nodes = [
        {**shared, "children": None, "area": 384, "caption": "a <b>dog</b>", "label": 0},
        {**shared, "children": None, "area": 384, "caption": "Dogs", "label": 1},
        {**shared, "children": [0, 1], "area": 768, "caption": None, "score": 0.4, "segments": 0.5},
    ]
    prediction = Prediction(halves(), ["the dog", "Dogs"], [-1, -1], [0.4, 0.2])
    segments, history = tuple(prediction.segments()), {"threshold": 0.8, "nodes": nodes}
    record = ImageRecord("a.jpg", "ok", width=32, height=24, segments=segments, history=history)
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        writer.write(record)
    reader = Reader(make_report(RunReader(tmp_path / "run"), tmp_path / "report").index)
    assert reader.texts["label"] == ["the dog 0.40 · 50.0%", "Dogs 0.20 · 50.0%"]
    assert [found["name"] for found in reader.index["classes"].values()] == ["dog"]
    assert reader.index["photos"][0]["labels"] == [[0, "#800000"], [0, "#008000"]]
    assert reader.texts["pre"] == ["\n".join(line.plain for line in tree_lines(record)[1:])]
    squares = [attrs["style"] for tag, attrs in reader.elements if "color:" in attrs.get("style", "")]
    assert "color:#800000" in squares
    assert "color:#008000" in squares
