"""Zero-guidance segmentation (Rewatbowornwong et al., ICCV 2023): segments that name themselves, with no vocabulary.

1. DINO over-segments the photo and says in which order the segments would merge.
2. CLIP embeds each segment in its photo.
3. A captioner puts each embedding into words.
4. Up the tree, siblings alike in embedding and in words become one, which is embedded and captioned anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.limits import Limits, Share
from annotator.models.captions import make_captioner
from annotator.models.finite import require_finite
from annotator.models.masked_clip import SegmentEmbedder, SegmentOptions, first_masked_layer
from annotator.models.merge_tree import join_siblings
from annotator.models.oversegment import OversegmentOptions, Oversegments, oversegment, stride_of
from annotator.models.packs import Networks
from annotator.models.phrases import TEMPLATE
from annotator.models.windows import to_canvas
from annotator.prediction import NOTHING, Prediction
from annotator.stages import stage, staged
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register
from labelers.dense import own_sizes

NAMELESS = "segment"
"""The label of all segments without a captioner."""
CAPTIONS_KEPT = 10_000


@dataclass(frozen=True)
class ZeroguideParameters:
    """Explained in configs/labelers/zeroguide.yaml."""

    captioner: Literal["zerocap", "retrieval", "none"] | None
    merge: bool
    threshold: Share
    patches: Annotated[int, Limits(1, 1000)]
    overlap: Annotated[int | None, Limits(1, 64)]
    segments: Annotated[int, Limits(1, 1000)]
    same: Annotated[float, Limits(0, 2)]
    oversegment: Literal["paper", "published"]
    linkage: Literal["full", "neighbours"]
    refine: bool
    baseline: Literal["full", "no-subtraction", "crop-and-mask"]
    saliency: Literal["output", "attention"]
    first_masked: Annotated[int | None, Limits(1, 1000)]
    sigma: Annotated[float, Limits(0.001, 1000)]
    caption_steps: Annotated[int, Limits(0, 1000)]
    beam: Annotated[int, Limits(1, 100)]
    max_tokens: Annotated[int, Limits(1, 1000)]
    block_capitalised: bool
    start_token: bool | None
    normalise_over: Literal["all-beams", "each-beam"] | None
    end_factor: Annotated[float | None, Limits(0, 100, above=True)]
    first_token: Literal["any", "letters"] | None

    def oversegmentation(self) -> OversegmentOptions:
        neighbours_only = self.linkage == "neighbours"
        return OversegmentOptions(
            self.patches, self.overlap, self.segments, self.same, neighbours_only, self.refine, self.oversegment
        )

    def embedding(self) -> SegmentOptions:
        return SegmentOptions(self.baseline, self.saliency, self.first_masked, self.sigma)


@register(
    LabelerSpec(
        "zeroguide",
        needs_vocabulary=False,
        paper="Zero-guidance segmentation, Rewatbowornwong et al., ICCV 2023",
        roles=("clip", "dino", "lm", "phrases"),
    ),
    ZeroguideParameters,
)
class Zeroguide:
    spec: LabelerSpec

    def __init__(self, networks: Networks, parameters: ZeroguideParameters) -> None:
        self._networks = networks
        self._parameters = parameters
        self._clip = networks.clip
        self._dino = networks.dino
        first_masked_layer(len(self._clip.visual.transformer.resblocks), parameters.first_masked)
        stride_of(self._dino, parameters.overlap)
        self._captioner = make_captioner(networks, parameters)
        self._text_of = lru_cache(CAPTIONS_KEPT)(self._embed_caption)

    @property
    def working_side(self) -> int | None:
        """Segments that are cut out are small: they want all the photo has."""
        if self._parameters.baseline == "crop-and-mask":
            return None
        return max(self._parameters.patches * self._dino.patch_size, self._clip.image_size)

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        assert vocabulary is None

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        return [self._label(image, size) for image, size in zip(images, sizes or own_sizes(images), strict=True)]

    def _label(self, image: Image, size: Size) -> Prediction:
        device = self._networks.device
        with self._networks.inference():
            with stage("over-segment"):
                pieces = oversegment(self._dino, image, size, self._parameters.oversegmentation(), device)
            photo = to_canvas(image, (image.shape[0], image.shape[1]), device)
            at_once = self._networks.segments_at_once
            embedder = SegmentEmbedder(self._clip, photo, self._parameters.embedding(), at_once)
        tree, known = pieces.tree, dict[int, Node]()

        def describe(nodes: Sequence[int]) -> None:
            masks = torch.stack([pieces.masks[tree.leaves_below(node)].sum(dim=0) for node in nodes])
            known.update(zip(nodes, self._describe(embedder, masks), strict=True))

        def score(low: int, high: int) -> float:
            return Likeness.of(known[low], known[high]).score

        describe(range(tree.leaves))
        threshold = self._parameters.threshold
        tried = join_siblings(tree, score, describe, threshold) if self._parameters.merge else {}
        return to_prediction(pieces, known, tried, threshold)

    def _describe(self, embedder: SegmentEmbedder, masks: Tensor) -> list[Node]:
        """S x h x w masks -> each embedded and captioned."""
        with self._networks.inference():
            embeddings = embedder.embed(masks)
        require_finite(embeddings)
        embeddings = embeddings.clone()  # outside of inference mode: a captioner may want gradients
        if self._captioner is None:
            return [Node(embedding, NAMELESS, None) for embedding in embeddings]
        with stage("caption"):
            captions = self._captioner.caption(embeddings)
        return [
            Node(embedding, caption, self._text_of(caption))
            for embedding, caption in zip(embeddings, captions, strict=True)
        ]

    def _embed_caption(self, caption: str) -> Tensor:
        """d, normalised. One at a time, so that it does not depend on which captions came along."""
        with self._networks.inference():
            return F.normalize(self._clip.text([TEMPLATE.replace("{}", caption)])[0].float(), dim=0)


@dataclass(frozen=True)
class Node:
    """A segment that is whole: its embedding and that of its caption (None without a captioner), d, normalised."""

    embedding: Tensor
    caption: str
    text: Tensor | None

    @property
    def confidence(self) -> float:
        """How well the caption fits the segment."""
        return 1.0 if self.text is None else min(max(float(self.embedding @ self.text), 0.0), 1.0)


@dataclass(frozen=True)
class Likeness:
    """Of two siblings: cosines of their embeddings and of their captions', None where there are no captions."""

    segments: float
    captions: float | None

    @classmethod
    def of(cls, one: Node, other: Node) -> Likeness:
        captions = None if one.text is None or other.text is None else float(one.text @ other.text)
        return cls(float(one.embedding @ other.embedding), captions)

    @property
    def score(self) -> float:
        """Half and half; nameless segments have only their embeddings to go by."""
        return self.segments if self.captions is None else (self.segments + self.captions) / 2


