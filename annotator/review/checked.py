"""What the app's database says of a photo, checked before it is used: like a row of a run, it may be anybody's."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from annotator.characters import refuse_invisible
from annotator.decode import MAX_PIXELS
from annotator.errors import ConfigError, RunError
from annotator.wording import one_line

FURTHEST = 2.0
"""How far a box may reach, in sides of the photo: the app lets it be dragged over the border, but not to nowhere."""


class SampleError(RunError):
    """A photo in the database holds something that cannot be used. Says what; the photo is named by who catches it."""


def load(dataset: Any, identity: str) -> Any:
    """The sample, as far as FiftyOne can make sense of it."""
    try:
        return dataset[identity]
    except Exception as error:  # of FiftyOne, of its object mapper, of zlib, of numpy
        raise SampleError(
            f"cannot be read from the database ({one_line(error)[:200]}); have it made anew: fiftyone datasets delete "
            f"{dataset.name}"
        ) from None


def labels_in(sample: Any, field: str, kind: str) -> list[Any]:
    """The labels of a field that is a list of them; kind: "detections" or "classifications"."""
    return list((sample[field] and sample[field][kind]) or [])


def text_of(label: Any) -> str:
    text = label.label
    if not isinstance(text, str) or not text.strip():
        raise SampleError(f"expected a label with a name, but found {text!r}; name it in the app")
    try:
        refuse_invisible(text, "a label")
    except ConfigError as error:
        raise SampleError(str(error)) from None
    return text


def number_of(label: Any, name: str) -> int | None:
    """A number that we gave a label; None where a person added the label."""
    value = label[name] if label.has_field(name) else None
    return value if type(value) is int else None


def box_of(detection: Any) -> tuple[float, float, float, float]:
    """(x, y, width, height) in shares of the photo's sides."""
    box = detection.bounding_box
    sides = list(box) if isinstance(box, list | tuple) else []
    if len(sides) != 4 or not all(isinstance(side, int | float) and isfinite(side) for side in sides):
        raise SampleError(f"expected a box of four numbers, but found {box!r}")
    if max(map(abs, sides)) > FURTHEST or min(sides[2:]) < 0:
        raise SampleError(f"expected a box within the photo, but found {sides}")
    x, y, width, height = map(float, sides)
    return x, y, width, height


def mask_of(label: Any, folder: Path) -> NDArray[Any] | None:
    """The label's mask, H x W numbers; None where it has none, or its file is gone.

    folder: where a mask's file must be, if it is one.
    """
    values = label.mask
    if values is None and label.mask_path:
        values = _read(label, mask_file(label.mask_path, folder))
    if values is not None and (getattr(values, "ndim", 0) != 2 or values.dtype.kind not in "buif"):
        shape = getattr(values, "shape", type(values).__name__)
        raise SampleError(f"expected a mask with one channel of numbers, but found shape {shape}")
    checked: NDArray[Any] | None = values
    return checked


def mask_file(path: Any, folder: Path) -> Path:
    """The file at that path, which lies in the folder when every link is followed."""
    file = Path(path) if isinstance(path, str) and "\0" not in path else None
    if file is None or not file.resolve().is_relative_to(folder.resolve()):
        raise SampleError(f"expected its mask to be in {folder}, but it is {path!r}; set the mask itself, not its path")
    return file


def _read(label: Any, file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise SampleError(f"its mask has {picture.width} x {picture.height} pixels")
        return label.get_mask()
    except SampleError:
        raise
    except Exception as error:  # whatever a reader of images may raise
        raise SampleError(f"its mask cannot be read ({one_line(error)[:200]}); open it anew with --discard") from None
