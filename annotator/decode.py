"""One photo file -> upright 8-bit RGB pixels, or a short reason why not. Pillow does the decoding.

What a file is, its first bytes decide, never its name.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from annotator.errors import ImageError, UnclearError
from annotator.storage import ask, is_remote, modified, read_bytes

MAX_PIXELS = 178_956_970
"""Above this Pillow, too, takes a file for a decompression bomb."""

MAX_FETCHED_BYTES = 1 << 30
"""Of a photo in a store, which is fetched whole."""

CHECKED_BYTES = 1 << 28
"""So many first bytes count for a checksum: of a file with holes there may be a terabyte."""

CHECKED_AT_ONCE = 1 << 18

HEAD_BYTES = 64
"""So many first bytes tell the format."""

ROWS_AT_ONCE = 64
"""Of more than 8 bits a pixel, so that what is worked out on the way stays small."""

_OF_A_NAME = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
"""Errors of the system that are the file's own."""

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "AVIF": rb"....ftyp(?:.{4})*?avi[fs]",
    "HEIF": rb"....ftyp(?:.{4})*?(?:hei[cxms]|hev[cxms]|mif1|msf1)",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "PPM": rb"P[1-6]\s+[#\d]",
}
_FORMATS = {name: re.compile(signature, re.DOTALL) for name, signature in _SIGNATURES.items()}

_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the photo upright."""

_REDUCED_PAGE = 1
"""Bit of TIFF's NewSubfileType: the page is a small version of another one."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo.

    pixels: h x w x 3 uint8 RGB, upright; smaller than height x width where it was decoded at a reduced size.
    width, height: size of the photo as a viewer shows it (EXIF applied).
    orientation: EXIF value found, 1 (upright) to 8.
    bytes, mtime, checksum: of the file (`checksum_of`).
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    orientation: int
    bytes: int
    mtime: float
    checksum: int | None = None


