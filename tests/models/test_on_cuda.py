"""On a real GPU, which most machines that run the tests have not: fp32 is fp32, bf16 runs, a photo's mask is its own
whatever its batch, compiled networks say the same, and the commands work from end to end.

Random networks: CLIP of ViT-B/16's size, for kernels as they are in earnest, and a small pack for the commands.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from reference import networks as small
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

import annotator
from annotator import annotate
from annotator.errors import ConfigError
from annotator.models.backbone import Precision
from annotator.models.clip import DenseClip
from annotator.models.devices import has_bf16, require_compiler
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.models.fp32 import exact_fp32
from annotator.models.heads import load_heads
from annotator.models.networks import Networks
from annotator.prediction import Prediction
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary
from labelers import base

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    pytest.mark.slow,
]
MEAN = STD = (0.5, 0.5, 0.5)
CLASSES = ["background", "dog", "bus", "street", "tree"]
VOCABULARY = Vocabulary.of(CLASSES)
SIZES = [(300, 400), (400, 300), (320, 320), (200, 900), (333, 517)]
LABELERS: dict[str, dict[str, Any]] = {
    "maskclip": {},
    "dinoiser": {},
    "diy": {},
    "zeroguide": {"captioner": "none", "patches": 10, "segments": 8},
}
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TINY_DINO = "vit_tiny_patch16_224"


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """No parameter left as it was made; sizes of activations stay about the same from layer to layer."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = float(name.endswith("weight") and ("norm" in name or "ln_" in name))
            spread = 0.1 if parameter.ndim < 2 else 1.2 / parameter[0].numel() ** 0.5
            parameter.copy_(gain + spread * torch.randn(parameter.shape, generator=random))
    return module.eval().requires_grad_(False)


class WordVectors(nn.Module):
    """Prompts -> vectors, the same for the same prompt; nothing a device could change."""

    def forward(self, prompts: list[str]) -> Tensor:
        draws = [np.random.default_rng(list(prompt.encode())).normal(size=512) for prompt in prompts]
        return torch.tensor(np.stack(draws)).float()


@pytest.fixture(scope="module")
def parts() -> dict[str, nn.Module]:
    """On the CPU: CLIP as large as ViT-B/16, DINO and FOUND as ViT-S/16, heads."""
    from open_clip.transformer import VisionTransformer as ClipVit
    from timm.models.vision_transformer import VisionTransformer as DinoVit

    visual = ClipVit(image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_ratio=4.0, output_dim=512)
    dinos = [Dino(randomised(DinoVit(patch_size=16, embed_dim=384, depth=12, num_heads=6, num_classes=0), seed))
             for seed in (2, 3)]  # fmt: skip
    heads = {"obj_proj.weight": (256, 768, 3, 3), "obj_proj.bias": (256,)}
    heads |= {"bkg_decoder.weight": (1, 768, 1, 1), "bkg_decoder.bias": (1,)}
    random = torch.Generator().manual_seed(4)
    return {
        "clip": DenseClip(randomised(visual, 1), WordVectors(), MEAN, STD),
        "dino": dinos[0],
        "found": Found(dinos[1], randomised(nn.Conv2d(384, 1, 1), 5)),  # type: ignore[arg-type]
        "heads": load_heads({name: 0.02 * torch.randn(shape, generator=random) for name, shape in heads.items()}),
    }


Open = Callable[..., Networks]


@pytest.fixture
def opened(parts: dict[str, nn.Module]) -> Open:
    """Device and precision -> copies of the networks there."""

    def networks(device: str = DEVICE, precision: Precision = "fp32") -> Networks:
        return Networks.of(device=device, precision=precision, **copy.deepcopy(parts))

    return networks


def photos() -> list[np.ndarray]:
    return [small.photo(*size, seed=number) for number, size in enumerate(SIZES)]


def label(networks: Networks, name: str, images: list[np.ndarray]) -> list[Prediction]:
    labeler = base.build(name, networks, LABELERS[name])
    labeler.prepare(VOCABULARY if labeler.spec.needs_vocabulary else None)
    return labeler.label(images)


