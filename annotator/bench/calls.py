"""The calls that a labeler makes to networks: recorded while it labels, and made again by themselves.

A call is what the labeler itself does: a public method of one of the tool's networks, or any torch module, a third
party's too. What those call in turn belongs to them. Made again, they are the bound: nothing that asks the same
networks the same, in the same batches, can be faster.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from annotator.stages import stage

FORWARD = "forward"
"""Stage of all calls."""


@dataclass(frozen=True)
class Shape:
    """Of a floating-point tensor, whose values cost nothing: all that is kept of it."""

    size: tuple[int, ...]
    dtype: Any
    device: Any
    channels_last: bool
    gradient: bool


@dataclass(frozen=True)
class PastKeys:
    """Of a cache of transformers: keys and values per layer. A call writes into it, so each gets a new one."""

    layers: tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Call:
    """function(*arguments, **named), with shapes in place of tensors; mode: how it treats gradients; exact: whether
    float32 was kept from being rounded."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    mode: str
    exact: bool

    def shapes(self) -> str:
        """4 x 3 x 448 x 448"""
        sizes = [each.size for each in (*self.arguments, *self.named.values()) if isinstance(each, Shape)]
        return ", ".join(" x ".join(map(str, size)) for size in sizes)


@dataclass
class Calls:
    """What `recording` found, in order."""

    made: list[Call] = field(default_factory=list)

    def counted(self) -> Counter[tuple[str, str]]:
        """(name, shapes) -> how often."""
        return Counter((call.name, call.shapes()) for call in self.made)


@contextmanager
def recording() -> Iterator[Calls]:
    """Every outermost call, of whatever thread, until the end; each is a stage, too.

    What torch compiles meanwhile it compiles again afterwards: run compiled networks once before.
    """
    import torch
    from torch import nn

    from annotator.models.fp32 import is_exact

    calls, own, lock = Calls(), threading.local(), threading.Lock()

    def watched(function: Callable[..., Any], name_of: Callable[[Any], str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            if torch.compiler.is_compiling() or getattr(own, "inside", False):
                return function(self, *arguments, **named)
            again = functools.partial(function, self)
            made = Call(name_of(self), again, _outline(arguments), _outline(named), _mode(), is_exact())
            with lock:
                calls.made.append(made)
            own.inside = True
            try:
                with stage(FORWARD):
                    return function(self, *arguments, **named)
            finally:
                own.inside = False

        return call

    with ExitStack() as restore:

        def watch(owner: type, name: str, name_of: Callable[[Any], str]) -> None:
            original = getattr(owner, name)
            restore.callback(setattr, owner, name, original)
            setattr(owner, name, watched(original, name_of))

        for owner, name in _methods():
            label = f"{owner.__name__}.{name}"
            watch(owner, name, lambda _, label=label: label)  # type: ignore[misc]
        watch(nn.Module, "__call__", lambda module: type(module).__name__)
        yield calls


def _methods() -> Iterator[tuple[type, str]]:
    """The public methods of the tool's networks, and the masked layers that zeroguide runs on CLIP's weights."""
    from annotator.models.clip import DenseClip
    from annotator.models.dino import Dino
    from annotator.models.found import Found
    from annotator.models.heads import DinoiserHeads
    from annotator.models.masked_clip import SegmentEmbedder
    from annotator.models.phrases import PhraseBank
    from annotator.models.sentence import SentenceModel

    for owner in (DenseClip, Dino, Found, DinoiserHeads, PhraseBank, SegmentEmbedder, SentenceModel):
        for name, member in vars(owner).items():
            if isinstance(member, FunctionType) and not name.startswith("_"):
                yield owner, name


class Bound:
    """Recorded calls, with tensors of their shapes at hand: `run` makes them all again, in order."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._tensors: dict[Shape, Any] = {}
        for call in calls:
            self._filled((call.arguments, call.named))

    def run(self, synchronise: Callable[[], None] = lambda: None) -> float:
        """Seconds for all calls."""
        synchronise()
        begun = time.perf_counter()
        for call in self._calls:
            with _as(call):
                call.function(*self._filled(call.arguments), **self._filled(call.named))
        synchronise()
        return time.perf_counter() - begun

    def _filled(self, outline: Any) -> Any:
        if isinstance(outline, Shape):
            if outline not in self._tensors:
                self._tensors[outline] = _tensor(outline)
            return self._tensors[outline]
        if isinstance(outline, PastKeys):
            return self._past(outline)
        if isinstance(outline, dict):
            return {name: self._filled(each) for name, each in outline.items()}
        if type(outline) in (list, tuple):
            return type(outline)(self._filled(each) for each in outline)
        return outline

    def _past(self, outline: PastKeys) -> Any:
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for index, (keys, values) in enumerate(outline.layers):
            cache.update(self._filled(keys), self._filled(values), index)
        return cache


def _outline(value: Any) -> Any:
    """The value with shapes in place of what holds much."""
    import torch

    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value.detach().clone()  # indices: their values matter, and they are few
        last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
        return Shape(tuple(value.shape), value.dtype, value.device, last, value.requires_grad)
    if hasattr(value, "layers") and hasattr(value, "get_seq_length"):
        return PastKeys(tuple((_outline(layer.keys), _outline(layer.values)) for layer in value.layers))
    if isinstance(value, dict):
        return {name: _outline(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_outline(each) for each in value)
    return value


def _tensor(shape: Shape) -> Any:
    """In [0, 1), as photos are."""
    import torch

    layout = torch.channels_last if shape.channels_last else torch.contiguous_format
    with torch.inference_mode(False):
        values = torch.rand(shape.size, dtype=shape.dtype, device=shape.device).contiguous(memory_format=layout)
        return values.requires_grad_(shape.gradient)


def _mode() -> str:
    import torch

    return "inference" if torch.is_inference_mode_enabled() else "grad" if torch.is_grad_enabled() else "no grad"


@contextmanager
def _as(call: Call) -> Iterator[None]:
    """What it was made in."""
    import torch

    from annotator.models.fp32 import exact_fp32

    modes = {"inference": torch.inference_mode, "grad": torch.enable_grad, "no grad": torch.no_grad}
    with exact_fp32() if call.exact else nullcontext(), modes[call.mode]():
        yield
