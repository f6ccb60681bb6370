"""Any content of what the tool reads and somebody else may have written, and what may come of it.

A `Reader` says what contents are tried and what one of them may lead to: a right result, or an `AnnotatorError` of one
line. Bytes of good files are changed at random; what has a structure comes from hypothesis. `helpers_fuzz_runs` and
`helpers_fuzz_inputs` have the readers.
"""

from __future__ import annotations

import copy
import faulthandler
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st

from annotator.errors import AnnotatorError
from annotator.visible import visible

PATIENCE = 20.0
"""Seconds that a busy machine may take for what takes a few milliseconds."""
LONGEST_MESSAGE = 2000

Contents = st.SearchStrategy[Any]
Check = Callable[[Any], object]


@dataclass(frozen=True)
class Reader:
    """contents: what is tried. check: fails for all but a right result, and for an error that is not ours."""

    contents: Contents
    check: Check


Make = Callable[[Path], Reader]


class Readers(dict[str, tuple[Make, int]]):
    """By name: what makes one in an empty folder, and how many cases the tests try."""

    def add(self, cases: int) -> Callable[[Make], Make]:
        def added(make: Make) -> Make:
            self[make.__name__] = make, cases
            return make

        return added


def try_once(each: Reader, content: Any) -> bool:
    """Whether it was taken; fails for whatever the rules do not allow."""
    begun = time.monotonic()
    faulthandler.dump_traceback_later(5 * PATIENCE, exit=True)  # what hangs says where
    try:
        each.check(content)
    except AnnotatorError as error:
        is_one_line(error)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - begun < PATIENCE, "it took too long"
    return True


def try_many(make: Make, cases: int, folder: Path) -> set[bool]:
    """What came of so many contents, which are always the same: whether some were taken, and some refused."""
    each = make(folder)
    outcomes = []

    @seed(0)
    @settings(max_examples=cases, database=None)
    @given(each.contents)
    def attack(content: Any) -> None:
        outcomes.append(try_once(each, content))

    attack()
    assert len(outcomes) >= cases
    return set(outcomes)


def is_one_line(error: AnnotatorError) -> None:
    message = str(error)
    assert visible(message) == message, f"not one line that can be seen: {message!r}"
    assert 0 < len(message) < LONGEST_MESSAGE, message


def is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in PurePosixPath(path).parts and "\0" not in path


# -- contents ---------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(["\0", "\x1b", "\u2028", "\u200b", "{}", "#", ",", "[", "'", "../", "x" * 300, "\ud800"])
TEXTS = st.text(max_size=8) | ODD
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 2**31, 2**63, 1e30])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
RAW = st.text(alphabet="abc{}[]:,-&*!?|>%@`'\"# \n\t0123456789.<_/\0\x85\u2028", max_size=30)


def keyed(names: Sequence[str], values: Contents = VALUES) -> Contents:
    """Mappings whose keys are often right."""
    return st.dictionaries(st.sampled_from(names) | TEXTS, values, max_size=4)


def dumped(content: Any) -> str:
    """As YAML."""
    try:
        return yaml.safe_dump(content, allow_unicode=True)
    except ValueError:  # of a number of 10,000 digits
        assume(False)
        raise


def written(file: Path, content: Any) -> Path:
    """Bytes and text as they are, anything else as YAML."""
    if not isinstance(content, bytes):
        text = content if isinstance(content, str) else dumped(content)
        content = text.encode("utf-8", "surrogatepass")
    file.write_bytes(content)
    return file


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    yield way
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield from places(content[key], (*way, key))


def replaced(content: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in that place."""
    whole = copy.deepcopy(content)
    inner = whole
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return whole


def changed(content: Any, values: Contents = JSON) -> Contents:
    """The JSON value with another one in some place of it."""
    ways = [way for way in places(content) if way]
    return st.builds(lambda way, value: replaced(content, way, value), st.sampled_from(ways), values)


def damaged(content: bytes, most: int = 5) -> Contents:
    """These bytes with a change or a few."""
    return st.integers(0, 2**48).map(lambda seed: _damaged(content, random.Random(seed), most))


def once_damaged(content: bytes) -> Contents:
    """Of a file with digests: a second change may hide them."""
    return damaged(content, most=1)


def _damaged(content: bytes, chance: random.Random, most: int) -> bytes:
    found = bytearray(content)
    for _ in range(chance.randint(1, most)):
        at, until = chance.randrange(len(found) + 1), chance.randrange(len(found) + 1)
        until = min(max(at, until), at + chance.choice((1, 8, 4096)))
        match chance.choice(("bit", "bit", "bit", "byte", "zero", "cut", "remove", "insert", "copy")):
            case "bit" if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case "byte" if at < len(found):
                found[at] = chance.randrange(256)
            case "zero":
                found[at:until] = bytes(until - at)
            case "cut":
                del found[at:]
            case "remove":
                del found[at:until]
            case "insert":
                found[at:at] = chance.randbytes(chance.choice((1, 2, 16)))
            case "copy":
                found[chance.randrange(len(found) + 1) :][: until - at] = found[at:until]
    return bytes(found)
