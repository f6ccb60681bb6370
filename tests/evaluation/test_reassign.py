"""TT and ST on written-down directions, and TT once with the sentence encoder of the embedded pack."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.open_runs import Labelled, Table, image_of, write_run

from annotator.errors import ConfigError, RunError
from annotator.models.networks import Networks
from annotator.prediction import Segment
from annotator.run import ImageRecord
from annotator.vocabulary import ClassEntry, Vocabulary
from evaluation.reassign import Names, assigner, by_name, segment_to_text, text_to_text, unknown_names

HALF = (0.5, math.sqrt(0.75), 0)  # cosine 1/2 with x
NAMES = {"cat": (1, 0, 0), "dog": (0, 1, 0), "puppy": (0, 0.6, 0.8), "sky": (0, 0, 1), "background": (1, 1, 1)}
TEXTS = {"a kitten": (0.8, 0.6, 0), "a hound": (0, 1, 1), "both": (1, 1, 0), "far": (-1, 0, 0), "half": HALF}
PETS = Vocabulary.of(["background", "cat", "dog, puppy"])


def photo(*labels: str, embeddings: list[tuple[float, ...]] | None = None) -> ImageRecord:
    vectors = [None] * len(labels) if embeddings is None else [np.array(row, np.float16) for row in embeddings]
    segments = tuple(
        Segment(label, -1, 0.5, 1, (index, 0, 1, 1), b"", vector)
        for index, (label, vector) in enumerate(zip(labels, vectors, strict=True))
    )
    return ImageRecord("a.jpg", "ok", width=len(labels), height=1, segments=segments)


def sentence() -> Table:
    return Table({**NAMES, **TEXTS})


def clip() -> Table:
    return Table(image_of(NAMES))


def test_text_to_text_by_hand(tmp_path: Path) -> None:
    run = write_run(tmp_path, {})
    found = assigner("tt", run, PETS, Networks.of(sentence=sentence()))(photo("a kitten", "a hound", "both", "far"))
    # classes: background, cat, dog; "hound" is nearer to puppy (1.4 / sqrt 2) than to dog (1 / sqrt 2)
    assert found.classes.tolist()[:3] == [1, 2, 1]  # "both" is as near to cat as to dog: the first name wins
    assert found.similarities[:3] == pytest.approx([0.8, 1.4 / math.sqrt(2), 1 / math.sqrt(2)], abs=1e-6)
    assert found.similarities[3] == pytest.approx(0, abs=1e-6)
    assert found.verified(0.5).tolist() == [1, 2, 1, -1]
    assert found.verified(0.75).tolist() == [1, 2, -1, -1]
    assert found.verified(1.1).tolist() == [-1] * 4
    assert (found.classes.dtype, found.verified(0.5).dtype) == (np.int32, np.int32)


def test_a_cosine_at_the_threshold_holds() -> None:
    names = Names(Vocabulary.of(["cat"]), lambda texts: np.array([[1.0, 0.0]]))
    found = names.nearest(np.array([[0.6, 0.8], [0.59, 0.81]]))
    assert found.similarities[0] == 0.6
    assert found.verified(0.6).tolist() == [0, -1]


def test_every_text_is_embedded_once() -> None:
    table = sentence()
    assign = text_to_text(PETS, lambda texts: table.embed(texts).numpy())
    assign(photo("a kitten", "far", "a kitten"))
    assign(photo("far", "a hound"))
    assert assign(photo()).classes.tolist() == []
    assert table.asked == ["cat", "dog", "puppy", "a kitten", "far", "a hound"]  # no bare "background"


def test_segment_to_text_by_hand(tmp_path: Path) -> None:
    """The text does not matter, only the embedding; "Image of a {}." is asserted by the table's keys."""
    embeddings = [(0.6, 0.8, 0.0), (1.0, 0.1, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)]
    run = write_run(tmp_path, {"a.jpg": Labelled([[0, 1, 2, 3]], ["far"] * 4, embeddings), "b.jpg": None})
    assign = assigner("st", run, PETS, Networks.of(clip=clip()))
    first, failed = run.records()
    found = assign(first)
    assert found.classes.tolist()[:3] == [2, 1, 2]
    assert found.similarities[:3] == pytest.approx([0.8, 1 / math.sqrt(1.01), 0.8], abs=1e-3)  # float16
    assert found.verified(0.1).tolist() == [2, 1, 2, -1]
    assert assign(failed).classes.tolist() == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9))
