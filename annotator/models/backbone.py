"""What all large networks here share: their forward pass may run in reduced precision, nothing after it does; and its
blocks may be compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["fp32", "bf16"]
EXAMPLE_IMAGES, EXAMPLE_TOKENS = 3, 197
"""What a graph is traced from. No two sizes of the example may be equal, or torch takes them for one and the same."""

_numbers = itertools.count()


class Backbone(nn.Module):
    """precision: of the forward pass; weights and results stay float32. Set by whoever places the network.

    Cosines times 100 and thresholds on similarities do not survive eight bits of mantissa, so autocast is kept
    to where the time goes.
    """

    precision: Precision = "fp32"
    block_passes: tuple[str, ...] = ()
    """Names of the methods that take tokens, B x T x D, through the transformer's blocks: there the time goes."""

    def compile_blocks(self) -> None:
        """`torch.compile` for each of them. Patches, positions and results are worked out as ever."""
        for name in self.block_passes:
            setattr(self, name, CompiledBlocks(getattr(self, name)))

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def to_whole_patches(images: Tensor, patch: int) -> Tensor:
    """B x C x H x W with zeros to the right and below, until both sides are whole patches."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch))


class CompiledBlocks:
    """A method from tokens to tensors, compiled once for any number of tokens and images, and once more for a single
    image, which torch treats apart: photos of all shapes share these two graphs.

    Both are traced from an example, not from whichever photo comes first, for a graph may depend on what it was traced
    from, and a mask must not depend on the photos before it. Where torch cannot go on compiling it is an error
    (`fullgraph`), not a silent return to uncompiled code.
    """

    def __init__(self, method: Callable[[Tensor], Any]) -> None:
        self._graphs = torch.compile(_with_own_code(method), fullgraph=True)
        self._traced: set[bool] = set()

    def __call__(self, tokens: Tensor) -> Any:
        several = len(tokens) > 1
        if several not in self._traced:
            example = tokens.new_zeros(EXAMPLE_IMAGES if several else 1, EXAMPLE_TOKENS, tokens.shape[2])
            self._graphs(_of_any_number(example))
            self._traced.add(several)
        return self._graphs(_of_any_number(tokens))


def _of_any_number(tokens: Tensor) -> Tensor:
    """The same, said to torch to be any number of tokens, and of images where they are several."""
    torch._dynamo.mark_dynamic(tokens, 1)
    if len(tokens) > 1:
        torch._dynamo.mark_dynamic(tokens, 0)
    return tokens


def _with_own_code(method: Any) -> Callable[[Tensor], Any]:
    """The same method of another name: torch limits the graphs per code object, which the networks of all devices would
    share."""
    function = method.__func__
    name = f"{function.__name__}_{next(_numbers)}"
    code = function.__code__.replace(co_name=name)
    own = FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    return MethodType(own, method.__self__)
