"""One run from start to end: resolve what was asked for, execute, count, keep the manifest true."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator import ledger
from annotator.blame import blaming
from annotator.config import RunConfig
from annotator.engines.crew import Crew, assemble
from annotator.engines.photo_folders import PhotoFolders
from annotator.engines.ray_todo import remove_todo
from annotator.errors import ConfigError, RunError
from annotator.finished import Finished
from annotator.identity import config_hash
from annotator.images import ImageRef, ImageSource, open_source
from annotator.interrupts import stop_on_signal
from annotator.listing import Listing
from annotator.longer_paths import lengthen
from annotator.maker import maker_in
from annotator.moved_photos import resumed
from annotator.photo_changes import Changed, OpenPhotos
from annotator.run import ImageRecord, Manifest, RunWriter, finished_paths
from annotator.run_check import check_run, is_run, refuse_other_config
from annotator.stages import stage, staged_items
from annotator.storage import place
from annotator.summary import RunSummary, summarise
from annotator.verify import undamaged
from annotator.vocabulary import Vocabulary, as_vocabulary
from labelers import base as labelers

if TYPE_CHECKING:
    from annotator.engines.ray_cluster import Cluster
    from annotator.models.packs import Networks

_log = logging.getLogger(__name__)

FAILURES_JUDGED_AFTER = 50  # photos; before that a failure rate says little
SAMPLE = 4  # photos labelled to estimate the time of a dry run

Vocab = Vocabulary | str | Path | Sequence[str] | None
Report = Callable[[ImageRecord], None]
Begin = Callable[[Listing], None]


@dataclass
class Job:
    """A resolved run: everything is checked and loaded, nothing is written yet.

    crew:    what labels in this process.
    cluster: where crews like it label instead, with the engine `ray`.
    between: folders that the paths of the rows there are have to begin with, before the run goes on.
    """

    config: RunConfig
    source: ImageSource
    crew: Crew
    vocabulary: Vocabulary | None
    manifest: Manifest
    directory: Path
    cluster: Cluster | None = None
    between: str = ""

    @property
    def labeler(self) -> labelers.Labeler:
        return self.crew.labeler

    @property
    def networks(self) -> Networks:
        return self.crew.networks

    @property
    def devices(self) -> list[str]:
        return [str(self.cluster.placement)] if self.cluster else self.crew.devices

    @property
    def precision(self) -> str:
        return str(self.manifest.config["precision"])

    def finished(self) -> Finished:
        """Paths that a run would not label again."""
        if self.config.overwrite:
            return Finished()
        surveyed = ledger.survey(self.directory)
        surveyed = surveyed._replace(rest=undamaged(surveyed.rest))  # a run sets the others aside
        return finished_paths(self.directory, only_ok=self.config.retry_failed, surveyed=surveyed)

    def execute(
        self, refs: Iterable[ImageRef], should_stop: Callable[[], bool] = lambda: False
    ) -> Generator[ImageRecord, None, None]:
        """Labels these photos; nothing is written."""
        with self.crew.decoders() as pool:
            yield from self.crew.execute(refs, pool, should_stop)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `labelled`, `seconds` and `changed` photos are of this call, `summary` is of the whole run."""

    directory: Path
    state: str
    labelled: int
    seconds: float
    summary: RunSummary
    changed: Changed


@dataclass(frozen=True)
class Estimate:
    """What a run would do.

    photos:   that there are; `finished` of them have a row, and `todo` is how many the run would label.
    changed:  photos with a row that the run would label again.
    seconds_per_photo: measured on `sample` photos; None without any.
    sample_failed: photos were tried, but none could be labelled.
    """

    photos: int
    finished: int
    todo: int
    seconds_per_photo: float | None
    sample: int
    changed: Changed
    sample_failed: bool = False


