"""A run whose names try to break out of a page, with its photos on the disk."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from helpers_runs import write_photos
from numpy.typing import NDArray

from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter
from annotator.vocabulary import ClassEntry, Vocabulary

HOSTILE = (
    "<script>window.hacked=1<\u2215script>",
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "' onmouseover='window.hacked=1' x='",
    "<!--<script>-->]]>",
    "&lt;b&gt; &amp; %3Cb%3E",
    "$title ${title} $$ {{7*7}} \\u003cscript\\u003e \\",
    "line\nbreak\ttab\u2028separator\u2029end",
    "javascript:window.hacked=1",
    "right\u202eto left \u200f",
    "日本語 👩‍👩‍👧 क्‍ष",
    "n" * 251,
)
"""As names of photos (with .png) and of classes."""

SIZE = (24, 32)


def write_hostile_run(folder: Path, *, open_labels: bool = False) -> RunReader:
    """A photo per name, whose left half is the class of that name and whose right half is the next one."""
    paths = [f"{name}.png" for name in HOSTILE]
    write_photos(folder / "photos", paths, SIZE)
    vocabulary = Vocabulary(tuple(ClassEntry(name, (name,)) for name in HOSTILE))  # as older versions let them in
    manifest = Manifest(
        config={"images": HOSTILE[2], HOSTILE[0]: HOSTILE[1]},
        config_hash=HOSTILE[3],
        image_root=str(folder / "photos"),
        tool_version="1",
        labeler=HOSTILE[0],
        vocabulary=None if open_labels else vocabulary.to_dict(),
        pack={"name": HOSTILE[2]},
    )
    with RunWriter.open(folder / HOSTILE[3], manifest) as writer:
        for place, path in enumerate(paths):
            ids = place, (place + 1) % len(HOSTILE)
            prediction = Prediction(halves(), [HOSTILE[i] for i in ids], [-1, -1] if open_labels else ids, (0.9, 0.3))
            segments = tuple(prediction.segments())
            writer.write(ImageRecord(path, "ok", height=SIZE[0], width=SIZE[1], segments=segments))
        for name in HOSTILE:
            writer.write(ImageRecord(f"failed/{name}", "failed", error=f"{name} is damaged"))
    return RunReader(folder / HOSTILE[3])


def halves(size: tuple[int, int] = SIZE) -> NDArray[np.int32]:
    labels = np.zeros(size, np.int32)
    labels[:, size[1] // 2 :] = 1
    return labels


def write_plain_run(
    folder: Path,
    photos: dict[str, list[tuple[int, float]]],
    names: tuple[str, ...] = ("background", "cat", "dog"),
    failed: int = 0,
) -> RunReader:
    """photos: path -> (class, score) of each of its segments, which are columns of equal width. No file is written."""
    manifest = Manifest(
        config={"settings": {"delta": 0.9}},
        config_hash="plain",
        image_root=str(folder / "photos"),
        tool_version="1",
        labeler="test",
        vocabulary=Vocabulary.of(names).to_dict(),
    )
    with RunWriter.open(folder / "run", manifest, overwrite=True) as writer:
        for path, found in photos.items():
            columns = np.arange(len(found), dtype=np.int32).repeat(4)
            labels = np.tile(columns, (6, 1)) if found else np.full((6, 4), -1, np.int32)
            ids, scores = [index for index, _ in found], [score for _, score in found]
            segments = tuple(Prediction(labels, [names[index] for index in ids], ids, scores).segments())
            writer.write(ImageRecord(path, "ok", height=6, width=labels.shape[1], segments=segments))
        for number in range(failed):
            writer.write(ImageRecord(f"z{number:04d}.jpg", "failed", error=f"reason {number % 3}"))
    return RunReader(folder / "run")


class Reader(HTMLParser):
    """What a page holds: elements, texts of the elements with some class, the JSON of its script."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input"):
            self._open.append(dict(attrs).get("class") or dict(attrs).get("id") or tag)
            self.texts.setdefault(self._open[-1], []).append("")

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in set(self._open):
            self.texts[name][-1] += data

    @property
    def index(self) -> dict:
        return json.loads(self.texts["index"][0])

    def all(self, tag: str, name: str = "") -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.elements if found == tag and attrs.get("class", "") == name]


def pages_of(out: Path) -> list[Path]:
    return [out / "index.html", *sorted(out.glob("files-*/page-*.html"))]


def names_on(page: Path) -> list[str]:
    return [photo["path"] for photo in Reader(page).index["photos"]]