def features(networks: Networks, images: Tensor) -> dict[str, Tensor]:
    """What the networks make of images that are on the CPU, there again."""
    images = images.to(networks.device)
    dense, attention = networks.clip.dense(images), networks.dino.last_attention(images)
    found = {**vars(dense), "values": attention.values, "class_attention": attention.class_attention}
    found["embedding"] = networks.clip.embed(images[:, :, :224, :224])
    found["affinity"] = networks.heads.affinity_features(dense.intermediate)
    found["theta"] = networks.found.objectness(images)
    return {name: tensor.float().cpu() for name, tensor in found.items()}


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference, in the largest value."""
    return {name: float((one[name] - other[name]).abs().max() / other[name].abs().max()) for name in other}


IMAGES = torch.rand(2, 3, 448, 448, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def on_the_cpu(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    given = Networks.of(**copy.deepcopy(parts))
    with given.inference():
        return features(given, IMAGES)


def test_fp32_is_the_cpus(opened: Open, on_the_cpu: dict[str, Tensor]) -> None:
    given = opened()
    with given.inference():
        found = furthest(features(given, IMAGES), on_the_cpu)
    assert max(found.values()) < 1e-4, found


def test_torchs_own_settings_would_round(opened: Open, on_the_cpu: dict[str, Tensor]) -> None:
    """Else the test above would say nothing: a 3 x 3 convolution is rounded by default. They are put back after use."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    given = opened()
    with given.inference():
        given.clip.dense(IMAGES.to(DEVICE))
    with torch.inference_mode():
        found = furthest(features(given, IMAGES), on_the_cpu)
    assert found["affinity"] > 1e-4, found


def test_what_a_user_set_for_matrix_products_does_not_reach_labels(opened: Open, on_the_cpu: dict[str, Tensor]) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    given, before = opened(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with given.inference():
            exact = furthest(features(given, IMAGES), on_the_cpu)
        assert torch.get_float32_matmul_precision() == "high"
        with torch.inference_mode():
            rounded = furthest(features(given, IMAGES), on_the_cpu)
    finally:
        torch.set_float32_matmul_precision(before)
    assert max(exact.values()) < 1e-4, exact
    assert rounded["maskclip"] > 1e-4, rounded


def test_settings_are_changed_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with exact_fp32():
            torch.nn.functional.conv2d(torch.rand(1, 3, 9, 9, device=DEVICE), torch.rand(4, 3, 3, 3, device=DEVICE))


def test_labels_in_fp32_are_the_cpus(opened: Open) -> None:
    """But for pixels where two classes are equal to within rounding."""
    for name in ("maskclip", "dinoiser", "diy"):
        expected, found = (label(opened(device), name, photos()[:2]) for device in ("cpu", DEVICE))
        for one, other in zip(found, expected, strict=True):
            assert one.class_ids == other.class_ids, name
            assert (one.label_map != other.label_map).mean() < 1e-3, name
            np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-4, err_msg=name)


def test_bf16_is_bf16_in_the_blocks_alone(opened: Open, on_the_cpu: dict[str, Tensor]) -> None:
    if not has_bf16(DEVICE):
        pytest.skip("this GPU has no bf16")
    given, inside = opened(precision="bf16"), []
    given.clip.visual.transformer.resblocks[0].mlp.register_forward_hook(
        lambda module, inputs, output: inside.append(output.dtype)
    )
    with given.inference():
        found = features(given, IMAGES)
    assert set(inside) == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in found.values())
    distance = furthest(found, on_the_cpu)
    assert 1e-4 < distance["maskclip"] < 0.3, distance


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", LABELERS)
def test_a_photos_bytes_are_its_own(opened: Open, name: str, precision: Precision) -> None:
    """Alone, first, last and among others."""
    if precision == "bf16" and not has_bf16(DEVICE):
        pytest.skip("this GPU has no bf16")
    given, images = opened(precision=precision), photos()
    alone = [label(given, name, [image])[0] for image in images]
    for together in (label(given, name, images), label(given, name, images[::-1])[::-1]):
        for one, other in zip(together, alone, strict=True):
            assert one.label_map.tobytes() == other.label_map.tobytes()
            assert (one.labels, one.scores) == (other.labels, other.scores)


@pytest.fixture
def compiler() -> Iterator[None]:
    try:
        require_compiler(DEVICE)
    except ConfigError as error:
        pytest.skip(str(error))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(("name", "graphs"), [("dinoiser", 1), ("zeroguide", 1)])
def test_compiled_networks_say_the_same_of_all_shapes(opened: Open, compiler: None, name: str, graphs: int) -> None:
    expected = label(opened(), name, photos())
    given = opened()
    given.compiled = True
    found = label(given, name, photos())
    assert counters["stats"]["unique_graphs"] == graphs
    for one, other in zip(found, expected, strict=True):
        assert one.labels == other.labels
        assert (one.label_map != other.label_map).mean() < 5e-3
    again = label(given, name, photos()[::-1])[::-1]
    assert [one.label_map.tobytes() for one in again] == [one.label_map.tobytes() for one in found]
    assert counters["stats"]["unique_graphs"] == graphs


