"""Fuzzed: what users give: lists of classes, settings, packs, and labels of other tools."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from helpers_fuzz import (
    JSON,
    NUMBERS,
    RAW,
    TEXTS,
    VALUES,
    Reader,
    Readers,
    changed,
    damaged,
    dumped,
    is_inside,
    is_one_line,
    keyed,
    once_damaged,
    written,
)
from hypothesis import assume
from hypothesis import strategies as st
from reference.open_runs import Labelled, write_run

from annotator.characters import refuse_invisible
from annotator.config import RunConfig, parse_setting
from annotator.errors import AnnotatorError
from annotator.imported.convert import read_labels
from annotator.imported.masks import values_of
from annotator.models.packs import describe, open_networks, read_pack
from annotator.record import ImageRecord, to_table
from annotator.vocabulary import FIELDS, Vocabulary, as_vocabulary
from exporters import base as exporters
from labelers import base as labelers

READERS = Readers()

CLASSES_TXT = "background\ndog, puppy, hound\ntraffic light  # any colour\nc#\nStraße, ﬁre\n".encode()
CLASSES_YAML = b"""classes:
  background: {background: true, prompts: [sky, 1.10, no]}
  dog: {prompts: &p [dog, puppy], color: "#ff8800", threshold: 0.4}
  hound: {prompts: *p, merge_into: dog}
  watermark: {ignore: true}
templates: ["a photo of a {}", "{}"]
"""
FIELD = keyed(list(FIELDS))


def sound_classes(found: Vocabulary) -> None:
    """Fails for names that cannot be seen or told from each other."""
    assert found.classes
    assert len({entry.name.casefold() for entry in found.entries}) == len(found)
    for entry in found.entries:
        for text in (entry.name, *entry.prompts):
            assert text.strip() == text != ""
            refuse_invisible(text, "a name")
        assert entry.threshold is None or 0 <= entry.threshold <= 1
    assert Vocabulary.from_dict(json.loads(json.dumps(found.to_dict()))).entries == found.entries


@READERS.add(2500)
def vocabulary_txt(folder: Path) -> Reader:
    def check(content: bytes | str) -> None:
        sound_classes(Vocabulary.load(written(folder / "v.txt", content)))

    return Reader(damaged(CLASSES_TXT) | RAW | st.binary(max_size=12), check)


@READERS.add(500)
def vocabulary_names(folder: Path) -> Reader:
    """As `--vocab 'cat, dog'` and Python give them."""
    return Reader(TEXTS | RAW | st.lists(TEXTS | RAW), lambda content: sound_classes(as_vocabulary(content)))


@READERS.add(700)
def vocabulary_yaml(folder: Path) -> Reader:
    structured = keyed(["cat", "dog", "background", "classes", "templates", "<<"], FIELD | VALUES)

    def check(content: Any) -> None:
        sound_classes(Vocabulary.load(written(folder / "v.yaml", content)))

    return Reader(damaged(CLASSES_YAML) | structured | RAW | VALUES, check)


@READERS.add(500)
def run_yaml(folder: Path) -> Reader:
    good = b"images: photos\nlabeler: dinoiser\nweights: {clip: a.pt}\nsettings: {gamma: 0.2}\nlimit: 5\nworkers: 2\n"

    def check(content: Any) -> None:
        found = RunConfig.load(written(folder / "run.yaml", content), {})
        assert 0 <= found.max_failure_rate <= 1
        for text in filter(None, (found.images, found.out, found.pack, found.vocab)):
            assert not set(text) & set("\0\n\x1b")

    return Reader(damaged(good) | keyed(list(RunConfig.__dataclass_fields__)) | RAW | VALUES, check)


SOURCE = keyed(["hub", "url", "path", "package", "file", "revision", "format", "sha256", "size"])
ROLE = keyed(["architecture", "mean", "std", "licence", "weights", "parts", "companions"], VALUES | SOURCE)
ROLES = keyed(["clip", "dino", "lm"], ROLE | VALUES)
PACK = b"""description: mine
roles:
  clip:
    architecture: ViT-B-16
    mean: [0.5, 0.5, 0.5]
    licence: MIT
    weights: {path: a.pt, format: plain, size: 5 MB}
    companions: {b.txt: aa}
  dino: {weights: [{hub: a/b, file: x.bin, revision: main}, {package: os, file: c}]}
