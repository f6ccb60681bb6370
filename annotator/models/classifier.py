"""From patch features to class probabilities, through class names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models.clip import DenseClip
from annotator.models.compat import prepare_torchvision
from annotator.stages import staged
from annotator.vocabulary import Vocabulary

LOGIT_SCALE = 100.0
NAMES_AT_ONCE = 512
"""A window of 784 patches then costs 1.6 MB, however long the list of names is."""


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
        alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, name in enumerate(names):
            alike[vocabulary.templates or tuple(templates_for(name))].append(index)
        rows = [clip.text_embeddings([names[index] for index in some], each) for each, some in alike.items()]
        self.names = torch.cat(rows)  # names x d, normalised
        if len(rows) > 1:
            self.names = self.names[torch.tensor([index for some in alike.values() for index in some]).argsort()]
        self.owners = torch.tensor(owners, device=self.names.device)
        self.classes = len(vocabulary)
        self._counts = torch.tensor([len(entry.prompts) for entry in vocabulary.entries], device=self.names.device)
        self._first = self._counts.cumsum(0) - self._counts
        self.one_name_each = len(names) == self.classes

    def names_of(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The names of n classes, m x d, and for each name the position of its class in `chosen`, ascending."""
        if self.one_name_each:
            return self.names[chosen], torch.arange(len(chosen), device=chosen.device)
        counts = self._counts[chosen]
        position = torch.arange(len(chosen), device=chosen.device).repeat_interleave(counts)
        of_class = torch.arange(len(position), device=chosen.device) - (counts.cumsum(0) - counts)[position]
        return self.names[self._first[chosen][position] + of_class], position

    @staged("classify")
    def score(self, features: Tensor) -> PatchScores:
        """B x d x h x w features -> the softmax over names of 100 x cosine."""
        normalised = F.normalize(features.float(), dim=1).flatten(2)  # B x d x P
        total = torch.full((len(features), 1, normalised.shape[2]), -torch.inf, device=normalised.device)
        highest = total.clone()
        for names in self.names.split(NAMES_AT_ONCE):
            logits = LOGIT_SCALE * names @ normalised
            total = torch.logaddexp(total, logits.logsumexp(dim=1, keepdim=True))
            highest = torch.maximum(highest, logits.amax(dim=1, keepdim=True))
        return PatchScores(self, normalised, total, (highest - total).exp(), (features.shape[2], features.shape[3]))

    @staged("classify")
    def cosines(self, features: Tensor) -> Tensor:
        """B x d features -> B x C: cosine with each class's best name."""
        return best_of(F.normalize(features.float(), dim=1) @ self.names.T, self.owners, self.classes)


@dataclass(eq=False)
class PatchScores:
    """Class probabilities of patches, from their features, a few classes at a time: never are all of them held.

    normalised: B x d x P features. total: B x 1 x P, log of the softmax's denominator.
    confidence: B x 1 x P, the highest probability of any class.
    """

    classifier: NameClassifier
    normalised: Tensor
    total: Tensor
    confidence: Tensor
    grid: tuple[int, int]

    @staged("classify")
    def maps(self, decided: Tensor | None = None, decision: int = 0, alone: bool = False) -> list[NameMaps]:
        """One per window.

        decided: B x h x w bool, where the probability of class `decision` is set to 1.
        alone:   the other classes' is set to 0 there; else they keep theirs.
        """
        total, patches = self.total, None
        if decided is not None:
            patches = decided.flatten(1)
            if alone:
                total = torch.where(patches[:, None], torch.inf, total)
        names, owners, classes = self.classifier.names, self.classifier.owners, self.classifier.classes
        highest = total.new_empty(len(total), len(names))  # parts of it kept one by one would scatter the memory
        for start in range(0, len(names), NAMES_AT_ONCE):
            some = slice(start, start + NAMES_AT_ONCE)
            highest[:, some] = (LOGIT_SCALE * names[some] @ self.normalised - total).amax(dim=2).exp()
        peaks = best_of(highest, owners, classes)
        if patches is not None:
            peaks[patches.any(dim=1), decision] = 1
        return [
            NameMaps(
                self.classifier,
                self.normalised[index],
                total[index],
                peaks[index],
                self.grid,
                None if patches is None else (decision, patches[index]),
            )
            for index in range(len(peaks))
        ]


@dataclass(eq=False)
class NameMaps:
    """Those of one window, as `scan` takes them.

    decided: a class and the patches, P bool, where its probability is 1.
    """

    classifier: NameClassifier
    normalised: Tensor
    total: Tensor
    peaks: Tensor
    grid: tuple[int, int]
    decided: tuple[int, Tensor] | None

    @staged("classify")
    def of(self, chosen: Tensor) -> Tensor:
        names, owners = self.classifier.names_of(chosen)
        probabilities = (LOGIT_SCALE * names @ self.normalised - self.total).exp()
        found = best_of(probabilities.T, owners, len(chosen)).T
        if self.decided is not None:
            decision, patches = self.decided
            found = torch.where((chosen == decision)[:, None] & patches, 1.0, found)
        return found.reshape(len(chosen), *self.grid)


def best_of(per_name: Tensor, owners: Tensor, classes: int) -> Tensor:
    """B x names -> B x classes: the best name of each class.

    owners: the class of each name, ascending, each of 0 ... classes - 1 at least once; so with as many names as
            classes they stand in the order of the classes.
    """
    if per_name.shape[1] == classes:
        return per_name
    lowest = torch.full((len(per_name), classes), -torch.inf, device=per_name.device)
    return lowest.scatter_reduce(1, owners.expand_as(per_name), per_name, reduce="amax")