def decode(path: Path, *, working_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads one photo; whatever is wrong with it is an `ImageError` whose text does not name the path, and an
    `UnclearError` where that may be the system's fault.

    Of animations and multi-page files the first picture counts. Transparency is laid on white. 16-bit gray
    is scaled by 1/257. 32-bit gray (integer, float) is scaled by the smallest of 1, 255 and 65535 that holds
    all its values, or from its lowest to its highest value where that holds negative or larger ones.

    working_side: a photo whose short side is at least twice this comes at 1/2, 1/4 or 1/8 of its size, the short
        side never below `working_side`: a JPEG is decoded so, other photos are averaged over squares of pixels.
    max_pixels: a larger photo is refused from its header, before memory is taken.
    """
    if str(path) != storable(str(path)):
        raise ImageError("its name is not valid UTF-8; rename it")
    try:
        if is_remote(path):
            content, size, mtime = _fetch(path)
            with content, _pillow_settings(max_pixels):
                return _read(content, size, mtime, working_side, max_pixels)
        with open_regular(path) as file, _pillow_settings(max_pixels):
            status = os.fstat(file.fileno())
            return _read(file, status.st_size, status.st_mtime, working_side, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # decoders meet hostile bytes with any exception there is
        kind = UnclearError if _is_of_the_system(error) else ImageError
        raise kind(_reason(error, max_pixels)) from error


def image_format(head: bytes) -> str | None:
    """Pillow's name for the format of a file with these first `HEAD_BYTES`; None where it is no image."""
    return next((name for name, signature in _FORMATS.items() if signature.match(head)), None)


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file for reading; anything else is an `ImageError`, and a pipe does not block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise ImageError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
    return os.fdopen(handle, "rb")


def storable(name: str) -> str:
    """The name itself, or where it is not valid UTF-8 on disk, a form of it that is: `caf\\xe9.jpg`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def checksum_of(path: Path) -> int | None:
    """CRC-32 of the first `CHECKED_BYTES` of a file, by which one that was only copied is known; None where it cannot
    be read. It costs a fiftieth of decoding, a cryptographic one up to a fifth."""
    try:
        with BytesIO(read_bytes(path)) if is_remote(path) else open_regular(path) as file:
            return _checksum(file)
    except (OSError, ImageError):
        return None


def _checksum(file: BinaryIO) -> int:
    file.seek(0)
    checksum, left = 0, CHECKED_BYTES
    while left and (piece := file.read(min(left, CHECKED_AT_ONCE))):
        checksum = crc32(piece, checksum)
        left -= len(piece)
    return checksum


def _fetch(path: Path) -> tuple[BytesIO, int, float]:
    """Content, size and time of a file in a store."""
    try:
        info = ask(path, lambda files, name: files.info(name))
        if info["type"] != "file":
            raise ImageError("a folder, not a file")
        if info["size"] > MAX_FETCHED_BYTES:
            raise ImageError(f"{info['size']:,} bytes are more than the {MAX_FETCHED_BYTES:,} that are fetched")
        content = read_bytes(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnclearError(f"cannot be fetched: {error.strerror or error}") from error
    return BytesIO(content), len(content), modified(info)


def _read(file: BinaryIO, length: int, mtime: float, working_side: int | None, max_pixels: int) -> Photo:
    if not length:
        raise ImageError("the file is empty")
    kind = image_format(file.read(HEAD_BYTES))
    if kind is None:
        raise ImageError("not an image: its first bytes are those of no known format")
    _require_decoder(kind)
    file.seek(0)
    with Image.open(file, formats=[kind]) as image:
        size = image.size
        if size[0] * size[1] > max_pixels:
            raise ImageError(_too_large(size[0] * size[1], max_pixels))
        if kind == "TIFF" and image.getexif().get(ExifTags.Base.NewSubfileType, 0) & _REDUCED_PAGE:
            raise ImageError("its first page is only a preview (a camera's raw file?); convert it to JPEG or TIFF")
        applied = _orientation(image) if kind == "TIFF" else 1  # Pillow turns TIFF upright in `load`
        drafted = _draft(image, working_side)
        image.load()
        if not drafted:
            size = image.size
        orientation = _orientation(image)
        upright = _to_rgb(image)
        if not drafted and (factor := _factor(size, working_side)) > 1:
            upright = upright.reduce(factor)
        if (turn := _TURNS[orientation]) is not None:
            upright = upright.transpose(turn)
        pixels = np.array(upright)
    width, height = size if orientation < 5 else size[::-1]
    return Photo(pixels, width, height, max(orientation, applied), length, mtime, _checksum(file))


def _require_decoder(kind: str) -> None:
    if kind == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            raise ImageError("HEIC needs one more package: pip install 'annotate[heif]'") from None
        pillow_heif.register_heif_opener()
    if kind == "AVIF" and not features.check("avif"):
        raise ImageError("this Pillow cannot read AVIF: pip install --upgrade pillow")


def _factor(size: tuple[int, int], working_side: int | None) -> int:
    """By how much the photo may be shrunk: 1, or one of those that JPEG offers."""
    room = min(size) // working_side if working_side else 1
    return next((factor for factor in (8, 4, 2) if room >= factor), 1)


def _draft(image: Image.Image, working_side: int | None) -> bool:
    """Asks the JPEG decoder for a reduced size where the photo is large enough; says whether it did."""
    if not isinstance(image, JpegImageFile) or working_side is None or _factor(image.size, working_side) == 1:
        return False
    return image.draft(None, (working_side, working_side)) is not None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata: viewers show such a photo as it lies
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_gray(image)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(layer, mask=layer)
    return page


def _to_gray(image: Image.Image) -> NDArray[np.uint8]:
    """H x W uint8 of a gray image with more than 8 bits."""
    values = np.asarray(image)
    gray = np.empty(values.shape, dtype=np.uint8)
    bands = [slice(row, row + ROWS_AT_ONCE) for row in range(0, len(values), ROWS_AT_ONCE)]
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):  # formats that use their whole range
        for band in bands:
            gray[band] = (values[band].astype(np.uint32) + 128) // 257
        gray[values == image.info.get("transparency", -1)] = 255
        return gray
    ends = [(found.min(), found.max()) for band in bands if (found := values[band][np.isfinite(values[band])]).size]
    low, high = float(min((end[0] for end in ends), default=0)), float(max((end[1] for end in ends), default=0))
    bottom, top = low, high
    if low >= 0:
        bottom, top = 0.0, next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
    for band in bands:
        filled = np.nan_to_num(values[band].astype(np.float64), nan=low, posinf=high, neginf=low)
        gray[band] = np.rint((filled - bottom) / ((top - bottom) or 1.0) * 255)
    return gray


def _is_of_the_system(error: Exception) -> bool:
    """Whether reading failed, which may have nothing to do with the photo."""
    if isinstance(error, UnidentifiedImageError):
        return False
    is_numbered = isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_A_NAME
    return is_numbered or isinstance(error, FileNotFoundError)


def _too_large(pixels: int, limit: int) -> str:
    return f"{pixels:,} pixels are more than the limit of {limit:,}; --max-pixels raises it for files that you trust"


def _reason(error: Exception, max_pixels: int) -> str:
    text = " ".join(str(error).split())
    match error:
        case Image.DecompressionBombError():
            return _too_large(int(re.findall(r"\d+", text)[0]), max_pixels)
        case FileNotFoundError():
            return "file not found: it vanished, or it is a broken link"
        case UnidentifiedImageError():
            return "damaged: its header cannot be read"
        case MemoryError():
            return "not enough memory to decode it"
        case OSError(errno=int(code)):
            return f"cannot be read: {os.strerror(code).lower()}"
    if "truncated" in text.lower():
        return "truncated: the end of the file is missing"
    return f"damaged: {text[:200] or type(error).__name__}"


_settings_lock = threading.Lock()
_settings = ExitStack()
_limits: list[int] = []
"""Limits of the calls of `decode` that are under way, in whatever threads."""
_nowhere = logging.NullHandler()
"""Where Pillow's log goes unless the program has set up logging; else it would go to standard error."""


@contextmanager
def _pillow_settings(max_pixels: int) -> Iterator[None]:
    """Until the last `decode` under way ends, Pillow's own limit follows `max_pixels`, and its warnings are off.

    Both are global to the process. Whatever the program that uses this library had set comes back.
    """
    half = (max_pixels + 1) // 2  # Pillow refuses from twice its limit on
    with _settings_lock:
        if not _limits:
            _settings.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _settings.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            logging.getLogger("PIL").addHandler(_nowhere)
            _settings.callback(logging.getLogger("PIL").removeHandler, _nowhere)
        _limits.append(half)
        Image.MAX_IMAGE_PIXELS = max(_limits)
    try:
        yield
    finally:
        with _settings_lock:
            _limits.remove(half)
            if not _limits:
                _settings.close()