labelers: {diy: {clip: {weights: {url: "https://localhost/x"}}}}
alternatives: {clip: {small: {weights: {path: c.pt}}}}
"""


def use(pack: Path) -> None:
    """As `annotate models show` and the labelers do."""
    describe(read_pack(str(pack)), alternatives=True)
    networks = open_networks(str(pack), labelers.find("maskclip").spec, "cpu")
    try:
        networks.clip  # noqa: B018
    except AnnotatorError as error:  # there are no such weights
        is_one_line(error)
    except RuntimeError:  # which `crew.assemble` makes an error of ours
        pass


@READERS.add(100)
def pack_yaml(folder: Path) -> Reader:
    torch.save({}, folder / "a.pt")
    structured = keyed(["description", "roles", "labelers", "alternatives"], ROLES | keyed(["diy"], ROLES) | VALUES)
    return Reader(
        damaged(PACK) | structured | RAW | VALUES, lambda content: use(written(folder / "pack.yaml", content))
    )


@READERS.add(700)
def settings(folder: Path) -> Reader:
    """`--set name=value` of labelers."""
    values = RAW | VALUES.map(dumped) | NUMBERS.map(str) | st.sampled_from(["1", "0.5", "[1, 2]", "true", "448"])

    @st.composite
    def chosen(draw: Any) -> Any:
        labeler = draw(st.sampled_from(sorted(labelers.BUILT_IN)))
        names = st.sampled_from(sorted(labelers.default_parameters(labeler)))
        pair = st.builds(lambda name, value: f"{name}={value}", names | TEXTS, values)
        return labeler, draw(pair | TEXTS)

    def check(content: tuple[str, str]) -> None:
        labeler, text = content
        found = labelers.resolve_parameters(labeler, dict([parse_setting(text)]))
        for value in asdict(found).values():
            assert not isinstance(value, float) or np.isfinite(value)

    return Reader(chosen(), check)


@READERS.add(300)
def options_of_formats(folder: Path) -> Reader:
    """`--set` of exports, as values."""

    @st.composite
    def chosen(draw: Any) -> Any:
        name = draw(st.sampled_from(sorted(exporters.BUILT_IN)))
        return name, draw(keyed(list(exporters.find(name).options.__dataclass_fields__)))

    return Reader(chosen(), lambda content: exporters._options_from(exporters.find(content[0]), content[1]))


# -- labels of others -------------------------------------------------------------------------------------------------

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "score": 0.5, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
        {"id": 2, "image_id": 1, "category_id": 7, "segmentation": {"size": [3, 4], "counts": [6, 6]}},
        {"id": 3, "image_id": 1, "category_id": 7, "iscrowd": 1, "segmentation": {"size": [3, 4], "counts": "66"}},
    ],
}


def sound_labels(source: Path) -> list[ImageRecord]:
    found = read_labels(source, None, None)
    records = list(found.records())
    names = found.vocabulary.names
    for each in records:
        assert is_inside(each.path)
        for segment in each.segments:
            assert names[segment.class_id] == segment.label
            assert np.isfinite(segment.score)
        to_table([each])
    return records


@READERS.add(1200)
def coco(folder: Path) -> Reader:
    content = json.dumps(COCO).encode()

    def check(value: Any) -> None:
        (folder / "a.json").write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        sound_labels(folder / "a.json")

    return Reader(changed(COCO) | damaged(content) | JSON, check)


def hf_dataset(folder: Path) -> Path:
    """An export; its shard."""
    labelled = Labelled([[0, 1, 2, 2], [0, 1, 1, 2], [0, 0, 1, 2]], ["background", "cat", "dog"])
    run = write_run(folder / "run", {"a.jpg": labelled}, Vocabulary.of(["background", "cat", "dog"]))
    exporters.export("hf-dataset", run, folder / "hf", {"photos": "none"})
    (shard,) = (folder / "hf" / "data").glob("*.parquet")
    return shard


@READERS.add(600)
def shard_bytes(folder: Path) -> Reader:
    shard = hf_dataset(folder)
    content, good = shard.read_bytes(), sound_labels(folder / "hf")

    def check(value: bytes) -> None:
        shard.write_bytes(value)
        assert sound_labels(folder / "hf") == good

    return Reader(once_damaged(content), check)


@READERS.add(400)
def shard_rows(folder: Path) -> Reader:
    shard = hf_dataset(folder)
    (row,) = pq.read_table(shard, partitioning=None).to_pylist()
    picture = row["mask"]["bytes"]
    masks = st.fixed_dictionaries({"bytes": st.none() | damaged(picture) | st.binary(max_size=5), "path": st.none()})
    numbers = st.integers(-1, 9) | st.integers(-(2**31), 2**31 - 1) | st.none() | st.floats() | TEXTS
    changes = st.fixed_dictionaries(
        {}, optional={"mask": masks | TEXTS | st.none(), "path": TEXTS | NUMBERS, "width": numbers, "height": numbers}
    )

    def check(change: dict[str, Any]) -> None:
        try:
            table = pa.Table.from_pylist([row | change])
        except (pa.ArrowException, UnicodeError, OverflowError):
            assume(False)
        pq.write_table(table, shard)
        sound_labels(folder / "hf")

    return Reader(changes, check)


@READERS.add(800)
def id2label(folder: Path) -> Reader:
    good = {"0": "background", "1": "cat", "2": "dog"}
    file = folder / "id2label.json"

    def check(value: Any) -> None:
        file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        found = values_of(folder, None)
        assert set(found.index.values()) == set(range(len(found.vocabulary)))
        assert all(0 <= value < 65535 for value in found.index)

    return Reader(changed(good) | damaged(json.dumps(good).encode()) | JSON, check)