# -- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random networks in files, as a user's own pack."""
    import open_clip
    import timm

    folder = tmp_path_factory.mktemp("pack")
    dino = randomised(timm.create_model(TINY_DINO, pretrained=False, num_classes=0), 2)
    save_file(randomised(open_clip.CLIP(**TINY_CLIP), 1).state_dict(), folder / "clip.safetensors")
    save_file(dino.state_dict(), folder / "dino.safetensors")
    random = torch.Generator().manual_seed(4)
    torch.save({"decoder": {"weight": torch.randn(1, 192, 1, 1, generator=random), "bias": torch.zeros(1)}},
               folder / "found.pt")  # fmt: skip
    heads = {"obj_proj.weight": (256, 64, 3, 3), "obj_proj.bias": (256,)}
    heads |= {"bkg_decoder.weight": (1, 64, 1, 1), "bkg_decoder.bias": (1,)}
    state = {name: 0.05 * torch.randn(shape, generator=random) for name, shape in heads.items()}
    torch.save({"epoch": 1, "model_state_dict": state}, folder / "last.pt")
    backbone = {"path": "dino.safetensors", "format": "timm"}
    clip = {"path": "clip.safetensors", "format": "open_clip"}
    roles = {
        "clip": {"architecture": TINY_CLIP, "mean": list(MEAN), "std": list(STD), "weights": clip},
        "dino": {"architecture": TINY_DINO, "weights": backbone},
        "found": {
            "architecture": TINY_DINO,
            "parts": {"backbone": backbone},
            "weights": {"path": "found.pt", "format": "found"},
        },
        "heads": {"weights": {"path": "last.pt", "format": "dinoiser"}},
    }
    (folder / "random.yaml").write_text(yaml.safe_dump({"roles": roles}))
    return folder / "random.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos of several shapes."""
    place = tmp_path / "photos"
    place.mkdir()
    for number, photo in enumerate(photos()):
        Image.fromarray(photo).save(place / f"{number}.png")
    return place


def masks(run: RunReader) -> list[tuple[str, bytes, tuple[float, ...]]]:
    """What a run says of each photo."""
    found = []
    for record in run.records():
        assert record.status == "ok", record.error
        prediction = record.prediction()
        found.append((record.path, prediction.label_map.tobytes(), tuple(prediction.scores)))
    return sorted(found)


@pytest.mark.parametrize("name", LABELERS)
def test_a_run_from_photos_to_masks(name: str, pack: Path, folder: Path, tmp_path: Path) -> None:
    """The same bytes with batches of other sizes, and whether the class names were embedded before or not."""
    given: dict[str, Any] = {"pack": str(pack), "device": DEVICE, "settings": LABELERS[name], "workers": 0}
    given["vocab"] = None if name == "zeroguide" else CLASSES
    cold = masks(annotate(folder, name, out=tmp_path / "cold", **given))
    assert len(cold) == len(SIZES)
    assert masks(annotate(folder, name, out=tmp_path / "warm", batch_size=2, **given)) == cold
    precision = "bf16" if has_bf16(DEVICE) else "fp32"
    assert (
        annotate(folder, name, out=tmp_path / "warm", batch_size=2, **given).manifest.config["precision"] == precision
    )


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`annotate`, as in a shell."""
    root = str(Path(annotator.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-c", "from annotator.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_class_names_that_the_cpu_embedded_change_nothing(pack: Path, folder: Path, tmp_path: Path) -> None:
    """A GPU's masks are the same with a cold cache and with one that the CPU filled."""
    given: dict[str, Any] = {"pack": str(pack), "vocab": CLASSES, "workers": 0, "limit": 2, "precision": "fp32"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANNOTATE_CACHE", str(tmp_path / "a-cache-of-its-own"))
        cold = masks(annotate(folder, "maskclip", out=tmp_path / "cold", device=DEVICE, **given))
    annotate(folder, "maskclip", out=tmp_path / "cpu", device="cpu", **given)
    assert masks(annotate(folder, "maskclip", out=tmp_path / "warm", device=DEVICE, **given)) == cold


def test_annotate_run_and_bench_in_a_shell(compiler: None, pack: Path, folder: Path, tmp_path: Path) -> None:
    common = ["--pack", pack, "--labeler", "dinoiser", "--images", folder, "--vocab", ", ".join(CLASSES)]
    common += ["--device", DEVICE]
    done = command("run", *common, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len(masks(RunReader(tmp_path / "run"))) == len(SIZES)
    measured = {}
    for compiled in ([], ["--compile"]):
        file = tmp_path / f"bench{''.join(compiled)}.json"
        done = command("bench", *common, "--photos", "16", "--rounds", "1", "--json", file, *compiled)
        assert done.returncode == 0, done.stderr
        measured[bool(compiled)] = found = json.loads(file.read_text())
        assert found["device"] == DEVICE
        assert found["gpu_mb"] > 1
        assert found["compiled"] == bool(compiled)
        assert 0 < found["bound_share"] < 1.5
    assert measured[True]["calls"] == measured[False]["calls"]
    assert any(call["call"] == "DenseClip.dense" for call in measured[True]["calls"])
