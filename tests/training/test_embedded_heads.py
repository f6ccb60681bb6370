"""The embedded pack's heads: what its cache teaches is what its networks say of the photos themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference import networks
from torch import Tensor, nn

from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.models.mini_clip import IMAGE_MEAN, IMAGE_STD, MiniTower, StemFeatures
from annotator.models.mini_dino import WIDTH, MiniDino
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.weights import read_state
from annotator.training import heads
from annotator.training.embedded import heads as embedded
from annotator.training.embedded.dino_views import Views

Parts = tuple[MiniTower, MiniDino, nn.Conv2d]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """The pack's architectures with random weights on the real stem."""
    sources = read_pack("embedded").role("dino", labeler="").files["dino.stem"]
    stem = read_state(locate("dino.stem", sources).path, "plain")
    torch.manual_seed(0)
    tower, vit, decoder = MiniTower(), MiniDino(2), nn.Conv2d(WIDTH, 1, kernel_size=1)
    nn.init.normal_(tower.conv1.names, std=0.05)
    nn.init.normal_(vit.cls_token)
    nn.init.normal_(vit.pos_embed, std=0.1)
    nn.init.zeros_(decoder.bias)
    for module in (tower.conv1.stem, vit.patch_embed.proj.stem):
        module.load(stem)
    return tower.eval(), vit.eval(), decoder


@pytest.fixture(scope="module")
def images() -> Tensor:
    photos = [torch.from_numpy(networks.photo(96, 96, seed)) for seed in range(5)]
    return torch.stack(photos).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def cache(parts: Parts, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stem features of the photos; the last one has labels."""
    folder = tmp_path_factory.mktemp("cache")
    with torch.inference_mode():
        features = parts[0].conv1.stem((images - 0.5) / 0.5)
    shard = {name: maps.half() for name, maps in zip(StemFeatures._fields, features, strict=True)}
    labels = torch.full((5, 24, 24), 255, dtype=torch.uint8)
    labels[4] = 1
    torch.save({**shard, "labels": labels}, folder / "000.pt")
    return folder


def test_the_cache_teaches_what_the_networks_say(parts: Parts, images: Tensor, cache: Path) -> None:
    tower, vit, decoder = parts
    kept = embedded.taught_views(tower, vit, decoder, Views(cache, stride8=True), 10)
    dino = Dino(vit, IMAGE_MEAN, IMAGE_STD)
    clip = DenseClip(tower, nn.Identity(), IMAGE_MEAN, IMAGE_STD)
    live = heads.teach(images[:4], clip, dino, Found(dino, decoder))
    assert kept.intermediate.shape == live.intermediate.shape
    torch.testing.assert_close(kept.intermediate.float(), live.intermediate, rtol=0, atol=3e-2)
    torch.testing.assert_close(kept.alike.float(), live.alike, rtol=0, atol=5e-3)
    assert 0.1 < live.objects.float().mean() < 0.9
    assert (kept.objects == live.objects).float().mean() > 0.97  # features were rounded to float16


@pytest.mark.slow
def test_heads_learn_from_the_cache(parts: Parts, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "HEADS", replace(embedded.HEADS, steps=80, batch=4, decay_from=80))
    tower, vit, decoder = parts
    fitted = embedded.fit_heads(tower, vit, decoder, cache)
    kept = embedded.taught_views(tower, vit, decoder, Views(cache, stride8=True), 4)
    objects = fitted.objectness(kept.intermediate.float()) > 0.5
    assert (objects == kept.objects).float().mean() > 0.8
    again = embedded.fit_heads(tower, vit, decoder, cache)
    assert torch.equal(fitted.obj_proj.weight, again.obj_proj.weight)


def test_found_learns_from_photos(
    parts: Parts, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    for index, image in enumerate(images):
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    crops = replace(embedded.FOUND.crops, side=96)
    monkeypatch.setattr(embedded, "FOUND", replace(embedded.FOUND, crops=crops, steps=5, seed_steps=5, batch=4))
    files = sorted(tmp_path.glob("*.png"))
    decoder = embedded.fit_found(parts[1], files, crops=6)
    assert decoder.weight.shape == (1, WIDTH, 1, 1)
    assert torch.equal(decoder.weight, embedded.fit_found(parts[1], files, crops=6).weight)
