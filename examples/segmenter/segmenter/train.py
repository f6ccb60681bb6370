"""`python -m segmenter.train EXPORT --out model.safetensors`: learns from an export of annotate's masks.

Stopped by --minutes, the same command goes on and comes to the same end; what it needs for that lies in OUT.checkpoint
until the training is done.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.errors import AnnotatorError, ConfigError
from annotator.models.devices import keep_freed_memory, resolve_device
from annotator.training.loop import random_of
from annotator.training.loop import train as run_loop
from evaluation.confusion import ConfusionMatrix
from segmenter.data import NO_LABEL, Export, Pair, draw, open_export
from segmenter.model import PACKAGED, Kind, Segmenter, new_model, save_model

BACKBONE_RATE = 0.1  # of the head's learning rate
POWER = 0.9  # of the learning rate's decay
MOST_VALIDATED = 100  # photos, evenly spread over those held out
TOLD_EVERY = 20


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights. crop: side in pixels; lr: the head's at the start; labels: `Export.fingerprint`."""

    steps: int = 2000
    batch: int = 8
    crop: int = 320
    lr: float = 1e-3
    seed: int = 0
    short_side: int = 448
    backbone: str = PACKAGED
    pretrained: bool = False
    labels: str = ""

    def __post_init__(self) -> None:
        for name, least in {"steps": 0, "batch": 2, "crop": 2, "short_side": 1, "seed": 0, "lr": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: expected {least} or more, but got {getattr(self, name)}"
                )


def train(
    export: Export,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    minutes: float = math.inf,
    validate_every: int = 500,
) -> bool:
    """Writes the model to `out`, finished or stopped after `minutes`. -> whether it is finished."""
    torch.manual_seed(recipe.seed)
    kind = Kind(export.classes, recipe.backbone, recipe.short_side)
    model = new_model(kind, pretrained=recipe.pretrained).to(device).train()
    head = {"params": [*model.head.parameters()], "lr": recipe.lr}
    backbone = {"params": [*model.backbone.parameters()], "lr": recipe.lr * BACKBONE_RATE}
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    out.parent.mkdir(parents=True, exist_ok=True)

    def loss_at(step: int) -> Tensor:
        random = random_of(recipe.seed, step)
        photos, labels = draw(export.train, recipe.batch, recipe.crop, recipe.short_side, random)
        return pixel_loss(model(photos.to(device)), labels.to(device))

    def report(step: int, loss: float) -> None:
        if step % TOLD_EVERY == 0 or step == recipe.steps:
            tell(f"step {step:,} of {recipe.steps:,}, loss {loss:.3f}")
        if export.val and (step == recipe.steps or (validate_every and step % validate_every == 0)):
            tell(f"  val mIoU {validate(model, export.val):.1%} against the held-out labels")

    finished = run_loop(
        model,
        torch.optim.AdamW([head, backbone], weight_decay=0.01),
        loss_at,
        lambda step: (1 - step / recipe.steps) ** POWER,
        recipe,
        checkpoint=checkpoint,
        minutes=minutes,
        report=report,
    )
    save_model(model, out)
    if finished:
        checkpoint.unlink()
    tell(f"{out}" if finished else f"{out} is not finished; the same command goes on")
    return finished


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 where there are none.

    logits: B x C x h x w; labels: B x H x W.
    """
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels, ignore_index=NO_LABEL, reduction="sum") / (labels != NO_LABEL).sum().clamp(1)


def validate(model: Segmenter, pairs: tuple[Pair, ...]) -> float:
    """mIoU over whole photos at their own size."""
    matrix = ConfusionMatrix(model.kind.classes)
    model.eval()
    for pair in pairs[:: math.ceil(len(pairs) / MOST_VALIDATED)]:
        photo, labels = pair.read()
        (winners,) = model.winners([photo], [(labels.shape[0], labels.shape[1])])
        matrix.update(labels, winners.best, ignore=NO_LABEL)
    model.train()
    return matrix.compute().miou


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m segmenter.train", description="Learn from annotate's masks.")
    parser.add_argument("export", type=Path, help="folder of `annotate export --format mask-png --preset mmseg`")
    parser.add_argument("--out", type=Path, default=Path("model.safetensors"))
    for name in ("steps", "batch", "crop", "lr", "seed", "short_side", "backbone"):
        value = getattr(Recipe, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--pretrained", action="store_true", help="timm's own weights for the backbone (download)")
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda, cuda:1")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many; the same command goes on")
    parser.add_argument("--validate-every", type=int, default=500, help="steps; 0: only at the end; default 500")
    given = vars(parser.parse_args())
    keep_freed_memory()
    try:
        export = open_export(given.pop("export"))
        how = {name: given.pop(name) for name in ("out", "minutes", "validate_every")}
        device = resolve_device(given.pop("device"))
        train(export, Recipe(**given, labels=export.fingerprint()), device=device, **how)
    except AnnotatorError as error:
        sys.exit(f"segmenter.train: {error}")


if __name__ == "__main__":
    main()
