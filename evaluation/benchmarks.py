"""The benchmarks of the papers: configs/benchmarks/*.yaml say what they are, a root folder holds their files.

A benchmark fixes the class names and their order, which values of its truth are which class, what is not scored,
which photos count, and the settings under which the papers measured. A run of the ordinary pipeline over its photos
is scored here, beside the papers' own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from annotator.config import parameters_from, read_yaml, shipped_names, shipped_or_own
from annotator.csv_cells import csv_text
from annotator.errors import ConfigError
from annotator.finite_json import report_text
from annotator.limits import COUNT
from annotator.run import RunReader, write_atomically
from annotator.spelling import option
from annotator.vocabulary import BACKGROUND_NAME, ClassEntry, Vocabulary
from annotator.wording import count
from evaluation.confusion import Evaluation, evaluate_run
from evaluation.layouts import Dataset, TruthForm, find_dataset
from evaluation.matching import TruthError
from evaluation.report import make_folder, percent, share_or_none, table_lines, write_report
from evaluation.truth import Truth

PROTOCOL = {"short_side": 448, "long_side": 2048, "window": 448, "stride": 224}
"""Settings under which all papers' numbers were measured; of those labelers that have them."""
PROBLEMS_SHOWN = 3
COLUMNS = ("method", "mIoU %", "the paper's mIoU %", "difference", "photos")


