"""Photos on disk -> upright RGB. Files are written by Pillow, or byte by byte where Pillow cannot."""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from annotator.errors import ImageError
from annotator.images import MAX_PIXELS, decode

WHITE, BLACK, RED, GREEN, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG byte by byte; rows carry their filter byte."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def filled(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> Image.Image:
    """Gentle waves: what a reduced decode and a box average must agree on."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 90 + k) * np.cos(y / 70 - k) for k in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


# --- modes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "value", "extension", "expected", "tolerance"),
    [
        ("1", 1, "png", WHITE, 0),
        ("L", 77, "png", (77, 77, 77), 0),
        ("L", 77, "jpg", (77, 77, 77), 1),
        ("LA", (0, 128), "png", (127, 127, 127), 0),  # black at 128/255 over white: 255 * 127/255
        ("RGB", (10, 20, 30), "bmp", (10, 20, 30), 0),
        ("RGB", (10, 20, 30), "ppm", (10, 20, 30), 0),
        ("RGB", (10, 20, 30), "jp2", (10, 20, 30), 0),
        ("RGB", (10, 20, 30), "tif", (10, 20, 30), 0),
        ("RGBX", (10, 20, 30, 0), "tif", (10, 20, 30), 0),
        ("RGBA", (255, 0, 0, 51), "png", (255, 204, 204), 0),  # a fifth of red, four fifths of white
        ("RGBA", (255, 0, 0, 0), "tif", WHITE, 0),
        ("RGBA", (255, 0, 0, 0), "webp", WHITE, 0),
        ("PA", (0, 0), "tif", WHITE, 0),
        ("CMYK", (0, 255, 255, 0), "jpg", RED, 2),  # Adobe's inverted form, as all CMYK JPEGs are
        ("CMYK", (255, 0, 255, 0), "tif", GREEN, 0),
        ("YCbCr", (76, 85, 255), "tif", (254, 0, 0), 2),  # JFIF's equations
        ("LAB", (255, 128, 128), "tif", WHITE, 1),
        ("LAB", (138, 209, 198), "tif", RED, 6),  # L*a*b* (54.3, 80.8, 69.9) at D50
    ],
)
def test_any_mode_becomes_rgb(
    tmp_path: Path, mode: str, value: object, extension: str, expected: tuple[int, ...], tolerance: int
) -> None:
    photo = decode(saved(tmp_path / f"photo.{extension}", Image.new(mode, (5, 4), value)))
    assert (photo.width, photo.height, photo.pixels.shape, photo.pixels.dtype) == (5, 4, (4, 5, 3), np.uint8)
    np.testing.assert_allclose(photo.pixels, np.broadcast_to(expected, (4, 5, 3)), atol=tolerance)


@pytest.mark.parametrize(
    ("transparency", "expected"),
    [
        (None, [RED, BLUE, GREEN]),
        (1, [RED, WHITE, GREEN]),  # one entry of the palette is clear
        (bytes([255, 102, 0]), [RED, (153, 153, 255), WHITE]),  # an alpha for each entry
    ],
)
def test_palette(tmp_path: Path, transparency: object, expected: list[tuple[int, ...]]) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    image.putpalette([*RED, *BLUE, *GREEN])
    options = {} if transparency is None else {"transparency": transparency}
    assert decode(saved(tmp_path / "palette.png", image, **options)).pixels[0].tolist() == [*map(list, expected)]


@pytest.mark.parametrize(
    ("depth", "color", "row", "key", "expected"),
    [
        (1, 0, bytes([0b01000000]), (0,), [WHITE, WHITE]),
        (8, 0, bytes([7, 9]), (7,), [WHITE, (9, 9, 9)]),
        (8, 2, bytes([*RED, 1, 2, 3]), RED, [WHITE, (1, 2, 3)]),
        (16, 0, struct.pack(">2H", 300, 2570), (300,), [WHITE, (10, 10, 10)]),
        (16, 2, struct.pack(">6H", 65535, 0, 0, 2570, 0, 0), (65535, 0, 0), [WHITE, (10, 0, 0)]),
    ],
)
def test_png_color_key_is_white(
    tmp_path: Path, depth: int, color: int, row: bytes, key: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    key_chunk = (b"tRNS", struct.pack(f">{len(key)}H", *key))
    photo = decode(filled(tmp_path / "key.png", png(2, 1, depth, color, b"\0" + row, key_chunk)))
    assert photo.pixels[0].tolist() == [*map(list, expected)]


SIXTEEN = [0, 128, 129, 257, 32896, 65535]
EIGHT = [0, 0, 1, 1, 128, 255]  # 128/257 = .498, 129/257 = .502


def tiff16(order: str, values: list[int]) -> bytes:
    """A one-row 16-bit gray TIFF; order is struct's < or >."""
    tags = [(256, len(values)), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, 2 * len(values)))
    data = struct.pack(f"{order}{len(values)}H", *values)
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("gray.png", png(6, 1, 16, 0, b"\0" + struct.pack(">6H", *SIXTEEN))),
        ("little.tif", tiff16("<", SIXTEEN)),
        ("big.tif", tiff16(">", SIXTEEN)),
        ("gray.pgm", b"P5 6 1 65535\n" + struct.pack(">6H", *SIXTEEN)),
    ],
)
def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path: Path, name: str, data: bytes) -> None:
    pixels = decode(filled(tmp_path / name, data)).pixels
    assert pixels[0, :, 0].tolist() == EIGHT
    assert (pixels == pixels[..., :1]).all()


