"""Plug-ins by name: the tool's own, imported when asked for, and those of installed packages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from annotator.errors import ConfigError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """kind: what the entries are ("labeler"); group: the entry-point group of other packages; built_in: name ->
    module that registers it."""

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._built_in = built_in
        self._known: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Two of one name are an error, not a silent choice; the same one again is not."""
        if self._known.setdefault(name, entry) != entry:
            raise ConfigError(f"expected one {self._kind} named {name!r}, but two packages register it; remove one")

    def names(self) -> list[str]:
        """All there are, without importing any."""
        installed = {point.name for point in entry_points(group=self._group)}
        return [*self._built_in, *sorted(installed - set(self._built_in))]

    def find(self, name: str) -> Entry:
        """Imports what registers that name."""
        if name in self._built_in:
            importlib.import_module(self._built_in[name])
        elif name not in self._known:
            for point in entry_points(group=self._group, name=name):
                point.load()
        if name not in self._known:
            raise ConfigError(f"no {self._kind} {name!r}; known are {', '.join(self.names())}")
        return self._known[name]
