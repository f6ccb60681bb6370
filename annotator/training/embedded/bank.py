"""The text side of training: names under several prompts in the joint space, and how vocabularies are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from annotator.training.embedded import names

PROMPT_ODDS = (0.5, 0.2, 0.15, 0.15)  # ImageNet templates' mean, "a photo of a", "Image of a", the bare name
CANONICAL_ODDS = 0.55  # else a synonym
CLASSES = 80


class Bank:
    """state: what `text.build` wrote. A class is a list of name indices, the canonical name first."""

    def __init__(self, state: dict[str, Any], seed: int = 0, device: str = "cpu") -> None:
        self.embeddings: Tensor = state["E"].float().to(device)  # prompt sets x names x d
        self.general_names: list[str] = state["gen"]
        self.general: list[list[int]] = state["gen_ids"]
        self.leaves: list[list[int]] = [[i] for i in state["leaf"]]
        self.weak_names: list[str] = state["weak"]
        self.weak: list[list[int]] = [[i] for i in state["weak_ids"]]
        self.coco = self.general[:CLASSES]
        self.voc_to_coco = [names.COCO.index(name) for name in names.VOC_TO_COCO]
        self.voc = [[a, *self.coco[c]] for a, c in zip(state["voc"], self.voc_to_coco, strict=True)]
        self.background: list[list[int]] = [state["bg"]]
        self.random = torch.Generator().manual_seed(seed)

        index = {name: i for i, name in enumerate(self.general_names)}
        self.weak_to_general = torch.tensor([index.get(name, -1) for name in self.weak_names])
        self.leaf_to_general = torch.zeros(len(self.leaves), len(self.general))
        for name, leaves in names.IMAGENET.items():
            if name in index and leaves:
                self.leaf_to_general[leaves, index[name]] = 1
        self.leaf_to_general /= self.leaf_to_general.sum(dim=1, keepdim=True).clamp(min=1)
        self.weak_to_general, self.leaf_to_general = self.weak_to_general.to(device), self.leaf_to_general.to(device)

    def canonical(self, classes: Sequence[Sequence[int]]) -> Tensor:
        """C x d, the canonical names under the ImageNet templates."""
        return self.embeddings[0][[choice[0] for choice in classes]]

    def draw(self, classes: Sequence[Sequence[int]]) -> Tensor:
        """C classes -> C x d, one prompt set for all, a name for each."""
        prompts = int(torch.multinomial(torch.tensor(PROMPT_ODDS), 1, generator=self.random))
        chosen = []
        for choice in classes:
            synonym = len(choice) > 1 and self._uniform() > CANONICAL_ODDS
            chosen.append(choice[1 + int(self._uniform() * (len(choice) - 1))] if synonym else choice[0])
        return self.embeddings[prompts][chosen]

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.random))
