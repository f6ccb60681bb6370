"""What weights were made of: kept in their file, and what a training that goes on is held to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from annotator.errors import ConfigError
from annotator.files import replacing, replacing_text
from annotator.models.networks import Networks
from annotator.training.crops import PhotoCrops

Made = dict[str, Any]
"""JSON-able; no path of a machine."""
MADE_OF = "made_of.json"


def made_of(recipe: Any, photos: PhotoCrops, networks: Networks, slots: tuple[str, ...], **others: Any) -> Made:
    """What decides the weights. recipe: a dataclass; slots: of the files in use, those that begin so count."""
    used = {slot: file["sha256"] for slot, file in networks.used().items() if slot.startswith(slots)}
    paths = "\n".join(photos.paths)
    made = {
        "recipe": asdict(recipe),
        "photos": {"count": len(photos), "sha256": hashlib.sha256(paths.encode()).hexdigest()},
        "networks": {"pack": networks.pack, **used},
        **others,
    }
    return dict(json.loads(json.dumps(made)))  # as it will be read again: lists for tuples


def hold_to(made: Made, folder: Path) -> None:
    """Notes in `folder` what is made there; an error where that is something else."""
    file = folder / MADE_OF
    if file.exists():
        refuse_other(made, json.loads(file.read_text(encoding="utf-8")), str(folder))
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_text(file) as opened:
        opened.write(json.dumps(made, indent=1, sort_keys=True))


def refuse_other(wanted: Made, found: Mapping[str, Any], where: str) -> None:
    """An error that names the first entry that differs."""
    ours, theirs = _flat(wanted), _flat(found)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise ConfigError(
                f"{where}: expected a training with {name} {ours.get(name, 'left out')}, but found one with "
                f"{theirs.get(name, 'none')}; delete it to begin anew, or choose another --out"
            )


def save_weights(state: Mapping[str, Tensor], file: Path, provenance: Made) -> None:
    """One safetensors file, there whole or not at all; the provenance goes into its metadata, as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(file) as opened:
        opened.write(save(tensors, {"provenance": json.dumps(provenance, sort_keys=True)}))


def read_provenance(file: Path) -> Made:
    """Empty for weights that do not say it."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        return dict(json.loads(metadata.get("provenance", "{}")))
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{file}: expected weights in .safetensors, but it is damaged or something else ({reason})"
        ) from None


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"recipe": {"steps": 3}} -> {"recipe.steps": 3}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat
