"""Cells of CSV files that spreadsheets open: a text that begins like a formula gets an apostrophe, as they expect.

`plain` takes the apostrophe off again, whatever the text was; numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from typing import IO, Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def quoted(cell: Any) -> Any:
    """The cell as a CSV file should hold it."""
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def plain(cell: str) -> str:
    """The text that `quoted` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def row_writer(file: IO[str]) -> Callable[[Iterable[Any]], object]:
    """Writes a row of any cells, each quoted; the file must be open with `newline=""`."""
    usual = csv.writer(file, lineterminator="\n")
    careful = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # the usual one forgets carriage returns

    def write(row: Iterable[Any]) -> object:
        cells = [quoted(cell) for cell in row]
        holds_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        return (careful if holds_return else usual).writerow(cells)

    return write


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A whole file."""
    text = io.StringIO(newline="")
    write = row_writer(text)
    for row in (header, *rows):
        write(row)
    return text.getvalue()
