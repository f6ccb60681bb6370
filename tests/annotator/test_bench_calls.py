"""The bound makes exactly the calls to networks that labelling made: down to every module inside, in order."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from reference import networks as small
from reference import tiny_language, vit
from torch import Tensor, nn
from torch._dynamo.utils import counters

from annotator.bench.calls import Bound, Calls, recording
from annotator.models.backbone import CompiledBlocks
from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.models.fp32 import is_exact
from annotator.models.heads import load_heads
from annotator.models.packs import Networks
from annotator.models.phrases import PhraseBank, embed_phrases
from annotator.models.zerocap import ZeroCap, ZeroCapOptions
from annotator.stages import Clock, measuring, stage
from annotator.vocabulary import Vocabulary
from labelers import base

PHRASES = ("dog", "sky", "tall tree", "wall", "red bus", "face", "water", "cup")
WINDOWS = {"short_side": 64, "window": 64, "stride": 32}
LABELERS: dict[str, dict[str, Any]] = {
    "maskclip": WINDOWS,
    "dinoiser": WINDOWS,
    "diy": {"image_side": 64, "scales": [64, 32], "objectness_side": 32},
    "zeroguide": {"captioner": "retrieval", "patches": 4, "segments": 8},
}

Entry = tuple[str, tuple[Any, ...], bool, bool]


class WordVectors(nn.Module):
    """Prompts -> vectors, the same for the same prompt."""

    def forward(self, prompts: list[str]) -> Tensor:
        draws = [np.random.default_rng(list(prompt.encode())).normal(size=16) for prompt in prompts]
        return torch.tensor(np.stack(draws)).float()


@pytest.fixture(scope="module")
def networks() -> Networks:
    return made()


def made() -> Networks:
    clip = DenseClip(small.open_clip_vit().float(), WordVectors(), vit.CLIP_MEAN, vit.CLIP_STD)
    decoder = nn.Conv2d(24, 1, 1)
    decoder.load_state_dict({name: torch.from_numpy(value) for name, value in small.random_decoder().items()})
    heads = load_heads({name: torch.from_numpy(value).float() for name, value in small.random_heads().items()})
    return Networks.of(
        clip=clip,
        dino=Dino(small.timm_vit().float()),
        found=Found(Dino(small.timm_vit(seed=4).float()), decoder),
        heads=heads,
        phrases=PhraseBank(PHRASES, embed_phrases(clip, PHRASES).half()),
    )


@contextmanager
def every_module() -> Iterator[list[Entry]]:
    """What torch itself says is called: each module, the shapes it gets, and how gradients stand."""
    seen: list[Entry] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        shapes = tuple(tuple(each.shape) if isinstance(each, Tensor) else str(each) for each in arguments)
        seen.append((type(module).__name__, shapes, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def compare(work: Callable[[], object]) -> Calls:
    """Works, makes the recorded calls again twice, and expects the same modules each time."""
    with recording() as calls, every_module() as expected:
        work()
    bound = Bound(calls.made)
    for _ in range(2):
        with every_module() as found:
            assert bound.run() > 0
        assert found == expected
    assert expected
    return calls


@pytest.mark.parametrize("name", LABELERS)
def test_the_bound_makes_the_calls_of_every_labeler(networks: Networks, name: str) -> None:
    labeler = base.build(name, networks, LABELERS[name])
    labeler.prepare(Vocabulary.of(["background", "dog", "bus"]) if labeler.spec.needs_vocabulary else None)
    photos = [small.photo(64, 90), small.photo(70, 64, seed=8)]
    calls = compare(lambda: labeler.label(photos)).counted()
    if name in (
        "maskclip",
        "dinoiser",
    ):  # both photos have two windows: 90 px those at 0 and 26, 70 px those at 0 and 6
        batch = networks.windows_at_once
        assert calls["DenseClip.dense", f"{batch} x 3 x 64 x 64"] == math.ceil(4 / batch)
    if name == "diy":
        crops = [int(shapes.split()[0]) * times for (call, shapes), times in calls.items() if call == "DenseClip.embed"]
        assert sum(crops) >= 2 * (1 + 9)  # batches may be filled up
        assert sum(times for (call, _), times in calls.items() if call == "Found.logits") == 2


EXPECTED_STAGES = {
    "maskclip": {"preprocess", "forward", "classify", "upsample + argmax", "prediction"},
    "dinoiser": {"preprocess", "forward", "pool", "classify", "upsample + argmax", "prediction"},
    "diy": {"preprocess", "forward", "classify", "upsample + argmax", "prediction"},
    "zeroguide": {"preprocess", "forward", "over-segment", "caption", "prediction"},
}


@pytest.mark.stress
@pytest.mark.parametrize("name", LABELERS)
def test_the_stages_of_every_labeler_are_there_and_fit_into_the_wall_clock(networks: Networks, name: str) -> None:
    labeler = base.build(name, networks, LABELERS[name])
    labeler.prepare(Vocabulary.of(["background", "dog", "bus"]) if labeler.spec.needs_vocabulary else None)
    shares = []
    for _ in range(5):  # a busy machine may stop it outside of all stages, but not every time
        begun = time.perf_counter()
        with recording(), measuring(Clock()) as clock:
            labeler.label([small.photo(64, 90)])
        wall, spent = time.perf_counter() - begun, clock.seconds()
        assert {stage for _, stage in spent} == EXPECTED_STAGES[name]
        shares.append(sum(spent.values()) / wall)
    assert 0.3 < max(shares) <= 1


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler on this machine")
def test_compiled_networks_are_in_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls as those of plain ones, made by the same graphs as the run's; recording compiles nothing anew."""
    done: list[str] = []
    call = CompiledBlocks.__call__
    monkeypatch.setattr(CompiledBlocks, "__call__", lambda self, tokens: done.append("") or call(self, tokens))

    def calls_of(given: Networks) -> Calls:
        labeler = base.build("dinoiser", given, WINDOWS)
        labeler.prepare(Vocabulary.of(["background", "dog", "bus"]))
        labeler.label([small.photo(64, 90)])
        with recording() as calls:
            labeler.label([small.photo(64, 90)])
        return calls

    plain = calls_of(made()).counted()
    assert plain["DenseClip.dense", "1 x 3 x 64 x 64"] == 2
    assert not done
    fast = made()
    fast.compiled = True
    calls = calls_of(fast)
    assert calls.counted() == plain
    graphs, of_both_runs = counters["stats"]["unique_graphs"], len(done)
    Bound(calls.made).run()
    assert len(done) == of_both_runs * 3 // 2 == 6
    assert counters["stats"]["unique_graphs"] == graphs


