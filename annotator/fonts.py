"""Fonts for pictures: names of classes may be in any script, Pillow's own font has only ASCII."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FALLBACK_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Tried where a name needs more than ASCII."""


def font_for(names: Sequence[str], size: int) -> Font:
    if all(name.isascii() for name in names):
        return ImageFont.load_default(size)
    for file in FALLBACK_FONTS:
        try:
            return ImageFont.truetype(file, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def fitted(name: str, index: int, font: Font, width: int) -> str:
    """The name, cut to `width` pixels; `#index` where the font lacks a character of it."""
    lacking = bytes(font.getmask("\uffff"))
    if not name or any(not character.isspace() and bytes(font.getmask(character)) == lacking for character in name):
        return f"#{index}"
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "...") > width:
        name = name[:-1]
    return name + "..."
