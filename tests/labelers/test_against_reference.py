"""Every labeler equals the loop-by-loop float64 reference, written from the equations by other hands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import methods, networks
from torch import Tensor, nn

from annotator.models.classifier import NameClassifier
from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.models.heads import affinity, load_heads
from annotator.models.packs import Networks
from annotator.models.upsample import Winners
from annotator.prediction import Prediction
from annotator.vocabulary import ClassEntry, Vocabulary
from labelers import base, dense, diy

TOLERANCE = 1e-4
WINDOW, STRIDE, SHORT = 64, 32, 64

# an odd size of several windows, a tall one, one smaller than the window, one so long that its long side is capped
SIZES = [(75, 121), (130, 67), (40, 52), (30, 200)]


class WordVectors(nn.Module):
    """Prompts -> vectors, the same for the same prompt; what a text tower is to the labelers."""

    def forward(self, prompts: list[str]) -> Tensor:
        return torch.stack([torch.from_numpy(self._vector(prompt)) for prompt in prompts])

    @staticmethod
    def _vector(prompt: str) -> np.ndarray:
        """Close to each other, as texts are in CLIP; else every softmax would be 0 or 1, and windows would tie."""
        shared = np.random.default_rng(0).normal(size=16) * 4
        return (shared + np.random.default_rng(list(prompt.encode())).normal(size=16)).astype(np.float32)


def vocabulary(background: bool) -> Vocabulary:
    wall = ClassEntry("background", ("background", "wall"), background=True)
    first = wall if background else ClassEntry("sea", ("sea",))
    return Vocabulary((first, ClassEntry("dog", ("dog", "puppy", "hound")), ClassEntry("bus", ("bus",))))


def build(name: str, patch: int, quick: bool = False, pack: str = "", **settings: Any) -> tuple[Any, DenseClip]:
    """A labeler of small random networks."""
    visual = networks.open_clip_vit(patch, quick).float()
    clip = DenseClip(visual, WordVectors(), methods.Clip({}, 4).mean, methods.Clip({}, 4).std)
    dino = Dino(networks.timm_vit().float())
    decoder = nn.Conv2d(24, 1, 1)
    decoder.load_state_dict({key: torch.from_numpy(value) for key, value in networks.random_decoder().items()})
    heads = load_heads({key: torch.from_numpy(value).float() for key, value in networks.random_heads().items()})
    found = Found(Dino(networks.timm_vit(seed=4).float()), decoder)
    given = Networks.of(clip=clip, dino=dino, found=found, heads=heads)
    given.pack = pack
    return base.build(name, given, settings), clip


def reference_inputs(clip: DenseClip, words: Vocabulary, name: str) -> tuple[np.ndarray, list[int]]:
    """names x d text embeddings by the equation, and the class of each name."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    rows, owners = [], []
    for index, entry in enumerate(words.entries):
        for prompt in entry.prompts:
            article = "an" if prompt[0] in "aeiou" else "a"
            prompts = (
                [f"a photo of {article} {prompt}"] if name == "diy" else [t(prompt) for t in OPENAI_IMAGENET_TEMPLATES]
            )
            each = [WordVectors._vector(text).astype(np.float64) for text in prompts]
            mean = np.mean([vector / np.linalg.norm(vector) for vector in each], axis=0)
            rows.append(mean / np.linalg.norm(mean))
            owners.append(index)
    return np.array(rows), owners


@pytest.fixture
def winners(monkeypatch: pytest.MonkeyPatch) -> list[Winners]:
    """Every pixel's best class and its probability, as the labelers found them on the way to a prediction."""
    seen: list[Winners] = []

    original = dense.to_prediction

    def recorded(found: Winners, *rest: Any, **named: Any) -> Prediction:
        seen.append(Winners(found.best.copy(), found.confidence))  # the label map takes their place
        return original(found, *rest, **named)

    monkeypatch.setattr(dense, "to_prediction", recorded)
    monkeypatch.setattr(diy, "to_prediction", recorded)
    return seen


def check(found: Winners, probabilities: np.ndarray) -> None:
    """The best probability of every pixel to 1e-4, and its class wherever the two best are not that close."""
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=2), atol=TOLERANCE)
    ordered = np.sort(probabilities, axis=2)
    clear = ordered[..., -1] - ordered[..., -2] > TOLERANCE
    assert clear.mean() > 0.95, "the case is too ambiguous to tell anything"
    np.testing.assert_array_equal(found.best[clear], probabilities.argmax(axis=2)[clear])


def windows(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"short_side": SHORT, "long_side": 160, "window": WINDOW, "stride": STRIDE, **(settings or {})}


