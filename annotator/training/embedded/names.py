"""The names that the tower is trained against, and how ImageNet classes and the photo pool's labels map to them.

`names.json` holds the tables; they were written by hand.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_tables: dict[str, Any] = json.loads((resources.files(__package__) / "names.json").read_text(encoding="utf-8"))

COCO: list[str] = _tables["coco"]
VOC: list[str] = _tables["voc"]
VOC_TO_COCO: list[str] = _tables["voc_to_coco"]
SYN: dict[str, list[str]] = _tables["synonyms"]
STUFF: dict[str, list[str]] = _tables["stuff"]
IMAGENET: dict[str, list[int]] = _tables["imagenet"]  # general noun -> indices of the stem's classes
LABEL_FIXES: dict[str, str] = _tables["label_fixes"]
LABEL_DROPS: set[str] = set(_tables["label_drops"])
CARTONS = ("juice", "milk", "yogh", "oatg", "soygh", "cream", "smooth", "tropicana")
GROCERIES = ("potato", "onion", "mushroom", "tomato", "bell pepper", "grapefruit", "apple")
OTHERS = (
    "face", "giraffe", "rhinoceros", "dolphin", "pear", "carrot", "tomato", "rice", "hedgehog", "raccoon", "deer",
    "goat", "donkey", "duck", "penguin", "van",
)  # fmt: skip


def weak_name(label: str) -> str | None:
    """A label of the photo pool as a noun, or None where it does not name what is seen."""
    if label in LABEL_DROPS:
        return None
    if label in LABEL_FIXES:
        return LABEL_FIXES[label]
    lower = label.lower()
    if any(word in lower for word in CARTONS):
        return None if label == "cream" else "drink carton"
    for kind in GROCERIES:
        if lower.endswith(kind) and lower != "pineapple":
            return "sweet potato" if "sweet" in lower else kind
    return lower


def general() -> list[str]:
    """The general nouns, COCO's 80 classes first, then stuff."""
    candidates = [*COCO, *STUFF, *(noun for noun, leaves in IMAGENET.items() if leaves), *OTHERS]
    return list(dict.fromkeys(candidates))
