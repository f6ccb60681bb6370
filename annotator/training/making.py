"""`annotate train heads` and `annotate train found`: from a folder of photos to a file of weights.

What a stopped training needs to go on lies in a folder beside that file, OUT.work, until the file is there. The file
itself says what it was made of, and the curve lies beside it as CSV.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from torch import nn

from annotator.errors import ConfigError
from annotator.limits import COUNT, Limits, check_fields
from annotator.models.heads import DinoiserHeads
from annotator.models.networks import Networks
from annotator.training import found, heads
from annotator.training.crops import PhotoCrops
from annotator.training.curve import Curve
from annotator.training.embedded.heads import FOUND as STEADY_FOUND
from annotator.training.embedded.heads import HEADS as STEADY_HEADS
from annotator.training.loop import random_of
from annotator.training.provenance import Made, hold_to, made_of, read_provenance, refuse_other, save_weights
from annotator.training.taught import keep_on_disk

HELD = 16
"""Crops that are measured with and not trained on."""
MEASURED_EVERY = 100
STEADY_CROPS = 1000
"""Kept where `steady` is not told how many."""
Style = Literal["paper", "steady"]
Report = Callable[[str, float, str], None]
"""Stage, share done in [0, 1], detail."""
HEADS_RECIPES: dict[Style, heads.HeadsRecipe] = {"paper": heads.HeadsRecipe(), "steady": STEADY_HEADS}
FOUND_RECIPES: dict[Style, found.FoundRecipe] = {"paper": found.FoundRecipe(), "steady": STEADY_FOUND}


@dataclass(frozen=True)
class Plan:
    """What a user may choose of a training; None leaves it to the recipe.

    style:   `paper` is the papers' schedule; `steady` holds on to the seed masks and has a sharper affinity, for small
             networks; None is `steady` for the embedded pack.
    steps:   the schedule is stretched to them.
    keep:    crops that go through the networks once and for all; 0 draws new ones in every step.
    workers: threads that draw crops ahead; they never change a weight.
    minutes: stop after so many; the same call goes on.
    """

    style: Style | None = None
    photos: Annotated[int | None, COUNT] = None
    steps: Annotated[int | None, COUNT] = None
    batch: Annotated[int | None, Limits(1, 65_536)] = None
    keep: Annotated[int | None, Limits(0, 10**9)] = None
    seed: Annotated[int, Limits(0, 2**63 - 1)] = 0
    workers: Annotated[int, Limits(0, 1024)] = 0
    minutes: Annotated[float | None, Limits(0, 10**9)] = None
    tensorboard: Path | None = None
    report: Report = field(default=lambda stage, share, detail: None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def most_minutes(self) -> float:
        return math.inf if self.minutes is None else self.minutes

    def style_for(self, pack: str) -> Style:
        return self.style or ("steady" if pack == "embedded" else "paper")

    def kept(self, style: Style) -> int:
        if self.keep is not None:
            return self.keep
        return STEADY_CROPS if style == "steady" else 0


def make_heads(images: str | Path, networks: Networks, out: Path, plan: Plan) -> Made | None:
    """Trains g and h on a folder, a glob or a list of photos, and writes them to `out` (.safetensors).

    -> what they were made of and how good they are on held crops, or None when stopped after `plan.minutes`.
    """
    clip, dino, decoder = networks.clip, networks.dino, networks.found
    recipe = heads_recipe(plan, networks.pack)
    photos = PhotoCrops(images, recipe.crops, recipe.photos)
    keep = plan.kept(plan.style_for(networks.pack))
    made = made_of(recipe, photos, networks, ("clip", "dino", "found"), kept_crops=keep or "live")
    if out.exists():
        return _finished(out, made)
    began, work = time.monotonic(), _begin(out, made)
    with Curve(
        out.with_suffix(".csv"), ("affinity_loss", "objectness_loss", "average_precision"), plan.tensorboard
    ) as curve:
        if keep:
            kept = keep_on_disk(
                work / "crops", clip, dino, decoder, photos, keep, recipe,
                workers=plan.workers,
                minutes=plan.most_minutes,
                progress=lambda done, of: plan.report("teachers", done / of, f"{done:,} crops"),
            )  # fmt: skip
            if kept is None:
                return None
            batches = heads.kept_batches(kept, recipe)
        else:
            batches = heads.live_batches(clip, dino, decoder, photos, recipe, plan.workers)
        held = heads.teach(heads.held_crops(photos, HELD).images().to(clip.device), clip, dino, decoder)
        precision = ""

        def watch(step: int, trained: DinoiserHeads, affinity: float, objectness: float) -> None:
            nonlocal precision
            row = {"affinity_loss": affinity, "objectness_loss": objectness}
            if step % MEASURED_EVERY == 0 or step == recipe.steps:
                row["average_precision"] = heads.agreement(trained, held, recipe.gamma)[0]
                precision = f", AP of D {row['average_precision']:.1%}"
            curve.add(step, row)
            plan.report("heads", step / recipe.steps, f"g {affinity:.3f}, h {objectness:.3f}{precision}")

        trained = heads.train_heads(
            batches,
            held.intermediate.shape[1],
            recipe,
            device=networks.device,
            checkpoint=work / "checkpoint.pt",
            minutes=_left(plan, began),
            watch=watch,
        )
    if trained is None:
        return None
    agreement, chance = heads.agreement(trained, held, recipe.gamma)
    made["held"] = {
        "crops": HELD,
        "affinity_loss": round(float(heads.affinity_loss(trained, held, recipe)), 4),
        "objectness_loss": round(float(heads.objectness_loss(trained, held)), 4),
        "average_precision": round(agreement, 4),
        "average_precision_by_chance": round(chance, 4),
    }
    return _finish(trained, out, made)


def make_found(images: str | Path, networks: Networks, out: Path, plan: Plan) -> Made | None:
    """Trains FOUND's decoder on photos; see `make_heads`. Kept crops are in memory and made anew by a resumed call."""
    dino = networks.found.dino
    recipe = found_recipe(plan, networks.pack)
    photos = PhotoCrops(images, recipe.crops, plan.photos)
    keep = plan.kept(plan.style_for(networks.pack))
    made = made_of(recipe, photos, networks, ("found.",), kept_crops=keep or "live")
    if out.exists():
        return _finished(out, made)
    began, work = time.monotonic(), _begin(out, made)
    with Curve(out.with_suffix(".csv"), ("loss", "objects", "seed_iou"), plan.tensorboard) as curve:
        if keep:
            batches = found.kept_batches(
                dino, photos, keep, recipe,
                lambda done, of: plan.report("seeds", done / of, f"{done:,} crops"),
            )  # fmt: skip
        else:
            batches = found.live_batches(dino, photos, recipe)
        held = found.seeded_crops(dino, photos, HELD, recipe, random_of(heads.HELD_SEED, 0))
        objects = ""

        def watch(step: int, decoder: nn.Conv2d, loss: float) -> None:
            nonlocal objects
            row = {"loss": loss}
            if step % (MEASURED_EVERY // 10) == 0 or step == recipe.steps:
                row["objects"], row["seed_iou"] = found.looked_at(decoder, held)
                objects = f", {row['objects']:.0%} objects"
            curve.add(step, row)
            plan.report("found", step / recipe.steps, f"loss {loss:.3f}{objects}")

        decoder = found.train_found(
            batches,
            dino.width,
            recipe,
            checkpoint=work / "checkpoint.pt",
            minutes=_left(plan, began),
            watch=watch,
        )
    if decoder is None:
        return None
    objects_share, seed_iou = found.looked_at(decoder, held)
    made["held"] = {"crops": HELD, "objects": round(objects_share, 4), "seed_iou": round(seed_iou, 4)}
    return _finish(decoder, out, made)


def heads_recipe(plan: Plan, pack: str) -> heads.HeadsRecipe:
    recipe = HEADS_RECIPES[plan.style_for(pack)]
    steps = plan.steps or recipe.steps
    return replace(
        recipe,
        steps=steps,
        decay_from=recipe.decay_from * steps // recipe.steps,
        batch=plan.batch or recipe.batch,
        photos=plan.photos or recipe.photos,
        seed=plan.seed,
    )


def found_recipe(plan: Plan, pack: str) -> found.FoundRecipe:
    recipe = FOUND_RECIPES[plan.style_for(pack)]
    steps = plan.steps or recipe.steps
    return replace(
        recipe,
        steps=steps,
        seed_steps=recipe.seed_steps * steps // recipe.steps,
        self_from=recipe.self_from * steps // recipe.steps,
        batch=plan.batch or recipe.batch,
        seed=plan.seed,
    )


def _begin(out: Path, made: Made) -> Path:
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: expected a file name in .safetensors, but found {out.suffix!r}")
    work = _work(out)
    hold_to(made, work)
    return work


def _finish(trained: nn.Module, out: Path, made: Made) -> Made:
    save_weights(trained.state_dict(), out, made)
    shutil.rmtree(_work(out), ignore_errors=True)
    return made


def _finished(out: Path, made: Made) -> Made:
    """What `out` says of itself; an error where it is not just what would be made."""
    there = read_provenance(out)
    refuse_other(made, {name: value for name, value in there.items() if name != "held"}, str(out))
    return there


def _work(out: Path) -> Path:
    return out.with_suffix(".work")


def _left(plan: Plan, began: float) -> float:
    return max(plan.most_minutes - (time.monotonic() - began) / 60, 0)
