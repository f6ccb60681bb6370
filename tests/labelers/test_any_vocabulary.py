"""Whatever the vocabulary and the photo: every window labeler gives the classes of a dense argmax in float64.

The vocabularies have 1 to 200 entries with synonyms, ignored and merged ones, thresholds, and a background anywhere.
The reference holds the probability of every entry at every pixel; nothing in it is pruned, tiled or chunked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import methods, networks, vit
from test_against_reference import REFERENCE_WINDOWS, TOLERANCE, WordVectors, build, windows

from annotator.models import upsample
from annotator.models.classifier import NameClassifier
from annotator.prediction import NOTHING
from annotator.vocabulary import ClassEntry, Vocabulary
from labelers import diy

CHUNKS = (1, 3, 16, 10_000)
SETTINGS = {
    "maskclip": windows(),
    "dinoiser": windows({"delta": 0.9}),
    "diy": {"image_side": 64, "scales": [64, 32], "objectness_side": 61},
}


@st.composite
def vocabularies(draw: st.DrawFn, need_background: bool = False) -> Vocabulary:
    """Entries "c0", "c1", ...; one is always plain, so that something is left to write."""
    count = draw(st.integers(1, 200))
    plain = draw(st.integers(0, count - 1))
    background = draw(st.integers(0, count - 1) if need_background else st.none() | st.integers(0, count - 1))
    many_synonyms = draw(st.sampled_from([0.0, 0.02, 0.5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    entries = []
    for index in range(count):
        names = 1 + (rng.random() < many_synonyms) * int(rng.integers(1, 4))
        fate = "" if index == plain else str(rng.choice(["", "", "", "ignore", "merge"]))
        entries.append(
            ClassEntry(
                name=f"c{index}",
                prompts=tuple(f"name {index} {number}" for number in range(names)),
                threshold=float(rng.uniform(0, 0.1)) if rng.random() < 0.2 else None,
                background=index == background,
                ignore=fate == "ignore",
                merge_into=f"c{plain}" if fate == "merge" else None,
            )
        )
    return Vocabulary(tuple(entries), templates=("{}",))


@dataclass(frozen=True)
class Truth:
    """classes: H x W, by the definition. clear: where rounding cannot have decided."""

    classes: np.ndarray
    clear: np.ndarray


def written_classes(probabilities: np.ndarray, vocabulary: Vocabulary) -> Truth:
    """H x W x entries -> what a run must say of each pixel: best entry, its threshold, its fate."""
    written = [entry.name for entry in vocabulary.entries if not entry.ignore and entry.merge_into is None]
    limits = np.array([entry.threshold or 0.0 for entry in vocabulary.entries])
    fates = [NOTHING if e.ignore else written.index(e.merge_into or e.name) for e in vocabulary.entries]
    best = probabilities.argmax(axis=2)
    ordered = np.sort(probabilities, axis=2)
    confidence = ordered[..., -1]
    second = ordered[..., -2] if len(fates) > 1 else np.full_like(confidence, -1.0)
    classes = np.where(confidence >= limits[best], np.array(fates)[best], NOTHING)
    clear = (confidence - second > TOLERANCE) & (np.abs(confidence - limits[best]) > TOLERANCE)
    return Truth(classes, clear)


def names_and_owners(vocabulary: Vocabulary) -> tuple[np.ndarray, list[int]]:
    vectors = [WordVectors._vector(name).astype(np.float64) for e in vocabulary.entries for name in e.prompts]
    owners = [index for index, entry in enumerate(vocabulary.entries) for _ in entry.prompts]
    return np.array([vector / np.linalg.norm(vector) for vector in vectors]), owners


@cache
def clip_weights() -> vit.Clip:
    return networks.clip_of(networks.open_clip_vit(16))


@cache
def found_weights() -> vit.Dino:
    return networks.dino_of(networks.timm_vit(seed=4))


def reference(name: str, photo: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """H x W x entries."""
    clip, text, owners = clip_weights(), *names_and_owners(vocabulary)
    background = vocabulary.background_entry
    if name == "maskclip":
        return methods.maskclip(photo, clip, text, owners, **REFERENCE_WINDOWS)[0]
    if name == "dinoiser":
        options = {"heads": networks.random_heads(), "background": background, "delta": 0.9, **REFERENCE_WINDOWS}
        return methods.dinoiser(photo, clip, text, owners, **options)[0]
    assert background is not None
    options = {"canvas": 64, "scales": (64, 32), "objectness_side": 61, "decoder": networks.random_decoder()}
    return methods.diy(photo, clip, text, owners, background=background, found_dino=found_weights(), **options)[0]


@pytest.fixture(scope="module")
def labelers() -> dict[str, Any]:
    return {name: build(name, 16, **chosen)[0] for name, chosen in SETTINGS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_vocabulary_on_any_photo(
    name: str, data: st.DataObject, labelers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = data.draw(vocabularies(need_background=name == "diy"))
    height, width = data.draw(st.tuples(st.integers(20, 90), st.integers(20, 90)))
    photo = networks.photo(height, width, seed=data.draw(st.integers(0, 99)))
    chunk, side = data.draw(st.sampled_from(CHUNKS)), data.draw(st.sampled_from([7, 4096]))
    with monkeypatch.context() as patch:
        patch.setattr(upsample, "CLASSES_AT_ONCE", chunk)
        patch.setattr(diy, "CLASSES_AT_ONCE", chunk)
        patch.setattr(upsample, "PIXELS_AT_ONCE", {"cpu": side**2})
        labelers[name].prepare(vocabulary)
        found = labelers[name].label([photo])[0]
    truth = written_classes(reference(name, photo, vocabulary), vocabulary)
    np.testing.assert_array_equal(found.class_map()[truth.clear], truth.classes[truth.clear])


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("chunk", CHUNKS)
def test_synonyms_of_another_class_change_no_pixel_of_it(
    name: str, chunk: int, labelers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's own example in a list of 33 classes: only `dog` has synonyms, and the photo shows no dog."""
    plain = [*(f"thing {number}" for number in range(31)), "background"]
    photo = networks.photo(75, 121)
    monkeypatch.setattr(upsample, "CLASSES_AT_ONCE", chunk)
    monkeypatch.setattr(diy, "CLASSES_AT_ONCE", chunk)
    labeler = labelers[name]
    vocabulary = Vocabulary.of(["dog, puppy, hound", *plain])
    labeler.prepare(Vocabulary(vocabulary.entries, templates=("{}",)))
    found = labeler.label([photo])[0]
    probabilities = reference(name, photo, vocabulary)
    truth = written_classes(probabilities, vocabulary)
    assert truth.clear.mean() > 0.8
    np.testing.assert_array_equal(found.class_map()[truth.clear], truth.classes[truth.clear])


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(vocabulary=vocabularies(), seed=st.integers(0, 2**32 - 1))
def test_classes_may_be_asked_for_in_any_order(vocabulary: Vocabulary, seed: int) -> None:
    """`of(chosen)` are the rows of all classes' maps, whichever are chosen and in whatever order."""
    clip = build("maskclip", 16)[1]
    classifier = NameClassifier(clip, vocabulary, lambda name: ("{}",))
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(2, 16, 3, 4))).float()
    decided = torch.from_numpy(rng.random((2, 3, 4)) < 0.2)
    chosen = torch.from_numpy(rng.permutation(len(vocabulary))[: rng.integers(1, len(vocabulary) + 1)])
    for maps in classifier.score(features).maps(decided, decision=int(rng.integers(len(vocabulary)))):
        whole = maps.of(torch.arange(len(vocabulary)))
        torch.testing.assert_close(maps.of(chosen), whole[chosen])
        torch.testing.assert_close(maps.peaks, whole.amax(dim=(1, 2)))
