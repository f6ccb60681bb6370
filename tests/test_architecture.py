"""The arrows between rooms go down only, and nothing heavy is imported by those that do not need it."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import PATIENCE

from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunWriter
from annotator.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
ROOMS = ("annotator", "labelers", "exporters", "evaluation", "configs")
NETWORK_LIBRARIES = ("torch", "torchvision", "open_clip", "timm", "transformers", "sentence_transformers")
HEAVY = (*NETWORK_LIBRARIES, "huggingface_hub", "safetensors", "ray", "fiftyone", "skimage", "sklearn")
UPPER_FLOORS = (
    "annotator.bench",
    "annotator.cli",
    "annotator.commands",
    "annotator.console",
    "annotator.demo",
    "annotator.gallery",
    "annotator.imported",
    "annotator.printing",
    "annotator.review",
    "annotator.show",
)
CONCRETE_LABELERS = ("labelers.maskclip", "labelers.dinoiser", "labelers.diy", "labelers.zeroguide")

# who must not import what; a name stands for itself and all below it
NEVER = {
    "annotator.models": ("labelers", "exporters", "evaluation", "annotator.pipeline", "annotator.engines"),
    "labelers": ("exporters", "evaluation", "annotator.pipeline", "annotator.engines", "annotator.run"),
    "exporters": ("labelers", "evaluation", "annotator.models", "annotator.pipeline", *HEAVY),
    "evaluation": ("labelers", "exporters", "annotator.models", "annotator.pipeline", *HEAVY),
    "annotator.pipeline": (*CONCRETE_LABELERS, "labelers.dense"),
    "annotator.engines": (*CONCRETE_LABELERS, "labelers.dense"),
    "annotator.run": ("labelers", "exporters", "evaluation", "annotator.models", "annotator.pipeline"),
    "annotator.training": ("labelers", "exporters", "evaluation", "annotator.pipeline"),
    "annotator.vocabulary": ("labelers", "annotator.models", "annotator.run"),
}


@dataclass(frozen=True)
class Import:
    """importer imports name in that line; top: when the importer itself is imported."""

    importer: str
    name: str
    line: int
    top: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.name}"


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_below(node: ast.AST, importer: str, top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(importer, alias.name, child.lineno, top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{importer}:{child.lineno}: a relative import"
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                yield Import(importer, whole if whole in modules() else str(child.module), child.lineno, top)
        else:
            runs = not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not is_type_checking(child)
            yield from imports_below(child, importer, top and runs)


@functools.cache
def imports() -> tuple[Import, ...]:
    found = []
    for name, path in modules().items():
        found += imports_below(ast.parse(path.read_text(encoding="utf-8")), name, top=True)
    return tuple(found)


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_the_imports_are_seen() -> None:
    """Else every test below would pass on nothing."""
    known = {(each.importer, each.name, each.top) for each in imports()}
    assert ("annotator.cli", "typer", True) in known
    assert ("annotator.cli", "annotator.console", False) in known
    assert ("labelers.maskclip", "torch", True) in known
    assert ("annotator.pipeline", "annotator.models.packs", False) in known
    assert len(modules()) > 30


@pytest.mark.parametrize("who", NEVER)
def test_arrows_go_down_only(who: str) -> None:
    assert [str(each) for each in imports() if is_in(each.importer, (who,)) and is_in(each.name, NEVER[who])] == []


def test_the_command_line_is_on_top() -> None:
    below = [each for each in imports() if not is_in(each.importer, UPPER_FLOORS)]
    assert [str(each) for each in below if is_in(each.name, UPPER_FLOORS)] == []


def test_the_ground_floor_stands_alone() -> None:
    names = {each.name.split(".")[0] for each in imports() if each.importer == "annotator.prediction"}
    assert names - sys.stdlib_module_names == {"numpy", "pycocotools"}


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """torch at the top of networks and labelers; all else inside the functions that need it.

    Training, and the embedded pack's networks, which inherit from the libraries' own, are whole modules that only
    functions import.
    """
    allowed = ("annotator.models", "labelers")
    late = ("annotator.models.mini_clip", "annotator.models.mini_dino", "annotator.training")
    at_top = [each for each in imports() if each.top and not is_in(each.importer, late)]
    heavy = [each for each in at_top if is_in(each.name, HEAVY)]
    assert [str(each) for each in heavy if not (is_in(each.importer, allowed) and is_in(each.name, ("torch",)))] == []
    assert [str(each) for each in at_top if is_in(each.name, late)] == []


def test_no_module_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for each in imports():
        if each.top and each.name in graph and each.name != each.importer:
            graph[each.importer].add(each.name)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


LOADED = """
import json, sys
from annotator.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages that one command leaves loaded."""
    result = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return {name.split(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


@pytest.fixture
def tiny_run(tmp_path: Path) -> Path:
    words = Vocabulary.of(["cat", "dog"])
    manifest = Manifest({}, "x", str(tmp_path), "1", "test", vocabulary=words.to_dict())
    prediction = Prediction(np.array([[0, 1, -1], [1, 1, 0]], np.int32), words.names, (0, 1), (0.9, 0.8))
    with RunWriter.open(tmp_path / "run", manifest) as writer:
        writer.write(ImageRecord("a.jpg", "ok", width=3, height=2, segments=tuple(prediction.segments())))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["convert", "--help"], ["export", "--help"], ["run", "--help"], ["--version"]]
)
def test_asking_for_help_loads_no_network_library(arguments: list[str]) -> None:
    assert loaded_by(*arguments) & {*HEAVY, "numpy", "scipy", "pyarrow"} == set()


@pytest.mark.slow
def test_exporting_and_scoring_load_no_network_library(tiny_run: Path) -> None:
    masks = str(tiny_run.parent / "masks")
    labels = str(tiny_run.parent / "labels.json")
    assert loaded_by("export", str(tiny_run), "--format", "mask-png", "--out", masks) & set(HEAVY) == set()
    assert loaded_by("export", str(tiny_run), "--format", "coco", "--out", labels) & set(HEAVY) == set()
    assert loaded_by("eval", str(tiny_run), "--truth", masks) & set(HEAVY) == set()
    assert loaded_by("status", str(tiny_run)) & set(HEAVY) == set()
    assert loaded_by("report", str(tiny_run)) & set(HEAVY) == set()


@pytest.mark.stress
def test_help_answers_at_once() -> None:
    """In less than half a second of the processor's time, which a busy machine does not prolong by much."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", "from annotator.cli import main; main()", "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5
