"""mini-dino's self-distillation: its parts by hand, and a training on drawn features that learns and reproduces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from annotator.models.dino import Dino
from annotator.models.mini_clip import STEM_CHANNELS, StemFeatures
from annotator.models.mini_dino import WIDTH
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.weights import read_state
from annotator.training.embedded.dino import DinoRecipe, Distillation, train_dino
from annotator.training.embedded.dino_views import (
    Views,
    disturb,
    draw_holes,
    draw_windows,
    fit_components,
    shared_tokens,
    sinkhorn,
)
from annotator.training.loop import random_of

RECIPE = DinoRecipe(steps=15, views=4, window=6, depth=2, prototypes=16, warm_up=2)


@pytest.fixture(scope="module")
def stem_state() -> dict[str, Tensor]:
    """EfficientNet-Lite2's weights, from the package."""
    sources = read_pack("embedded").role("dino", labeler="").files["dino.stem"]
    return read_state(locate("dino.stem", sources).path, "plain")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten views of 10 x 10 tokens: an object (half of the channels on) in a ground (the others on). Two carry labels,
    and one shard holds smaller views."""
    folder = tmp_path_factory.mktemp("cache")
    random = torch.Generator().manual_seed(0)
    for name, tokens, count in (("000", 10, 5), ("001", 6, 3), ("002", 10, 5)):
        inside = torch.zeros(count, 1, tokens, tokens)
        for row in range(count):
            y, x = torch.randint(0, tokens // 2, (2,), generator=random).tolist()
            inside[row, :, y : y + tokens // 2, x : x + tokens // 2] = 1

        def maps(channels: int, shown: Tensor) -> Tensor:
            of_object = (torch.arange(channels) % 2).view(1, -1, 1, 1)
            noise = 0.1 * torch.rand(len(shown), channels, *shown.shape[-2:], generator=random)
            return (of_object * shown + (1 - of_object) * (1 - shown) + noise).half()

        labels = torch.full((count, tokens * 4, tokens * 4), 255, dtype=torch.uint8)
        labels[0, 0, 0] = 3
        coarse = torch.nn.functional.avg_pool2d(inside, 2)
        shard = {"stride16": maps(STEM_CHANNELS[1], inside), "stride32": maps(STEM_CHANNELS[2], coarse)}
        torch.save({**shard, "labels": labels}, folder / f"{name}.pt")
    return folder


def test_views_with_labels_and_small_ones_are_left_out(cache: Path) -> None:
    views = Views(cache)
    assert (len(views), views.tokens) == (8, 10)
    first = torch.load(cache / "000.pt", weights_only=True)
    assert torch.equal(views.read([0]).stride16[0], first["stride16"][1].float())
    assert [view.stride32.shape for view in views.spread(3)] == [(1, 1280, 5, 5)] * 3


def test_windows_are_cut_where_they_say(cache: Path) -> None:
    views = Views(cache)
    windows = draw_windows(views, 3, 6, random_of(0, 1))
    chosen = torch.randint(len(views), (3,), generator=random_of(0, 1)).tolist()
    whole = views.read(chosen)
    for half, (row, column) in enumerate(windows.corners):
        part = slice(3 * half, 3 * half + 3)
        assert row % 2 == column % 2 == 0
        fine = whole.stride16[:, :, row : row + 6, column : column + 6]
        coarse = whole.stride32[:, :, row // 2 : row // 2 + 3, column // 2 : column // 2 + 3]
        assert torch.equal(windows.features.stride16[part], fine)
        assert torch.equal(windows.features.stride32[part], coarse)


def test_shared_tokens_by_hand() -> None:
    """3 x 3 windows at (0, 0) and (2, 1): they share the first one's last row but for its first token."""
    first, second = shared_tokens(((0, 0), (2, 1)), 3)
    assert first.tolist() == [7, 8]
    assert second.tolist() == [0, 1]
    assert all(part.tolist() == list(range(9)) for part in shared_tokens(((2, 4), (2, 4)), 3))


def test_sinkhorn_balances() -> None:
    """Against loops over rows and columns; run for long, every prototype gets its even share."""
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, 0, 0])
    expected = np.exp(logits.double().numpy())
    for _ in range(3):
        for column in range(4):
            expected[:, column] /= sum(expected[:, column])
        for row in range(12):
            expected[row] /= sum(expected[row])
    np.testing.assert_allclose(sinkhorn(logits, 3), expected, rtol=1e-4)
    torch.testing.assert_close(sinkhorn(logits, 200).sum(dim=0), torch.full((4,), 3.0))


def test_holes_are_rectangles_in_a_share_of_the_windows() -> None:
    holes = draw_holes(400, 8, 0.5, random_of(0, 0)).view(400, 8, 8)
    holed = holes.flatten(1).any(dim=1)
    assert 0.4 < holed.float().mean() < 0.6
    assert holes[holed].flatten(1).sum(dim=1).min() >= 4  # 2 x 2
    assert holes.flatten(1).sum(dim=1).max() <= 64
    assert not draw_holes(20, 8, 0.0, random_of(0, 0)).any()


