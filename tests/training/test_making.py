"""What surrounds a training: crops drawn ahead, teachers kept on disk, figures, the curve, and provenance."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_drawn_photos import draw_photos, small_clip, small_dino
from reference import methods, networks, vit
from reference.devices import take_float64_away
from sklearn.metrics import average_precision_score

from annotator.errors import ConfigError
from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found, load_found
from annotator.models.heads import DinoiserHeads
from annotator.models.networks import Networks
from annotator.training import making
from annotator.training.crops import CropRecipe, Crops, PhotoCrops, ahead
from annotator.training.curve import Curve
from annotator.training.found import Seeded, looked_at
from annotator.training.heads import HeadsRecipe, Taught, agreement, keep
from annotator.training.loop import random_of
from annotator.training.provenance import hold_to, made_of, read_provenance, save_weights
from annotator.training.taught import keep_on_disk

RECIPE = HeadsRecipe(steps=6, batch=2, crops=CropRecipe(side=32, jitter=0.5))


@pytest.fixture
def teachers() -> tuple[DenseClip, Dino, Found]:
    dino = small_dino()
    decoder = {name: torch.from_numpy(value).float() for name, value in networks.random_decoder().items()}
    return small_clip(), dino, load_found(dino, decoder)


@pytest.fixture
def photos(tmp_path: Path) -> PhotoCrops:
    return PhotoCrops(draw_photos(tmp_path / "photos"), RECIPE.crops)


def equal(first: Taught, second: Taught) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("intermediate", "alike", "objects")
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_crops_drawn_ahead_are_those_of_their_step(photos: PhotoCrops, workers: int) -> None:
    asked: list[int] = []

    def draw(step: int) -> Crops:
        asked.append(step)
        return photos.draw(2, random_of(0, step))

    drawn = ahead(draw, workers)
    for step in (4, 5, 6, 7):
        assert np.array_equal(drawn(step).photos, photos.draw(2, random_of(0, step)).photos)
    assert {4, 5, 6, 7} <= set(asked) <= set(range(4, 8 + workers))
    assert len(asked) == len(set(asked))


def test_teachers_kept_on_disk_are_those_in_memory(
    teachers: tuple[DenseClip, Dino, Found], photos: PhotoCrops, tmp_path: Path
) -> None:
    """Stopped after each batch, and with threads: 5 crops in batches of 2."""
    told: list[tuple[int, int]] = []

    def stop_behind_a_batch(done: int, of: int) -> None:
        told.append((done, of))
        if len(told) in (1, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            keep_on_disk(tmp_path / "kept", *teachers, photos, 5, RECIPE, progress=stop_behind_a_batch)
    assert keep_on_disk(tmp_path / "kept", *teachers, photos, 5, RECIPE, minutes=0) is None
    kept = keep_on_disk(tmp_path / "kept", *teachers, photos, 5, RECIPE, workers=2, progress=stop_behind_a_batch)
    assert told == [(2, 5), (2, 5), (4, 5), (4, 5), (5, 5)]
    assert kept is not None
    assert kept.intermediate.dtype == torch.float16
    assert equal(kept, keep(*teachers, photos, 5, RECIPE))
    again = keep_on_disk(tmp_path / "kept", *teachers, photos, 5, RECIPE)
    assert again is not None
    assert equal(kept, again)
    (tmp_path / "kept" / "alike.npy").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"alike\.npy: expected kept crops, but it is damaged"):
        keep_on_disk(tmp_path / "kept", *teachers, photos, 5, RECIPE)


def test_agreement_equals_scikit_learn() -> None:
    """Of pairs of two patches of one crop, from the equations in float64."""
    random = torch.Generator().manual_seed(0)
    intermediate = torch.randn(3, 8, 3, 4, generator=random).half()
    alike = torch.nn.functional.normalize(torch.randn(3, 4, 3, 4, generator=random), dim=1)
    taught = Taught(intermediate, alike, torch.zeros(3, 3, 4, dtype=torch.bool))
    heads = DinoiserHeads(8, affinity_width=5)
    weights = {name: tensor.double().numpy() for name, tensor in heads.state_dict().items()}
    scores, truths = [], []
    for crop in range(3):
        inner = intermediate[crop].flatten(1).T.double().numpy()
        own = methods.unit(methods.convolve3x3(inner, (3, 4), *vit.layer(weights, "obj_proj")))
        teacher = alike[crop].flatten(1).T.double().numpy()
        for p in range(12):
            for q in range(p + 1, 12):
                scores.append(float(own[p] @ own[q]))
                truths.append(float(teacher[p] @ teacher[q]) > 0.2)
    found, chance = agreement(heads, taught, 0.2)
    assert 0.2 < np.mean(truths) < 0.5
    assert chance == pytest.approx(np.mean(truths))
    assert found == pytest.approx(average_precision_score(truths, scores), abs=1e-4)


def test_agreement_of_a_perfect_and_of_a_blind_head() -> None:
    """Two groups of patches, 2 of 6 pairs belong together: told apart, 1; all alike to the head, chance."""
    groups = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]])
    heads = DinoiserHeads(2, affinity_width=2).requires_grad_(False)
    heads.obj_proj.weight.zero_()
    heads.obj_proj.weight[0, 0, 1, 1] = heads.obj_proj.weight[1, 1, 1, 1] = 1
    heads.obj_proj.bias.zero_()
    taught = Taught(groups, groups, torch.zeros(1, 1, 4, dtype=torch.bool))
    assert agreement(heads, taught, 0.2) == (1, pytest.approx(1 / 3))
    heads.obj_proj.weight.zero_()
    heads.obj_proj.bias.fill_(1)
    assert agreement(heads, taught, 0.2) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_agreement_needs_no_float64_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    taught = Taught(
        torch.randn(2, 8, 3, 4, generator=random),
        torch.randn(2, 4, 3, 4, generator=random),
        torch.zeros(2, 3, 4, dtype=torch.bool),
    )
    heads = DinoiserHeads(8, affinity_width=5)
    expected = agreement(heads, taught, 0.2)
    take_float64_away(monkeypatch)
    assert agreement(heads, taught, 0.2) == expected


def test_what_a_decoder_finds_by_hand() -> None:
    """Of three tokens in the photo it finds two, the mask has one of them and the third: IoU 1/3."""
    decoder = torch.nn.Conv2d(1, 1, kernel_size=1).requires_grad_(False)
    decoder.weight.fill_(1)
    decoder.bias.zero_()
    keys = torch.tensor([[[5.0, 1.0], [-1.0, 9.0]]]).half()
    known = torch.tensor([[True, True], [True, False]])
    seeds = torch.tensor([[1.0, 0.2], [0.9, 1.0]])
    objects, iou = looked_at(decoder, [Seeded(keys, known, seeds, None)])
    assert (objects, iou) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_a_curve_goes_on_where_training_does(tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    with Curve(file, ("loss", "ap")) as curve:
        for step in (1, 2, 3, 4):
            curve.add(step, {"loss": 1 / step})
    with open(file, "a") as torn:
        torn.write("5,0.")
    with Curve(file, ("loss", "ap")) as curve:  # the checkpoint was that of step 2
        curve.add(3, {"loss": 0.25, "ap": 0.5})
        assert file.read_text().endswith("3,0.25,0.5\n")  # at once
    assert file.read_text() == "step,loss,ap\n1,1,\n2,0.5,\n3,0.25,0.5\n"
    with Curve(file, ("loss", "ap")):
        pass
    assert len(file.read_text().splitlines()) == 4


def test_tensorboard_is_asked_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match="--tensorboard: expected the Python package tensorboard"):
        Curve(tmp_path / "curve.csv", ("loss",), tmp_path / "board")


def test_tensorboard_shows_what_the_csv_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Curve(tmp_path / "curve.csv", ("loss", "ap"), tmp_path / "board") as curve:
        curve.add(1, {"loss": 0.75})
        curve.add(2, {"loss": 0.5, "ap": 0.25})
    shown = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(each.step, each.value) for each in shown.Scalars("loss")] == [(1, 0.75), (2, 0.5)]
    assert [(each.step, each.value) for each in shown.Scalars("ap")] == [(2, 0.25)]


@dataclass(frozen=True)
class OtherRecipe:
    steps: int = 3
    scales: tuple[float, float] = (0.5, 1.0)


def test_another_training_is_refused_by_what_differs(photos: PhotoCrops, tmp_path: Path) -> None:
    made = made_of(OtherRecipe(), photos, Networks.of(), ("clip",), kept_crops=5)
    assert made["photos"]["count"] == 6
    hold_to(made, tmp_path / "work")
    hold_to(json.loads(json.dumps(made)), tmp_path / "work")
    other = made_of(OtherRecipe(steps=4), photos, Networks.of(), ("clip",), kept_crops=5)
    with pytest.raises(ConfigError, match=r"work: expected a training with recipe\.steps 4, but found one with 3"):
        hold_to(other, tmp_path / "work")
    (tmp_path / "photos" / "5.png").rename(tmp_path / "photos" / "6.png")
    renamed = PhotoCrops(tmp_path / "photos", RECIPE.crops)
    with pytest.raises(ConfigError, match=r"photos\.sha256"):
        hold_to(made_of(OtherRecipe(), renamed, Networks.of(), ("clip",), kept_crops=5), tmp_path / "work")


def test_weights_say_what_they_were_made_of(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3).T, "bias": torch.zeros(1)}
    for name in ("a", "b"):
        save_weights(state, tmp_path / name / "w.safetensors", {"recipe": {"steps": 3}, "photos": {"count": 2}})
    files = [tmp_path / name / "w.safetensors" for name in ("a", "b")]
    assert read_provenance(files[0]) == {"recipe": {"steps": 3}, "photos": {"count": 2}}
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [path.name for path in files[0].parent.iterdir()] == ["w.safetensors"]
    files[0].write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"expected weights in \.safetensors"):
        read_provenance(files[0])


def test_schedules_are_stretched_to_the_steps() -> None:
    plan = making.Plan("paper", steps=600, seed=3)
    assert making.heads_recipe(plan, "paper") == HeadsRecipe(steps=600, decay_from=500, seed=3)
    found = making.found_recipe(replace(plan, steps=50), "paper")
    assert (found.steps, found.seed_steps, found.self_from, found.batch) == (50, 10, 10, 50)
    steady = making.found_recipe(making.Plan(steps=600), "embedded")
    assert (steady.seed_steps, steady.self_from) == (600, 100)


def test_the_recipe_follows_the_pack_unless_told() -> None:
    assert making.heads_recipe(making.Plan(), "paper") == HeadsRecipe()
    assert making.heads_recipe(making.Plan(), "embedded").scale == 10
    assert making.heads_recipe(making.Plan("paper"), "embedded") == HeadsRecipe()
    assert [making.Plan().kept(style) for style in ("paper", "steady")] == [0, 1000]
    assert making.Plan(keep=0).kept("steady") == 0