@dataclass(frozen=True)
class Departure:
    """What the paper of one labeler did otherwise than the benchmark says.

    prompts:    class -> the name that the networks were asked for.
    truth:      of the forms of truth, the `files` of the one to look for first.
    short_side: truth and labels are scored at this short side (nearest pixel); at the photo's size where None.
    """

    prompts: dict[str, str] = field(default_factory=dict)
    truth: str | None = None
    short_side: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """As its YAML file says it.

    photos:     how many it has when it is complete.
    background: the first class is the background; labelers that filter it do.
    images:     patterns of the photos (see `evaluation.layouts`); of these, of `split` and of `truth` the first
                that is there counts.
    split:      files that list the photos' keys; none where all photos in the folder count.
    settings:   by labeler, what differs from its defaults.
    departures: by labeler; `measured_for` applies them.
    paper:      mIoU in % by labeler, as the papers give it with their weights.
    """

    name: str
    title: str
    photos: int
    classes: tuple[str, ...]
    images: tuple[str, ...]
    truth: tuple[TruthForm, ...]
    split: tuple[str, ...] = ()
    background: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    departures: dict[str, Departure] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    departure: Departure = Departure()

    def __post_init__(self) -> None:
        if self.background != (self.classes[0] == BACKGROUND_NAME):
            raise ValueError(f"background: expected the first class to be {BACKGROUND_NAME!r} where it is true")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: expected every name once")
        for departure in self.departures.values():
            if strange := [name for name in departure.prompts if name not in self.classes]:
                raise ValueError(f"departures: prompts: {strange[0]!r} is none of the classes")
            if departure.truth not in (None, *(form.files for form in self.truth)):
                raise ValueError(f"departures: truth: {departure.truth!r} is none of the forms of truth")

    def measured_for(self, labeler: str) -> Benchmark:
        """The benchmark as this labeler's paper measured on it, so that scores compare with the paper's."""
        departure = self.departures.get(labeler, Departure())
        truth = sorted(self.truth, key=lambda form: form.files != departure.truth)
        return replace(self, departure=departure, truth=tuple(truth))

    @property
    def vocabulary(self) -> Vocabulary:
        """One name per class, without expansion."""
        prompts = self.departure.prompts
        entries = (
            ClassEntry(name, (prompts.get(name, name),), background=name == BACKGROUND_NAME) for name in self.classes
        )
        return Vocabulary(tuple(entries), source=f"benchmark {self.name}")

    def settings_of(self, labeler: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Under which the labeler is measured: the protocol, as far as it has such settings, and the benchmark's."""
        return {name: value for name, value in PROTOCOL.items() if name in defaults} | self.settings.get(labeler, {})

    def find(self, root: str | Path) -> Dataset:
        """What is there below `root`, and what is missing."""
        return find_dataset(Path(root), self.images, self.split, self.truth, self.classes)


def available() -> list[str]:
    """Names of the benchmarks in configs/benchmarks."""
    return shipped_names("benchmarks")


def load_benchmark(name: str | Path) -> Benchmark:
    """One of `available`, or a .yaml file of the same form."""
    return _from_yaml(shipped_or_own(name, "benchmarks", "benchmark"))


def _from_yaml(file: Path) -> Benchmark:
    content = read_yaml(file)
    forms = content.pop("truth", [])
    if not isinstance(forms, list) or not all(isinstance(form, dict) for form in forms) or not forms:
        raise ConfigError(f"{file}: truth: expected a list of `files: ...`")
    truth = tuple(parameters_from(TruthForm, form, f"{file}: truth") for form in forms)
    return parameters_from(Benchmark, {"name": file.stem, **content, "truth": truth}, str(file))


def complete(benchmark: Benchmark, root: str | Path) -> Dataset:
    """Its files, all of which are there; else an error that says what is missing."""
    dataset = benchmark.find(root)
    if dataset.problems:
        more = len(dataset.problems) - PROBLEMS_SHOWN
        raise TruthError(
            f"{benchmark.name} in {root}: {'; '.join(dataset.problems[:PROBLEMS_SHOWN])}"
            + (f"; and {more} more, which --check lists" if more > 0 else "")
        )
    return dataset


def spread(keys: Sequence[str], subset: int | None) -> list[str]:
    """`subset` of the keys, evenly spread over their order; all without it."""
    if subset is not None:
        COUNT.check(subset, option("subset"))
    if subset is None or subset >= len(keys):
        return list(keys)
    return [keys[position * len(keys) // subset] for position in range(subset)]


@dataclass(frozen=True)
class BenchmarkResult:
    """A run's score on a benchmark.

    evaluation: mIoU and the rest over the benchmark's classes.
    photos:     of the benchmark below the root; `benchmark.photos` when it is complete there.
    precision:  in which the networks ran.
    """

    benchmark: Benchmark
    evaluation: Evaluation
    photos: int
    pack: str
    precision: str
    settings: dict[str, Any]

    @property
    def paper(self) -> float | None:
        """The paper's mIoU of this labeler as a share."""
        found = self.benchmark.paper.get(self.evaluation.labeler)
        return None if found is None else found / 100

    @property
    def difference(self) -> float | None:
        """To the paper's, as a share."""
        miou = share_or_none(self.evaluation.scores.miou)
        return None if miou is None or self.paper is None else miou - self.paper


def score(benchmark: Benchmark, dataset: Dataset, run: RunReader, subset: int | None = None) -> BenchmarkResult:
    """Scores a run over the benchmark's photos; with `subset` only these many of them count.

    benchmark: as it is `measured_for` the run's labeler.
    """
    _refuse_other_classes(benchmark, run)
    truth = benchmark_truth(benchmark, dataset, run, subset)
    evaluation = evaluate_run(run, truth, short_side=benchmark.departure.short_side)
    if subset is not None:
        evaluation = replace(evaluation, without_truth=0)  # the others have truth, but are not asked for
    pack = str((run.manifest.pack or {}).get("name", ""))
    precision = str(run.manifest.config.get("precision", ""))
    settings = dict(run.manifest.config.get("settings", {}))
    return BenchmarkResult(benchmark, evaluation, len(dataset.keys), pack, precision, settings)


def benchmark_truth(benchmark: Benchmark, dataset: Dataset, run: RunReader, subset: int | None = None) -> Truth:
    """The benchmark's masks for a run whose photos were named relative to the benchmark's folder of photos."""
    if dataset.truth is None:
        raise TruthError(f"{benchmark.name}: {'; '.join(dataset.problems[:PROBLEMS_SHOWN])}")
    chosen = {f"{key}{dataset.photos.suffix}": key for key in spread(dataset.keys, subset)}
    recorded = {record.path for record in run.records(segments=False)}
    pairs = {path: key for path, key in chosen.items() if path in recorded}
    if not pairs:
        raise TruthError(
            f"{run.directory}: expected some of {benchmark.name}'s {len(chosen):,} photos, such as "
            f"{next(iter(chosen), '')!r} in {dataset.photos.folder}, but found "
            f"{count(len(recorded), 'photo')} and none of them"
        )
    return Truth(
        source=str(dataset.truth.source),
        vocabulary=benchmark.vocabulary,
        names=benchmark.classes,
        missing=(),
        notes=_notes(benchmark, dataset, len(chosen), len(pairs)),
        unused=len(chosen) - len(pairs),
        pairs=pairs,
        read=dataset.truth.mask,
    )


def _refuse_other_classes(benchmark: Benchmark, run: RunReader) -> None:
    """Other names, another order, synonyms or another background would be another benchmark."""
    expected, found = benchmark.vocabulary, run.vocabulary
    if found is None:
        raise TruthError(
            f"{run.directory}: expected the classes of {benchmark.name}, but {run.manifest.labeler} names its own"
        )
    if found.fingerprint() == expected.fingerprint():
        return
    first = next((pair for pair in zip(expected.names, found.names, strict=False) if pair[0] != pair[1]), None)
    what = f"{first[0]!r} but found {first[1]!r}" if first else "one name per class, but found other entries"
    raise TruthError(f"{run.directory}: its classes are not those of {benchmark.name} in their order: expected {what}")


def _notes(benchmark: Benchmark, dataset: Dataset, chosen: int, recorded: int) -> tuple[str, ...]:
    notes = []
    if len(dataset.keys) != benchmark.photos:
        notes.append(
            f"{len(dataset.keys):,} photos of {benchmark.name} are there, but the benchmark has {benchmark.photos:,}: "
            "the papers' numbers are of other photos."
        )
    if chosen < len(dataset.keys):
        notes.append(f"Only {chosen:,} of the {len(dataset.keys):,} photos are scored, evenly spread.")
    if recorded < chosen:
        notes.append(f"Photos that are not labelled yet: {chosen - recorded:,}.")
    return tuple(notes)


def write_benchmark(result: BenchmarkResult, folder: str | Path) -> list[Path]:
    """The report of `evaluation.report`, and benchmark.md, .csv and .json beside it: the score and the papers'."""
    folder = Path(folder)
    make_folder(folder)
    texts = {
        "benchmark.md": "\n".join([f"# {result.benchmark.title}", "", *table_lines(COLUMNS, result_rows([result])), ""])
        + "".join(f"\n- {note}" for note in result.evaluation.notes)
        + "\n",
        "benchmark.csv": csv_text(list(as_dict(result)), [as_dict(result).values()]),
        "benchmark.json": report_text({**as_dict(result), "settings": result.settings}),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [*(folder / name for name in texts), *write_report(result.evaluation, folder)]


def result_rows(results: Sequence[BenchmarkResult]) -> list[tuple[str, ...]]:
    """Under COLUMNS: the results of one benchmark, then what its papers say of other methods."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        difference = "" if result.difference is None else f"{100 * result.difference:+.1f}"
        made_with = ", ".join(filter(None, (result.pack, result.precision)))
        name = result.evaluation.labeler + (f" ({made_with})" if made_with else "")
        photos = f"{result.evaluation.images:,}"
        rows.append((name, percent(result.evaluation.scores.miou), percent(result.paper), difference, photos))
    measured = {result.evaluation.labeler for result in results}
    others = {labeler: miou / 100 for result in results for labeler, miou in result.benchmark.paper.items()}
    return rows + [(name, "", percent(share), "", "") for name, share in others.items() if name not in measured]


def as_dict(result: BenchmarkResult) -> dict[str, Any]:
    """Shares from 0 to 1, None where there is none."""
    return {
        "benchmark": result.benchmark.name,
        "labeler": result.evaluation.labeler,
        "pack": result.pack,
        "precision": result.precision,
        "miou": share_or_none(result.evaluation.scores.miou),
        "paper_miou": result.paper,
        "difference": result.difference,
        "images": result.evaluation.images,
        "images_failed": result.evaluation.failed,
        "photos_there": result.photos,
        "photos_of_benchmark": result.benchmark.photos,
    }
