"""From patch features to class probabilities, through class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models.clip import DenseClip
from annotator.models.compat import prepare_torchvision
from annotator.vocabulary import Vocabulary

LOGIT_SCALE = 100.0


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompts of CLIP's ImageNet evaluation, as open_clip ships them."""
    prepare_torchvision()
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


class NameClassifier:
    """Scores every name of a vocabulary; a class takes its best name (synonyms).

    templates_for: the prompts of one name; the vocabulary's own templates go before them.
    """

    def __init__(self, clip: DenseClip, vocabulary: Vocabulary, templates_for: Callable[[str], Sequence[str]]) -> None:
        names = [prompt for entry in vocabulary.entries for prompt in entry.prompts]
        owners = [index for index, entry in enumerate(vocabulary.entries) for _ in entry.prompts]
        rows = [clip.text_embeddings([name], vocabulary.templates or tuple(templates_for(name))) for name in names]
        self.names = torch.cat(rows)  # names x d, normalised
        self.owners = torch.tensor(owners, device=self.names.device)
        self.classes = len(vocabulary)

    def probabilities(self, features: Tensor) -> Tensor:
        """B x d x ... features -> B x C x ...: softmax over names of 100 x cosine, the best name per class."""
        return self._best_name((LOGIT_SCALE * self._cosines(features)).softmax(dim=1))

    def cosines(self, features: Tensor) -> Tensor:
        """B x d x ... features -> B x C x ...: cosine with each class's best name."""
        return self._best_name(self._cosines(features))

    def _cosines(self, features: Tensor) -> Tensor:
        return torch.einsum("bd...,nd->bn...", F.normalize(features.float(), dim=1), self.names)

    def _best_name(self, per_name: Tensor) -> Tensor:
        if len(self.names) == self.classes:
            return per_name
        shape = (per_name.shape[0], self.classes, *per_name.shape[2:])
        owners = self.owners.view(1, -1, *[1] * (per_name.ndim - 2)).expand_as(per_name)
        lowest = torch.full(shape, -torch.inf, device=per_name.device)
        return lowest.scatter_reduce(1, owners, per_name, reduce="amax")