def test_a_dark_16_bit_photo_stays_dark(tmp_path: Path) -> None:
    data = b"P5 2 1 65535\n" + struct.pack(">2H", 0, 257)
    assert decode(filled(tmp_path / "dark.pgm", data)).pixels[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (np.float32, [0, 0.2, 1], [0, 51, 255]),
        (np.float32, [0, 51.4, 255], [0, 51, 255]),
        (np.float32, [0, 32896, 65535], [0, 128, 255]),
        (np.float32, [-1, 0, 1], [0, 128, 255]),  # 127.5 goes to the even neighbour
        (np.float32, [np.nan, 0.4, np.inf], [102, 102, 102]),  # what is no number gets the nearest that is
        (np.float32, [np.nan, np.nan, np.nan], [0, 0, 0]),
        (np.int32, [0, 51, 255], [0, 51, 255]),
        (np.int32, [0, 257, 65535], [0, 1, 255]),
        (np.int32, [0, 500_000, 1_000_000], [0, 128, 255]),
        (np.int32, [-100, 0, 100], [0, 128, 255]),
    ],
)
def test_32_bit_gray_is_scaled_to_the_range_that_holds_it(
    tmp_path: Path, kind: type, values: list[float], expected: list[int]
) -> None:
    image = Image.fromarray(np.array([values], dtype=kind))
    assert decode(saved(tmp_path / "gray.tif", image)).pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_first_frame_of_many(tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if extension == "webp" else {}
    path = saved(tmp_path / f"film.{extension}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert (decode(path).pixels == RED).all()


def test_first_of_several_pictures_of_a_phone_may_be_reduced(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (400, 300), color) for color in (RED, BLUE))
    path = saved(tmp_path / "phone.jpg", first, format="MPO", save_all=True, append_images=[second])
    photo = decode(path, working_side=100)
    assert photo.pixels.shape == (150, 200, 3)
    np.testing.assert_allclose(photo.pixels, np.broadcast_to(RED, (150, 200, 3)), atol=2)


def test_one_pixel(tmp_path: Path) -> None:
    photo = decode(saved(tmp_path / "dot.png", Image.new("RGB", (1, 1), BLUE)), working_side=448)
    assert (photo.pixels.tolist(), photo.width, photo.height) == ([[[0, 0, 255]]], 1, 1)


def test_facts_of_the_file_and_content_over_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "really_a_png.jpg", Image.new("RGB", (3, 2)), format="PNG")
    os.utime(path, (1_000_000, 1_234_567.5))
    photo = decode(path)
    assert (photo.bytes, photo.mtime, photo.orientation) == (path.stat().st_size, 1_234_567.5, 1)
    photo.pixels[0, 0] = 9  # pixels are the caller's own


