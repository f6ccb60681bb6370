"""Photos, crops and their cached stem features: the convolutional stem is frozen, so every crop passes it once."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F

from annotator.models.mini_clip import Stem, StemFeatures
from annotator.training.embedded.names import COCO, VOC_TO_COCO, weak_name

VIEW = 320  # pixels; 20 x 20 tokens
LABEL_STRIDE = 4
SHARD = 256
NO_LABEL = 255
UNLABELLED = {"imagenet": 1000, "openimages": 673}
POOL = {
    "osie": 675, "imagen": 600, "caltech101": 500, "sports": 300, "adeland": 288, "houses": 200, "pacs": 100,
    "urban100": 87, "fruitveg": 80, "jetson": 72, "sunhays": 69, "foodish": 60, "clothing": 60, "dreambooth": 40,
    "ccp": 40, "grocery": 40, "kangaroo": 30, "raccoon": 20, "hymenoptera": 20,
}  # fmt: skip
"""Photos taken per source. VOC 2007 is left out: it shares photos with VOC 2012, which is measured on."""
VIEWS_PER_LABELLED = 8
PASTED = 0.5  # share of labelled views with objects of another photo pasted in

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """weak: what the source says the photo shows, or "". labelled: has masks. voc: those masks are VOC's 20 classes."""

    path: Path
    weak: str = ""
    labelled: bool = False
    voc: bool = False


@dataclass
class View:
    """A square crop: VIEW x VIEW x 3, and VIEW x VIEW labels (0 background, 1-80 COCO, 255 unknown) and instances.

    rows: which part of the photo's height it shows.
    """

    image: Pixels
    labels: Pixels
    instances: Pixels
    rows: tuple[float, float]
    weak: str
    voc: bool


