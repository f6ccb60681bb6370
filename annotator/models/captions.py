"""Captioners: what a segment is, in words, from its CLIP embedding alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from annotator.errors import ConfigError
from annotator.models.phrases import Retrieval
from annotator.models.zerocap import FirstToken, NormaliseOver, ZeroCap, ZeroCapOptions

if TYPE_CHECKING:
    from annotator.models.networks import Networks

CAPTIONERS = ("zerocap", "retrieval", "none")
EMBEDDED: dict[str, Any] = {"normalise_over": "each-beam", "end_factor": 1.01, "first_token": "letters"}
"""What ZeroCap does with the embedded pack unless told otherwise; docs/zeroguide.md measures it."""


class Captioner(Protocol):
    def caption(self, segments: Tensor) -> list[str]:
        """S x d normalised segment embeddings -> S captions, lower case, without the full stop, none empty."""
        ...


class CaptionParameters(Protocol):
    """What a labeler lets its user choose.

    captioner: None is `retrieval` with the embedded pack, whose language model is small, else `zerocap`, the paper's.
    caption_steps: gradient steps per token. max_tokens: the longest caption. block_capitalised: no names.
    start_token, normalise_over, end_factor, first_token: those of `ZeroCapOptions`. None of the last three is
    `EMBEDDED` with the embedded pack, else the published value.
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
    @property
    def start_token(self) -> bool | None: ...
    @property
    def normalise_over(self) -> NormaliseOver | None: ...
    @property
    def end_factor(self) -> float | None: ...
    @property
    def first_token(self) -> FirstToken | None: ...


def make_captioner(networks: Networks, parameters: CaptionParameters) -> Captioner | None:
    """The captioner of that name over the pack's networks; None for "none"."""
    name = parameters.captioner or ("retrieval" if networks.pack == "embedded" else "zerocap")
    if name == "none":
        return None
    if name == "retrieval":
        return Retrieval(networks.phrases, networks.clip)
    if name == "zerocap":
        return ZeroCap(networks.lm, networks.clip, _zerocap_options(parameters, networks.pack))
    raise ConfigError(f"captioner: expected one of {', '.join(CAPTIONERS)}, but found {name!r}")


def _zerocap_options(parameters: CaptionParameters, pack: str) -> ZeroCapOptions:
    chosen = {name: getattr(parameters, name) for name in EMBEDDED}
    unless_chosen = EMBEDDED if pack == "embedded" else {}
    return ZeroCapOptions(
        gradient_steps=parameters.caption_steps,
        beam=parameters.beam,
        max_tokens=parameters.max_tokens,
        block_capitalised=parameters.block_capitalised,
        start_token=parameters.start_token,
        **{**unless_chosen, **{name: value for name, value in chosen.items() if value is not None}},
    )
