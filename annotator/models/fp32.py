"""fp32 that is fp32: products and convolutions of float32 numbers keep all their bits while networks run.

torch lets CUDA round factors to TF32 (10 bits of the mantissa's 23): by default in convolutions, where asked in matrix
products. These are settings of the whole process, which may belong to somebody's training beside us, so they are
changed for a while only and put back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

EXACT = (False, "highest", "ieee", "none")
"""Values of torch's settings under which float32 is not rounded."""


class _Setting(NamedTuple):
    read: Callable[[], Any]
    write: Callable[[Any], None]
    exact: Any


class _Switch:
    """inside: how many `exact_fp32` there are at the moment, of all threads. before: each setting as the first of
    them found it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before: list[tuple[_Setting, Any]] = []


_switch = _Switch()


@contextmanager
def exact_fp32() -> Iterator[None]:
    """While any thread is in here, no float32 product or convolution is rounded; then all is as it was before."""
    with _switch.lock:
        if not _switch.inside:
            _switch.before = [(setting, _value(setting)) for setting in _settings()]
            for setting, value in _switch.before:
                if value not in EXACT:
                    setting.write(setting.exact)
        _switch.inside += 1
    try:
        yield
    finally:
        with _switch.lock:
            _switch.inside -= 1
            if not _switch.inside:
                for setting, value in _switch.before:
                    if value != _value(setting):
                        setting.write(value)


def is_exact() -> bool:
    """Whether some thread is in `exact_fp32`."""
    return _switch.inside > 0


def _value(setting: _Setting) -> Any:
    """torch refuses to tell what its older settings are once somebody has used the newer ones; those then count."""
    try:
        return setting.read()
    except RuntimeError:
        return setting.exact


def _settings() -> list[_Setting]:
    """The older ones first: to write these changes the newer ones, too, and torch refuses to read the older ones
    where both differ."""
    backends: Any = torch.backends
    older = [
        _attribute(backends.cudnn, "allow_tf32", False),
        _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    ]
    if not hasattr(backends.cudnn, "conv"):  # before torch 2.9
        return older
    parts = (
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.matmul,
    )
    return older + [_attribute(part, "fp32_precision", "ieee") for part in parts]


def _attribute(owner: Any, name: str, exact: Any) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), exact)