REFERENCE_WINDOWS = {"window": WINDOW, "stride": STRIDE, "short_side": SHORT, "max_long": 160}


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("background", [False, True])
def test_maskclip(patch: int, background: bool, winners: list[Winners]) -> None:
    labeler, clip = build("maskclip", patch, quick=patch == 8, **windows())
    words = vocabulary(background)
    labeler.prepare(words)
    text, owners = reference_inputs(clip, words, "maskclip")
    reference_clip = networks.clip_of(networks.open_clip_vit(patch, quick=patch == 8), quick_gelu=patch == 8)
    photos = [networks.photo(*size, seed=seed) for seed, size in enumerate(SIZES)]
    labeler.label(photos)
    for photo, found in zip(photos, winners, strict=True):
        probabilities, _ = methods.maskclip(photo, reference_clip, text, owners, **REFERENCE_WINDOWS)
        check(found, probabilities)


@pytest.mark.slow
@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("affinity", ["clip", "dino", "clip-keys"])
@pytest.mark.parametrize(
    ("objectness", "background", "background_patch"),
    [
        ("head", True, "shared"),
        ("head", True, "alone"),
        ("found", True, "shared"),
        ("none", True, "shared"),
        ("head", False, "shared"),
    ],
)
def test_dinoiser(
    patch: int, affinity: str, objectness: str, background: bool, background_patch: str, winners: list[Winners]
) -> None:
    settings = {"affinity": affinity, "objectness": objectness, "background_patch": background_patch}
    settings |= {"gamma": 0.2, "delta": 0.9}
    labeler, clip = build("dinoiser", patch, **windows(settings))
    words = vocabulary(background)
    labeler.prepare(words)
    text, owners = reference_inputs(clip, words, "dinoiser")
    photo = networks.photo(*SIZES[0])
    probabilities, _ = methods.dinoiser(
        photo,
        networks.clip_of(networks.open_clip_vit(patch)),
        text,
        owners,
        heads=networks.random_heads(),
        affinity_dino=networks.dino_of(networks.timm_vit()),
        found_dino=networks.dino_of(networks.timm_vit(seed=4)),
        decoder=networks.random_decoder(),
        background=0 if background else None,
        **settings,
        **REFERENCE_WINDOWS,
    )
    labeler.label([photo])
    check(winners[0], probabilities)


@pytest.mark.slow
@pytest.mark.parametrize("objectness", ["found", "found-bkg", "none"])
@pytest.mark.parametrize("scales", [(64, 32, 16), (64,), (32, 16)])
@pytest.mark.parametrize(("side", "upsample"), [(61, "probabilities"), (None, "labels")])
def test_diy(objectness: str, scales: tuple[int, ...], side: int | None, upsample: str, winners: list[Winners]) -> None:
    settings = {"scales": scales, "image_side": 64, "objectness": objectness, "objectness_side": side}
    settings["upsample"] = upsample
    labeler, clip = build("diy", 16, **settings)
    words = vocabulary(background=True)
    labeler.prepare(words)
    text, owners = reference_inputs(clip, words, "diy")
    photo = networks.photo(*SIZES[0])
    probabilities, _ = methods.diy(
        photo,
        networks.clip_of(networks.open_clip_vit(16)),
        text,
        owners,
        found_dino=networks.dino_of(networks.timm_vit(seed=4)),
        decoder=networks.random_decoder(),
        objectness=objectness,
        canvas=64,
        scales=scales,
        objectness_side=side,
        upsample=upsample,
    )
    labeler.label([photo])
    check(winners[0], probabilities)


@pytest.mark.parametrize("name", ["maskclip", "dinoiser", "diy"])
def test_a_photo_does_not_depend_on_its_batch(name: str) -> None:
    """Batch 1 equals batch 7, bit for bit."""
    small = {"image_side": 64, "scales": [64, 32], "objectness_side": 64} if name == "diy" else windows()
    labeler, _ = build(name, 16, **small)
    labeler.prepare(vocabulary(background=True))
    photos = [networks.photo(60 + 7 * index, 90 - 5 * index, seed=index) for index in range(7)]
    together = labeler.label(photos)
    for photo, prediction in zip(photos, together, strict=True):
        alone = labeler.label([photo])[0]
        np.testing.assert_array_equal(alone.label_map, prediction.label_map)
        assert (alone.labels, alone.scores) == (prediction.labels, prediction.scores)


def test_a_shrunk_photo_gets_the_size_asked_for() -> None:
    labeler, _ = build("maskclip", 16, **windows())
    labeler.prepare(vocabulary(background=False))
    assert labeler.label([networks.photo(75, 120)], [(300, 480)])[0].size == (300, 480)


