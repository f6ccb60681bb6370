"""Text embeddings on disk: made once, never confused, never in the way."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_processes import PATIENCE, started
from reference import networks, vit
from torch import Tensor, nn

from annotator.models.classifier import NameClassifier
from annotator.models.clip import DenseClip
from annotator.models.text_cache import TextCache, computed_by
from annotator.step_progress import heard_by
from annotator.vocabulary import Vocabulary

TEMPLATES = ("a {}", "the {}")
EACH = ("apple", "cat", "egg", "owl", "dog")


class Counting(nn.Module):
    """A text side that notes what it is asked."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.asked: list[str] = []

    def forward(self, prompts: list[str]) -> Tensor:
        self.asked += prompts
        return torch.tensor([[1.0, len(prompt) * self.scale] for prompt in prompts])


def clip(text: nn.Module, weights_id: str) -> DenseClip:
    return DenseClip(networks.open_clip_vit(8).float(), text, vit.CLIP_MEAN, vit.CLIP_STD, weights_id)


def test_a_second_process_embeds_nothing(own_caches: Path) -> None:
    first, second = Counting(), Counting()
    made = clip(first, "abc").text_embeddings(["cat", "dog"], TEMPLATES)
    read = clip(second, "abc").text_embeddings(["dog", "cat"], TEMPLATES)
    assert first.asked == ["a cat", "the cat", "a dog", "the dog"]
    assert second.asked == []
    torch.testing.assert_close(read, made.flip(0), rtol=0, atol=0)
    assert list(own_caches.iterdir()), "nothing lies in the cache folder"


def test_other_weights_templates_or_names_are_made_anew() -> None:
    clip(Counting(), "abc").text_embeddings(["cat"], TEMPLATES)
    other = Counting(scale=2)
    changed = clip(other, "abd").text_embeddings(["cat"], TEMPLATES)
    assert other.asked == ["a cat", "the cat"]
    rows = np.array([[1, 10], [1, 14]]) / np.array([[101**0.5], [197**0.5]])
    np.testing.assert_allclose(changed[0], rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)), atol=1e-6)

    again = Counting()
    clip(again, "abc").text_embeddings(["cat"], TEMPLATES[::-1])
    clip(again, "abc").text_embeddings(["cat"], TEMPLATES[:1])
    clip(again, "abc").text_embeddings(["cats", "cat"], TEMPLATES)
    assert again.asked == ["the cat", "a cat", "a cat", "a cats", "the cats"]


class OnDevice(Counting):
    """Text weights that lie on another kind of device, which answers in other digits."""

    def __init__(self, kind: str) -> None:
        super().__init__(scale=1.0 if kind == "cpu" else 1.001)
        self.kind = kind


