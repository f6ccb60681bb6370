"""How good trained weights are, by ordinary runs and scores; `annotate train` prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import ConfigError

if TYPE_CHECKING:
    from rich.text import Text

    from annotator.vocabulary import Vocabulary
    from evaluation.confusion import Evaluation
    from evaluation.saliency import Pixels, SaliencyScores, Soft

Report = Callable[[str, float, str], None]
"""Stage, share done in [0, 1], detail."""


@dataclass(frozen=True)
class Trained:
    """Where trained weights are tried. weights: other files of the pack's, by slot."""

    file: Path
    pack: str
    weights: Mapping[str, str]
    device: str


@dataclass(frozen=True)
class Comparison:
    """A labelled folder, which `open_truth` and `annotate` take."""

    truth: Path
    images: str
    vocabulary: Vocabulary

    @classmethod
    def of(cls, truth: Path | None, images: str | None, vocab: str | None) -> Comparison | None:
        """From the options, checked before hours of training; None where none of them is given."""
        from annotator.images import open_source
        from annotator.vocabulary import as_vocabulary

        if truth is None and images is None and vocab is None:
            return None
        if truth is None or images is None or vocab is None:
            raise ConfigError("expected --compare, --compare-images and --vocab together, but one is missing; give it")
        if not truth.exists():
            raise ConfigError(f"--compare {truth}: expected masks or a COCO .json, but there is nothing of that name")
        open_source(images)
        return cls(truth, images, as_vocabulary(vocab))


HEADS_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "maskclip": ("maskclip", {}),
    "dino affinity": ("dinoiser", {"affinity": "dino"}),
    "trained affinity": ("dinoiser", {"affinity": "clip"}),
}
"""Row -> labeler and settings. Both rows of dinoiser take the background from the trained h."""


def compare_heads(trained: Trained, on: Comparison, folder: Path, report: Report) -> dict[str, Evaluation]:
    """Labels the photos three times, into `folder`, and scores them."""
    from annotator import annotate
    from annotator.images import open_source
    from annotator.run import ImageRecord
    from evaluation.confusion import evaluate_run
    from evaluation.truth import open_truth

    photos = sum(1 for _ in open_source(on.images))
    scores = {}
    for row, (labeler, settings) in HEADS_ROWS.items():
        done = 0

        def count(record: ImageRecord, row: str = row) -> None:
            nonlocal done
            done += 1
            report(row, done / photos, "")

        given = trained.weights if labeler == "maskclip" else {**trained.weights, "heads": str(trained.file)}
        run = annotate(
            on.images,
            labeler,
            on.vocabulary,
            trained.pack,
            folder / row.replace(" ", "-"),
            settings=settings,
            report=count,
            weights=dict(given),
            device=trained.device,
            overwrite=True,
        )
        scores[row] = evaluate_run(run, open_truth(on.truth, run, None))
    return scores


def saliency(trained: Trained, images: str, masks: Path, report: Report) -> dict[str, SaliencyScores]:
    """FOUND's protocol: the decoder's soft maps as they are, and drawn to the photos' edges."""
    from annotator.images import open_source
    from annotator.models.objectness import photo_objectness
    from annotator.models.packs import open_networks
    from annotator.training.bilateral import BilateralSolver
    from evaluation.saliency import score_folder
    from labelers.base import find

    weights = {**trained.weights, "found": str(trained.file)}
    networks = open_networks(trained.pack, find("dinoiser").spec, trained.device, weights=weights)
    found, photos = networks.found, sum(1 for _ in open_source(images))
    rows: dict[str, Callable[[Pixels, Soft], Soft] | None] = {
        "decoder": None,
        "with solver": lambda photo, soft: BilateralSolver(photo).solve(soft),
    }
    scores = {}
    for row, refine in rows.items():
        done = 0

        def objectness(photo: Pixels, row: str = row) -> Soft:
            nonlocal done
            done += 1
            report(row, done / photos, "")
            with networks.inference():
                return photo_objectness(
                    photo, found.dino.patch_size, lambda image: found.objectness(image.to(networks.device))
                )

        scores[row] = score_folder(objectness, images, masks, refine)
    return scores


def comparison_lines(scores: Mapping[str, Evaluation]) -> list[Text]:
    return [
        _line(row, f"mIoU {each.scores.miou:6.1%}, pixel accuracy {each.scores.pixel_accuracy:6.1%}", each.images)
        for row, each in scores.items()
    ]


def saliency_lines(scores: Mapping[str, SaliencyScores]) -> list[Text]:
    return [
        _line(
            row,
            f"max-F {each.max_f:6.1%}, IoU {each.iou:6.1%}, accuracy {each.accuracy:6.1%}, "
            f"mean of both IoUs {each.both_iou:6.1%}",
            each.photos,
        )
        for row, each in scores.items()
    ]


def _line(row: str, figures: str, photos: int) -> Text:
    from rich.text import Text

    from annotator.wording import count

    return Text(f"{row:<18} {figures} ({count(photos, 'photo')})")
