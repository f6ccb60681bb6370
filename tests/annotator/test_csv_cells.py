"""No cell of a CSV file is a formula to a spreadsheet, and what is written is read back."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.csv_cells import csv_text, plain, quoted
from evaluation.human import HumanScores
from evaluation.matching import TruthError

FORMULAS = ['=HYPERLINK("http:evil").jpg', "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\tx", "\rx", "-", "=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_text(text: str) -> None:
    assert quoted(text) == f"'{text}"
    (row,) = csv.reader(io.StringIO(csv_text(["x", "y"], [[text, 1]]).partition("\n")[2], newline=""))
    assert row == [f"'{text}", "1"]


@pytest.mark.parametrize("cell", ["a=b", "-0.1234", "+5", "-1e-05", "", "'a", 5, -0.5, None, "a-b.jpg"])
def test_all_else_is_as_it_was(cell: object) -> None:
    assert quoted(cell) == cell


def test_headers_too() -> None:
    assert csv_text(["=a", "b"], []) == "'=a,b\n"


@given(st.text(alphabet="'=+-@\t\ra1.") | st.text())
def test_what_is_written_is_read_back(text: str) -> None:
    assert plain(quoted(text)) == text


def test_people_may_score_what_relabel_wrote(tmp_path: Path) -> None:
    rows = [(text, 0, text, 3) for text in FORMULAS]
    text = csv_text(["path", "segment", "label", "human"], rows)
    (tmp_path / "m.csv").write_text(text, newline="")
    scores = HumanScores.load(tmp_path / "m.csv")
    assert [(path, each[0].label) for path, each in scores.judgements.items()] == [(text, text) for text in FORMULAS]


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "x"])
def test_a_score_that_is_none(tmp_path: Path, number: str) -> None:
    (tmp_path / "m.csv").write_text(f"path,segment,human\na.jpg,0,{number}\n")
    with pytest.raises(TruthError, match=r"m\.csv:2: expected a whole number in 'human'"):
        HumanScores.load(tmp_path / "m.csv")