def test_disturbing_scales_whole_channels() -> None:
    features = StemFeatures(torch.empty(0), torch.ones(2, 5, 3, 3), torch.ones(2, 400, 2, 2))
    found = disturb(features, 0.3, 0.25, random_of(0, 0))
    assert torch.equal(found.stride16, found.stride16[:, :, :1, :1].expand(-1, -1, 3, 3))
    assert (found.stride32 == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    assert found.stride32[found.stride32 > 0].log().std() == pytest.approx(0.3, abs=0.05)


def test_components_are_those_of_scikit_learn() -> None:
    """On features whose channels share a few causes of different strength."""
    from sklearn.decomposition import PCA

    random = torch.Generator().manual_seed(0)

    def maps(channels: int, side: int) -> Tensor:
        causes = torch.randn(2, 6, side, side, generator=random) * torch.tensor([9.0, 6, 4, 3, 2, 1]).view(1, -1, 1, 1)
        noise = 0.1 * torch.randn(2, channels, side, side, generator=random)
        return torch.einsum("bkhw,ck->bchw", causes, torch.randn(channels, 6, generator=random)) + noise

    view = StemFeatures(torch.empty(0), maps(STEM_CHANNELS[1], 20), maps(STEM_CHANNELS[2], 10))
    rows = view.stride16.permute(0, 2, 3, 1).flatten(0, 2)
    standard = (rows - rows.mean(dim=0)) / rows.std(dim=0)
    expected = PCA(64, svd_solver="full").fit_transform(standard.double().numpy())
    for whitening in (0.0, 1.0):
        components = fit_components([view], whitening)
        found = components.stride16(rows[:, :, None, None])[:, :, 0, 0].detach().numpy()
        gained = expected * expected.std(axis=0) ** -whitening
        gained /= np.sqrt((gained**2).mean())
        found *= np.sign((found * gained).sum(axis=0))
        np.testing.assert_allclose(found[:, :6], gained[:, :6], atol=2e-2)


def test_a_student_learns_a_batch(cache: Path) -> None:
    """The same windows, noise and holes again and again."""
    torch.manual_seed(0)
    model = Distillation(fit_components(list(Views(cache).spread(4)), 0.0), RECIPE)
    optimiser = torch.optim.AdamW(model.student.parameters(), lr=1e-3)
    windows = draw_windows(Views(cache), 3, 6, random_of(0, 0))
    losses = []
    for step in range(15):
        loss = model.loss(windows, random_of(0, 1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.follow(step / 15)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_training_reproduces_and_resumes(cache: Path, stem_state: dict[str, Tensor], tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=2)
    whole = train_dino(cache, stem_state, recipe)
    assert train_dino(cache, stem_state, recipe, checkpoint=tmp_path / "dino.ckpt", minutes=0) is None
    again = train_dino(cache, stem_state, recipe, checkpoint=tmp_path / "dino.ckpt")
    assert whole is not None
    assert again is not None
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert Dino(whole).last_attention(images).keys.shape == (1, 4, 16, WIDTH // 4)


def test_values_end_with_mean_zero(cache: Path, stem_state: dict[str, Tensor]) -> None:
    """Seen through the finished network's own blocks, on cached features."""
    vit = train_dino(cache, stem_state, replace(RECIPE, steps=1))
    assert vit is not None
    means = []
    for view in Views(cache).spread(8):
        patches = vit.patch_embed.proj.mix(view).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token, patches], dim=1)
        positions = vit.pos_embed[0, 1:].T.view(1, WIDTH, 14, 14)
        positions = torch.nn.functional.interpolate(positions, size=(10, 10), mode="bicubic").flatten(2)[0].T
        x = vit.blocks[0](x + torch.cat([vit.pos_embed[0, :1], positions]))
        means.append(vit.blocks[1].attn.qkv(vit.blocks[1].norm1(x))[0, 1:].mean(dim=0))
    _, keys, values = torch.stack(means).mean(dim=0).chunk(3)
    assert keys.abs().max() > 0.01
    torch.testing.assert_close(values, torch.zeros(WIDTH), rtol=0, atol=1e-4)


def test_the_teacher_follows_the_student(cache: Path) -> None:
    """By 1 - momentum of the way in the beginning, not at all in the end."""
    torch.manual_seed(0)
    model = Distillation(fit_components(list(Views(cache).spread(2)), 0.0), RECIPE)
    before = model.teacher.hole.clone()
    torch.nn.init.ones_(model.student.hole)
    model.follow(0.0)
    torch.testing.assert_close(model.teacher.hole, before + (1 - before) * (1 - RECIPE.momentum))
    there = model.teacher.hole.clone()
    model.follow(1.0)
    assert torch.equal(model.teacher.hole, there)
