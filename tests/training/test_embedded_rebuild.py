"""`annotate train embedded` from a folder of drawn photos to weights that a run loads; a second call trains nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers_embedded_data import write_data

import annotator
from annotator.training.embedded import clip, dino, language, mask_heads, photos, rebuild, text

FILES = {"clip": "mini_clip", "heads": "heads", "found": "found", "found.backbone": "mini_dino"}


@pytest.mark.slow
def test_weights_come_out_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "EVERY", 80)
    few = tuple(replace(kind, masked=masked) for kind, masked in zip(photos.KINDS, (3, 1, 2), strict=True))
    monkeypatch.setattr(photos, "KINDS", few)
    data, out = write_data(tmp_path / "data"), tmp_path / "out"
    recipes = rebuild.Recipes(
        clip=clip.Recipe(steps=3, unlabelled=2, labelled=2, warm_up=1, large=0.4, twice=0.4),
        dino=dino.DinoRecipe(steps=2, views=4),
        found=mask_heads.FoundRecipe(steps=5, batch=4),
        heads=mask_heads.HeadsRecipe(views=8, steps=5, plain=2, masked=2),
        language=replace(language.Recipe(), steps=3, batch=4),
    )
    seen: list[tuple[str, float]] = []
    rebuild.rebuild(data, out, lambda stage, share, detail: seen.append((stage, share)), recipes)
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == ["names", "features", "clip", "dino", "found", "heads", "language"]
    assert all((stage, 1.0) in seen for stage in stages)
    card = (out / "card.md").read_text()
    assert "COCO train, instance masks | 4" in card
    assert "3 steps of 2 + 2 windows" in card

    files = sorted(out.glob("*.safetensors"))
    assert [file.name for file in files] == [
        "found.safetensors",
        "heads.safetensors",
        "mini_clip.safetensors",
        "mini_dino.safetensors",
    ]
    weights = {name: str(out / f"{file}.safetensors") for name, file in FILES.items()}
    for labeler, slots in (("dinoiser", ("clip", "heads")), ("diy", ("clip", "found", "found.backbone"))):
        run = annotator.annotate(
            data / "photos/pool",
            labeler=labeler,
            pack="embedded",
            vocab=["background", "cat", "car"],
            weights={slot: weights[slot] for slot in slots},
            out=tmp_path / labeler,
        )
        assert [record.status for record in run.records()] == ["ok"] * 5

    before = {file: file.stat().st_mtime_ns for file in files}
    rebuild.rebuild(data, out, lambda stage, share, detail: None, recipes)
    assert {file: file.stat().st_mtime_ns for file in files} == before