def test_nearest_is_what_a_loop_finds(seed: int, names: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    directions, embeddings = rng.normal(size=(names, 4)), rng.normal(size=(count, 4))
    found = Names(Vocabulary.of([str(index) for index in range(names)]), lambda texts: directions).nearest(embeddings)
    for embedding, index, similarity in zip(embeddings, found.classes, found.similarities, strict=True):
        cosines = [
            sum(a * b for a, b in zip(embedding, row, strict=True)) / math.hypot(*embedding) / math.hypot(*row)
            for row in directions
        ]
        assert index == max(range(names), key=cosines.__getitem__)
        assert similarity == pytest.approx(max(cosines))
        assert -1.0000001 <= similarity <= 1.0000001


def test_embeddings_of_length_zero_are_near_to_nothing() -> None:
    found = Names(Vocabulary.of(["cat"]), lambda texts: np.array([[1.0, 0.0]])).nearest(np.zeros((1, 2)))
    assert found.similarities.tolist() == [0]


def test_ignored_and_merged_entries() -> None:
    """Both compete; one of them then counts as nothing, the other as its class. A background may be told by words."""
    vocabulary = Vocabulary(
        (
            ClassEntry("background", ("background", "sky"), background=True),
            ClassEntry("dog", ("dog",)),
            ClassEntry("cat", ("cat",), ignore=True),
            ClassEntry("puppy", ("puppy",), merge_into="dog"),
        )
    )
    names = Names(vocabulary, lambda texts: np.array([NAMES[text] for text in texts], np.float64))
    found = names.nearest(np.array([(0, 0, 1), (1, 0, 0), (0, 0.6, 0.8), (1, 1, 1.01)], np.float64))
    assert found.classes.tolist() == [0, -1, 1, 1]
    assert found.without(0).classes.tolist() == [-1, -1, 1, 1]
    assert found.without(0).similarities is found.similarities


def test_by_name(tmp_path: Path) -> None:
    """The run's classes in other words and another order; those that the truth lacks, and its background, drop out."""
    vocabulary = Vocabulary.of(["background", "zebra", "hound, DOG", "cat"])
    labels = ["cat", "zebra", "hound", "background"]
    run = write_run(tmp_path, {"a.jpg": Labelled([[0, 1, 2, 3]], labels)}, vocabulary)
    found = by_name(run, Vocabulary.of(["cat", "dog, puppy"]))(next(run.records()))
    assert found.classes.tolist() == [0, -1, 1, -1]
    assert found.similarities.tolist() == [1, 1, 1, 1]
    assert by_name(run, PETS)(next(run.records())).classes.tolist() == [1, -1, 2, 0]
    assert unknown_names(vocabulary, PETS) == unknown_names(vocabulary, Vocabulary.of(["cat", "dog"])) == ["zebra"]


@pytest.mark.parametrize(
    ("embeddings", "stored", "loaded", "message"),
    [
        (None, "", "", "expected an embedding with every segment, but test stored none for 'a.jpg'"),
        ([(1.0, 0.0)], "", "", "of 3 numbers, but found 2; choose the --pack that made the run"),
        ([(1.0, 0.0, 0.0)], "aaaa", "bbbb", r"\(SHA-256 aaaa...\), but the pack has another \(bbbb...\)"),
    ],
)
def test_embeddings_of_another_clip_are_refused(
    tmp_path: Path, embeddings: list[tuple[float, ...]] | None, stored: str, loaded: str, message: str
) -> None:
    pack = {"name": "embedded", "roles": {"clip": {"sha256": stored}}} if stored else {}
    run = write_run(tmp_path, {"a.jpg": Labelled([[0]], ["x"], embeddings)}, pack=pack)
    used = {"clip": {"source": "", "file": "", "sha256": loaded}} if loaded else {}
    networks = Networks(lambda role: (clip(), used))
    with pytest.raises(RunError, match=message):
        segment_to_text(run, PETS, networks)(next(run.records()))


def test_a_vocabulary_of_nothing_but_background_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a class besides the background"):
        Names(Vocabulary.of(["background"]), lambda texts: np.zeros((len(texts), 2)))


def test_the_embedded_sentence_encoder_knows_its_words(tmp_path: Path) -> None:
    from annotator.models.packs import read_pack

    networks = read_pack("embedded").networks("zeroguide")
    words = Vocabulary.of(["background", "cat", "dog", "motorbike", "airplane, aeroplane", "sea"])
    texts = ["a small kitten", "puppies", "motorcycle", "jet plane", "ocean", "dog"]
    found = assigner("tt", write_run(tmp_path, {}), words, networks)(photo(*texts))
    assert [words.names[index] for index in found.classes] == ["cat", "dog", "motorbike", "airplane", "sea", "dog"]
    assert found.similarities[-1] == pytest.approx(1, abs=1e-5)
    assert (found.verified(0.5) >= 0).all()
