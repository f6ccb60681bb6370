"""Captioners: what a segment is, in words, from its CLIP embedding alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from annotator.errors import ConfigError
from annotator.models.phrases import Retrieval
from annotator.models.zerocap import ZeroCap, ZeroCapOptions

if TYPE_CHECKING:
    from annotator.models.networks import Networks

CAPTIONERS = ("zerocap", "retrieval", "none")


class Captioner(Protocol):
    def caption(self, segments: Tensor) -> list[str]:
        """S x d normalised segment embeddings -> S captions, lower case, without the full stop, none empty."""
        ...


class CaptionParameters(Protocol):
    """What a labeler lets its user choose.

    captioner: None is `retrieval` with the embedded pack, whose language model is small, else `zerocap`, the paper's.
    caption_steps: gradient steps per token. max_tokens: the longest caption. block_capitalised: no names.
    """

    @property
    def captioner(self) -> str | None: ...
    @property
    def caption_steps(self) -> int: ...
    @property
    def beam(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def block_capitalised(self) -> bool: ...


def make_captioner(networks: Networks, parameters: CaptionParameters) -> Captioner | None:
    """The captioner of that name over the pack's networks; None for "none"."""
    name = parameters.captioner or ("retrieval" if networks.pack == "embedded" else "zerocap")
    if name == "none":
        return None
    if name == "retrieval":
        return Retrieval(networks.phrases, networks.clip)
    if name == "zerocap":
        options = ZeroCapOptions(
            gradient_steps=parameters.caption_steps,
            beam=parameters.beam,
            max_tokens=parameters.max_tokens,
            block_capitalised=parameters.block_capitalised,
        )
        return ZeroCap(networks.lm, networks.clip, options)
    raise ConfigError(f"captioner: expected one of {', '.join(CAPTIONERS)}, but found {name!r}")
