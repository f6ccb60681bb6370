"""Everything that the tool reads and that somebody else may have written: any content, and what may come of it.

A `Reader` says what contents are tried and what one of them may lead to: a right result, or an `AnnotatorError` of one
line. Bytes of good files are changed at random; what has a structure comes from hypothesis.
"""

from __future__ import annotations

import copy
import faulthandler
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from helpers_runs import finished_manifest
from hypothesis import assume
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from reference.open_runs import Labelled, write_run

from annotator import ledger
from annotator.characters import refuse_invisible
from annotator.config import RunConfig, parse_setting
from annotator.corrections import Correction, append, fingerprint, pulls, reviewed
from annotator.errors import AnnotatorError
from annotator.imported.convert import read_labels
from annotator.imported.masks import values_of
from annotator.manifest import DIGEST, Manifest
from annotator.models.packs import describe, open_networks, read_pack
from annotator.models.text_cache import TextCache
from annotator.parts import read_columns, span, write_part
from annotator.prediction import Prediction
from annotator.record import ROW, ImageRecord, to_table
from annotator.run import RunReader
from annotator.summary import summarise
from annotator.visible import visible
from annotator.vocabulary import FIELDS, ClassEntry, Vocabulary, as_vocabulary
from exporters import base as exporters
from labelers import base as labelers

PATIENCE = 20.0
"""Seconds that a busy machine may take for what takes a few milliseconds."""
LONGEST_MESSAGE = 2000

Contents = st.SearchStrategy[Any]
Check = Callable[[Any], object]


@dataclass(frozen=True)
class Reader:
    """contents: what is tried. check: fails for all but a right result, and for an error that is not ours."""

    contents: Contents
    check: Check


Make = Callable[[Path], Reader]
READERS: dict[str, tuple[Make, int]] = {}
"""By name: what makes one in an empty folder, and how many cases the quick tests try."""


def reader(cases: int) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        READERS[make.__name__] = make, cases
        return make

    return add


def try_once(each: Reader, content: Any) -> bool:
    """Whether it was taken; fails for whatever the rules do not allow."""
    begun = time.monotonic()
    faulthandler.dump_traceback_later(5 * PATIENCE, exit=True)  # what hangs says where
    try:
        each.check(content)
    except AnnotatorError as error:
        message = str(error)
        assert visible(message) == message, f"not one line that can be seen: {message!r}"
        assert 0 < len(message) < LONGEST_MESSAGE, message
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - begun < PATIENCE, "it took too long"
    return True


def is_one_line(error: AnnotatorError) -> None:
    message = str(error)
    assert visible(message) == message, f"not one line that can be seen: {message!r}"
    assert 0 < len(message) < LONGEST_MESSAGE, message


# -- contents ---------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(["\0", "\x1b", "\u2028", "\u200b", "{}", "#", ",", "[", "'", "../", "x" * 300, "\ud800"])
TEXTS = st.text(max_size=8) | ODD
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 2**31, 2**63, 1e30])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
RAW = st.text(alphabet="abc{}[]:,-&*!?|>%@`'\"# \n\t0123456789.<_/\0\x85\u2028", max_size=30)


def keyed(names: Sequence[str], values: Contents = VALUES) -> Contents:
    """Mappings whose keys are often right."""
    return st.dictionaries(st.sampled_from(names) | TEXTS, values, max_size=4)


def dumped(content: Any) -> str:
    """As YAML."""
    try:
        return yaml.safe_dump(content, allow_unicode=True)
    except ValueError:  # of a number of 10,000 digits
        assume(False)
        raise


def written(file: Path, content: Any) -> Path:
    """Bytes and text as they are, anything else as YAML."""
    if not isinstance(content, bytes):
        text = content if isinstance(content, str) else dumped(content)
        content = text.encode("utf-8", "surrogatepass")
    file.write_bytes(content)
    return file


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    yield way
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield from places(content[key], (*way, key))


