"""Mutation testing: small changes to the code, one at a time, each of which some test must notice.

    python tests/tools/mutate.py cover                     # once: which quick tests run which lines
    python tests/tools/mutate.py run --count 300 --seed 0  # draws mutants and prints those that no test noticed
    python tests/tools/mutate.py again                     # tries these once more, as after writing tests for them

A mutant is tried by the quick tests that run its line, the fastest first, in a process forked from one that has the
heavy libraries loaded. Only what a test can notice is changed: no text, no annotation, no constant that steers speed or
display alone (`STEERS`), no drawing (`DRAWINGS`). The results are in build/mutants.json.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
COVERAGE, TIMES, RESULTS = BUILD / "coverage", BUILD / "times.xml", BUILD / "mutants.json"
TARGETS = ("annotator/models", "labelers", "evaluation", "exporters", "annotator/run*", "annotator/ledger.py")
DRAWINGS = ("picture.py", "curves.py", "table_picture.py")
STEERS = re.compile(r"[A-Z_]*(AT_ONCE|CHUNK|SHOWN|KEPT|CACHE|LENGTH|VERSION|DEFAULT_TIMEOUT)[A-Z_]*")
ROOMS = ("models", "labelers", "evaluation", "exporters", "reference", "annotator")
SKIPPED = re.compile(r"test_(ray|bench_|review|gallery|memory|train|demo|report).*")  # long, or of other rooms
HEAVY = ("torch", "numpy", "scipy", "pyarrow.parquet", "open_clip", "timm", "transformers", "PIL.Image", "hypothesis")
SECONDS, MOST_TESTS = 120, 80

COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """number: which of the file's places, in the order of `places`."""

    file: str
    number: int
    line: int
    was: str
    became: str


class Mutator(ast.NodeTransformer):
    """Walks a module, notes every place that can change, and changes the one that is asked for."""

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted = wanted
        self.places: list[tuple[int, str, str]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [default and self.visit(default) for default in node.args.kw_defaults]
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]  # `frozen=True` is a promise to who reads it
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if isinstance(node.targets[0], ast.Name) and STEERS.fullmatch(node.targets[0].id):
            return node
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return node if node.arg == "strict" else self.generic_visit(node)  # zip's is for the next maintainer

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node  # its words are the user's, and tests of messages are loose on purpose

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return node
        if isinstance(node.value, ast.Call) and self._is_here(node, "nothing"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if new := COMPARISONS.get(type(node.ops[0])):
            changed = ast.Compare(node.left, [new(), *node.ops[1:]], node.comparators)
            if self._is_here(node, changed):
                return ast.copy_location(changed, node)
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if new := OPERATORS.get(type(node.op)):
            changed = ast.BinOp(node.left, new(), node.right)
            if self._is_here(node, changed):
                return ast.copy_location(changed, node)
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        changed = ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        return ast.copy_location(changed, node) if self._is_here(node, changed) else self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not | ast.USub) and self._is_here(node, node.operand):
            return node.operand
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value: object = node.value
        if isinstance(value, bool):
            value = not value
        elif isinstance(value, int | float):
            value = value + 1
        else:
            return node
        changed = ast.Constant(value)
        return ast.copy_location(changed, node) if self._is_here(node, changed) else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        changed = ast.IfExp(node.test, node.orelse, node.body)
        return ast.copy_location(changed, node) if self._is_here(node, changed) else self.generic_visit(node)

    def _is_here(self, node: ast.expr | ast.stmt, became: ast.AST | str) -> bool:
        text = became if isinstance(became, str) else ast.unparse(ast.fix_missing_locations(became))
        self.places.append((node.lineno, ast.unparse(node), text))
        return self.wanted == len(self.places) - 1


def mutants_of(file: Path) -> list[Mutant]:
    mutator = Mutator()
    mutator.visit(ast.parse(file.read_text(encoding="utf-8")))
    name = file.relative_to(ROOT).as_posix()
    return [Mutant(name, number, *place) for number, place in enumerate(mutator.places)]


def mutated(mutant: Mutant) -> ast.Module:
    tree = ast.parse((ROOT / mutant.file).read_text(encoding="utf-8"))
    return ast.fix_missing_locations(Mutator(mutant.number).visit(tree))


class MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.path = ROOT / mutant.file
        self.code = compile(mutated(mutant), str(self.path), "exec")

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        within = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.path, loader=self, submodule_search_locations=within)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def cover() -> None:
    """Runs the quick tests once under coverage, and notes how long each took."""
    BUILD.mkdir(exist_ok=True)
    settings = BUILD / "coverage.ini"
    sources = "\n  ".join(("annotator", "labelers", "evaluation", "exporters"))
    settings.write_text(f"[run]\ndynamic_context = test_function\ndata_file = {COVERAGE}\nsource =\n  {sources}\n")
    every = [file for room in ROOMS for file in sorted((ROOT / "tests" / room).glob("test_*.py"))]
    tests = [str(file.relative_to(ROOT)) for file in every if not SKIPPED.fullmatch(file.stem)]
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q", "-m", "not slow"]
    subprocess.run([*command, f"--junitxml={TIMES}", *tests], cwd=ROOT, check=False)


