"""Weight files: the real formats are read, everything else is refused in one line and never run."""

from __future__ import annotations

import hashlib
import os
import pickle
import pwd
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from annotator.errors import WeightsError
from annotator.models.weights import cache_folder, load_strict, read_state, sha256_of

TENSORS = OrderedDict(weight=torch.arange(6.0).view(2, 3), bias=torch.tensor([7.0, 8.0]))
HEADS = {
    "obj_proj.weight": torch.ones(2, 2, 3, 3),
    "obj_proj.bias": torch.zeros(2),
    "bkg_decoder.weight": torch.ones(1, 2, 1, 1),
    "bkg_decoder.bias": torch.zeros(1),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANNOTATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def one_line(error: pytest.ExceptionInfo[WeightsError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "format", "expected"),
    [
        # open_clip: what the hub serves, and what its training script saves from several GPUs
        ("clip.bin", TENSORS, "open_clip", TENSORS),
        (
            "epoch_32.pt",
            {"epoch": 32, "state_dict": {f"module.{k}": v for k, v in TENSORS.items()}},
            "open_clip",
            TENSORS,
        ),
        # timm, and DINO's own .pth
        ("dino.pth", TENSORS, "timm", TENSORS),
        # FOUND's decoder_weights.pt
        ("decoder_weights.pt", {"decoder": TENSORS}, "found", TENSORS),
        # CLIP-DINOiser's last.pt, with the frozen backbone beside its heads
        (
            "last.pt",
            {"epoch": 2, "model_state_dict": {**HEADS, "clip_backbone.backbone.proj": torch.ones(3)}},
            "dinoiser",
            HEADS,
        ),
    ],
)
def test_reads_pickles_of_each_source(tmp_path, name, content, format, expected):
    torch.save(content, tmp_path / name)
    state = read_state(tmp_path / name, format)
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("format", "tensors"), [("open_clip", TENSORS), ("timm", TENSORS), ("found", TENSORS), ("dinoiser", HEADS)]
)
def test_reads_safetensors_of_each_source(tmp_path, format, tensors):
    save_file(dict(tensors), tmp_path / "model.safetensors")
    state = read_state(tmp_path / "model.safetensors", format)
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[key], tensors[key]) for key in tensors)


class Evil:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize(
    ("save", "named"),
    [
        (lambda evil, path: torch.save({"state_dict": {"weight": evil}}, path), "posix.system"),
        (lambda evil, path: torch.save(evil, path, _use_new_zipfile_serialization=False), "posix.system"),
        (lambda evil, path: path.write_bytes(pickle.dumps(evil, protocol=0)), "posix.system"),
        (lambda evil, path: path.write_bytes(pickle.dumps({"weight": evil})), "posix.system"),  # protocol 4 or later
        (lambda evil, path: torch.save({"weight": evil}, path, pickle_protocol=4), "posix.system"),
        (lambda evil, path: torch.save(nn.Linear(2, 2), path), "torch.nn.modules.linear.Linear"),
        (
            lambda evil, path: torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(path)),
            "TorchScript",
        ),
    ],
    ids=["zip", "legacy", "protocol 0", "plain pickle", "protocol 4 in zip", "whole module", "torchscript"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refuses_code_without_running_it(tmp_path, save, named):
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    save(Evil(trace), path)
    with pytest.raises(WeightsError) as error:
        read_state(path, "timm")
    message = one_line(error)
    assert "holds code" in message
    assert "refused" in message
    assert named in message
    assert str(path) in message
    assert not trace.exists()


def cut_short(path: Path) -> bytes:
    return path.read_bytes()[:-8]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "legacy.pth"])
@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        lambda _: b"",
        lambda _: b"<!DOCTYPE html>\n<html>",
        lambda _: b"version https://git-lfs",
        lambda _: b"\x80",
    ],
    ids=["cut short", "empty", "html", "lfs pointer", "one byte"],
)
def test_damaged_files_are_one_line(tmp_path, name, damage):
    path = tmp_path / name
    if name == "model.safetensors":
        save_file(dict(TENSORS), path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=name == "model.pt")
    path.write_bytes(damage(path))
    with pytest.raises(WeightsError) as error:
        read_state(path, "timm")
    message = one_line(error)
    assert message.startswith(f"{path}: expected")
    assert "damaged" in message
    assert "delete it" in message


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("model.pt", [1, 2], "list"),
        ("model.pt", {"weight": TENSORS["weight"], "epoch": 3}, "'epoch' is of type int"),
        ("model.onnx", TENSORS, "'.onnx'"),
    ],
)
def test_other_contents_are_named(tmp_path, name, content, found):
    torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError) as error:
        read_state(tmp_path / name, "timm")
    assert found in one_line(error)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="there is none"):
        read_state(tmp_path / "model.pt", "timm")


def linear_state() -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), 0.5), "bias": torch.tensor([1.0, 2.0])}


def test_load_strict_fills_the_module():
    module = nn.Linear(3, 2)
    load_strict(module, linear_state(), role="found", what="a layer")
    assert module(torch.ones(1, 3)).tolist() == [[2.5, 3.5]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("bias"), ["'bias'", "2", "1 of 2 tensors are missing"]),
        (lambda state: state.update(weight=torch.ones(4, 3)), ["'weight'", "2 x 3", "4 x 3"]),
        (lambda state: state.update(extra=torch.ones(1)), ["'extra'", "has no tensor"]),
    ],
    ids=["missing", "shape", "unexpected"],
)
def test_load_strict_names_the_first_difference(change, expected):
    state = linear_state()
    change(state)
    with pytest.raises(WeightsError) as error:
        load_strict(nn.Linear(3, 2), state, role="heads", what="two layers")
    message = one_line(error)
    assert message.startswith("heads: ")
    assert "two layers" in message
    assert all(part in message for part in expected)


def test_hash_is_kept_until_size_or_time_changes(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"one")
    stamp = path.stat().st_mtime_ns
    assert sha256_of(path) == hashlib.sha256(b"one").hexdigest()

    path.write_bytes(b"two")  # the kept hash shows that the file is not read again
    os.utime(path, ns=(stamp, stamp))
    assert sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()
    path.write_bytes(b"three")
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert sha256_of(path) == hashlib.sha256(b"three").hexdigest()


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 1}'])
def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path, cache, monkeypatch, content):
    path = tmp_path / "model.bin"
    path.write_bytes(b"one")
    cache.mkdir()
    (cache / "hashes.json").write_text(content)
    assert sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setenv("ANNOTATE_CACHE", str(path / "below-a-file"))
    assert sha256_of(path) == hashlib.sha256(b"one").hexdigest()


def test_the_cache_is_in_the_home_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANNOTATE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/annotate")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/somebody")
    assert cache_folder() == Path("/var/cache/somebody/annotate")


def test_a_user_without_a_home_has_the_cache_below_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker run --user 4321` with HOME unset: the system does not know that user."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("ANNOTATE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_folder() == Path("/.cache/annotate")
