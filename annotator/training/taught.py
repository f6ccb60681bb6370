"""What CLIP-DINOiser's teachers say of many crops, made once and mapped into memory from the disk.

A folder of three arrays, float16 and bool, and a note of how many crops are in them. Making them goes on where it was
stopped. A crop takes 2.4 MB with the papers' networks, 0.9 MB with the embedded ones.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from annotator.errors import ConfigError
from annotator.files import replacing_text
from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.training.crops import PhotoCrops
from annotator.training.heads import HeadsRecipe, Taught, kept_crops, teach

PARTS = ("intermediate", "alike", "objects")
NOTE = "done.json"
Progress = Callable[[int, int], None]
"""Crops done, of how many."""


def keep_on_disk(
    folder: Path,
    clip: DenseClip,
    dino: Dino,
    found: Found,
    photos: PhotoCrops,
    crops: int,
    recipe: HeadsRecipe,
    *,
    workers: int = 0,
    minutes: float = math.inf,
    progress: Progress = lambda done, of: None,
) -> Taught | None:
    """What `heads.keep` makes, as files in `folder`; None when stopped after `minutes`.

    Only what was begun with the same networks, photos and recipe may be in `folder`.
    """
    began = time.monotonic()
    draw = kept_crops(photos, crops, recipe, workers)
    done = _done(folder)
    if done:
        progress(done, crops)
    while done < crops and time.monotonic() - began < 60 * minutes:
        taught = teach(draw(done // recipe.batch).images().to(clip.device), clip, dino, found)
        tensors = (taught.intermediate.half(), taught.alike.half(), taught.objects)
        if not done:
            _create(folder, crops, tensors)
        for name, tensor in zip(PARTS, tensors, strict=True):
            array = _mapped(folder, name, "r+")
            array[done : done + len(tensor)] = tensor.cpu().numpy()
            array.flush()
        done += len(taught.objects)
        _note(folder, done)
        progress(done, crops)
    if done < crops:
        return None
    return Taught(*(torch.from_numpy(_mapped(folder, name, "c")) for name in PARTS))


def _done(folder: Path) -> int:
    file = folder / NOTE
    return int(json.loads(file.read_text(encoding="utf-8"))["crops"]) if file.exists() else 0


def _note(folder: Path, done: int) -> None:
    with replacing_text(folder / NOTE) as file:
        file.write(json.dumps({"crops": done}))


def _create(folder: Path, crops: int, like: tuple[Tensor, ...]) -> None:
    """Arrays of their final size; where the disk has holes they take room only as they fill."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in zip(PARTS, like, strict=True):
        array = tensor[:0].cpu().numpy()
        shape = (crops, *tensor.shape[1:])
        file = folder / f"{name}.npy"
        file.unlink(missing_ok=True)  # a link there would be followed
        np.lib.format.open_memmap(file, "w+", dtype=array.dtype, shape=shape).flush()


def _mapped(folder: Path, name: str, mode: str) -> np.memmap:
    try:
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / name}.npy: expected kept crops, but it is damaged or gone ({error}); delete {folder}"
        ) from None
