"""`annotate demo`: the whole way on a few photos that come with scikit-image and scikit-learn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from annotator.config import RunConfig
from annotator.errors import ConfigError
from annotator.fonts import font_for
from annotator.run import open_run
from exporters import base as exporters
from labelers.base import find

CLASSES = """\
sky
wall
floor, ground
grass, lawn
tree, bush
building, house, tower
mountain, rock
water, river, sea, lake
road, pavement
person, face
cat
dog
coffee, cup of coffee, mug
spoon, cutlery
table, wooden table
rocket, rocket on a launch pad
flower, daisy
motorcycle, wheel
coin
"""

SKIMAGE = ("chelsea", "astronaut", "coffee", "rocket", "stereo_motorcycle")
SKLEARN = ("china.jpg", "flower.jpg")
TILE, PAD, BANNER = 480, 12, 56


def make_demo(out: Path, labeler: str, pack: str, say: Callable[[str], None]) -> Path:
    """Photos, masks, overlays, COCO and a contact sheet below `out`; returns the contact sheet."""
    from annotator import pipeline

    photos, vocab = out / "photos", out / "classes.txt"
    say(f"writing sample photos to {photos}")
    write_photos(photos)
    background = "background\n" if find(labeler).spec.needs_background else ""  # sky and trees are classes here
    vocab.write_text(background + CLASSES, encoding="utf-8")

    config = RunConfig(
        images=str(photos), labeler=labeler, vocab=str(vocab), pack=pack, out=str(out / "run"), overwrite=True
    )
    job = pipeline.prepare(config)
    say(f"labelling them with {labeler} and the pack {job.networks.pack}")
    outcome = pipeline.run(job)
    run = open_run(outcome.directory)
    for name, target in (("mask-png", "masks"), ("overlay", "overlays"), ("coco", "labels.json")):
        say(f"exporting {name} to {out / target}")
        if (out / target).is_dir():
            shutil.rmtree(out / target)
        exporters.export(name, run, out / target)
    overview = out / "overview.png"
    title = f"{labeler}, pack {job.networks.pack}"
    contact_sheet(sorted((out / "overlays").glob("*.jpg")), title).save(overview)
    return overview


def write_photos(folder: Path) -> None:
    """The sample photos as JPEG files; both packages ship them under free licences."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import skimage.data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ConfigError(f"the sample photos come with {error.name}: pip install 'annotate[demo]'") from None
    for name in SKIMAGE:
        try:
            loaded = getattr(skimage.data, name)()
        except Exception:  # not in the wheel, and its download is out of reach
            continue
        pixels = loaded[0] if isinstance(loaded, tuple) else loaded
        Image.fromarray(np.asarray(pixels)).convert("RGB").save(folder / f"{name}.jpg", quality=95)
    for name in SKLEARN:
        Image.fromarray(load_sample_image(name)).save(folder / name, quality=95)


def contact_sheet(overlays: list[Path], title: str) -> Image.Image:
    """All overlays in rows."""
    tiles = []
    for path in overlays:
        with Image.open(path) as image:
            tiles.append((path.stem, image.convert("RGB").resize((TILE, round(image.height * TILE / image.width)))))
    columns = min(4, max(len(tiles), 1))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for _, tile in row) + 2 * PAD + 14 for row in rows]
    sheet = Image.new("RGB", (columns * (TILE + PAD) + PAD, BANNER + sum(heights)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((PAD, BANNER / 2), title, (38, 43, 51), font_for((), 28), anchor="lm")
    y = BANNER
    for row, height in zip(rows, heights, strict=True):
        for column, (name, tile) in enumerate(row):
            x = PAD + column * (TILE + PAD)
            draw.text((x, y), name, (38, 43, 51), font_for((), 14))
            sheet.paste(tile, (x, y + 14 + PAD // 2))
        y += height
    return sheet
