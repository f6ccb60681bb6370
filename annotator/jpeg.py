"""JPEG files that are whole: on a disk that fills up, Pillow itself writes the beginning of one and says nothing."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL.Image import Image


def jpeg_bytes(picture: Image, **options: Any) -> bytes:
    """options: quality and the others that Pillow has."""
    encoded = BytesIO()
    picture.save(encoded, "JPEG", **options)
    return encoded.getvalue()
