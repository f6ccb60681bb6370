"""Scores by people: which segments they verify, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference.open_runs import Labelled, write_run

from evaluation.human import HumanScores
from evaluation.matching import TruthError
from evaluation.reassign import Assigned

LABELS = ["a dog", 'the "sky", blue', "x"]


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text(
        'path,segment,label,class,human\na.jpg,0,a dog,dog,3\na.jpg,1,"the ""sky"", blue",,1\na.jpg,2,x,,\n'
        "sub/b.jpg,0,,,0\n"
    )
    return path


def test_levels(tmp_path: Path, sheet: Path) -> None:
    labelled = Labelled([[0, 1, 2]], LABELS)
    run = write_run(tmp_path / "run", {"a.jpg": labelled, "c.jpg": labelled, "sub/b.jpg": labelled})
    first, unnamed, second = run.records()
    scores = HumanScores.load(sheet)
    assigned = Assigned(np.array([4, 5, 6], np.int32), np.zeros(3))
    assert scores.verified(first, assigned, 1).tolist() == [4, 5, -1]  # the third was not judged
    assert scores.verified(first, assigned, 2).tolist() == [4, -1, -1]
    assert scores.verified(first, assigned, 3).tolist() == [4, -1, -1]
    assert scores.verified(second, assigned, 1).tolist() == [-1, -1, -1]
    assert unnamed.path not in scores.judgements


def test_columns_that_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes("﻿human,path,segment\r\n2,a.jpg,0\r\n".encode())
    run = write_run(tmp_path / "run", {"a.jpg": Labelled([[0]], ["x"])})
    assigned = Assigned(np.array([4], np.int32), np.zeros(1))
    assert HumanScores.load(path).verified(next(run.records()), assigned, 2).tolist() == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,segment\n", "expected columns path, segment, human, but found path, segment; add human"),
        ("", "but found an empty file"),
        ("path,segment,human\na.jpg,0,4\n", "scores.csv:2: expected human scores from 0 to 3, but found 4"),
        ("path,segment,human\na.jpg,0,good\n", "scores.csv:2: expected a whole number in 'human', but found 'good'"),
        ("path,segment,human\na.jpg,-1,2\n", "expected a whole number in 'segment', but found '-1'"),
        ("path,segment,human\na.jpg\n", "nothing"),
        ("path,segment,human\na.jpg,0,2\na.jpg,0,2\n", "scores.csv:3: segment 0 of 'a.jpg' is judged twice"),
        ("path,segment,human\na.jpg,3,2\n", "'a.jpg' has 3 segments in this run, but 3 is judged"),
        ("path,segment,human,label\na.jpg,0,2,cat\n", "segment 0 of 'a.jpg' to be 'cat', but it is 'a dog'"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    run = write_run(tmp_path / "run", {"a.jpg": Labelled([[0, 1, 2]], LABELS)})
    assigned = Assigned(np.zeros(3, np.int32), np.zeros(3))
    if message == "nothing":  # a line that ends early judges nothing
        assert HumanScores.load(path).judgements == {}
        return
    with pytest.raises(TruthError, match=message):
        HumanScores.load(path).verified(next(run.records()), assigned, 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"cannot be read \(No such file"):
        HumanScores.load(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"path,segment,human\n\xff\xfe,0,1\n")
    with pytest.raises(TruthError, match="cannot be read"):
        HumanScores.load(tmp_path / "latin.csv")
