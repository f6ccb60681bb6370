"""The facts of a rebuilt pack, as Markdown: what was seen, how long, what came out. Quality is measured apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from annotator.files import replacing_text
from annotator.training.embedded.clip import Recipe
from annotator.training.embedded.photos import KINDS, Photo


def write_card(
    file: Path,
    unlabelled: Sequence[Photo],
    labelled: Sequence[Photo],
    recipe: Recipe,
    trained: Mapping[str, object],
    weights: Sequence[Path],
) -> None:
    """trained: the tower's last checkpoint. weights: the files of the pack."""
    views = " + ".join(f"{len(kind.of(unlabelled, labelled)):,} of {kind.side} px" for kind in KINDS)
    sources = Counter(_source(photo) for photo in unlabelled)
    losses = trained["losses"]
    assert isinstance(losses, Mapping)
    lines = [
        "# Embedded pack: facts of this build",
        "",
        "| photos | count | with a label of the whole photo |",
        "|---|---|---|",
        *(
            f"| {name}, no masks | {count:,} | {_named(unlabelled, name):,} |"
            for name, count in sorted(sources.items())
        ),
        f"| COCO train, instance masks | {sum(not p.voc for p in labelled):,} | |",
        f"| VOC train, class masks | {sum(p.voc for p in labelled):,} | |",
        "",
        f"Views: {views}; seed {recipe.seed}.",
        f"Tower: {trained['step']:,} steps of {recipe.unlabelled} + {recipe.labelled} windows, "
        f"{float(str(trained['seconds'])) / 60:.0f} minutes.",
        f"Last losses (running means): {', '.join(f'{name} {value:.2f}' for name, value in losses.items())}.",
        "",
        "| file | bytes | SHA-256 |",
        "|---|---|---|",
        *(f"| {w.name} | {w.stat().st_size:,} | {hashlib.sha256(w.read_bytes()).hexdigest()} |" for w in weights),
        "",
    ]
    with replacing_text(file) as opened:
        opened.write("\n".join(lines))


def _source(photo: Photo) -> str:
    folder = photo.path.parent.name
    return f"pool: {photo.path.name.rsplit('_', 1)[0]}" if folder == "pool" else folder


def _named(photos: Sequence[Photo], source: str) -> int:
    return sum(bool(photo.weak) for photo in photos if _source(photo) == source)
