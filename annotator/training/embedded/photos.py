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

from annotator.files import replacing
from annotator.models.mini_clip import Stem, StemFeatures, second_look
from annotator.training.embedded.names import COCO, VOC_TO_COCO, weak_name

LEFT_OUT = ("voc2007",)
"""Sources of the pool: VOC 2007 shares photos with VOC 2012, which is measured on."""
STUFF_CELLS_FILE = Path(__file__).with_name("stuff_cells.npz")
"""Centres of feature clusters, some of them named by hand (see the model card)."""
LABEL_STRIDE = 4
SHARD = 256
NO_LABEL = 255
AGAIN = "again_"
"""Before the names of a second look's features."""
PASTED = 0.5  # share of labelled views with objects of another photo pasted in

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """weak: what the source says the photo shows, or "". labelled: has masks. voc: those masks are VOC's 20 classes."""

    path: Path
    weak: str = ""
    labelled: bool = False
    voc: bool = False


@dataclass(frozen=True)
class Kind:
    """Square views of one size in pixels.

    masked:  how many of every photo with masks.
    every:   of the photos without, one in so many has a view.
    least:   least share of the short side's square that a view shows, without and with masks.
    """

    side: int
    masked: int
    every: int
    least: tuple[float, float]

    def of(self, unlabelled: Sequence[Photo], labelled: Sequence[Photo]) -> list[Photo]:
        """The photo of each view."""
        return [*unlabelled[:: self.every], *(photo for photo in labelled for _ in range(self.masked))]


KINDS = (
    Kind(320, masked=16, every=1, least=(0.3, 0.15)),  # a part of the photo
    Kind(224, masked=8, every=1, least=(0.7, 0.3)),  # most of it, coarsely, as CLIP-DIY's crops do
    Kind(448, masked=12, every=3, least=(0.5, 0.3)),  # most of it, looked at twice, as the sliding windows do
)


@dataclass
class View:
    """A square crop: side x side x 3, and side x side labels (0 background, 1-80 COCO, 255 unknown) and instances.

    rows: which part of the photo's height it shows.
    """

    image: Pixels
    labels: Pixels
    instances: Pixels
    rows: tuple[float, float]
    weak: str
    voc: bool