def prepare(config: RunConfig, vocab: Vocab = None, images: str | Path | Sequence[str | Path] | None = None) -> Job:
    """Checks and loads everything that a run needs.

    vocab, images: as in the configuration, or as Python values, which then win.
    """
    registration = labelers.find(config.labeler)
    parameters = labelers.resolve_parameters(config.labeler, config.settings)
    vocabulary = _vocabulary(registration.spec, vocab if vocab is not None else config.vocab)
    named = images if images is not None else config.images or default_images()
    source = open_source(named)
    directory = place(config.out or f"runs/{_name_of(named, source)}-{config.labeler}")
    manifest = Manifest(
        config={
            "labeler": config.labeler,
            "settings": asdict(parameters),
            "vocabulary": vocabulary.fingerprint() if vocabulary else None,
            "full_decode": config.full_decode,
            **({"compile": True} if config.compile else {}),  # runs from before this option stay the same
        },
        config_hash="",
        image_root=str(source.root),
        tool_version=version("annotate"),
        labeler=config.labeler,
        vocabulary=vocabulary.to_dict() if vocabulary else None,
    )
    between, before = "", ""
    if not config.overwrite and is_run(directory):
        found = Manifest.load(directory)
        before = maker_in(found)
        refuse_other_config(directory, manifest, networks_known=False)  # before any network is loaded
        source, between = resumed(directory, found.image_root, source)

    crew, cluster = _crew(config, vocabulary)
    manifest.config["weights"] = crew.weights
    manifest.config["precision"] = cluster.precision if cluster else crew.networks.precision
    manifest.config_hash = config_hash(manifest.config)
    manifest.image_root = str(source.root)
    manifest.pack = {"name": crew.networks.pack, "roles": crew.networks.used()}
    manifest.execution = _execution(config, crew, cluster)
    manifest.environment = _environment()
    if before and before != (now := maker_in(manifest)):
        _log.warning(
            "%s: begun with %s, and this command goes on with %s: masks may differ in a few pixels; `annotate status` "
            "counts the photos of each, --overwrite starts anew",
            *(directory, before, now),
        )
    return Job(config, source, crew, vocabulary, manifest, directory, cluster, between)


def check(job: Job) -> None:
    """Raises the `RunError` that `run` would raise where the run must not be written; writes nothing."""
    check_run(job.directory, job.manifest, overwrite=job.config.overwrite)


def run(job: Job, report: Report = lambda record: None, begin: Begin = lambda listing: None) -> Outcome:
    """Labels every photo that has no row yet. Ctrl-C finishes the batch and closes the open part.

    begin:  is called once, when the run may be written.
    report: is called with each photo's record as it is written.
    """
    with blaming(job.directory), job.cluster or nullcontext():
        return _run(job, report, begin)


def _run(job: Job, report: Report, begin: Begin) -> Outcome:
    begun = time.monotonic()
    labelled = 0
    config = job.config
    options = {"overwrite": config.overwrite, "retry_failed": config.retry_failed}
    if not config.overwrite and is_run(job.directory):
        check(job)
        lengthen(job.directory, job.manifest.image_root, job.between)
    folders, image_root = PhotoFolders(), place(job.manifest.image_root)
    folders.remember(image_root)
    with stop_on_signal() as stopped, RunWriter.open(job.directory, job.manifest, **options) as writer:
        job.manifest.state = "interrupted"  # until proven otherwise: an error below must not leave "running"
        left = OpenPhotos(job.directory, writer.finished, writer.rewrite)
        todo = left.among(staged_items("find", job.source))
        listing = Listing(todo, config.limit, lambda: len(writer.finished) - left.changed.count, job.crew.batch_size)
        begin(listing)
        failed, last_failure = 0, ""
        with closing(_written(job, writer, listing, stopped)) as records:
            for record in records:
                report(record)
                labelled += 1
                if record.status == "failed":
                    failed += 1
                    last_failure = f"{record.path!r}: {record.error}"
                if labelled >= FAILURES_JUDGED_AFTER and failed > config.max_failure_rate * labelled:
                    raise RunError(
                        f"{failed} of {labelled} photos failed, more than --max-failure-rate "
                        f"{config.max_failure_rate:g}; the last one: {last_failure}"
                    )
        if not stopped():
            folders.check(image_root)  # a search finds nothing more in a folder that is gone
            job.manifest.state = "partial" if listing.leaves_photos() else "complete"
        with stage("write"):
            writer.flush()
        seconds = time.monotonic() - begun
        summary = summarise(job.directory)
        job.manifest.counts = {"photos": summary.photos, "ok": summary.ok, "failed": summary.failed}
        job.manifest.timings = {"seconds": round(seconds, 3), "photos": labelled}
    return Outcome(job.directory, job.manifest.state, labelled, seconds, summary, left.changed)