def test_synonyms_take_the_best_name() -> None:
    """Three names, two classes: the softmax runs over names, the class takes the largest."""
    _, clip = build("maskclip", 16)
    words = Vocabulary((ClassEntry("dog", ("dog", "puppy")), ClassEntry("bus", ("bus",))))
    classifier = NameClassifier(clip, words, lambda name: ("{}",))
    names = classifier.names.double().numpy()
    feature = np.random.default_rng(0).normal(size=16)
    logits = 100 * names @ (feature / np.linalg.norm(feature))
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    scores = classifier.score(torch.from_numpy(feature).float()[None, :, None, None])
    (maps,) = scores.maps()
    expected = [max(share[0], share[1]), share[2]]
    np.testing.assert_allclose(maps.peaks.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(maps.of(torch.tensor([1, 0]))[:, 0, 0].numpy(), expected[::-1], atol=1e-5)
    np.testing.assert_allclose(scores.confidence[0, 0], max(expected), atol=1e-5)


def test_a_background_patch_leaves_the_other_classes_their_probabilities() -> None:
    """By hand: two patches, of which the first is background; only there is its probability 1."""
    _, clip = build("maskclip", 16)
    classifier = NameClassifier(clip, vocabulary(background=True), lambda name: ("{}",))
    scores = classifier.score(torch.rand(1, 16, 1, 2, generator=torch.Generator().manual_seed(0)))
    every = torch.arange(3)
    (plain,) = scores.maps()
    before = plain.of(every)
    (shared,) = scores.maps(torch.tensor([[[True, False]]]), decision=0)
    (alone,) = scores.maps(torch.tensor([[[True, False]]]), decision=0, alone=True)
    assert shared.of(every)[0, 0, 0] == alone.of(every)[0, 0, 0] == 1
    torch.testing.assert_close(shared.of(every)[1:, 0, 0], before[1:, 0, 0])
    assert alone.of(every)[1:, 0, 0].tolist() == [0, 0]
    torch.testing.assert_close(shared.of(every)[:, 0, 1], before[:, 0, 1])
    torch.testing.assert_close(alone.of(every)[:, 0, 1], before[:, 0, 1])
    for maps in (shared, alone):
        torch.testing.assert_close(maps.peaks, maps.of(every).amax(dim=(1, 2)))


@pytest.mark.parametrize(("pack", "usual"), [("embedded", "alone"), ("paper", "shared"), ("", "shared")])
def test_what_a_background_patch_leaves_the_others_is_the_packs_choice(pack: str, usual: str) -> None:
    photo = networks.photo(*SIZES[0])

    def label(**settings: Any) -> np.ndarray:
        labeler, _ = build("dinoiser", 16, pack=pack, **windows({"delta": 0.9, **settings}))
        labeler.prepare(vocabulary(background=True))
        return labeler.label([photo])[0].label_map

    chosen = {name: label(background_patch=name) for name in ("shared", "alone")}
    assert (chosen["shared"] != chosen["alone"]).any()
    np.testing.assert_array_equal(label(), chosen[usual])


def test_a_patch_exactly_as_sure_as_delta_is_no_background(winners: list[Winners]) -> None:
    """The rule is "below delta". One window whose patches have one probability, which is then given as delta."""
    photo = np.full((SHORT, SHORT, 3), 128, np.uint8)
    words = vocabulary(background=True)

    def label(**settings: Any) -> Winners:
        labeler, clip = build("dinoiser", 16, **windows(settings))
        clip.visual.positional_embedding.zero_()  # patches of a plain photo then are all the same
        torch.nn.init.constant_(labeler._heads.bkg_decoder.bias, -1e4)  # no object anywhere
        labeler.prepare(words)
        labeler.label([photo])
        return winners[-1]

    surest = float(label(objectness="none").confidence.max())
    assert 0 < surest < 1
    assert (label(delta=surest).best != 0).all()
    assert (label(delta=np.nextafter(np.float32(surest), np.float32(1)).item()).best == 0).all()


def test_similarities_of_exactly_gamma_pool() -> None:
    """ "Below gamma set to 0": the cosine of 3:4 and 1:0 is 0.6."""
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]]).T[None, :, None]
    similarity = affinity(features, 0.0)[0]
    assert similarity[0, 1] == pytest.approx(0.6)
    exactly, above = float(similarity[0, 1]), float(np.nextafter(np.float32(similarity[0, 1]), np.float32(1)))
    assert affinity(features, exactly)[0, 0, 1] == similarity[0, 1]
    assert affinity(features, above)[0, 0, 1] == 0


def test_reduced_precision_stays_inside_the_networks() -> None:
    """bf16 has eight bits: 100 x cosine would be off by whole units, were it not computed in float32."""
    labeler, clip = build("dinoiser", 16, **windows())
    labeler.prepare(vocabulary(background=True))
    photo = networks.photo(*SIZES[0])
    exact = labeler.label([photo])[0]
    clip.precision = "bf16"
    rough = labeler.label([photo])[0]
    dense_features = clip.dense(torch.rand(1, 3, 64, 64))
    assert {dense_features.maskclip.dtype, dense_features.intermediate.dtype, dense_features.keys.dtype} == {
        torch.float32
    }
    assert rough.scores != exact.scores
    assert (rough.class_map() == exact.class_map()).mean() > 0.9
