"""The best class of every pixel against torch's own interpolation of everything at once, and its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models import upsample
from annotator.models.upsample import Winners, bilinear, upsampled_winners


@pytest.mark.parametrize(("source", "target"), [(1, 5), (7, 7), (28, 448), (448, 1000), (31, 8)])
def test_bilinear_is_what_torch_does(source: int, target: int) -> None:
    values = torch.rand(1, 1, source, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(values, size=target, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(bilinear(source, target) @ values[0, 0], expected, atol=1e-12, rtol=0)


def everything_at_once(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].numpy()


def random_maps(classes: int) -> Tensor:
    return torch.rand(classes, 9, 13, generator=torch.Generator().manual_seed(0))


def softmax_maps(classes: int) -> Tensor:
    """Peaked, as a network's are: most classes win nowhere."""
    return (random_maps(classes) * 30 * torch.linspace(0, 1, classes)[:, None, None]).softmax(dim=0)


@pytest.mark.slow
@pytest.mark.parametrize("pixels_at_once", [1, 300, 2**16])
@pytest.mark.parametrize("make", [random_maps, softmax_maps])
@pytest.mark.parametrize("size", [(37, 55), (5, 5), (9, 13)])
def test_upsampled_winners_equals_everything_at_once(
    monkeypatch: pytest.MonkeyPatch, pixels_at_once: int, make: Callable[[int], Tensor], size: tuple[int, int]
) -> None:
    monkeypatch.setitem(upsample.PIXELS_AT_ONCE, "cpu", pixels_at_once)
    maps = make(200)
    found = upsampled_winners(lambda chosen: maps[chosen], maps.amax(dim=(1, 2)), size)
    full = everything_at_once(maps, size)
    np.testing.assert_allclose(found.confidence, full.max(axis=0), atol=1e-6)
    ordered = np.sort(full, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-6  # torch rounds by how many classes it has at a time
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.best[clear], full.argmax(axis=0)[clear])


@pytest.mark.parametrize("pixels_at_once", [1, 300, 2**16])
def test_ties_go_to_the_lower_index(monkeypatch: pytest.MonkeyPatch, pixels_at_once: int) -> None:
    """Small whole numbers at twice the size: nothing is rounded, and most pixels have several winners."""
    monkeypatch.setitem(upsample.PIXELS_AT_ONCE, "cpu", pixels_at_once)
    maps = torch.randint(0, 4, (200, 9, 13), generator=torch.Generator().manual_seed(0)).float()
    maps[:60] -= 1  # so that the first classes do not win everywhere
    maps[:, 0, 0] = torch.arange(200) + 4  # peaks in the opposite order of the classes
    found = upsampled_winners(lambda chosen: maps[chosen], maps.amax(dim=(1, 2)), (18, 26))
    full = everything_at_once(maps, (18, 26))
    assert ((full == full.max(axis=0)).sum(axis=0) > 1).mean() > 0.2
    np.testing.assert_array_equal(found.confidence, full.max(axis=0))
    np.testing.assert_array_equal(found.best, full.argmax(axis=0))


def test_classes_that_cannot_win_are_not_looked_at() -> None:
    maps = torch.full((200, 4, 4), 0.001)
    maps[150] = 0.9
    asked: list[int] = []

    def some(chosen: Tensor) -> Tensor:
        asked.extend(chosen.tolist())
        return maps[chosen]

    assert set(upsampled_winners(some, maps.amax(dim=(1, 2)), (8, 8)).best.ravel()) == {150}
    assert len(asked) <= upsample.CLASSES_AT_ONCE + 1  # the first is asked for the grid's size


MEMORY = """
import resource
import torch
from annotator.models.upsample import upsampled_winners
torch.set_num_threads(1)
maps = torch.rand(500, 28, 28)
few = maps[:1]
upsampled_winners(lambda chosen: few[chosen], few.amax(dim=(1, 2)), (700, 700))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
upsampled_winners(lambda chosen: maps[chosen], maps.amax(dim=(1, 2)), (700, 700))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_does_not_grow_with_classes() -> None:
    """500 classes at 700 x 700 would be 1 GB at once; they cost little more than one class does."""
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120, check=True)
    assert int(result.stdout) < 150e6


def test_nearest_is_torchs_nearest() -> None:
    """Index floor(i * old / new), larger and smaller."""
    best = np.arange(6 * 5, dtype=np.int32).reshape(6, 5)
    held = Winners(best, best.astype(np.float32) / 30)
    for size in ((13, 11), (4, 3), (6, 5)):
        found = held.nearest(size)
        expected = F.interpolate(torch.from_numpy(best)[None, None].float(), size=size, mode="nearest")[0, 0]
        np.testing.assert_array_equal(found.best, expected)
        np.testing.assert_allclose(found.confidence, expected / 30, rtol=1e-6)
        assert (found.best.dtype, found.confidence.dtype) == (np.int32, np.float32)
