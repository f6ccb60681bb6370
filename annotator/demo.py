"""`annotate demo`: the whole way on a few photos that come with scikit-image and scikit-learn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from annotator.config import RunConfig
from annotator.errors import ConfigError
from annotator.files import refuse_leading_out, replacing, replacing_text
from annotator.fonts import font_for
from annotator.run import RunReader, open_run
from annotator.show import draw
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


def make_demo(
    out: Path, labeler: str, pack: str, say: Callable[[str], None], settings: dict[str, Any] | None = None
) -> Path:
    """Photos, masks, overlays, COCO and a contact sheet below `out`; returns the contact sheet.

    A labeler that names its own classes gets pictures of its segments with their captions, too, for the sheet.
    """
    from annotator import pipeline

    photos, spec = out / "photos", find(labeler).spec
    for name in ("photos", "run", "masks", "overlays", "captions"):
        refuse_leading_out(out / name, out)
    say(f"writing sample photos to {photos}")
    write_photos(photos)
    config = RunConfig(
        images=str(photos),
        labeler=labeler,
        vocab=str(_write_classes(out, spec.needs_background)) if spec.needs_vocabulary else None,
        pack=pack,
        out=str(out / "run"),
        overwrite=True,
        settings=settings or {},
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
    pictures = out / "overlays"
    if not spec.needs_vocabulary:
        pictures = out / "captions"
        _draw_captions(run, pictures)
    overview = out / "overview.png"
    title = f"{labeler}, pack {job.networks.pack}"
    _save(contact_sheet(sorted(pictures.glob("*.jpg")), title), overview, "PNG")
    return overview


def _write_classes(out: Path, background: bool) -> Path:
    """Sky and trees are classes here, so that a background is there only where a labeler needs one."""
    file = out / "classes.txt"
    with replacing_text(file) as opened:
        opened.write(("background\n" if background else "") + CLASSES)
    return file


def _save(image: Image.Image, file: Path, format: str, quality: int = 95) -> None:
    with replacing(file) as opened:
        image.save(opened, format, quality=quality)


def _draw_captions(run: RunReader, folder: Path) -> None:
    """Every segment with its caption on it."""
    folder.mkdir(exist_ok=True)
    for record in run.records():
        with Image.open(run.image_root / record.path) as photo:
            _save(draw(record, np.asarray(photo.convert("RGB"))), folder / record.path, "JPEG", quality=92)


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
        _save(Image.fromarray(np.asarray(pixels)).convert("RGB"), folder / f"{name}.jpg", "JPEG")
    for name in SKLEARN:
        _save(Image.fromarray(load_sample_image(name)), folder / name, "JPEG")


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
    pen = ImageDraw.Draw(sheet)
    pen.text((PAD, BANNER / 2), title, (38, 43, 51), font_for((), 28), anchor="lm")
    y = BANNER
    for row, height in zip(rows, heights, strict=True):
        for column, (name, tile) in enumerate(row):
            x = PAD + column * (TILE + PAD)
            pen.text((x, y), name, (38, 43, 51), font_for((), 14))
            sheet.paste(tile, (x, y + 14 + PAD // 2))
        y += height
    return sheet