# --- orientation -----------------------------------------------------------------------------------------------

UPRIGHT = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, (90, 90, 90)]], dtype=np.uint8)
ROW_0_AND_COLUMN_0 = {  # EXIF 2.32, tag 274: the visual side that the file's first row and first column show
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Pixel by pixel from the table above."""
    row_side, column_side = ROW_0_AND_COLUMN_0[orientation]
    height, width = upright.shape[:2]
    swapped = row_side in ("left", "right")
    stored = np.zeros((width, height, 3) if swapped else (height, width, 3), dtype=np.uint8)
    for row in range(stored.shape[0]):
        for column in range(stored.shape[1]):
            place = {row_side: row, column_side: column}
            y = place["top"] if "top" in place else height - 1 - place["bottom"]
            x = place["left"] if "left" in place else width - 1 - place["right"]
            stored[row, column] = upright[y, x]
    return stored


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[274] = orientation
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("turned.png", {}),
        ("turned.tif", {}),
        ("packed.tif", {"compression": "tiff_lzw"}),
        ("turned.webp", {"lossless": True}),
    ],
)
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, name: str, options: dict) -> None:
    image = Image.fromarray(as_stored(UPRIGHT, orientation))
    photo = decode(saved(tmp_path / name, image, exif=exif(orientation), **options))
    np.testing.assert_array_equal(photo.pixels, UPRIGHT)
    assert (photo.width, photo.height, photo.orientation) == (3, 2, orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "avif"])
def test_orientation_of_lossy_formats(tmp_path: Path, orientation: int, extension: str) -> None:
    if extension == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    upright = UPRIGHT.repeat(32, axis=0).repeat(32, axis=1)
    image = Image.fromarray(as_stored(upright, orientation))
    path = saved(tmp_path / f"turned.{extension}", image, exif=exif(orientation), quality=95, subsampling="4:4:4")
    photo = decode(path)
    np.testing.assert_allclose(photo.pixels[16::32, 16::32].astype(int), UPRIGHT, atol=12)
    assert (photo.width, photo.height, photo.orientation) == (96, 64, orientation)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_senseless_orientation_means_upright(tmp_path: Path, value: int) -> None:
    photo = decode(saved(tmp_path / "odd.jpg", Image.new("RGB", (4, 2), RED), exif=exif(value)))
    assert (photo.width, photo.height, photo.orientation) == (4, 2, 1)


def test_broken_exif_costs_nothing_but_the_orientation(tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.jpg", Image.new("RGB", (4, 2), RED), exif=b"Exif\0\0XX*\0garbage")
    assert decode(path).orientation == 1


# --- reduced decoding ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "shape"),
    [
        (None, (700, 1001)),
        (351, (700, 1001)),  # short side below twice as much: in full
        (350, (350, 501)),
        (176, (350, 501)),
        (175, (175, 251)),
        (87, (88, 126)),
        (10, (88, 126)),  # 1/8 is the smallest that JPEG offers
    ],
)
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_photos_are_reduced_to_what_is_needed(
    tmp_path: Path, extension: str, side: int | None, shape: tuple[int, int]
) -> None:
    options = {"quality": 95, "subsampling": "4:4:4"} if extension == "jpg" else {}
    path = saved(tmp_path / f"large.{extension}", smooth(700, 1001), **options)
    photo = decode(path, working_side=side)
    assert photo.pixels.shape == (*shape, 3)
    assert (photo.width, photo.height) == (1001, 700)


def test_reduced_pixels_are_the_average_of_the_full_ones(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.jpg", smooth(640, 960), quality=95, subsampling="4:4:4")
    full, reduced = decode(path).pixels, decode(path, working_side=160).pixels
    boxes = full.reshape(160, 4, 240, 4, 3).mean(axis=(1, 3))
    assert np.abs(reduced - boxes).mean() < 1
    assert np.abs(reduced - boxes).max() < 6


def test_photo_that_is_not_large_is_bit_identical(tmp_path: Path) -> None:
    path = saved(tmp_path / "small.jpg", Image.fromarray(noise(99, 150)))
    np.testing.assert_array_equal(decode(path, working_side=50).pixels, np.asarray(Image.open(path)))


@pytest.mark.parametrize("orientation", [3, 6])
def test_reduced_and_turned(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(smooth(960, 640))
    image = Image.fromarray(as_stored(upright, orientation))
    path = saved(tmp_path / "phone.jpg", image, quality=95, subsampling="4:4:4", exif=exif(orientation))
    photo = decode(path, working_side=160)
    assert (photo.width, photo.height, photo.orientation) == (640, 960, orientation)
    boxes = upright.reshape(240, 4, 160, 4, 3).mean(axis=(1, 3))
    assert np.abs(photo.pixels - boxes).mean() < 1.5


def averaged(pixels: np.ndarray, side: int) -> np.ndarray:
    """Mean of each square of side x side, loop by loop; squares at the right and the bottom edge may be smaller."""
    height, width = pixels.shape[:2]
    rows = [pixels[y : y + side].astype(np.float64) for y in range(0, height, side)]
    return np.array([[row[:, x : x + side].mean(axis=(0, 1)) for x in range(0, width, side)] for row in rows])


def rough(mode: str) -> Image.Image:
    """97 x 131 of noise, transparent in places where the mode can be."""
    values = noise(97, 131 * 2)
    rgb, more = values[:, :131], values[:, 131:, 0]
    match mode:
        case "L" | "1" | "P" | "CMYK" | "RGB":
            return Image.fromarray(rgb).convert(mode)
        case "LA" | "RGBA":
            return Image.fromarray(np.dstack([rgb, more])).convert(mode)
        case "RGB;key":
            image = Image.fromarray(rgb // 86 * 86)
            image.info["transparency"] = (86, 0, 86)
            return image
        case "I;16":
            return Image.fromarray(more.astype(np.uint16) * 256 + rgb[..., 0])
        case "I":
            return Image.fromarray(more.astype(np.int32) * 1000 - 500)
        case "F":
            image = more.astype(np.float32) / 64 - 1
            image[3::7, 5::11], image[2::5, 1::9] = np.nan, np.inf
            return Image.fromarray(image)
    raise AssertionError(mode)


@pytest.mark.parametrize(
    ("mode", "extension"),
    [
        *((mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGB;key", "I;16")),
        *((mode, "tif") for mode in ("CMYK", "RGBA", "I;16", "I", "F")),
        ("P", "gif"),
        ("RGB", "bmp"),
        ("RGB", "ppm"),
        ("I;16", "pgm"),
    ],
)
@pytest.mark.parametrize(("side", "factor"), [(48, 2), (24, 4), (12, 8), (5, 8)])
def test_what_is_no_jpeg_is_averaged(tmp_path: Path, mode: str, extension: str, side: int, factor: int) -> None:
    image = rough(mode)
    kept = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    path = saved(tmp_path / f"large.{extension}", image, **kept)
    full, reduced = decode(path), decode(path, working_side=side)
    assert (reduced.width, reduced.height, full.pixels.shape) == (131, 97, (97, 131, 3))
    difference = np.abs(reduced.pixels - averaged(full.pixels, factor))
    assert difference[:-1, :-1].max() <= 0.51
    assert difference.max() < 1  # Pillow cuts off, and does not round, in the last corner


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_averaged_and_turned(tmp_path: Path, orientation: int, extension: str) -> None:
    image = Image.fromarray(as_stored(noise(96, 64), orientation))
    options = {"lossless": True} if extension == "webp" else {}
    photo = decode(saved(tmp_path / f"phone.{extension}", image, exif=exif(orientation), **options), working_side=16)
    assert (photo.width, photo.height, photo.orientation) == (64, 96, orientation)
    np.testing.assert_allclose(photo.pixels, averaged(noise(96, 64), 4), atol=0.51)


# --- what is no photo ------------------------------------------------------------------------------------------


def reason(path: Path, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(path, **options)
    text = str(caught.value)
    assert path.name not in text  # the pipeline names the file
    assert "\n" not in text
    assert len(text) < 250
    return text


EXTENSIONS = ["jpg", "png", "gif", "webp", "tif", "bmp", "jp2", "ppm", *(["avif"] if features.check("avif") else [])]


def encoded(extension: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 48)).save(
        buffer, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(extension, extension)
    )
    return buffer.getvalue()


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("kept", [0.5, 0.95, 20])
def test_truncated(tmp_path: Path, extension: str, kept: float, capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded(extension)
    path = filled(tmp_path / f"cut.{extension}", data[: int(kept * len(data)) if kept < 1 else int(kept)])
    assert reason(path).startswith(("truncated: ", "damaged: "))
    assert capfd.readouterr() == ("", "")


def test_truncated_jpeg_says_so(tmp_path: Path) -> None:
    path = filled(tmp_path / "cut.jpg", encoded("jpg")[:-400])
    assert reason(path) == "truncated: the end of the file is missing"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty"),
        (b"dear diary", "not an image"),
        (b"<html>404</html>", "not an image"),
        (bytes(100), "not an image"),
        (b"\xff\xd8\xff\xe0 and then a letter", "truncated"),
        (b"\x89PNG\r\n\x1a\n and then a letter", "damaged"),
        (png(0, 0, 8, 2, b""), "damaged"),
        (b"P6 0 0 255\n", "damaged"),
        (png(2, 1, 8, 2, b"\0" + bytes(6), (b"gAMA", b"\0")), "truncated"),  # the decoder raises ValueError
        (png(2, 1, 8, 3, b"\0\0\0"), "damaged"),  # a palette image without a palette
    ],
)
def test_not_an_image(tmp_path: Path, data: bytes, expected: str) -> None:
    assert reason(filled(tmp_path / "fake.jpg", data)).startswith(expected)


def test_missing_folder_link_and_pipe(tmp_path: Path) -> None:
    assert "not found" in reason(tmp_path / "gone.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    assert "broken link" in reason(tmp_path / "broken.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert "symbolic links" in reason(tmp_path / "self.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert reason(tmp_path / "folder.jpg") == "a folder, not a file"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file"  # and no hang: nobody ever writes into it


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = saved(tmp_path / os.fsdecode(b"caf\xe9.png"), Image.new("RGB", (2, 2)))
    assert reason(path) == "its name is not valid UTF-8; rename it"


@pytest.mark.parametrize("name", ["a b.png", "zwei\nzeilen.png", "写真😀.png", "é" * 125 + "a.png", "x" * 251 + ".png"])
def test_unusual_names(tmp_path: Path, name: str) -> None:
    image = Image.new("RGB", (2, 2), RED)
    assert (decode(saved(tmp_path / name, image)).pixels == RED).all()


def test_first_page_of_a_raw_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.nef", Image.new("RGB", (16, 12)), format="TIFF", tiffinfo={254: 1})
    assert "preview" in reason(path)


def test_heic_without_its_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = filled(tmp_path / "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert "pip install 'annotate[heif]'" in reason(path)


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    upright = UPRIGHT.repeat(32, axis=0).repeat(32, axis=1)
    stored = Image.fromarray(as_stored(upright, 6))
    path = tmp_path / "phone.heic"
    pillow_heif.from_pillow(stored).save(path, quality=95, exif=exif(6).tobytes())
    photo = decode(path)
    np.testing.assert_allclose(photo.pixels[16::32, 16::32].astype(int), UPRIGHT, atol=16)
    assert (photo.width, photo.height) == (96, 64)
    assert reason(filled(tmp_path / "cut.heic", path.read_bytes()[:300])).startswith(("truncated", "damaged"))


# --- decompression bombs ---------------------------------------------------------------------------------------


def gif_bomb() -> bytes:
    """A 65,535 x 65,535 screen that asks to be restored to background."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    return screen + b"!\xf9\x04\x08\0\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0;"


def jpeg_bomb() -> bytes:
    data = bytearray(encoded("jpg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 50000, 50000)
    return bytes(data)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("bomb.png", png(50000, 50000, 1, 0, bytes(6251) * 10), "2,500,000,000"),
        ("bomb.gif", gif_bomb(), "4,294,836,225"),
        ("bomb.jpg", jpeg_bomb(), "2,500,000,000"),
        ("bomb.ppm", b"P6 50000 50000 255\n", "2,500,000,000"),
        (
            "bomb.bmp",
            b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 50000, 50000, 1, 24, 0) + bytes(20),
            "2,500,000,000",
        ),
    ],
)
def test_bomb_is_refused_from_its_header(tmp_path: Path, name: str, data: bytes, found: str) -> None:
    path = filled(tmp_path / name, data)
    begun = time.process_time()
    text = reason(path)
    assert time.process_time() - begun < 0.5
    assert found in text
    assert f"{MAX_PIXELS:,}" in text
    assert "--max-pixels" in text


