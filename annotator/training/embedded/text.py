"""Builds the name bank: MiniLM embeddings of every name under several prompts, and the map into the joint space.

The map removes what all names have in common and puts back a fixed share of it, so that unrelated names have a cosine
of about 0.57 and softmax(100 x cosine) is neither flat nor one-hot.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models.compat import prepare_torchvision
from annotator.models.mini_clip import JOINT, MiniText
from annotator.training.embedded import names

prepare_torchvision()

from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES  # noqa: E402

COMMON = 0.8
EVERY = 8  # of the 80 ImageNet templates
KINDS = (
    "bird", "dog", "cat", "horse", "sheep", "cow", "fish", "snake", "lizard", "spider", "turtle", "monkey", "frog",
    "butterfly", "beetle", "boat", "truck", "car", "train", "shark",
)  # fmt: skip
"""ImageNet classes of these kinds get the kind's name appended: a sentence encoder does not know breeds."""


def article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def leaf_names() -> list[str]:
    leaves = list(IMAGENET_CLASSNAMES)
    for kind in KINDS:
        for index in names.IMAGENET[kind]:
            if kind not in leaves[index].lower().split():
                leaves[index] = f"{leaves[index]} {kind}"
    return leaves


@torch.inference_mode()
def build(text: MiniText, index: Path) -> dict[str, Any]:
    """index: the photo pool's `index.csv`, for its labels. -> what `Bank` reads."""
    position: dict[str, int] = {}

    def put(name: str) -> int:
        return position.setdefault(name, len(position))

    general = names.general()
    with index.open(newline="", encoding="utf-8") as file:
        weak = sorted({name for row in csv.DictReader(file) if (name := names.weak_name(row["category"]))})
    state: dict[str, Any] = {
        "leaf": [put(name) for name in leaf_names()],
        "gen": general,
        "gen_ids": [[put(n), *map(put, names.SYN.get(n) or names.STUFF.get(n) or [])] for n in general],
        "weak": weak,
        "weak_ids": [put(name) for name in weak],
        "bg": [put("background")],
        "voc": [put(name) for name in names.VOC],
    }
    words = list(position)
    templates = [[t(w) for w in words] for t in OPENAI_IMAGENET_TEMPLATES[::EVERY]]
    single = [[f"a photo of {article(w)} {w}" for w in words], [f"Image of a {w}." for w in words], words]
    raw = torch.stack([text.sentences(prompts) for prompts in (*templates, *single)])
    mean = raw.mean(dim=(0, 1))
    common = F.normalize(mean, dim=0)
    weight = torch.eye(JOINT) - common[:, None] * common
    bias = COMMON * common - weight @ mean

    def joint(sentences: Tensor) -> Tensor:
        return F.normalize(sentences @ weight.T + bias, dim=-1)

    ensemble = F.normalize(joint(raw[: len(templates)]).mean(dim=0), dim=-1)
    state["E"] = torch.stack([ensemble, *joint(raw[len(templates) :])]).half()
    return {**state, "names": words, "W": weight, "bias": bias}