def replaced(content: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in that place."""
    whole = copy.deepcopy(content)
    inner = whole
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return whole


def changed(content: Any, values: Contents = JSON) -> Contents:
    """The JSON value with another one in some place of it."""
    ways = [way for way in places(content) if way]
    return st.builds(lambda way, value: replaced(content, way, value), st.sampled_from(ways), values)


def damaged(content: bytes, most: int = 5) -> Contents:
    """These bytes with a change or a few."""
    return st.integers(0, 2**48).map(lambda seed: _damaged(content, random.Random(seed), most))


def once_damaged(content: bytes) -> Contents:
    """Of a file with digests: a second change may hide them."""
    return damaged(content, most=1)


def _damaged(content: bytes, chance: random.Random, most: int) -> bytes:
    found = bytearray(content)
    for _ in range(chance.randint(1, most)):
        at, until = chance.randrange(len(found) + 1), chance.randrange(len(found) + 1)
        until = min(max(at, until), at + chance.choice((1, 8, 4096)))
        match chance.choice(("bit", "bit", "bit", "byte", "zero", "cut", "remove", "insert", "copy")):
            case "bit" if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case "byte" if at < len(found):
                found[at] = chance.randrange(256)
            case "zero":
                found[at:until] = bytes(until - at)
            case "cut":
                del found[at:]
            case "remove":
                del found[at:until]
            case "insert":
                found[at:at] = chance.randbytes(chance.choice((1, 2, 16)))
            case "copy":
                found[chance.randrange(len(found) + 1) :][: until - at] = found[at:until]
    return bytes(found)


# -- a run ------------------------------------------------------------------------------------------------------------

ENTRIES = (
    ClassEntry("background", ("background",), background=True),
    ClassEntry("cat", ("cat", "kitten"), color=(1, 2, 3), threshold=0.25),
    ClassEntry("dog", ("dog",)),
    ClassEntry("fog", ("fog",), ignore=True),
    ClassEntry("puppy", ("puppy",), merge_into="dog"),
)
VOCABULARY = Vocabulary(ENTRIES, ("a {}",))
NAMES = VOCABULARY.names
MANIFEST = finished_manifest(VOCABULARY)
HEIGHT, WIDTH = 7, 9


def record(path: str, seed: int = 0) -> ImageRecord:
    labels = np.random.default_rng(seed).integers(-1, 3, (HEIGHT, WIDTH)).astype(np.int32)
    segments = tuple(Prediction(labels, NAMES, (0, 1, 2), (0.5, 0.25, 1.0)).segments())
    return ImageRecord(path, "ok", width=WIDTH, height=HEIGHT, segments=segments, history={"steps": [seed]})


RECORDS = [record("a.jpg", 1), record("b/c.jpg", 2), replace(record("d.jpg"), status="failed", error="x", segments=())]


def run_of_one_part(folder: Path) -> Path:
    """Its part."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    MANIFEST.save(folder)
    return write_part(folder, 0, RECORDS)


def is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in PurePosixPath(path).parts and "\0" not in path


def sound(found: ImageRecord) -> None:
    """Fails for a record that no exporter may meet."""
    assert is_inside(found.path)
    assert found.status in ("ok", "failed")
    for segment in found.segments:
        mask = coco_mask.decode({"size": [found.height, found.width], "counts": segment.rle})
        assert mask.sum() == segment.area > 0
        assert 0 <= segment.bbox[0] <= segment.bbox[0] + segment.bbox[2] <= found.width
        assert -1 <= segment.class_id < len(NAMES)


def status_of(directory: Path) -> None:
    """As `annotate status` prints it."""
    from annotator import printing

    with redirect_stdout(io.StringIO()):
        printing.print_status(RunReader(directory), failures=True)


@reader(800)
def run_json(folder: Path) -> Reader:
    """Values in any place, as somebody may write it by hand."""
    run_of_one_part(folder)
    content = json.loads(json.dumps(asdict(MANIFEST)))

    def check(value: Any) -> None:
        (folder / "run.json").write_text(json.dumps(value))
        run = RunReader(folder)
        assert run.vocabulary is None or run.vocabulary.classes is not None
        list(run.records())
        status_of(folder)

    return Reader(changed(content) | JSON, check)


@reader(4500)
def run_json_bytes(folder: Path) -> Reader:
    MANIFEST.save(folder)
    content = (folder / "run.json").read_bytes()

    def check(value: bytes) -> None:
        (folder / "run.json").write_bytes(value)
        found = Manifest.load(folder)
        assert found == MANIFEST or DIGEST.encode() not in value

    return Reader(once_damaged(content), check)


@reader(4500)
def part_bytes(folder: Path) -> Reader:
    part = run_of_one_part(folder)
    content = part.read_bytes()
    column_sets = [ROW.names, ["path", "status"], ["path", "segments.list.element.area"]]
    good = [read_columns(part, columns) for columns in column_sets]

    def check(value: bytes) -> None:
        part.write_bytes(value)
        at = len(value) % 3
        assert read_columns(part, column_sets[at]) == good[at]
        assert span(part) == (RECORDS[0].path, RECORDS[-1].path)

    return Reader(once_damaged(content), check)


@reader(600)
def rows(folder: Path) -> Reader:
    """Rows of a part that has no digests, as older versions and strangers write it."""
    part = run_of_one_part(folder)
    good = to_table(RECORDS).to_pylist()
    kinds: dict[str, Contents] = {
        "path": TEXTS,
        "status": TEXTS | st.sampled_from(["ok", "failed"]),
        "error": TEXTS,
        "history": TEXTS | JSON.map(json.dumps),
        "label": TEXTS,
        "score": st.floats() | st.integers(-1, 2),
        "area": st.integers(-1, 70) | st.integers(-(2**63), 2**63 - 1),
        "class_id": st.integers(-3, 5) | st.integers(-(2**31), 2**31 - 1),
        "bbox": st.lists(st.integers(-2, 12) | st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4),
        "rle": st.binary(max_size=12) | st.text("0123456789:;<=>?@ABMNOP", max_size=12).map(str.encode),
        "embedding": st.binary(max_size=4),
        "width": st.integers(-1, 12) | st.integers(-(2**31), 2**31 - 1),
        "height": st.integers(-1, 12) | st.integers(-(2**31), 2**31 - 1),
        "orientation": st.integers(-128, 127),
        "bytes": st.integers(-(2**63), 2**63 - 1),
        "mtime": st.floats(),
        "seconds": st.floats(width=32),
    }

    @st.composite
    def tampered(draw: Any) -> Any:
        content = copy.deepcopy(good)
        for _ in range(draw(st.integers(1, 2))):
            row = content[draw(st.integers(0, 1))]
            name = draw(st.sampled_from(list(kinds)))
            inner = row if name in row else row["segments"][draw(st.integers(0, len(row["segments"]) - 1))]
            inner[name] = draw(st.none() | kinds[name])
        return content

    def check(content: Any) -> None:
        try:
            table = pa.Table.from_pylist(content, schema=ROW)
        except (pa.ArrowException, UnicodeError, OverflowError):  # nobody can write it
            assume(False)
        pq.write_table(table.replace_schema_metadata({"first_path": "a.jpg", "last_path": "d.jpg"}), part)
        run = RunReader(folder)
        for found in run.records():
            sound(found)
            if not found.not_finite:
                assert found.prediction().size == found.size
        summarise(folder)

    return Reader(tampered(), check)


@reader(300)
def ledger_bytes(folder: Path) -> Reader:
    """A ledger says what its parts say, or nobody asks it."""
    run_of_one_part(folder)
    write_part(folder, 1, [record("e.jpg", 3), record("f.jpg", 4)])
    ledger.make_ledger(folder, ["part-000000.parquet", "part-000001.parquet"], open_labels=False)
    (file,) = (folder / "ledger").iterdir()
    content, summary = file.read_bytes(), summarise(folder)
    finished = ["a.jpg", "b/c.jpg", "e.jpg", "f.jpg"]

    def check(value: bytes) -> None:
        file.write_bytes(value)
        assert summarise(folder) == summary
        assert len(RunReader(folder)) == 5
        asked = ledger.finished_paths(folder, only_ok=True)
        assert asked.among([*finished, "d.jpg", "z.jpg"]).tolist() == [True] * 4 + [False] * 2
        assert [each.path for each in RunReader(folder).failures()] == ["d.jpg"]

    return Reader(once_damaged(content), check)


@reader(700)
def correction_bytes(folder: Path) -> Reader:
    run_of_one_part(folder)
    run = RunReader(folder)
    append(folder, said_of(*RECORDS[:2]))
    (file,) = (folder / "corrections").glob("*.parquet")
    content, good, listed = file.read_bytes(), list(reviewed(run)), pulls(folder)

    def check(value: bytes) -> None:
        file.write_bytes(value)
        assert list(reviewed(run)) == good
        assert pulls(folder) == listed

    return Reader(once_damaged(content), check)


def said_of(*records: ImageRecord) -> list[Correction]:
    """The first one is approved, the others are edited."""
    said = []
    for place, each in enumerate(records):
        seen, edit = fingerprint(each.segments), record(each.path, 9).segments if place else each.segments
        said.append(Correction(each.path, WIDTH, HEIGHT, "" if place else "approve", bool(place), seen, edit))
    return said


# -- lists of classes, settings, packs --------------------------------------------------------------------------------

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


@reader(2500)
def vocabulary_txt(folder: Path) -> Reader:
    def check(content: bytes | str) -> None:
        sound_classes(Vocabulary.load(written(folder / "v.txt", content)))

    return Reader(damaged(CLASSES_TXT) | RAW | st.binary(max_size=12), check)


@reader(500)
def vocabulary_names(folder: Path) -> Reader:
    """As `--vocab 'cat, dog'` and Python give them."""
    return Reader(TEXTS | RAW | st.lists(TEXTS | RAW), lambda content: sound_classes(as_vocabulary(content)))


@reader(700)
def vocabulary_yaml(folder: Path) -> Reader:
    structured = keyed(["cat", "dog", "background", "classes", "templates", "<<"], FIELD | VALUES)

    def check(content: Any) -> None:
        sound_classes(Vocabulary.load(written(folder / "v.yaml", content)))

    return Reader(damaged(CLASSES_YAML) | structured | RAW | VALUES, check)


@reader(500)
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


@reader(100)
def pack_yaml(folder: Path) -> Reader:
    torch.save({}, folder / "a.pt")
    structured = keyed(["description", "roles", "labelers", "alternatives"], ROLES | keyed(["diy"], ROLES) | VALUES)
    return Reader(
        damaged(PACK) | structured | RAW | VALUES, lambda content: use(written(folder / "pack.yaml", content))
    )


@reader(700)
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


@reader(300)
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


@reader(1200)
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


@reader(600)
def shard_bytes(folder: Path) -> Reader:
    shard = hf_dataset(folder)
    content, good = shard.read_bytes(), sound_labels(folder / "hf")

    def check(value: bytes) -> None:
        shard.write_bytes(value)
        assert sound_labels(folder / "hf") == good

    return Reader(once_damaged(content), check)


@reader(400)
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


@reader(800)
def id2label(folder: Path) -> Reader:
    good = {"0": "background", "1": "cat", "2": "dog"}
    file = folder / "id2label.json"

    def check(value: Any) -> None:
        file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        found = values_of(folder, None)
        assert set(found.index.values()) == set(range(len(found.vocabulary)))
        assert all(0 <= value < 65535 for value in found.index)

    return Reader(changed(good) | damaged(json.dumps(good).encode()) | JSON, check)


# -- caches -----------------------------------------------------------------------------------------------------------


@reader(800)
def text_cache_bytes(folder: Path) -> Reader:
    """A damaged file of vectors costs time, and changes no vector."""
    names = ["cat", "dog", "tree"]
    vectors = {name: torch.tensor([len(name), *map(float, name.encode()[:3])]) for name in names}

    def embed(wanted: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
        return torch.stack([vectors[name] for name in wanted])

    os.environ["ANNOTATE_CACHE"] = str(folder)
    good = TextCache("abc").get(names, ("{}",), embed)
    (file,) = folder.rglob("text-embeddings.sqlite")
    content = file.read_bytes()

    def check(value: bytes) -> None:
        os.environ["ANNOTATE_CACHE"] = str(folder)
        for leftover in file.parent.glob(f"{file.name}-*"):
            leftover.unlink()
        file.write_bytes(value)
        found = TextCache("abc").get(names, ("{}",), embed)
        assert torch.equal(found, good)

    return Reader(once_damaged(content), check)