def test_calls_are_made_again_as_exactly() -> None:
    """Speed in TF32 is no bound for fp32."""
    seen: list[bool] = []
    module = nn.Linear(3, 3)
    module.register_forward_pre_hook(lambda *_: seen.append(is_exact()))
    with recording() as calls:
        with Networks.of().inference():
            module(torch.zeros(1, 3))
        module(torch.zeros(1, 3))
    Bound(calls.made).run()
    assert seen == [True, False] * 2


def test_language_models_get_a_past_of_the_same_length_every_time(networks: Networks) -> None:
    options = ZeroCapOptions(beam=2, max_tokens=3, candidates=8, gradient_steps=2)
    captioner = ZeroCap(tiny_language.gpt2(seed=2), tiny_language.clip(), options)
    calls = compare(lambda: captioner.caption(tiny_language.segments(2)))
    assert any(call.mode == "grad" for call in calls.made)


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, values: Tensor, *, index: Tensor) -> Tensor:
        return self.inner(values)[index]


def test_a_third_partys_module_is_a_call_with_whatever_it_gets() -> None:
    """Floating-point tensors are only remembered by shape, indices by value; what it calls itself is no call."""
    module, seen = Doubling(), []
    module.register_forward_pre_hook(
        lambda _, given, named: seen.append((given[0].clone(), named["index"].clone())), with_kwargs=True
    )
    with recording() as calls, torch.no_grad():
        module(torch.full((5, 3), 7.0), index=torch.tensor([4, 0]))
        module(torch.zeros(2, 3).double().float(), index=torch.tensor([1]))
    assert calls.counted() == {("Doubling", "5 x 3"): 1, ("Doubling", "2 x 3"): 1}
    Bound(calls.made).run()
    assert [values.shape for values, _ in seen] == [(5, 3), (2, 3)] * 2
    assert [index.tolist() for _, index in seen] == [[4, 0], [1]] * 2
    assert not torch.equal(seen[0][0], seen[2][0])


def test_nothing_is_recorded_afterwards() -> None:
    module = nn.Linear(3, 3)
    call = nn.Module.__call__
    with recording() as calls:
        module(torch.zeros(1, 3))
    module(torch.zeros(1, 3))
    assert len(calls.made) == 1
    assert nn.Module.__call__ is call


def test_a_call_that_fails_does_not_hide_the_next() -> None:
    module = nn.Linear(3, 3)
    with recording() as calls:
        with pytest.raises(RuntimeError):
            module(torch.zeros(1, 4))
        module(torch.zeros(1, 3))
    assert [call.shapes() for call in calls.made] == ["1 x 4", "1 x 3"]


def test_calls_are_the_stage_forward() -> None:
    class Slow(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            torch.linalg.svd(torch.rand(200, 200))
            return values

    with recording(), measuring(Clock()) as clock, stage("around"):
        Slow()(torch.zeros(1))
    spent = {name: seconds for (_, name), seconds in clock.seconds().items()}
    assert set(spent) == {"around", "forward"}
    assert spent["forward"] > spent["around"]
