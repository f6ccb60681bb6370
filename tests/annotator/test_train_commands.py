"""`annotate train heads` and `annotate train found` on drawn photos, with the embedded pack and small crops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_runs import Answer, annotate_here
from PIL import Image, ImageDraw
from safetensors import safe_open

from annotator import cli
from annotator.models.packs import read_pack
from annotator.training import loop, making
from annotator.training.crops import CropRecipe
from annotator.training.curve import Curve

pytestmark = pytest.mark.slow

Annotate = Callable[..., Answer]
HEADS = ("train", "heads", "--images", "photos", "--pack", "embedded", "--steps", "5", "--batch", "2")
FOUND = ("train", "found", "--images", "photos", "--pack", "embedded", "--steps", "5", "--batch", "2")


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Annotate:
    return lambda *arguments: annotate_here(arguments, monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four photos of a bright disc on a dark ground, their masks, and recipes for crops of 64 pixels."""
    for kind in ("photos", "truth", "masks"):
        (tmp_path / kind).mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        ground = rng.normal(60, 12, (64, 80, 3)).clip(0, 255).astype(np.uint8)
        photo, mask = Image.fromarray(ground), Image.new("L", (80, 64))
        box = (10 + 6 * index, 12, 46 + 6 * index, 48)
        ImageDraw.Draw(photo).ellipse(box, fill=(230, 200 - 40 * index, 90))
        ImageDraw.Draw(mask).ellipse(box, fill=1)
        photo.save(tmp_path / "photos" / f"{index}.png")
        mask.save(tmp_path / "truth" / f"{index}.png")
        mask.point(lambda value: value * 255).save(tmp_path / "masks" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("background\ndisc\n")
    for recipes in (making.HEADS_RECIPES, making.FOUND_RECIPES):
        for style, recipe in recipes.items():
            monkeypatch.setitem(recipes, style, replace(recipe, crops=CropRecipe(side=64)))
    monkeypatch.setattr(making, "HELD", 2)
    monkeypatch.setattr(loop, "SAVED_EVERY", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, once, before the row of that step is written."""
    add = Curve.add

    def add_or_stop(curve: Curve, at: int, values: dict[str, float]) -> None:
        if at == step:
            monkeypatch.setattr(Curve, "add", add)
            raise KeyboardInterrupt
        add(curve, at, values)

    monkeypatch.setattr(Curve, "add", add_or_stop)


def provenance(file: Path) -> dict[str, dict[str, object]]:
    with safe_open(file, framework="pt") as opened:
        return dict(json.loads(opened.metadata()["provenance"]))


def names_in(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return sorted(opened.keys())


@pytest.mark.parametrize(("command", "steps"), [((*HEADS, "--keep-crops", "3"), 4), (FOUND, 4)])
def test_a_stopped_training_ends_as_an_unbroken_one(
    folder: Path, annotate: Annotate, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], steps: int
) -> None:
    """Stopped at the fifth step, behind the checkpoint of the fourth."""
    monkeypatch.setattr(making, "STEADY_CROPS", 3)
    code, _, err = annotate(*command, "--out", "unbroken.safetensors")
    assert code == 0, err
    interrupt_at(5, monkeypatch)
    assert annotate(*command, "--out", "stopped.safetensors")[0] == cli.EXIT_INTERRUPTED
    assert not Path("stopped.safetensors").exists()
    assert Path("stopped.work/checkpoint.pt").exists()
    code, _, err = annotate(*command, "--out", "stopped.safetensors", "--batch", "3")
    assert code == cli.EXIT_USAGE
    assert err == (
        "annotate: stopped.work: expected a training with recipe.batch 3, but found one with 2; delete it to begin "
        "anew, or choose another --out\n"
    )
    code, _, err = annotate(*command, "--out", "stopped.safetensors")
    assert code == 0, err
    for kind in ("safetensors", "csv"):
        assert Path(f"stopped.{kind}").read_bytes() == Path(f"unbroken.{kind}").read_bytes()
    assert not Path("stopped.work").exists()


def test_heads_are_trained_compared_and_used(folder: Path, annotate: Annotate) -> None:
    on = ("--compare", "truth", "--compare-images", "photos/0.png", "--vocab", "classes.txt")
    code, out, err = annotate(*HEADS, "--out", "own/heads.safetensors", "--keep-crops", "live", "--workers", "2", *on)
    assert code == 0, err
    assert re.search(r"heads: 100% g \d\.\d+, h \d\.\d+, AP of D \d+\.\d%", err)
    assert re.search(r"4 photos → own/heads\.safetensors; held out: crops 2, affinity loss ", err)
    rows = re.findall(r"^(\w+(?: affinity)?) +mIoU +(\d+\.\d)%, pixel accuracy +(\d+\.\d)% \(1 photo\)$", out, re.M)
    assert [row for row, *_ in rows] == ["maskclip", "dino affinity", "trained affinity"]
    assert all(0 < float(share) <= 100 for _, *shares in rows for share in shares)

    own, made = Path("own/heads.safetensors"), provenance(Path("own/heads.safetensors"))
    assert made["photos"]["count"] == 4
    assert made["recipe"]["steps"] == 5
    sha256 = read_pack("embedded").roles["clip"].files["clip"][0].sha256
    assert made["networks"]["clip"] == sha256
    assert {"pack", "dino", "found", "found.backbone"} <= set(made["networks"])
    held = made["held"]
    assert set(held) == {
        "crops", "affinity_loss", "objectness_loss", "average_precision", "average_precision_by_chance",
    }  # fmt: skip
    assert str(folder) not in json.dumps(made)
    curve = Path("own/heads.csv").read_text().splitlines()
    assert curve[0] == "step,affinity_loss,objectness_loss,average_precision"
    assert [line.split(",")[0] for line in curve[1:]] == ["1", "2", "3", "4", "5"]
    assert float(curve[-1].split(",")[-1]) == pytest.approx(held["average_precision"], abs=1e-4)

    before = own.stat().st_mtime_ns
    code, again, err = annotate(*HEADS, "--out", str(own), "--keep-crops", "live", "--workers", "0")
    assert code == 0, err
    assert (again, own.stat().st_mtime_ns) == ("", before)  # as it would be made
    code, _, err = annotate(*HEADS, "--out", str(own), "--keep-crops", "live", "--seed", "1")
    assert code == cli.EXIT_USAGE
    assert "own/heads.safetensors: expected a training with recipe.seed 1, but found one with 0" in err

    code, _, err = annotate(
        "run", "--images", "photos", "--vocab", "classes.txt", "--pack", "embedded",
        "--weights", f"heads={own}", "--set", "short_side=64", "--workers", "0", "--out", "run",
    )  # fmt: skip
    assert code == 0, err


def test_a_decoder_is_trained_scored_and_used(folder: Path, annotate: Annotate) -> None:
    on = ("--truth", "masks", "--truth-images", "photos/[01].png")
    code, out, err = annotate(*FOUND, "--out", "found.safetensors", "--keep-crops", "4", *on)
    assert code == 0, err
    assert re.search(r"found: 100% loss \d\.\d+, \d+% objects", err)
    figures = re.findall(r"^(decoder|with solver) +max-F +([\d.]+)%, IoU +([\d.]+)%, accuracy +([\d.]+)%", out, re.M)
    assert [row for row, *_ in figures] == ["decoder", "with solver"]
    assert all(0 <= float(share) <= 100 for _, *shares in figures for share in shares)
    assert names_in(Path("found.safetensors")) == ["bias", "weight"]
    made = provenance(Path("found.safetensors"))
    assert sorted(made["networks"]) == ["found.backbone", "found.stem", "pack"]  # not the decoder that it replaces
    assert made["kept_crops"] == 4

    code, scored, err = annotate(*FOUND[:6], "--steps", "0", "--out", "found.safetensors", *on)
    assert code == 0, err
    assert scored == out
    code, _, err = annotate(
        "run", "--images", "photos/0.png", "--labeler", "diy", "--vocab", "classes.txt", "--pack", "embedded",
        "--weights", "found=found.safetensors", "--workers", "0", "--out", "run",
    )  # fmt: skip
    assert code == 0, err


@pytest.mark.parametrize("command", [HEADS, FOUND])
def test_stops_in_time(folder: Path, annotate: Annotate, command: tuple[str, ...]) -> None:
    code, out, err = annotate(*command, "--out", "w.safetensors", "--keep-crops", "2", "--minutes", "0")
    assert (code, out) == (0, "")
    assert err.endswith("stopped; the same command goes on\n")
    assert not Path("w.safetensors").exists()


def test_recipes_differ_and_teachers_can_be_ones_own(folder: Path, annotate: Annotate) -> None:
    code, _, err = annotate(*FOUND, "--out", "f.safetensors", "--keep-crops", "2", "--recipe", "paper")
    assert code == 0, err
    steady = ("--out", "f.safetensors", "--keep-crops", "2", "--recipe", "steady")
    assert "f.safetensors: expected a training with recipe.learning_rate 0.01" in annotate(*FOUND, *steady)[2]
    teacher = ("--keep-crops", "2", "--weights", "found=f.safetensors")
    code, _, err = annotate(*HEADS, "--out", "h.safetensors", *teacher)
    assert code == 0, err
    assert "networks.found" in annotate(*HEADS, "--out", "h.safetensors", "--keep-crops", "2")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*HEADS, "--out", "h.bin"), "h.bin: expected a file name in .safetensors"),
        ((*HEADS, "--images", "none", "--out", "h.safetensors"), "none: expected a folder, a glob, a .txt list"),
        ((*HEADS, "--images", "empty", "--out", "h.safetensors"), "empty: expected photos, but found none"),
        ((*FOUND, "--images", "empty", "--out", "h.safetensors"), "empty: expected photos, but found none"),
        ((*HEADS, "--out", "h.safetensors", "--keep-crops", "many"), "expected a number of crops or `live`"),
        ((*HEADS, "--out", "h.safetensors", "--photos", "0"), "--photos: expected at least 1, but got 0"),
        ((*HEADS, "--out", "h.safetensors", "--minutes", "-1"), "--minutes: expected at least 0, but got -1"),
        ((*HEADS, "--out", "h.safetensors", "--steps", "0"), "h.safetensors: expected trained weights for --steps 0"),
        ((*HEADS, "--out", "h.safetensors", "--compare", "truth"), "expected --compare, --compare-images and --vocab"),
        (
            (*HEADS, "--out", "h.safetensors", "--compare", "no", "--compare-images", "photos", "--vocab", "a, b"),
            "--compare no: expected masks or a COCO .json",
        ),
        ((*FOUND, "--out", "f.safetensors", "--truth", "masks"), "expected --truth and --truth-images together"),
        ((*FOUND, "--out", "f.safetensors", "--weights", "x=y"), "--weights x=FILE: the pack 'embedded' has no such"),
    ],
)
def test_mistakes_are_one_line(folder: Path, annotate: Annotate, arguments: tuple[str, ...], message: str) -> None:
    (folder / "empty").mkdir()
    code, _, err = annotate(*arguments)
    assert code == cli.EXIT_USAGE
    assert message in err
    assert err.startswith("annotate: ")
    assert len(err.splitlines()) == 1
    assert not list(folder.glob("*.safetensors"))
