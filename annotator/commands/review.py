"""A person's look at a run: the FiftyOne app, and what was changed there."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from annotator.commands.arguments import ImagesOption, LocalRunArgument
from annotator.limits import Limits
from annotator.wording import are, count

if TYPE_CHECKING:
    from annotator.corrections import Pull
    from annotator.photo_changes import Changed
    from annotator.review.dataset import Opened
    from annotator.review.folder import Exported
    from annotator.review.pull import Pulled
    from annotator.run import RunReader

Report = Callable[[str, float, str], None]

GLANCE_SECONDS = 0.2
"""How often it looks whether Ctrl-C was pressed."""
PATHS_SHOWN = 5


def review(
    run: LocalRunArgument,
    port: Annotated[int, Limits(0, 65_535), typer.Option(help="Of the app.")] = 5151,
    browser: Annotated[
        bool | None,
        typer.Option("--browser/--no-browser", help="Open it in your browser.", show_default="unless --remote"),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Let other machines connect; they can read any photo that you can.")
    ] = False,
    images: ImagesOption = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder of mask PNGs or COCO JSON to show beside the run's masks.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Another run of the same photos, beside this one.", metavar="OTHER_RUN")
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="Bring verdicts and edits back into the run; exports then apply them.")
    ] = False,
    add_class: Annotated[
        list[str] | None,
        typer.Option(
            help="With --pull: a label that becomes a class, numbered after the others; repeatable.", metavar="NAME"
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="What was pulled so far.")] = False,
    undo: Annotated[
        int | None, Limits(0, 10**9), typer.Option(help="Take back the pull of this number.", metavar="N")
    ] = None,
    discard: Annotated[bool, typer.Option("--discard", help="Drop edits in the app that were not pulled.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the reviewed dataset as a folder for FiftyOne, instead of opening it.", metavar="DIR"),
    ] = None,
    photos: Annotated[
        Literal["link", "copy", "none"] | None,
        typer.Option(help="With --export: how photos come along.", show_default="link"),
    ] = None,
) -> None:
    """Look at a run in the FiftyOne app; tag photos approve, reject or redo, edit masks; then --pull."""
    from annotator import console, corrections
    from annotator.errors import ConfigError
    from annotator.storage import is_remote
    from annotator.whereabouts import open_run_at

    if sum((pull, list_, undo is not None, discard)) > 1:
        raise ConfigError("expected one of --pull, --list, --undo and --discard, but got several")
    if export is not None and (pull or list_ or undo is not None):
        raise ConfigError("expected --export without --pull, --list and --undo; pull first, then export")
    if add_class and not pull:
        raise ConfigError("expected --add-class with --pull, but --pull is missing; add it")
    if export is None and photos is not None:
        raise ConfigError("expected --photos with --export, but --export is missing; say where with --export DIR")
    opened = open_run_at(run, images)
    if is_remote(opened.image_root) and not list_ and undo is None:
        raise ConfigError(
            f"{opened.image_root}: expected photos on this machine to show, but they are at a URL; "
            "`annotate report` makes pages of them"
        )
    if list_:
        for line in _pull_lines(corrections.pulls(opened.directory)):
            console.out.print(line, markup=False)
    elif undo is not None:
        taken_back = corrections.undo(opened.directory, undo)
        console.out.print(f"pull {taken_back.number} is undone; the app shows it when it is opened again")
    elif pull:
        _pull(opened, add_class or [])
    elif export is not None:
        _export(opened, compare, ground_truth, export, photos or "link", discard)
    else:
        _open(opened, compare, ground_truth, port, remote, not remote if browser is None else browser, discard)


def _pull(run: RunReader, add_classes: list[str]) -> None:
    from annotator import console
    from annotator.cli import EXIT_SOME_FAILED
    from annotator.review.database import open_fiftyone
    from annotator.review.pull import pull

    with console.stages() as report:
        fiftyone = open_fiftyone(run)
        pulled = pull(fiftyone, run, _counted(report, "pulling"), add_classes=add_classes)
    for line in _pulled_lines(pulled, run):
        console.out.print(line, markup=False)
    if pulled.new or pulled.refused:
        raise typer.Exit(EXIT_SOME_FAILED)


def _export(
    run: RunReader,
    compare: Path | None,
    ground_truth: Path | None,
    folder: Path,
    photos: Literal["link", "copy", "none"],
    discard: bool,
) -> None:
    from annotator import console
    from annotator.review.folder import export_folder

    with console.stages() as report:
        fiftyone, opened = _decorated(run, compare, ground_truth, discard, report)
        exported = export_folder(fiftyone, opened, run, folder, photos, _counted(report, "folder"))
    for line in _exported_lines(exported, opened.changed):
        console.out.print(line, markup=False)


def _decorated(
    run: RunReader, compare: Path | None, ground_truth: Path | None, discard: bool, report: Report
) -> tuple[Any, Opened]:
    """FiftyOne, and the run's dataset brought up to date with all that stands beside it."""
    from annotator.review import beside, dataset, views
    from annotator.review.database import open_fiftyone
    from annotator.run import open_run

    fiftyone = open_fiftyone(run)
    opened = dataset.open_dataset(fiftyone, run, _counted(report, "photos"), discard=discard)
    if compare is not None:
        beside.add_other_run(fiftyone, opened, run, open_run(compare), _counted(report, "other run"))
    if ground_truth is not None:
        beside.add_truth(fiftyone, opened, run, ground_truth, _counted(report, "truth"))
    views.decorate(fiftyone, opened)
    return fiftyone, opened


