"""The embedded pack's tower: what is trained is what is run; drawn data in, a better and resumable tower out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_embedded_data import write_data
from torch import Tensor
from torch.nn import functional as F

from annotator.models.clip import DenseClip
from annotator.models.masked_clip import SegmentOptions, embed_segments
from annotator.models.mini_clip import IMAGE_MEAN, IMAGE_STD, JOINT, MiniTower, Stem, StemFeatures
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.weights import read_state
from annotator.training.embedded import names, photos
from annotator.training.embedded.bank import Bank
from annotator.training.embedded.cache import looks
from annotator.training.embedded.clip import Recipe, train_clip
from annotator.training.embedded.tower import class_token, dense, start, trunk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stem_state() -> dict[str, Tensor]:
    """EfficientNet-Lite2's weights, from the package."""
    sources = read_pack("embedded").role("clip", labeler="").files["clip.stem"]
    return read_state(locate("clip.stem", sources).path, "plain")


@pytest.fixture(scope="module")
def bank_state() -> dict[str, Any]:
    """As `text.build` writes it, with random directions for names."""
    general, weak = names.general(), ["cat", "motorcycle", "pagoda"]
    words = ["background", *names.VOC, *general, *(f"leaf {i}" for i in range(1000)), *weak]
    position = {word: index for index, word in enumerate(words)}
    embeddings = F.normalize(torch.randn(4, len(words), JOINT, generator=torch.Generator().manual_seed(0)), dim=-1)
    return {
        "leaf": [position[f"leaf {i}"] for i in range(1000)],
        "gen": general,
        "gen_ids": [[position[name]] for name in general],
        "weak": weak,
        "weak_ids": [position[name] for name in weak],
        "bg": [0],
        "voc": [position[name] for name in names.VOC],
        "E": embeddings.half(),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(
    data: Path, stem_state: dict[str, Tensor], bank_state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("features")
    unlabelled, labelled = photos.gather(data)
    stem = Stem().load(stem_state)
    cells = photos.StuffClusters(photos.STUFF_CELLS_FILE, bank_state["gen"])
    for number, shard in enumerate(photos.plan(unlabelled, labelled[:3])):
        views = list(photos.views(shard, unlabelled, labelled))
        photos.store(views, stem, cells, bank_state["weak"], folder / f"{number:03d}.pt")
    return folder


def test_nothing_measured_on_is_gathered(data: Path) -> None:
    unlabelled, labelled = photos.gather(data)
    assert {p.path.name for p in unlabelled} == {"a.jpg", "b.jpg", *(f"mixed_{i}.jpg" for i in range(4))}
    assert {p.path.name: p.weak for p in unlabelled if p.weak} == {
        "mixed_0.jpg": "cat",
        "mixed_1.jpg": "pagoda",
        "mixed_3.jpg": "motorcycle",
    }
    assert len(labelled) == 8
    assert sum(p.voc for p in labelled) == 4


def test_masks_become_coco_classes(data: Path) -> None:
    """COCO polygons and VOC indices of the same drawn kinds of object; VOC's borders are unknown."""
    _, labelled = photos.gather(data)
    cat, car = names.COCO.index("cat") + 1, names.COCO.index("car") + 1
    for photo, wanted in zip(labelled, [cat, car] * 4, strict=True):
        labels, instances = photos.masks_of(photo, (96, 72))
        assert set(np.unique(labels)) == ({0, wanted, 255} if photo.voc else {0, wanted})
        assert 1600 <= (labels == wanted).sum() <= 41 * 41
        assert ((instances > 0) == (labels == wanted)).all()


def test_views_are_the_same_again_and_show_their_masks(data: Path) -> None:
    unlabelled, labelled = photos.gather(data)
    shards = photos.plan(unlabelled, labelled)
    assert sum(len(shard.photos) for shard in shards) == 6 + 6 + 2 + 8 * (16 + 8 + 12)
    shard = shards[0]
    first, again = (list(photos.views(shard, unlabelled, labelled)) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert one.image.shape == (shard.kind.side, shard.kind.side, 3)
        assert (one.image == two.image).all()
        assert (one.labels == two.labels).all()
    cat = names.COCO.index("cat") + 1
    reds = [view.image[view.labels == cat].mean(axis=0) for view in first if (view.labels == cat).sum() > 2000]
    assert len(reds) > 3
    assert all(red[0] > red[2] + 20 for red in reds), "where the mask says cat, the drawn red cat is seen"


def test_training_sees_what_inference_computes(stem_state: dict[str, Tensor]) -> None:
    """Dense tokens, what the heads read, class token, class token under a mask."""
    torch.manual_seed(0)
    tower = MiniTower()
    start(tower, F.normalize(torch.randn(1000, JOINT), dim=1))
    tower.conv1.stem.load(stem_state)
    clip = DenseClip(tower, torch.nn.Identity(), IMAGE_MEAN, IMAGE_STD)
    image = torch.rand(1, 3, 224, 224)
    stem = tower.conv1.stem
    features = StemFeatures(*(t.float() for t in stem(clip.normalise(image))))
    with torch.no_grad():
        x, intermediate = trunk(tower, tower.conv1.mix(features, stem.classify(features.stride32)))
        mask = (torch.arange(196) % 14 < 6).float()[None]
        plain, less = class_token(tower, x, mask)
        expected = clip.dense(image)
        torch.testing.assert_close(dense(tower, x).mT.unflatten(2, (14, 14)), F.normalize(expected.maskclip, dim=1))
        torch.testing.assert_close(intermediate.mT.unflatten(2, (14, 14)), expected.intermediate)
        torch.testing.assert_close(class_token(tower, x)[0], F.normalize(clip.embed(image), dim=1))
        for ours, baseline in ((plain, "no-subtraction"), (less, "full")):
            theirs = embed_segments(clip, image[0], mask.view(1, 14, 14), SegmentOptions(baseline=baseline))
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_a_view_looked_at_twice_enters_the_tower_as_in_use(
    cache: Path, data: Path, stem_state: dict[str, Tensor]
) -> None:
    unlabelled, labelled = photos.gather(data)
    shards = photos.plan(unlabelled, labelled[:3])
    number = next(index for index, shard in enumerate(shards) if shard.kind.side == 448)
    view = next(photos.views(shards[number], unlabelled, labelled))
    stored = torch.load(cache / f"{number:03d}.pt", weights_only=True)
    torch.manual_seed(0)
    tower = MiniTower()
    start(tower, F.normalize(torch.randn(1000, JOINT), dim=1))
    tower.conv1.stem.load(stem_state)
    with torch.no_grad():
        in_use = tower.conv1(torch.tensor(view.image).permute(2, 0, 1)[None] / 127.5 - 1)
        both, once = (tower.conv1.tokens(looks(stored, slice(1))[:count])[0] for count in (2, 1))
    alike, other = (F.cosine_similarity(tokens, in_use, dim=1).mean() for tokens in (both, once))
    assert alike > 0.99, "but for bfloat16"
    assert other < 0.95


def test_training_lowers_the_losses_and_resumes_exactly(
    cache: Path, bank_state: dict[str, Any], stem_state: dict[str, Tensor], tmp_path: Path
) -> None:
    seen: list[dict[str, float]] = []

    def train(name: str, recipe: Recipe) -> MiniTower:
        seen.clear()
        file = tmp_path / f"{name}.pt"
        return train_clip(
            cache, Bank(bank_state), stem_state, recipe, file, lambda share, losses: seen.append(dict(losses)), "cpu"
        )

    recipe = Recipe(steps=12, unlabelled=2, labelled=2, warm_up=1, self_from=0.5)
    whole = train("whole", recipe)
    assert seen[-1]["pixels"] < seen[0]["pixels"]

    stopped = tmp_path / "resumed.pt"
    state = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert state["step"] == 12

    class Stop(Exception):
        pass

    def stop_half_way(share: float, losses: dict[str, float]) -> None:
        if share >= 0.5:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotator.training.embedded.clip.SAVED_EVERY", 1)
        with pytest.raises(Stop):
            train_clip(cache, Bank(bank_state), stem_state, replace(recipe), stopped, stop_half_way, "cpu")
    assert torch.load(stopped, weights_only=True)["step"] == 5, "the report comes before the sixth step is saved"
    resumed = train("resumed", recipe)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
