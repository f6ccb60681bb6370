"""Free-text labels brought together and counted; what they should become was written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_runs import manifest
from hypothesis import given
from hypothesis import strategies as st

from annotator.open_labels import LabelCount, choose, count_labels, normalise
from annotator.prediction import Prediction
from annotator.run import ImageRecord, RunWriter


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Dog", "dog"),
        ("a dog", "dog"),
        ("The  Dogs.", "dog"),
        ("an\tapple", "apple"),
        ('"the a big dog!"', "big dog"),
        ("traffic lights", "traffic light"),
        ("glass", "glass"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("grasses", "grass"),
        ("boxes", "box"),
        ("dishes", "dish"),
        ("benches", "bench"),
        ("berries", "berry"),
        ("ties", "tie"),
        ("cookies", "cookie"),
        ("horses", "horse"),
        ("vases", "vase"),
        ("shoes", "shoe"),
        ("gloves", "glove"),
        ("wolves", "wolf"),
        ("people", "person"),
        ("two women", "two woman"),
        ("tennis", "tennis"),
        ("cactus", "cactus"),
        ("a pair of scissors", "pair of scissors"),
        ("slices of pizzas", "slice of pizzas"),  # the head noun alone
        ("dogs on the beach", "dog on the beach"),
        ("on the beach", "on the beach"),
        ("dog's", "dog"),
        ("the dog's bed", "dog's bed"),
        ("t-shirts", "t-shirt"),
        ("Äpfel", "äpfel"),
        ("猫", "猫"),
        ("the", "the"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_labels_by_hand(label: str, expected: str) -> None:
    assert normalise(label) == expected


WORDS = st.sampled_from(
    ["a", "the", "An", "dogs", "mens", "feets", "dog's", "classes", "men", "of", "on", "buses.", "ies", "xes", "s", "'"]
)


@given(st.one_of(st.text(max_size=20), st.lists(WORDS, max_size=5).map(" ".join)))
def test_a_normalised_label_stays_as_it_is(label: str) -> None:
    once = normalise(label)
    assert normalise(once) == once
    assert once == once.strip()
    assert bool(once) == bool(label.strip())


@given(st.sampled_from(["dog", "traffic light", "bus", "glass", "person", "leaf on a tree"]), st.data())
def test_dressing_a_label_up_changes_nothing(name: str, data: st.DataObject) -> None:
    article = data.draw(st.sampled_from(["", "a ", "The ", "an  ", " the a "]))
    dressed = (
        article
        + data.draw(st.sampled_from([name, name.upper(), name.title()]))
        + data.draw(st.sampled_from(["", ".", " ", "!\n"]))
    )
    assert normalise(dressed) == name


def test_counts_by_photo(tmp_path: Path) -> None:
    """Spellings add up; a photo counts once however many of its segments have the label."""
    photos = {
        "a.jpg": ([[0, 0, 1, 2]], ["a dog", "dogs", "sky"]),
        "b.jpg": ([[0, -1, -1, -1]], ["Dog."]),
        "c.jpg": ([[-1]], []),
    }
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        for path, (label_map, labels) in photos.items():
            values = np.array(label_map, np.int32)
            found = Prediction(values, labels, [-1] * len(labels), [0.5] * len(labels)).segments()
            writer.write(ImageRecord(path, "ok", width=values.shape[1], height=1, segments=tuple(found)))
            writer.flush()  # a part per photo
        writer.write(ImageRecord("d.jpg", "failed", error="empty file"))
    assert count_labels(tmp_path / "run") == [LabelCount("dog", 2, 4), LabelCount("sky", 1, 1)]


COUNTS = [LabelCount("ant", 5, 10), LabelCount("bee", 2, 90), LabelCount("cow", 2, 90), LabelCount("dog", 2, 95)]


@pytest.mark.parametrize(
    ("min_count", "top", "expected"),
    [
        (1, None, ("ant", "bee", "cow", "dog")),
        (3, None, ("ant",)),
        (6, None, ()),
        (1, 2, ("ant", "dog")),  # the larger area wins among equals
        (1, 3, ("ant", "bee", "dog")),  # then the name
        (2, 9, ("ant", "bee", "cow", "dog")),
        (3, 2, ("ant",)),
    ],
)
def test_choosing(min_count: int, top: int | None, expected: tuple[str, ...]) -> None:
    assert choose(COUNTS, min_count, top) == expected
    assert choose(reversed(COUNTS), min_count, top) == expected