def on(kind: str, text: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The embeddings of a run there; what it gets is left on the CPU, as there is no such device here."""
    with monkeypatch.context() as patch:
        patch.setattr(DenseClip, "device", torch.device(kind))
        patch.setattr(Tensor, "to", lambda self, *_, **__: self)
        return clip(text, "abc").text_embeddings(["cat", "dog"], TEMPLATES)


def test_a_run_gets_the_same_bytes_whatever_other_devices_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """First each device with a cache of its own, then one after the other, then again."""
    alone = {}
    for kind in ("cpu", "mps"):
        monkeypatch.setenv("ANNOTATE_CACHE", f"{os.environ['ANNOTATE_CACHE']}-{kind}")
        alone[kind] = on(kind, OnDevice(kind), monkeypatch)
    assert not torch.equal(alone["cpu"], alone["mps"])
    for kind in ("cpu", "mps"):
        torch.testing.assert_close(on(kind, OnDevice(kind), monkeypatch), alone[kind], rtol=0, atol=0)
    for kind in ("cpu", "mps"):
        text = OnDevice(kind)
        torch.testing.assert_close(on(kind, text, monkeypatch), alone[kind], rtol=0, atol=0)
        assert not text.asked


def test_another_torch_or_another_processor_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> list[str]:
        text = Counting()
        clip(text, "abc").text_embeddings(["cat"], TEMPLATES)
        return text.asked

    assert asked()
    assert not asked()
    monkeypatch.setattr(torch, "__version__", "2.99")
    assert asked()
    assert not asked()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX1024")
    assert asked()
    assert not asked()


def test_gpus_of_two_models_make_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {0: "H100", 1: "A100"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[device.index])
    names = [computed_by(torch.device("cuda", index)) for index in (0, 1)]
    assert names == [f"torch {torch.__version__} cuda {model}" for model in ("H100", "A100")]


def test_networks_made_in_memory_leave_nothing_on_disk(own_caches: Path) -> None:
    text = Counting()
    nameless = clip(text, "")
    nameless.text_embeddings(["cat"], TEMPLATES)
    nameless.text_embeddings(["cat"], TEMPLATES)
    assert len(text.asked) == 4
    assert list(own_caches.iterdir()) == []


@pytest.mark.parametrize("damage", ["below a file", "no database", "a folder", "a table's description"])
def test_a_cache_that_cannot_be_used_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    if damage == "below a file":
        (tmp_path / "file").touch()
        monkeypatch.setenv("ANNOTATE_CACHE", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.setenv("ANNOTATE_CACHE", str(tmp_path))
        file = tmp_path / "text-embeddings.sqlite"
        if damage == "a folder":
            file.mkdir()
        elif damage == "no database":
            file.write_bytes(b"no database at all" * 100)
        else:  # which SQLite quotes in its error message
            clip(Counting(), "abc").text_embeddings(["cat"], ["{}"])
            file.write_bytes(file.read_bytes().replace(b"PRIMARY KEY", b"PRIMARY KE\xc5"))
    made = clip(Counting(), "abc").text_embeddings(["cat", "dog"], ["{}"])
    expected = [[0.1**0.5, 0.9**0.5]] * 2  # (1, 3), made a unit vector
    np.testing.assert_allclose(made, expected, atol=1e-6)


WRITER = """
import sys
import torch
from annotator.models.text_cache import TextCache, computed_by
from annotator.step_progress import heard_by
def embed(names, templates):
    return torch.tensor([[float(len(name)), float(name[1:])] for name in names])
names = [f"n{index}" for index in range(200)]
found = TextCache("abc").get(names if sys.argv[1] == "up" else names[::-1], ["{}"], embed)
assert sorted(found[:, 1].tolist()) == [float(index) for index in range(200)]
"""


@pytest.mark.stress
def change_entries(folder: Path, change: Callable[[bytes], object]) -> None:
    with closing(sqlite3.connect(folder / "text-embeddings.sqlite")) as database, database:
        for key, vector in database.execute("SELECT key, vector FROM embeddings").fetchall():
            database.execute("UPDATE embeddings SET vector = ? WHERE key = ?", (change(vector), key))


@pytest.mark.parametrize(
    "change",
    [
        lambda vector: None,
        lambda vector: "text",
        lambda vector: 5,
        lambda vector: b"",
        lambda vector: vector[:-1],
        lambda vector: vector[:-4],
        lambda vector: vector + bytes(4),
        lambda vector: bytes(len(vector)),
        lambda vector: vector[:-4] + np.float32(np.nan).tobytes(),
        lambda vector: vector[:-1] + bytes([vector[-1] ^ 1]),
        lambda vector: bytes([vector[0] ^ 1]) + vector[1:],
        lambda vector: vector[32:],  # as versions before digests wrote it
    ],
)
def test_an_entry_that_is_not_what_was_written_is_made_anew(own_caches: Path, change: Callable) -> None:
    made = clip(Counting(), "abc").text_embeddings(["cat", "dog"], TEMPLATES)
    (folder,) = {file.parent for file in own_caches.rglob("text-embeddings.sqlite")}
    change_entries(folder, change)
    text, after = Counting(), Counting()
    found = clip(text, "abc").text_embeddings(["cat", "dog"], TEMPLATES)
    assert text.asked == ["a cat", "the cat", "a dog", "the dog"]
    torch.testing.assert_close(found, made, rtol=0, atol=0)
    clip(after, "abc").text_embeddings(["cat", "dog"], TEMPLATES)
    assert after.asked == []


def test_an_entry_is_its_own_names_only(own_caches: Path) -> None:
    """Two vectors that changed places are each of the wrong class."""
    made = clip(Counting(), "abc").text_embeddings(["cat", "horse"], TEMPLATES)
    (folder,) = {file.parent for file in own_caches.rglob("text-embeddings.sqlite")}
    with closing(sqlite3.connect(folder / "text-embeddings.sqlite")) as database:
        vectors = [vector for (vector,) in database.execute("SELECT vector FROM embeddings ORDER BY key")]
    change_entries(folder, dict(zip(vectors, reversed(vectors), strict=True)).__getitem__)
    torch.testing.assert_close(clip(Counting(), "abc").text_embeddings(["cat", "horse"], TEMPLATES), made)


@pytest.mark.slow
def test_two_processes_write_at_once() -> None:
    command = [sys.executable, "-c", WRITER]
    with started([*command, "up"]) as first, started([*command, "down"]) as second:
        assert [writer.wait(PATIENCE) for writer in (first, second)] == [0, 0]

    def none_left(names: Sequence[str], templates: Sequence[str]) -> Tensor:
        raise AssertionError(f"{names} is not in the cache")

    found = TextCache("abc").get([f"n{index}" for index in range(200)], ["{}"], none_left)
    assert found[:, 1].tolist() == list(range(200))


def test_an_interrupted_start_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.models.text_cache.KEEP_SECONDS", -1.0)

    def embed(names: Sequence[str], templates: Sequence[str]) -> Tensor:
        if names == ["c"]:
            raise KeyboardInterrupt
        return torch.tensor([[float(ord(name)) for name in names]])

    with pytest.raises(KeyboardInterrupt):
        TextCache("abc").get(["a", "b", "c"], ["{}"], embed)
    again = TextCache("abc").get(["b", "a"], ["{}"], lambda names, _: pytest.fail(f"{names} was lost"))
    assert again.tolist() == [[98.0], [97.0]]


def test_a_disk_that_fails_on_the_way_loses_no_vector(own_caches: Path) -> None:
    """What was embedded is not embedded again, however long that took."""
    asked: list[str] = []

    def embed(names: Sequence[str], templates: Sequence[str]) -> Tensor:
        asked.extend(names)
        if names == ["b"]:
            (file,) = own_caches.rglob("text-embeddings.sqlite")
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("DROP TABLE embeddings")
        return torch.tensor([[float(ord(name)) for name in names]])

    assert TextCache("abc").get(["a", "b", "c"], ["{}"], embed).tolist() == [[97.0], [98.0], [99.0]]
    assert asked == ["a", "b", "c"]


def test_it_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    for _ in range(2):  # made, then read
        with heard_by(lambda *said: told.append(said)):
            clip(Counting(), "abc").text_embeddings(["cat", "dog"], TEMPLATES)
    assert told == [("embedding class names", 1, 2), ("embedding class names", 2, 2)] * 2


def test_names_with_templates_of_their_own_keep_their_places() -> None:
    text = Counting()
    network = clip(text, "abc")
    words = Vocabulary.of(["apple", "cat, egg", "owl", "dog"])
    found = NameClassifier(network, words, lambda name: ["an {}" if name[0] in "aeo" else "a {}"])
    expected = [network.text_embeddings([name], [f"{'an' if name[0] in 'aeo' else 'a'} {{}}"]) for name in EACH]
    torch.testing.assert_close(found.names, torch.cat(expected), rtol=0, atol=0)
    assert found.owners.tolist() == [0, 1, 1, 2, 3]
    assert sorted(text.asked) == ["a cat", "a dog", "an apple", "an egg", "an owl"]
