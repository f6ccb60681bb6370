"""How a training goes, step by step: a CSV that goes on where the training does, and TensorBoard on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from annotator.errors import ConfigError
from annotator.files import append_text, replacing_text


class Curve:
    """A row per step. A row is on its way to the disk before the checkpoint of its step is."""

    def __init__(self, file: Path, columns: Sequence[str], tensorboard: Path | None = None) -> None:
        self._file, self._columns = file, tuple(columns)
        self._rows: IO[str] | None = None
        self._board = _open_tensorboard(tensorboard) if tensorboard is not None else None

    def __enter__(self) -> Curve:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._rows is not None:
            self._rows.close()
        if self._board is not None:
            self._board.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """values: by column, those that were measured; the others stay empty. The first step that is added decides
        where an earlier part of the curve ends."""
        if self._rows is None:
            self._rows = self._reopen(step)
        cells = [f"{values[name]:.6g}" if name in values else "" for name in self._columns]
        self._rows.write(",".join([str(step), *cells]) + "\n")
        self._rows.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def _reopen(self, step: int) -> IO[str]:
        header = ",".join(["step", *self._columns])
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        earlier = [line for line in lines[1:] if line.count(",") == len(self._columns) and _step_of(line) < step]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_text(self._file) as file:
            file.writelines(f"{line}\n" for line in (header, *earlier))
        return append_text(self._file)


def _step_of(line: str) -> float:
    number = line.split(",", 1)[0]
    return int(number) if number.isdecimal() else float("inf")


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"--tensorboard: expected the Python package tensorboard, but it is not there ({error}); "
            "pip install tensorboard, or leave the option out: the curve is written as CSV, too"
        ) from None
    return SummaryWriter(str(folder))
