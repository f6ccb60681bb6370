"""The example's network, crops and loss, each against something that is not it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from annotator.errors import ConfigError, ImageError
from annotator.training.loop import random_of

CLASSES = ("ground", "ball", "box")


def test_the_head_is_torchvisions() -> None:
    from segmenter.model import LiteHead
    from torchvision.models.segmentation.lraspp import LRASPPHead

    torch.manual_seed(0)
    head = LiteHead(24, 40, 5).double().eval()
    theirs = LRASPPHead(24, 40, 5, inter_channels=128).double().eval()
    norm = head.features[1]
    for tensor in (norm.weight, norm.bias, norm.running_mean, *head.of_low[0].buffers()):
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    names = {"features": "cbr", "gate.0": "scale.1", "of_low.1": "low_classifier", "of_high": "high_classifier"}
    state = {}
    for name, tensor in head.state_dict().items():
        if ours := next((prefix for prefix in names if name.startswith(prefix)), None):
            state[name.replace(ours, names[ours])] = tensor
    theirs.load_state_dict(state)
    low, high = torch.randn(2, 24, 12, 20).double(), torch.randn(2, 40, 3, 5).double()
    seen, size = head.of_low[0], (1, 24, 1, 1)
    normed = (low - seen.running_mean.view(size)) / (seen.running_var.view(size) + 1e-5).sqrt()
    torch.testing.assert_close(head(low, high), theirs({"low": normed, "high": high}))


def test_the_backbone_has_the_packaged_weights() -> None:
    """Its features are those of the embedded pack's stem, which reads the same file."""
    from segmenter.model import Kind, new_model

    from annotator.models.mini_clip import Stem
    from annotator.models.packs import read_pack
    from annotator.models.sources import locate
    from annotator.models.weights import read_state

    model = new_model(Kind(CLASSES)).train()  # in training, too, the norms keep ImageNet's statistics
    model.head.eval()
    file = locate("clip.stem", read_pack("embedded").role("clip", "").files["clip.stem"])
    stem = Stem().load(read_state(file.path, file.source.format))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        stride8, stride32 = (model.backbone((image - 0.5) / 0.5)[level] for level in (2, 4))
        expected = stem((image - 0.5) / 0.5)
        torch.testing.assert_close(model(image), model.head(stride8, stride32))
    torch.testing.assert_close(stride8, expected.stride8)
    assert stride32.shape == (1, 352, *expected.stride32.shape[-2:])


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050"])
def test_other_backbones_fit(backbone: str, tmp_path: Path) -> None:
    """Saved and loaded, the same logits, at an eighth of a photo of odd sides."""
    from segmenter.model import Kind, Segmenter, load_model, save_model

    torch.manual_seed(0)
    model = Segmenter(Kind(CLASSES, backbone, short_side=64)).eval()
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    image = torch.rand(2, 3, 65, 90)
    logits = model(image)
    assert logits.shape == (2, 3, 9, 12)
    assert torch.equal(loaded(image), logits)
    assert loaded.kind == model.kind


def test_a_backbone_without_these_strides_is_refused() -> None:
    from segmenter.model import Kind, Segmenter

    with pytest.raises(ConfigError, match="expected features at strides 8 and 32, but found"):
        Segmenter(Kind(CLASSES, "vit_tiny_patch16_224"))


def test_winners_are_the_largest_upsampled_probabilities() -> None:
    """A photo of the working size and a multiple of 8, where padding plays no part."""
    from segmenter.model import Kind, Segmenter

    torch.manual_seed(1)
    model = Segmenter(Kind(CLASSES, "resnet18", short_side=64)).eval()
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (found,) = model.winners([photo], [(64, 96)])
    with torch.no_grad():
        grid = model(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255).softmax(dim=1)
    full = F.interpolate(grid, size=(64, 96), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.from_numpy(found.confidence), full.amax(dim=0))
    assert np.array_equal(found.best, full.argmax(dim=0).numpy())


def test_the_loss_is_the_mean_over_labelled_pixels() -> None:
    from segmenter.train import pixel_loss

    torch.manual_seed(2)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(-1, 3, (2, 4, 5))
    losses = [
        -math.log(math.exp(logits[b, k, y, x]) / sum(math.exp(other) for other in logits[b, :, y, x]))
        for b, y, x in np.ndindex(2, 4, 5)
        if (k := int(labels[b, y, x])) >= 0
    ]
    assert 0 < len(losses) < 40
    assert pixel_loss(logits, labels).item() == pytest.approx(np.mean(losses))
    assert pixel_loss(logits, torch.full_like(labels, -1)).item() == 0


def test_crops_are_scaled_mirrored_and_aligned(tmp_path: Path) -> None:
    """Red grows by 2 a pixel to the right, and the label is the column: both say what a crop was cut from."""
    from segmenter.data import NO_LABEL, Pair, draw

    rows, columns = np.indices((100, 120))
    photo = np.stack([2 * columns, 2 * rows, 0 * rows], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(columns.astype(np.uint8)).save(tmp_path / "mask.png")
    pair = Pair(tmp_path / "photo.png", tmp_path / "mask.png")
    photos, labels = draw([pair], 60, 80, 100, random_of(0, 0))
    assert photos.shape == (60, 3, 80, 80)
    assert torch.equal(draw([pair], 60, 80, 100, random_of(0, 0))[0], photos)
    assert not torch.equal(draw([pair], 60, 80, 100, random_of(0, 1))[0], photos)

    factors, mirrored, partial = [], 0, 0
    for image, truth in zip(photos * 255, labels, strict=True):
        shown = truth != NO_LABEL
        assert (image[:, ~shown] == 0).all()
        assert (image[0][shown] / 2 - truth[shown]).abs().max() <= 1.5
        row = image[0, 20:21].flatten()[shown[20]].double()
        slope = ((row[-5] - row[4]) / (len(row) - 9) / 2).item()  # columns of the photo per column of the crop
        factors.append(1 / abs(slope))
        mirrored += slope < 0
        partial += not bool(shown.all())
    assert min(factors) == pytest.approx(0.5, abs=0.1)
    assert max(factors) == pytest.approx(2, abs=0.25)
    assert 18 < mirrored < 42
    assert 5 < partial < 40  # photos scaled below the crop's side


def test_pairs_are_read_whole_or_refused(tmp_path: Path) -> None:
    from segmenter.data import Pair

    values = np.array([[0, 255, 300], [65535, 1, 2]], np.uint16)
    Image.fromarray(values).save(tmp_path / "mask.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "photo.png")
    assert Pair(tmp_path / "photo.png", tmp_path / "mask.png").read()[1].tolist() == [[0, 255, 300], [-1, 1, 2]]

    Image.new("RGB", (2, 2)).save(tmp_path / "photo.png")
    with pytest.raises(ConfigError, match="expected the size"):
        Pair(tmp_path / "photo.png", tmp_path / "mask.png").read()

    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"photo\.png: .*; remove it and its mask"):
        Pair(tmp_path / "photo.png", tmp_path / "mask.png").read()
