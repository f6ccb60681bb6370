"""What is said while networks are read and class names are embedded, which may take hours."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from annotator import console
from annotator.step_progress import tell


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(console, "GLANCE_SECONDS", 0.0)


def said(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False) -> str:
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, force_terminal=terminal, width=80))
    with console.loading(quiet):
        tell("embedding class names", 12_000, 50_000)
        console.err.print("")  # the spinner's line is drawn with what is printed above it
    tell("embedding class names", 13_000, 50_000)
    return written.getvalue()


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "embedding class names: 12,000 of 50,000" in said(monkeypatch, terminal=True)


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, terminal=False).split("\n", 1)[0] == "embedding class names: 12,000 of 50,000"


def test_nobody_listens_when_it_is_over_or_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "13,000" not in said(monkeypatch, terminal=False)
    assert said(monkeypatch, terminal=False, quiet=True) == "\n"