@staged("prediction")
def to_prediction(
    pieces: Oversegments, known: Mapping[int, Node], tried: Mapping[int, float], threshold: float
) -> Prediction:
    """The nodes that are whole and in no other, in the order of their first leaves, and how it came to them.

    known: every whole node; tried: score of every parent whose children were both whole.
    """
    tree = pieces.tree
    inside = {child for node in tree.inner if node in known for child in tree.children(node)}
    final = sorted(set(known) - inside, key=lambda node: tree.leaves_below(node)[0])
    label_of_leaf = np.full(tree.leaves, NOTHING, dtype=np.int32)
    for label, node in enumerate(final):
        label_of_leaf[tree.leaves_below(node)] = label
    return Prediction(
        label_map=label_of_leaf[pieces.labels],
        labels=tuple(known[node].caption for node in final),
        class_ids=(NOTHING,) * len(final),
        scores=tuple(known[node].confidence for node in final),
        embeddings=torch.stack([known[node].embedding for node in final]).half().cpu().numpy(),
        history=history(pieces, known, tried, {node: label for label, node in enumerate(final)}, threshold),
    )


def history(
    pieces: Oversegments,
    known: Mapping[int, Node],
    tried: Mapping[int, float],
    label_of: Mapping[int, int],
    threshold: float,
) -> dict[str, Any]:
    """What `annotate show` prints.

    nodes: leaves first, the root last: `children` (None of a leaf), `area` in pixels, `caption` (None of a node that
    never was whole), `label` (index in the prediction's labels, of its segments alone), `merged`, and of the parents
    that were tried `score` with the cosines of the children's `segments` and `captions` behind it.
    """
    tree = pieces.tree
    areas = np.bincount(pieces.labels.ravel(), minlength=tree.leaves)
    nodes = []
    for index in range(tree.root + 1):
        children = tree.children(index) if index in tree.inner else None
        likeness = Likeness.of(*(known[child] for child in children)) if children and index in tried else None
        nodes.append(
            {
                "children": list(children) if children else None,
                "area": int(areas[tree.leaves_below(index)].sum()),
                "caption": known[index].caption if index in known else None,
                "label": label_of.get(index),
                "merged": index in tree.inner and index in known,
                "score": _rounded(tried.get(index)),
                "segments": _rounded(likeness.segments if likeness else None),
                "captions": _rounded(likeness.captions if likeness else None),
            }
        )
    return {"threshold": threshold, "nodes": nodes}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