def _open(
    run: RunReader,
    compare: Path | None,
    ground_truth: Path | None,
    port: int,
    remote: bool,
    browser: bool,
    discard: bool,
) -> None:
    from annotator import console
    from annotator.interrupts import stop_on_signal
    from annotator.review import server

    server.refuse_taken(port, remote=remote)
    with console.stages() as report:
        fiftyone, opened = _decorated(run, compare, ground_truth, discard, report)
    for line in _opened_lines(opened, run):
        console.out.print(line, markup=False)
    with server.serving(fiftyone, opened.dataset, port, remote=remote) as address, stop_on_signal() as stopped:
        console.out.print(f"the app: {address}   stop it with Ctrl-C", markup=False)
        sys.stdout.flush()
        if remote:
            console.status("anyone who reaches this port can read the files that you can read")
        if browser and not server.show(address):
            console.status("no browser was found to open; use the address above")
        while not stopped():
            time.sleep(GLANCE_SECONDS)


def _counted(report: Report, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: report(stage, done / max(total, 1), f"{done:,} of {total:,}")


def _opened_lines(opened: Opened, run: RunReader) -> list[str]:
    lines = [
        f"dataset {opened.dataset.name}: {len(opened.dataset):,} photos; {opened.added:,} added, "
        f"{opened.refreshed:,} refreshed, {opened.removed:,} removed"
    ]
    if opened.waiting:
        lines.append(
            f"  note: {opened.waiting:,} photos were edited in the app and labelled anew since; they are shown as they "
            "were edited, and cannot be pulled; --discard shows the new labels"
        )
    lines += _notes(opened.changed)
    return [*lines, f"afterwards: annotate review {run.directory} --pull"]


def _pulled_lines(pulled: Pulled, run: RunReader) -> list[str]:
    lines = ["nothing is new since the last pull"] if pulled.pull is None else [_line(pulled.pull)]
    if pulled.stale:
        lines.append(
            f"  note: {pulled.stale:,} edited photos were labelled anew since they were opened; their edits stay in "
            "the app; --discard drops them"
        )
    if pulled.boxes:
        lines.append(f"  note: {pulled.boxes:,} new instances are boxes without a mask, which say nothing of pixels")
    lines += _notes(pulled.changed)
    if pulled.new:
        flags = " ".join(f"--add-class {shlex.quote(label)}" for label in sorted(pulled.new))
        lines.append(
            f"not pulled: {_some(pulled.with_new_labels)}, with labels that are no class of the run "
            f"({', '.join(map(repr, sorted(pulled.new)))}); mend them in the app, or make classes of them: "
            f"annotate review {run.directory} --pull {flags}"
        )
    reasons: dict[str, list[str]] = {}
    for path, reason in pulled.refused.items():
        reasons.setdefault(reason, []).append(path)
    lines += [f"not pulled: {_some(paths)}: {reason}" for reason, paths in reasons.items()]
    if pulled.pull is not None:
        lines.append(f"exports apply it; take it back: annotate review {run.directory} --undo {pulled.pull.number}")
    return lines


def _notes(changed: Changed) -> list[str]:
    return [f"  note: {note}" for note in changed.notes()]


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - PATHS_SHOWN:,} more" if len(paths) > PATHS_SHOWN else ""
    return f"{count(len(paths), 'photo')} ({', '.join(map(repr, paths[:PATHS_SHOWN]))}{more})"


def _exported_lines(exported: Exported, changed: Changed) -> list[str]:
    lines = [f"{count(exported.photos, 'photo')} as a FiftyOne dataset → {exported.folder}"]
    if exported.gone:
        lines.append(f"  note: {are(exported.gone, 'photo')} no longer where the run found them; the masks are there")
    if exported.unpulled:
        lines.append(
            f"  note: edits of the app in {count(exported.unpulled, 'photo')} are not pulled; they are exported as the "
            "app shows them"
        )
    lines += _notes(changed)
    return [*lines, f"read it: fiftyone.Dataset.from_dir({str(exported.folder)!r}, fiftyone.types.FiftyOneDataset)"]


def _pull_lines(pulls: list[Pull]) -> list[str]:
    return [_line(pull) for pull in pulls] or ["nothing was pulled yet"]


def _line(pull: Pull) -> str:
    said = [f"{count:,} {verdict}" for verdict, count in pull.verdicts.items() if count]
    told = ", ".join([*([f"{pull.edited:,} edited"] if pull.edited else []), *said]) or "verdicts withdrawn"
    mark = "  (undone)" if pull.undone else ""
    return f"pull {pull.number}  {pull.created}  {count(pull.photos, 'photo')}: {told}{mark}"
