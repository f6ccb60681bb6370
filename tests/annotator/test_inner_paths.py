"""Which paths of photos lead out of the photos' folder: one rule for a text and for a column of a run."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.inner_paths import each_leads_out, leads_out

OUTSIDE = [
    "",
    ".",
    "./",
    ".//.",
    "./.",
    "/",
    "//",
    "/a.jpg",
    "..",
    "../a.jpg",
    "a/..",
    "a/../b.jpg",
    "./../a",
    "a\0.jpg",
]
INSIDE = [
    "a.jpg",
    "s/a.jpg",
    "./a.jpg",
    "a//b.jpg",
    "...",
    ".a",
    "..a",
    "a..",
    "a../b",
    "a/.",
    "a\n",
    "\n",
    "..\n",
    "a\\..\\b",
]


@pytest.mark.parametrize(("path", "expected"), [(path, True) for path in OUTSIDE] + [(path, False) for path in INSIDE])
def test_a_path_and_a_column_of_paths_have_one_rule(path: str, expected: bool) -> None:
    assert leads_out(path) is expected
    assert each_leads_out(pa.array([path])).to_pylist() == [expected]


@given(st.text(st.sampled_from("./a\n\0é"), max_size=8))
def test_the_rule_is_what_the_system_would_do_with_the_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    expected = "\0" in path or path.startswith("/") or ".." in parts or os.path.normpath(path) == "."
    assert leads_out(path) is expected
    assert each_leads_out(pa.array([path])).to_pylist() == [expected]


def test_no_path_is_unknown() -> None:
    assert each_leads_out(pa.array([None, "a"], pa.string())).to_pylist() == [None, False]