def _written(
    job: Job, writer: RunWriter, listing: Listing, should_stop: Callable[[], bool]
) -> Generator[ImageRecord, None, None]:
    """Labels these photos; every record when it is in the run, with the engine `ray` without its masks."""
    if job.cluster is not None:
        from annotator.engines import ray

        yield from ray.execute(job.cluster, job.crew, job.vocabulary, writer, listing, should_stop)
        return
    remove_todo(writer.directory)
    with closing(job.execute(listing, should_stop)) as records:
        for record in records:
            with stage("write"):
                writer.write(record)
            yield record


def estimate(job: Job) -> Estimate:
    """What `run` would do, measured on a few photos; writes nothing, and raises the error that `run` would begin with.

    What a cluster's GPUs can do is not measured.
    """
    check(job)
    photos = 0

    def counted() -> Iterator[ImageRef]:
        nonlocal photos
        for ref in job.source:
            photos += 1
            yield ref

    photos_left = OpenPhotos(job.directory, job.finished())
    left = _open_of(counted(), photos_left, job.between)
    listing = Listing(left, job.config.limit)
    sample = list(islice(listing, SAMPLE))
    todo = len(sample) + sum(1 for _ in listing)
    finished = photos - todo - sum(1 for _ in left)
    if job.cluster and job.cluster.placement.gpus:
        return Estimate(photos, finished, todo, None, 0, photos_left.changed)
    for _ in job.execute(sample[:1]):
        pass  # the first photo pays for warming up
    timed = [record.seconds for record in job.execute(sample) if record.status == "ok"]
    at_once = job.cluster.placement.actors if job.cluster else 1
    seconds = sum(timed) / len(timed) / at_once if timed else None
    return Estimate(photos, finished, todo, seconds, len(timed), photos_left.changed, bool(sample) and not timed)


def _open_of(refs: Iterable[ImageRef], photos: OpenPhotos, between: str) -> Iterator[ImageRef]:
    """What is left to label, where the run's paths do not begin yet with the folders that they will (`Job.between`)."""
    if not between:
        yield from photos.among(refs)
        return
    start = len(between) + 1
    for is_below, group in groupby(refs, lambda ref: ref.path.startswith(f"{between}/")):
        if is_below:
            yield from photos.among(
                replace(
                    ref,
                    root=ref.root / between,
                    path=ref.path[start:],
                    name_on_disk=ref.name_on_disk and ref.name_on_disk[start:],
                )
                for ref in group
            )
        else:
            yield from group


def _name_of(named: str | Path | Sequence[str | Path], source: ImageSource) -> str:
    """For the run's folder; a list gives its own name, as the folder that its photos share changes when it grows."""
    if isinstance(named, str | Path) and str(named).lower().endswith(".txt"):
        return Path(str(named)).stem
    return source.root.resolve().name or "images"


def default_images() -> str:
    """`images/` where it is there, else the working directory."""
    return "images" if Path("images").is_dir() else "."


def _crew(config: RunConfig, vocabulary: Vocabulary | None) -> tuple[Crew, Cluster | None]:
    """What labels here. For the engine `ray` it only names the weights, on the CPU, and there is a cluster, too."""
    if config.engine == "local":
        return assemble(config, vocabulary, config.device), None
    from annotator.engines.ray_cluster import Cluster, require_ray

    require_ray(config)
    crew = assemble(replace(config, precision="fp32", compile=False), vocabulary, "cpu")
    return crew, Cluster.join(config)


def _execution(config: RunConfig, crew: Crew, cluster: Cluster | None) -> dict[str, Any]:
    where = cluster.execution() if cluster else {"engine": "local", "device": ",".join(crew.devices)}
    return {**where, "batch_size": config.batch_size, "workers": config.workers}


def _vocabulary(spec: labelers.LabelerSpec, given: Vocab) -> Vocabulary | None:
    if not spec.needs_vocabulary:
        if given is not None:
            raise ConfigError(f"{spec.name} names its own classes and takes no vocabulary; leave --vocab out")
        return None
    if given is None:
        given = next((name for name in ("classes.txt", "classes.yaml") if Path(name).is_file()), None)
    if given is None:
        raise ConfigError(
            f"{spec.name} needs class names: --vocab classes.txt (a class per line) or --vocab 'cat, dog'"
        )
    vocabulary = as_vocabulary(given)
    if spec.needs_background:
        vocabulary.require_background(spec.name)
    return vocabulary


def _environment() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