def test_limit_is_exact_and_may_exceed_pillows_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "photo.png", Image.new("RGB", (9, 7), RED))
    assert decode(path, max_pixels=63).width == 9
    assert reason(path, max_pixels=62).startswith("63 pixels are more than the limit of 62; --max-pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert decode(path, max_pixels=63).width == 9


def test_pillows_settings_come_back_and_its_warnings_stay_inside(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.png", Image.new("RGB", (9, 7), RED))
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        decode(path, max_pixels=63)  # Pillow warns from half of its limit on
        reason(filled(tmp_path / "cut.png", path.read_bytes()[:45]))
    assert seen == []
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_pillows_log_stays_inside_unless_the_program_logs(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples_per_pixel = struct.pack("<HHI", 277, 3, 1)
    data = encoded("tif").replace(samples_per_pixel + b"\3\0", samples_per_pixel + b"\0\x10")
    path = filled(tmp_path / "odd.tif", data)
    reason(path)
    assert "samples per pixel" in caplog.text
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    reason(path)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("PIL").handlers == []


def test_threads_with_different_limits(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.png", Image.fromarray(noise(60, 60)))
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    outcomes: dict[int, set[str]] = {100: set(), 3600: set()}

    def work(limit: int) -> None:
        for _ in range(40):
            try:
                outcomes[limit].add(str(decode(path, max_pixels=limit).width))
            except ImageError:
                outcomes[limit].add("refused")

    threads = [threading.Thread(target=work, args=(limit,)) for limit in (100, 3600, 100, 3600)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {100: {"refused"}, 3600: {"60"}}
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


# --- anything at all -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_are_a_photo_or_an_image_error(tmp_path: Path, extension: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(extension))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(400, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    path = filled(tmp_path / "damaged", bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    try:
        photo = decode(path, working_side=8, max_pixels=100_000)
    except ImageError as error:
        outcome = str(error)
    else:
        outcome = f"{photo.width} x {photo.height}"
        assert photo.width * photo.height <= 100_000
        assert photo.pixels.shape[2] == 3
    assert 0 < len(outcome) < 250


def test_truncation_is_not_forgiven_by_default() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
