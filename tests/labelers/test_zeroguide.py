"""Zero-guidance as a whole: on small random networks, on nodes made by hand, and on the embedded pack."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from reference import networks, tiny_language, vit
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.errors import ConfigError
from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.masked_clip import SegmentOptions, embed_segments
from annotator.models.merge_tree import MergeTree
from annotator.models.oversegment import Oversegments
from annotator.models.packs import Networks, read_pack
from annotator.models.phrases import PhraseBank, embed_phrases
from annotator.prediction import Prediction
from labelers import base, zeroguide
from labelers.zeroguide import Node, to_prediction

PHRASES = ("dog", "sky", "tall tree", "wall", "red bus", "face", "water", "cup")


class WordVectors(nn.Module):
    """Prompts -> vectors, the same for the same prompt."""

    def forward(self, prompts: list[str]) -> Tensor:
        draws = [np.random.default_rng(list(prompt.encode())).normal(size=16) for prompt in prompts]
        return torch.tensor(np.stack(draws)).float()


def small_networks(**more: nn.Module) -> Networks:
    clip = DenseClip(networks.open_clip_vit(8).float(), WordVectors(), vit.CLIP_MEAN, vit.CLIP_STD)
    bank = PhraseBank(PHRASES, embed_phrases(clip, PHRASES).half())
    return Networks.of(clip=clip, dino=Dino(networks.timm_vit().float()), phrases=bank, **more)


def build(captioner: str = "retrieval", given: Networks | None = None, **settings: Any) -> Any:
    small = {"patches": 4, "segments": 8, "same": 1.0, "threshold": 0.5}
    labeler = base.build("zeroguide", given or small_networks(), {"captioner": captioner, **small, **settings})
    labeler.prepare(None)
    return labeler


def check_consistent(found: Prediction) -> None:
    """Every segment has pixels, an embedding and a node; the history's areas are the label map's."""
    count = len(found.labels)
    assert np.unique(found.label_map[found.label_map >= 0]).tolist() == list(range(count))
    assert set(found.class_ids) == {-1}
    assert found.embeddings is not None
    np.testing.assert_allclose(np.linalg.norm(found.embeddings.astype(float), axis=1), 1, atol=1e-2)
    history = json.loads(json.dumps(found.history))
    nodes = history["nodes"]
    final = {node["label"]: node for node in nodes if node["label"] is not None}
    assert sorted(final) == list(range(count))
    for label, node in final.items():
        assert (node["caption"], node["area"]) == (found.labels[label], (found.label_map == label).sum())
    for index, node in enumerate(nodes):
        if node["children"] is None:
            continue
        children = [nodes[child] for child in node["children"]]
        assert max(node["children"]) < index
        assert node["area"] == sum(child["area"] for child in children)
        whole = all(child["children"] is None or child["merged"] for child in children)
        assert (node["score"] is not None) == whole
        assert node["merged"] == (whole and node["score"] >= history["threshold"])
        assert (node["caption"] is not None) == node["merged"]


@pytest.mark.parametrize("captioner", ["none", "retrieval"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"linkage": "neighbours"},
        {"refine": True},
        {"baseline": "crop-and-mask"},
        {"oversegment": "published", "same": 1.1},
    ],
)
def test_every_way_is_consistent(captioner: str, settings: dict[str, Any]) -> None:
    photo = networks.photo(40, 60)
    (apart,) = build(captioner, **settings, threshold=1.0).label([photo])
    assert apart.history is not None
    scores = [node["score"] for node in apart.history["nodes"] if node["score"] is not None]
    # random networks find all segments alike: a threshold among their scores joins some and leaves others apart
    (found,) = build(captioner, **settings, threshold=min(max(max(scores) - 1e-4, 0), 1)).label([photo])
    check_consistent(found)
    assert set(found.labels) <= ({"segment"} if captioner == "none" else set(PHRASES))
    assert 1 < len(found.labels) < len(apart.labels)


def test_a_language_model_writes_the_captions() -> None:
    """Its gradients pass through a labeler that otherwise has none; alone or in a batch it writes the same."""
    given = small_networks(lm=tiny_language.gpt2().float())
    labeler = build("zerocap", given, segments=4, beam=2, max_tokens=3, caption_steps=2)
    photos = [networks.photo(40, 60, seed=seed) for seed in (0, 1)]
    together = labeler.label(photos)
    (alone,) = labeler.label(photos[1:])
    for found in together:
        check_consistent(found)
        assert all(label and label == label.lower() and not label.endswith(".") for label in found.labels)
    assert (alone.labels, alone.scores, alone.history) == (
        together[1].labels, together[1].scores, together[1].history,
    )  # fmt: skip


def test_a_merged_segment_is_embedded_and_captioned_anew() -> None:
    """Not the mean of its parts: what CLIP makes of the joined mask."""
    given = small_networks()
    labeler = build(given=given, threshold=0.0)
    photo = networks.photo(32, 32)
    (found,) = labeler.label([photo])
    assert found.history is not None
    merged = next(node for node in found.history["nodes"] if node["merged"] and node["label"] is not None)
    pixels = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    mask = torch.from_numpy(found.label_map == merged["label"])[None].float()
    expected = embed_segments(given.clip, pixels, mask, SegmentOptions())
    assert found.embeddings is not None
    np.testing.assert_allclose(found.embeddings[merged["label"]], expected[0], atol=1e-3)
    texts = F.normalize(WordVectors()([f"Image of a {phrase}." for phrase in PHRASES]), dim=1)
    cosines = texts @ expected[0]
    assert merged["caption"] == PHRASES[int(cosines.argmax())]
    assert found.scores[merged["label"]] == pytest.approx(max(float(cosines.max()), 0), abs=1e-3)


def test_without_merging_all_over_segments_stay() -> None:
    (found,) = build(merge=False).label([networks.photo(40, 60)])
    assert len(found.labels) == 8
    assert found.history is not None
    assert [node["score"] for node in found.history["nodes"]] == [None] * 15
    (joined,) = build(threshold=0.0).label([networks.photo(40, 60)])
    assert len(joined.labels) < 8


@pytest.mark.parametrize("captioner", ["none", "retrieval"])
def test_a_photo_does_not_depend_on_its_batch(captioner: str) -> None:
    """Nor on those that came before: batch 1 equals batch 4, bit for bit, backwards too."""
    labeler = build(captioner)
    photos = [networks.photo(40 + 7 * index, 60 - 5 * index, seed=index) for index in range(4)]
    together = labeler.label(photos)
    for photo, expected in reversed(list(zip(photos, together, strict=True))):
        (alone,) = labeler.label([photo])
        np.testing.assert_array_equal(alone.label_map, expected.label_map)
        np.testing.assert_array_equal(alone.embeddings, expected.embeddings)
        assert (alone.labels, alone.scores, alone.history) == (expected.labels, expected.scores, expected.history)


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (33, 7)])
def test_tiny_photos(size: tuple[int, int]) -> None:
    (found,) = build().label([networks.photo(*size)])
    assert found.size == size
    check_consistent(found)


def test_a_photo_of_one_colour() -> None:
    (found,) = build().label([np.full((50, 40, 3), 128, np.uint8)])
    check_consistent(found)


def test_a_shrunk_photo_gets_the_size_asked_for() -> None:
    """As a decoder turns and shrinks it: the prediction has the size that a viewer shows."""
    (found,) = build().label([networks.photo(40, 60)], [(120, 180)])
    assert found.size == (120, 180)
    check_consistent(found)


def test_it_is_handed_photos_no_smaller_than_its_networks_want() -> None:
    assert build(patches=3).working_side == 32  # CLIP's
    assert build(patches=6).working_side == 48  # DINO's
    assert build(baseline="crop-and-mask").working_side is None


def node(angle: float, caption: str, text_angle: float | None) -> Node:
    """On the unit circle, in degrees."""

    def direction(degrees: float) -> Tensor:
        return torch.tensor([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])

    return Node(direction(angle), caption, None if text_angle is None else direction(text_angle))


def test_scores_by_hand() -> None:
    """cos 60 = 1/2 between segments, cos 90 = 0 between captions: 1/4; without captions 1/2."""
    likeness = zeroguide.Likeness.of(node(0, "a", 0), node(60, "b", 90))
    assert likeness.score == pytest.approx(0.25, abs=1e-6)
    assert zeroguide.Likeness.of(node(0, "a", None), node(60, "b", None)).score == pytest.approx(0.5, abs=1e-6)
    assert node(0, "a", 60).confidence == pytest.approx(0.5, abs=1e-6)
    assert node(0, "a", 120).confidence == 0
    assert node(0, "a", None).confidence == 1


def pieces(tree: MergeTree, labels: Sequence[Sequence[int]]) -> Oversegments:
    found = np.array(labels, np.int32)
    masks = torch.stack([torch.from_numpy(found == leaf).float() for leaf in range(tree.leaves)])
    return Oversegments(found, masks, tree)


def test_a_tree_made_by_hand() -> None:
    """Leaves 0 to 3; 1 and 2 became 4, and 4 with 3 did not: 5; the root was never tried."""
    tree = MergeTree(4, ((1, 2), (3, 4), (0, 5)), (1.0, 2.0, 3.0))
    known = {
        0: node(0, "sky", 0),
        1: node(10, "ear", 20),
        2: node(70, "nose", 20),
        3: node(100, "grass", 110),
        4: node(40, "dog", 50),
    }
    cut = pieces(tree, [[3, 3, 0], [1, 2, 2], [1, 1, 3]])
    found = to_prediction(cut, known, {4: 0.75, 5: 0.5}, 0.6)
    assert found.labels == ("sky", "dog", "grass")
    assert found.label_map.tolist() == [[2, 2, 0], [1, 1, 1], [1, 1, 2]]
    assert found.scores == pytest.approx((1, np.cos(np.deg2rad(10)), np.cos(np.deg2rad(10))), abs=1e-6)
    np.testing.assert_allclose(found.embeddings, torch.stack([known[n].embedding for n in (0, 4, 3)]), atol=1e-3)
    rest = {"merged": False, "score": None, "segments": None, "captions": None}
    assert found.history == {
        "threshold": 0.6,
        "nodes": [
            {**rest, "children": None, "area": 1, "caption": "sky", "label": 0},
            {**rest, "children": None, "area": 3, "caption": "ear", "label": None},
            {**rest, "children": None, "area": 2, "caption": "nose", "label": None},
            {**rest, "children": None, "area": 3, "caption": "grass", "label": 2},
            {"children": [1, 2], "area": 5, "caption": "dog", "label": 1, "merged": True}
            | {"score": 0.75, "segments": 0.5, "captions": 1.0},
            {"children": [3, 4], "area": 8, "caption": None, "label": None, "merged": False}
            | {"score": 0.5, "segments": 0.5, "captions": 0.5},
            {**rest, "children": [0, 5], "area": 9, "caption": None, "label": None},
        ],
    }


def test_its_defaults_are_the_papers() -> None:
    defaults = base.resolve_parameters("zeroguide")
    assert dataclasses.asdict(defaults.embedding()) == dataclasses.asdict(SegmentOptions()) | {
        "sigma": pytest.approx(2.5**0.5, abs=1e-6)
    }
    options = defaults.oversegmentation()
    assert (options.patches * 8, options.overlap, options.segments, options.same) == (224, None, 20, 0.9)
    assert (options.way, options.neighbours_only, options.refine) == ("paper", False, False)
    others = {"oversegment": "published", "linkage": "neighbours", "refine": True}
    options = base.resolve_parameters("zeroguide", others).oversegmentation()
    assert (options.way, options.neighbours_only, options.refine) == ("published", True, True)
    assert (defaults.merge, defaults.threshold, defaults.captioner) == (True, 0.8, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"captioner": "blip"}, "captioner: expected one of zerocap, retrieval, none, but got 'blip'"),
        ({"threshold": 1.5}, "labeler zeroguide: threshold: expected 0 to 1, but got 1.5"),
        ({"sigma": 0}, "labeler zeroguide: sigma: expected at least 0.001, but got 0"),
        ({"segments": 0}, "labeler zeroguide: segments: expected at least 1, but got 0"),
        ({"oversegment": "code"}, "oversegment: expected one of paper, published, but got 'code'"),
        ({"normalise_over": "beams"}, "normalise_over: expected one of all-beams, each-beam, but got 'beams'"),
        ({"first_token": "word"}, "first_token: expected one of any, letters, but got 'word'"),
        ({"start_token": 1}, "start_token: expected bool, but got 1"),
        ({"end_factor": "much"}, "end_factor: expected float, but got 'much'"),
        ({"overlap": 3}, "overlap: expected a divisor of DINO's patch side, 8 px, but got 3"),
        ({"first_masked": 9}, "first_masked: expected one of CLIP's 4 layers, counted from 1, but got 9"),
    ],
)
def test_settings_are_checked_before_the_first_photo(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        base.build("zeroguide", small_networks(), {"captioner": "none", **given})


@pytest.mark.slow
@pytest.mark.parametrize("captioner", ["none", "retrieval"])
def test_on_the_embedded_pack(captioner: str) -> None:
    """A photo of scikit-image's, whole."""
    data = pytest.importorskip("skimage.data")
    pack = read_pack("embedded")
    if captioner == "retrieval" and "phrases" not in pack.roles:
        pytest.skip("the embedded pack has no phrases")
    labeler = base.build("zeroguide", pack.networks("zeroguide"), {"captioner": captioner, "overlap": 1})
    labeler.prepare(None)
    (found,) = labeler.label([data.coffee()])
    assert found.size == (400, 600)
    check_consistent(found)
    assert found.history is not None
    assert sum(node["children"] is None for node in found.history["nodes"]) > 5