def tests_by_line() -> dict[str, dict[int, list[str]]]:
    """File -> line -> ids of the tests that run it, the fastest first; line 0: tests that run anything of the file."""
    from coverage import CoverageData

    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(TIMES).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/")
        seconds[f"{file}.py::{case.attrib['name'].partition('[')[0]}"] += float(case.attrib["time"])

    data = CoverageData(str(COVERAGE))
    data.read()
    files = {path.stem: path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    found: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        name = Path(file).relative_to(ROOT).as_posix()
        lines: defaultdict[int, set[str]] = defaultdict(set)
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in contexts:
                module, _, test = context.rpartition(".")
                module, test = (module.rpartition(".")[2], test) if module else ("", "")
                if module in files:
                    lines[line].add(f"{files[module]}::{test}")
                    lines[0].add(f"{files[module]}::{test}")
        found[name] = {line: sorted(tests, key=lambda test: seconds[test]) for line, tests in lines.items()}
    return found


def draw(count: int, seed: int) -> list[Mutant]:
    files = sorted({file for target in TARGETS for file in _files(target)})
    every = [mutant for file in files for mutant in mutants_of(file)]
    return sorted(random.Random(seed).sample(every, min(count, len(every))), key=lambda each: (each.file, each.number))


def _files(target: str) -> Iterator[Path]:
    for path in ROOT.glob(target):
        found = path.rglob("*.py") if path.is_dir() else [path]
        yield from (file for file in found if file.name not in DRAWINGS)


class Trial:
    """Tries mutants; a test counts that passes without one, which is tried once for each."""

    def __init__(self) -> None:
        self._passes: dict[str, bool] = {}

    def outcome(self, mutant: Mutant, tests: Sequence[str]) -> str:
        """killed, survived, timeout, or untested where no quick test runs the line."""
        while tests := [test for test in tests if self._passes.get(test, True)]:
            found, failed = _run_tests(tests, mutant)
            if not failed:  # or they could not even be imported
                return found
            if failed not in self._passes:
                self._passes[failed] = _run_tests([failed])[0] == "survived"
            if self._passes[failed]:
                return found
            print(f"left out, as it fails without a mutant: {failed}", flush=True)
        return "untested"


def _run_tests(tests: Sequence[str], mutant: Mutant | None = None) -> tuple[str, str]:
    """The outcome, and which test failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _child(tests, mutant, writer)
    os.close(writer)
    end = time.monotonic() + SECONDS
    found = "timeout"
    while found == "timeout" and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            found = "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        else:
            time.sleep(0.02)
    if found == "timeout":
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.set_blocking(reader, False)  # a process that a test left may hold the other end
    with contextlib.suppress(BlockingIOError), os.fdopen(reader, "rb", buffering=0) as said:
        return found, (said.read() or b"").decode().partition("[")[0]
    return found, ""


class Tell:
    """pytest's plugin: which test failed."""

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._writer, report.nodeid.encode())


def _child(tests: Sequence[str], mutant: Mutant | None, writer: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if mutant:
            sys.meta_path.insert(0, MutantFinder(mutant))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", f"--rootdir={ROOT}"]
        code = int(pytest.main([*options, *tests], plugins=[Tell(writer)]))
    finally:
        os._exit(code)


def run(count: int, seed: int, only: str) -> None:
    drawn = [mutant for mutant in draw(count, seed) if mutant.file.startswith(only)]
    try_all([{**asdict(mutant), "outcome": ""} for mutant in drawn])


def again() -> None:
    """A file that was changed meanwhile has other places: then draw anew."""
    results = json.loads(RESULTS.read_text())
    for each in results:
        if each["outcome"] in ("survived", "untested"):
            each["outcome"] = ""
    try_all(results)


def try_all(results: list[dict[str, Any]]) -> None:
    """Fills in the outcomes that are not there yet."""
    covered = tests_by_line()
    _load_libraries()
    trial, waiting = Trial(), [each for each in results if not each["outcome"]]
    for number, each in enumerate(waiting, 1):
        mutant = Mutant(**{key: value for key, value in each.items() if key != "outcome"})
        lines = covered.get(mutant.file, {})
        tests = lines.get(mutant.line) or lines.get(0, [])
        each["outcome"] = trial.outcome(mutant, tests[:MOST_TESTS])
        if each["outcome"] in ("survived", "untested"):
            print(f"{each['outcome']}  {mutant.file}:{mutant.line}  {mutant.was}  ->  {mutant.became}", flush=True)
        if number % 25 == 0:
            print(f"{number} of {len(waiting)}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=1))
    killed = sum(each["outcome"] in ("killed", "timeout") for each in results)
    print(f"{killed} of {len(results)} killed ({killed / max(len(results), 1):.1%})")


def _load_libraries() -> None:
    """And nothing of this project, whose modules are still to change."""
    sys.path.insert(0, str(ROOT))
    importlib.import_module("annotator.models.compat").prepare_torchvision()
    for name in HEAVY:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "annotator"]:
        del sys.modules[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["cover", "run", "again"])
    parser.add_argument("--count", type=int, default=300, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="try only those drawn whose file begins so")
    given = parser.parse_args()
    os.chdir(ROOT)
    if given.action == "cover":
        cover()
    elif given.action == "again":
        again()
    else:
        run(given.count, given.seed, given.only)


if __name__ == "__main__":
    main()
