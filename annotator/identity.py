"""What decides a run's labels: a command that agrees in all of it may go on with the run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from annotator.manifest import Manifest
from annotator.vocabulary import Vocabulary


def identity(manifest: Manifest) -> dict[str, Any]:
    """Name -> value.

    Older versions wrote down the photos' folder and counted the classes' colours in; no label depends on either.
    """
    config = _without_places(manifest.config)
    if manifest.vocabulary is not None:
        config["vocabulary"] = Vocabulary.from_dict(manifest.vocabulary).fingerprint()
    return read_back(config)


def read_back(content: dict[str, Any]) -> dict[str, Any]:
    """As run.json gives it back: without tuples, for example."""
    read: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return read


def config_hash(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Neither where the photos are nor, for a relabelled run, where the run is that it was made of."""
    found = {name: value for name, value in config.items() if name != "images"}
    if isinstance(origin := found.get("origin"), dict):
        found["origin"] = {name: value for name, value in origin.items() if name != "run"}
        if isinstance(origin.get("config"), dict):
            found["origin"]["config"] = _without_places(origin["config"])
    return found