def gather(data: Path) -> tuple[list[Photo], list[Photo]]:
    """-> (unlabelled, labelled) photos for training; nothing that is measured on."""
    pool = data / "photos/pool"
    folders = (data / "photos/imagenet", data / "photos/openimages")
    unlabelled = [Photo(file) for folder in folders for file in sorted(folder.glob("*.jpg"))]
    with (pool / "index.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row["file"].startswith(LEFT_OUT):
                unlabelled.append(Photo(pool / row["file"], weak_name(row["category"]) or ""))
    labelled = [Photo(file, labelled=True) for file in sorted((data / "coco/train2017").glob("*.jpg"))]
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


def crop(photo: Photo, rng: np.random.Generator, kind: Kind) -> View:
    """A random square view, mirrored half the time, mild colour changes."""
    side = kind.side
    image: Image.Image = Image.open(photo.path)
    if not photo.labelled:
        image.draft("RGB", (side, side))
    image = image.convert("RGB")
    width, height = image.size
    seen = min(width, height) * rng.uniform(kind.least[photo.labelled], 1) ** 0.5
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    w, h = min(seen * stretch, width), min(seen / stretch, height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = (x, y, x + w, y + h)
    mirrored = rng.random() < 0.5

    def view(source: Image.Image, resample: Image.Resampling) -> Pixels:
        pixels = np.asarray(source.resize((side, side), resample, box=box))
        return pixels[:, ::-1] if mirrored else pixels

    pixels = view(image, Image.Resampling.BICUBIC)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        pixels = np.asarray(enhance(Image.fromarray(np.ascontiguousarray(pixels))).enhance(rng.uniform(0.7, 1.3)))
    labels = np.full((side, side), NO_LABEL, dtype=np.uint8)
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


@dataclass(frozen=True)
class Shard:
    """Views that are stored in one file: the photos they are of, and the seed of each."""

    kind: Kind
    photos: list[Photo]
    seeds: list[int]


def plan(unlabelled: Sequence[Photo], labelled: Sequence[Photo], seed: int = 0) -> list[Shard]:
    """Views of every kind, mixed evenly."""
    shards = []
    for kind in KINDS:
        order = kind.of(unlabelled, labelled)
        mixed = np.random.default_rng([seed, kind.side]).permutation(len(order))
        for start in range(0, len(mixed), SHARD):
            chosen = mixed[start : start + SHARD].tolist()
            shards.append(Shard(kind, [order[i] for i in chosen], [int(i) for i in chosen]))
    return [shards[i] for i in np.random.default_rng(seed).permutation(len(shards))]


def views(shard: Shard, unlabelled: Sequence[Photo], labelled: Sequence[Photo], seed: int = 0) -> Iterator[View]:
    for photo, own in zip(shard.photos, shard.seeds, strict=True):
        rng = np.random.default_rng([seed, shard.kind.side, own])
        view = crop(photo, rng, shard.kind)
        if photo.labelled and rng.random() < PASTED:
            other = labelled if rng.random() < 0.5 else unlabelled
            view = paste(crop(other[int(rng.integers(len(other)))], rng, shard.kind), view, rng)
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
    views: Sequence[View], stem: Stem, clusters: StuffClusters, weak_names: Sequence[str], file: Path, batch: int = 16
) -> None:
    """Runs views of one side through the stem and writes features (float16) and labels (uint8) of all to `file`."""
    device = next(stem.parameters()).device
    stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weak_index = {name: index for index, name in enumerate(weak_names)}
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, len(views), batch):
        chunk = views[start : start + batch]
        pixels = torch.from_numpy(np.stack([v.image for v in chunk])).to(device).permute(0, 3, 1, 2)
        images = (pixels.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        shown = torch.tensor([v.rows for v in chunk], dtype=torch.float32)
        small = second_look(images)
        features, stuff = _look(images, shown, stem, clusters)
        rows = features._asdict()
        if small is not None:  # stuff at the scale that its cells were named at
            again, stuff = _look(small, shown, stem, clusters)
            rows |= {AGAIN + name: values for name, values in again._asdict().items()}
            stuff = F.interpolate(stuff[:, None].float(), size=features.stride16.shape[-2:])[:, 0]
        rows = {name: values.half().cpu().contiguous() for name, values in rows.items()}
        half = slice(LABEL_STRIDE // 2, None, LABEL_STRIDE)
        rows["labels"] = torch.from_numpy(np.stack([v.labels[half, half] for v in chunk]))
        rows["instances"] = torch.from_numpy(np.stack([v.instances[half, half] for v in chunk]))
        rows["stuff"] = stuff.to(torch.uint8)
        rows["weak"] = torch.tensor([weak_index.get(v.weak, -1) for v in chunk], dtype=torch.int16)
        rows["voc"] = torch.tensor([v.voc for v in chunk])
        for key, value in rows.items():
            columns.setdefault(key, []).append(value)
    with replacing(file) as opened:
        torch.save({key: torch.cat(value) for key, value in columns.items()}, opened)


@torch.inference_mode()
def _look(images: Tensor, shown: Tensor, stem: Stem, clusters: StuffClusters) -> tuple[StemFeatures, Tensor]:
    """-> stem features, and B x h x w index of a stuff name."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        x = stem.net.bn1(stem.net.conv_stem(images))
        taps = []
        for index, stage in enumerate(stem.net.blocks):
            x = stage(x)
            taps += [x] if index in (2, 4) else []
        features = StemFeatures(taps[0], taps[1], stem.net.bn2(stem.net.conv_head(x)))
    return features, clusters([t.float().cpu() for t in (*taps, x)], images.float().cpu().contiguous(), shown)
