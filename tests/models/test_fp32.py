"""float32 is not rounded while networks run, and torch's settings are a user's own again afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from reference import tiny_language
from torch import nn
from torch.nn import functional as F

from annotator.models.fp32 import exact_fp32, is_exact
from annotator.models.networks import Networks
from annotator.models.zerocap import ZeroCap, ZeroCapOptions

BACKENDS: Any = torch.backends
NEWER = hasattr(BACKENDS.cudnn, "conv")
newer_settings = pytest.mark.skipif(not NEWER, reason="these settings are there from torch 2.9 on")

Settings = dict[str, Any]


def settings() -> Settings:
    """All that torch says of float32, in its older and its newer words; it refuses the older ones where both differ."""
    readers: dict[str, Callable[[], Any]] = {
        "cudnn": lambda: BACKENDS.cudnn.allow_tf32,
        "matmul": lambda: BACKENDS.cuda.matmul.allow_tf32,
        "products": torch.get_float32_matmul_precision,
    }
    if NEWER:
        parts = {"all": BACKENDS, "conv": BACKENDS.cudnn.conv, "rnn": BACKENDS.cudnn.rnn, "cuda": BACKENDS.cuda.matmul}
        parts |= {"onednn": BACKENDS.mkldnn.matmul}
        readers |= {name: lambda part=part: part.fp32_precision for name, part in parts.items()}
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "refused"
    return found


def rounds(found: Settings) -> bool:
    return any(found[name] in (True, "high", "medium", "tf32", "bf16") for name in found if name != "all")


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """torch's defaults, after each test."""
    yield
    if NEWER:
        BACKENDS.fp32_precision = "none"
        for part in (BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv):
            part.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_nothing_is_rounded_inside_and_all_is_as_before_outside(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    BACKENDS.cudnn.allow_tf32 = convolutions
    before = settings()
    assert rounds(before) == (convolutions or products != "highest")
    with exact_fp32():
        assert not rounds(settings())
        with BACKENDS.cudnn.flags(enabled=True):  # which reads them in the older words
            pass
    assert settings() == before


@newer_settings
@pytest.mark.parametrize(
    ("part", "value"),
    [
        (BACKENDS, "tf32"),
        (BACKENDS.cuda.matmul, "tf32"),
        (getattr(BACKENDS.cudnn, "conv", None), "ieee"),  # torch then refuses the older words
        (getattr(BACKENDS.mkldnn, "matmul", None), "bf16"),
    ],
)
def test_settings_in_the_newer_words(part: Any, value: str) -> None:
    part.fp32_precision = value
    before = settings()
    with exact_fp32():
        assert not rounds(settings())
    assert settings() == before


def test_the_last_of_several_threads_puts_the_settings_back() -> None:
    """The first one that enters leaves first."""
    before = settings()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exact_fp32():
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=other)
    with exact_fp32():
        thread.start()
        assert entered.wait(60)
    assert not rounds(settings())
    assert is_exact()
    leave.set()
    thread.join(60)
    assert settings() == before
    assert not is_exact()


def test_an_error_inside_puts_the_settings_back() -> None:
    before = settings()
    with pytest.raises(KeyboardInterrupt), exact_fp32(), exact_fp32():
        raise KeyboardInterrupt
    assert settings() == before


def test_networks_run_exactly() -> None:
    with Networks.of().inference():
        assert torch.is_inference_mode_enabled()
        assert not rounds(settings())
    assert rounds(settings())


def test_captions_are_written_exactly() -> None:
    """Gradient steps are taken outside of inference mode."""
    seen: list[Settings] = []
    language = tiny_language.gpt2(seed=2)
    language.model.register_forward_pre_hook(lambda *_: seen.append(settings()))
    torch.set_float32_matmul_precision("high")
    captioner = ZeroCap(language, tiny_language.clip(), ZeroCapOptions(beam=2, max_tokens=2, candidates=8))
    captioner.caption(tiny_language.segments(2))
    assert seen
    assert not any(map(rounds, seen))


def test_class_names_are_embedded_exactly_whatever_surrounds_them() -> None:
    """Not even an autocast of the caller's reaches them."""
    seen: list[Settings] = []

    class Text(nn.Linear):
        def forward(self, prompts: list[str]) -> torch.Tensor:
            seen.append(settings())
            return super().forward(torch.eye(4)[: len(prompts)])

    clip = tiny_language.clip()
    clip.text = Text(4, 8).requires_grad_(False)
    prompts = F.normalize((clip.text.weight[:, :2].T + clip.text.bias).double(), dim=-1)
    expected = F.normalize(prompts.mean(dim=0, keepdim=True), dim=-1).float()
    for given in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=given):
            found = clip.text_embeddings([f"cat {given}"], ["a {}", "the {}"])  # not one that the cache has
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not any(map(rounds, seen))