def gather(data: Path, seed: int = 0) -> tuple[list[Photo], list[Photo]]:
    """-> (unlabelled, labelled) photos for training; nothing that is measured on."""
    rng = np.random.default_rng(seed)
    unlabelled = []
    for folder, count in UNLABELLED.items():
        unlabelled += [Photo(p) for p in sorted((data / "photos" / folder).glob("*.jpg"))[:count]]
    pool = data / "photos/pool"
    with (pool / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for source, count in POOL.items():
        of_source = [row for row in rows if row["file"].startswith(f"{source}_")]
        for index in sorted(rng.permutation(len(of_source))[:count]):
            row = of_source[index]
            unlabelled.append(Photo(pool / row["file"], weak_name(row["category"]) or ""))
    labelled = [Photo(p, labelled=True) for p in sorted((data / "coco/train2017").glob("*.jpg"))]
    voc = data / "voc/VOCdevkit/VOC2012"
    for split in ("train", "aug"):
        names = (voc / f"ImageSets/Segmentation/{split}.txt").read_text().split()
        labelled += [Photo(voc / f"JPEGImages/{name}.jpg", labelled=True, voc=True) for name in names]
    return unlabelled, labelled


@cache
def _coco_annotations(file: Path) -> tuple[dict[str, dict[str, Any]], dict[int, list[dict[str, Any]]], dict[int, int]]:
    """-> photo of a file name, annotations of a photo's id (large first), class (1-80) of a category id."""
    content = json.loads(file.read_text())
    order = sorted(content["categories"], key=lambda c: c["id"])
    assert [c["name"] for c in order] == COCO
    of_photo: dict[int, list[dict[str, Any]]] = {}
    for annotation in sorted(content["annotations"], key=lambda a: -a["area"]):
        of_photo.setdefault(annotation["image_id"], []).append(annotation)
    return {i["file_name"]: i for i in content["images"]}, of_photo, {c["id"]: k + 1 for k, c in enumerate(order)}


def masks_of(photo: Photo, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """-> H x W labels and instances of a labelled photo; size: (W, H)."""
    if photo.voc:
        raw = np.array(Image.open(photo.path.parents[1] / f"SegmentationClass/{photo.path.stem}.png"))
        to_coco = np.full(256, NO_LABEL, dtype=np.uint8)
        to_coco[0] = 0
        to_coco[1:21] = [COCO.index(name) + 1 for name in VOC_TO_COCO]
        labels = to_coco[raw]
        return labels, np.where(labels == NO_LABEL, 0, labels).astype(np.uint8)
    from pycocotools import mask

    photos, annotations, classes = _coco_annotations(photo.path.parents[1] / "annotations/instances_train2017.json")
    width, height = size
    labels, instances = np.zeros((2, height, width), dtype=np.uint8)
    for index, annotation in enumerate(annotations.get(photos[photo.path.name]["id"], [])):
        shape = annotation["segmentation"]
        if isinstance(shape, list):
            encoded = mask.merge(mask.frPyObjects(shape, height, width))
        else:
            encoded = mask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
        inside = mask.decode(encoded).astype(bool)
        labels[inside] = NO_LABEL if annotation.get("iscrowd") else classes[annotation["category_id"]]
        instances[inside] = min(index + 1, 254)
    return labels, instances


def crop(photo: Photo, rng: np.random.Generator, least: float = 0.3) -> View:
    """A random square view: `least` to all of the short side's square, mirrored half the time, mild colour changes."""
    image: Image.Image = Image.open(photo.path)
    if not photo.labelled:
        image.draft("RGB", (VIEW, VIEW))
    image = image.convert("RGB")
    width, height = image.size
    side = min(width, height) * rng.uniform(least, 1) ** 0.5
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    w, h = min(side * stretch, width), min(side / stretch, height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = (x, y, x + w, y + h)
    mirrored = rng.random() < 0.5

    def view(source: Image.Image, resample: Image.Resampling) -> Pixels:
        pixels = np.asarray(source.resize((VIEW, VIEW), resample, box=box))
        return pixels[:, ::-1] if mirrored else pixels

    pixels = view(image, Image.Resampling.BICUBIC)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        pixels = np.asarray(enhance(Image.fromarray(np.ascontiguousarray(pixels))).enhance(rng.uniform(0.7, 1.3)))
    labels = np.full((VIEW, VIEW), NO_LABEL, dtype=np.uint8)
    instances = np.zeros_like(labels)
    if photo.labelled:
        masks = masks_of(photo, image.size)
        labels, instances = (view(Image.fromarray(m), Image.Resampling.NEAREST) for m in masks)
    return View(pixels, labels, instances, (y / height, (y + h) / height), photo.weak, photo.voc)


def paste(onto: View, view: View, rng: np.random.Generator) -> View:
    """Some of the objects of `view`, pasted at their place into `onto`."""
    chosen = rng.random(256) < 0.6
    chosen[0] = False
    take = chosen[view.instances] & (view.labels > 0) & (view.labels < NO_LABEL)
    return View(
        np.where(take[..., None], view.image, onto.image),
        np.where(take, view.labels, onto.labels),
        np.where(take, view.instances, np.where(onto.instances > 0, np.minimum(onto.instances, 99) + 150, 0)),
        onto.rows,
        "",
        onto.voc,
    )


def views(unlabelled: Sequence[Photo], labelled: Sequence[Photo], seed: int = 0) -> Iterator[View]:
    """One view of every unlabelled photo and several of every labelled one, mixed evenly."""
    rng = np.random.default_rng(seed)
    order = [(photo, False) for photo in unlabelled] + [(photo, True) for photo in labelled] * VIEWS_PER_LABELLED
    for index in rng.permutation(len(order)):
        photo, masks = order[index]
        view = crop(photo, rng, 0.15 if masks else 0.3)
        if masks and rng.random() < PASTED:
            other = labelled if rng.random() < 0.5 else unlabelled
            view = paste(crop(other[int(rng.integers(len(other)))], rng), view, rng)
        yield view


class StuffClusters:
    """Cells of the stem's feature space that k-means found; some were named by hand after looking at samples."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        arrays = np.load(file)
        self._mean, self._std, self._weight, self._axes, self._offset, self._centres = (
            torch.from_numpy(arrays[key]).float() for key in ("mean", "std", "w", "comp", "pmean", "cent")
        )
        self._named = torch.full((len(self._centres),), NO_LABEL)
        for name, cells in STUFF_CELLS.items():
            self._named[cells] = list(names).index(name)

    def __call__(self, taps: Sequence[Tensor], images: Tensor, rows: Tensor) -> Tensor:
        """Stride 8, 16 and 32 before the head; normalised images; B x 2 shown rows -> B x h x w index of a name."""
        grid = (taps[1].shape[-2], taps[1].shape[-1])
        steps = (torch.arange(grid[0]) + 0.5) / grid[0]
        y = (rows[:, :1] + (rows[:, 1:] - rows[:, :1]) * steps) * 2 - 1  # B x h
        parts = [F.adaptive_avg_pool2d(taps[0].float(), grid), taps[1].float()]
        parts += [F.interpolate(taps[2].float(), size=grid, mode="bilinear"), F.adaptive_avg_pool2d(images, grid)]
        cells = torch.cat([*parts, y[:, None, :, None].expand(-1, 1, -1, grid[1])], dim=1).permute(0, 2, 3, 1)
        standard = (cells - self._mean) / (self._std + 1e-6) * self._weight - self._offset
        named = self._named[torch.cdist((standard @ self._axes.T).flatten(0, 2), self._centres).argmin(dim=1)]
        named = named.view(len(images), *grid)
        votes = F.one_hot(named, 256)[..., :NO_LABEL].permute(0, 3, 1, 2).float()
        share, best = F.avg_pool2d(votes, 3, 1, 1, count_include_pad=False).max(dim=1)
        return torch.where(share > 0.6, best, NO_LABEL)


STUFF_CELLS = {
    "sky": [18, 47, 67, 75, 97, 106, 141, 157, 14], "tree": [41, 76, 83, 153, 35], "grass": [82, 73],
    "road": [71, 118], "mountain": [125, 101], "building": [56, 105], "water": [43], "wall": [33, 149],
    "cabinet": [63, 38, 148], "floor": [135], "bed": [103], "sign": [127], "car": [109, 104, 138], "person": [66],
}  # fmt: skip


def store(
    stream: Iterator[View],
    stem: Stem,
    clusters: StuffClusters,
    weak_names: Sequence[str],
    folder: Path,
    batch: int = 16,
) -> None:
    """Runs every view through the stem once and writes shards of features and labels (float16, uint8)."""
    folder.mkdir(parents=True, exist_ok=True)
    stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weak_index = {name: index for index, name in enumerate(weak_names)}
    done: dict[str, list[Tensor]] = {}
    shard = 0

    def flush(pending: list[View]) -> None:
        pixels = torch.from_numpy(np.stack([v.image for v in pending])).permute(0, 3, 1, 2)
        images = (pixels.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            x = stem.net.bn1(stem.net.conv_stem(images))
            taps = []
            for index, stage in enumerate(stem.net.blocks):
                x = stage(x)
                taps += [x] if index in (2, 4) else []
            features = StemFeatures(taps[0], taps[1], stem.net.bn2(stem.net.conv_head(x)))
        stuff = clusters([*taps, x], images.contiguous(), torch.tensor([v.rows for v in pending], dtype=torch.float32))
        rows = dict(zip(StemFeatures._fields, (f.half().contiguous() for f in features), strict=True))
        half = slice(LABEL_STRIDE // 2, None, LABEL_STRIDE)
        rows["labels"] = torch.from_numpy(np.stack([v.labels[half, half] for v in pending]))
        rows["instances"] = torch.from_numpy(np.stack([v.instances[half, half] for v in pending]))
        rows["stuff"] = stuff.to(torch.uint8)
        rows["weak"] = torch.tensor([weak_index.get(v.weak, -1) for v in pending], dtype=torch.int16)
        rows["voc"] = torch.tensor([v.voc for v in pending])
        for key, value in rows.items():
            done.setdefault(key, []).append(value)

    def write() -> None:
        nonlocal shard
        if done:
            part = folder / f"{shard:03d}.part"
            torch.save({key: torch.cat(value) for key, value in done.items()}, part)
            part.rename(folder / f"{shard:03d}.pt")
            done.clear()
            shard += 1

    pending: list[View] = []
    for view in stream:
        pending.append(view)
        if len(pending) == batch:
            flush(pending)
            pending = []
        if sum(map(len, done.get("voc", []))) >= SHARD:
            write()
    if pending:
        flush(pending)
    write()
