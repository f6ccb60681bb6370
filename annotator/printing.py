"""What the command line prints when its work is done: summaries, tables, lists. No decision is made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from annotator.console import err, out, stages, status
from annotator.pace import duration
from annotator.run import RunReader
from annotator.wording import are, count

if TYPE_CHECKING:
    from annotator.pipeline import Estimate, Job, Outcome
    from annotator.relabel import Relabelled
    from annotator.summary import RunSummary
    from evaluation.confusion import Evaluation
    from evaluation.open_evaluation import OpenEvaluation
    from exporters.base import ExportSummary

CLASSES_SHOWN = 30
FAILURES_SHOWN = 10


def print_outcome(outcome: Outcome, quiet: bool) -> None:
    if outcome.state == "interrupted":
        err.print("[yellow]stopped; everything labelled so far is safe, the same command goes on[/]")
    if quiet:
        return
    print_summary(outcome.summary)
    if outcome.changed.count:
        again = "it is" if outcome.changed.count == 1 else "they are"
        out.print(escape(f"{outcome.changed}; {again} labelled again"))
    if not outcome.labelled:
        out.print(f"nothing was left to do in {escape(str(outcome.directory))}")
        return
    rate = outcome.labelled / outcome.seconds
    out.print(
        f"{count(outcome.labelled, 'photo')} in {duration(outcome.seconds)}, {rate:.2f} photos/s "
        f"→ {escape(str(outcome.directory))}"
    )
    if outcome.state == "complete" and outcome.summary.ok:
        out.print(f"next: annotate export {escape(str(outcome.directory))} --format coco --out labels.json")


def print_summary(summary: RunSummary) -> None:
    """Counts, classes by pixel share, failures by reason."""
    if summary.ok:
        table = Table("class", "photos", "pixels", box=None, pad_edge=False, header_style="bold")
        table.columns[1].justify = table.columns[2].justify = "right"
        for name, pixels in summary.classes.most_common(CLASSES_SHOWN):
            table.add_row(Text(name), f"{summary.photos_with[name]:,}", f"{pixels / summary.pixels:.1%}")
        nothing = summary.pixels - summary.classes.total()
        if nothing:
            table.add_row("[dim]nothing[/]", "", f"[dim]{nothing / summary.pixels:.1%}[/]")
        out.print(table)
        if len(summary.classes) > CLASSES_SHOWN:
            out.print(f"… and {len(summary.classes) - CLASSES_SHOWN} more classes")
    failed = f", [red]{summary.failed:,} failed[/]" if summary.failed else ""
    out.print(f"{count(summary.ok, 'photo')} labelled{failed}")
    for reason, times in summary.failures.most_common(FAILURES_SHOWN):
        out.print(f"  [red]{times:,} ×[/] {escape(reason)}")


def print_status(run: RunReader, failures: bool) -> None:
    from annotator.summary import summarise

    manifest = run.manifest
    out.print(
        f"{escape(str(run.directory))}: {escape(manifest.labeler)}, pack {escape(str(manifest.pack.get('name', '?')))}"
    )
    out.print(f"photos of {escape(manifest.image_root)}, last writer left it {manifest.state}")
    summary = summarise(run.directory)
    if summary.makers:
        by = " · ".join(f"{maker} ({count(photos, 'photo')})" for maker, photos in summary.makers.most_common())
        out.print(f"made with {escape(by)}")
    print_summary(summary)
    if failures:
        for record in run.failures():
            out.print(f"{escape(repr(record.path))}: {escape(record.error)}")


def print_damage(run: RunReader) -> bool:
    """Says which parts are damaged, and whether any is."""
    from annotator.verify import verify

    with stages() as report:
        found = verify(run.directory, lambda done, of: report("verifying", done / of, f"{done:,} of {of:,} parts"))
    for part, reason, aside in found:
        out.print(escape(f"{part}: damaged ({reason}){'' if aside is None else f'; it is now {aside.name}'}"))
    if not found:
        out.print("every part holds what was written")
    elif all(each.aside for each in found):
        out.print(f"{are(len(found), 'part')} set aside; the same `annotate run` labels their photos again")
    else:
        out.print(f"{are(len(found), 'part')} damaged, but the run is being written or cannot be; nothing was changed")
    return bool(found)


def print_estimate(job: Job, estimate: Estimate) -> None:
    out.print(
        f"would label {estimate.todo:,} of {estimate.photos:,} photos "
        f"({estimate.finished:,} finished) into {escape(str(job.directory))}"
    )
    for name, value in job.manifest.config["settings"].items():
        out.print(f"  {name}: {value}")
    if estimate.changed.count:
        out.print(escape(f"{estimate.changed}"))
    if not estimate.todo:
        out.print("nothing is left to do")
    elif estimate.seconds_per_photo is not None:
        seconds = duration(estimate.todo * estimate.seconds_per_photo)
        out.print(
            f"about {seconds}, at {estimate.seconds_per_photo:.2f} s a photo ({estimate.sample} tried); "
            "nothing was written"
        )
    elif estimate.sample_failed:
        out.print("cannot estimate the time: none of the photos that were tried could be labelled; nothing was written")
    else:
        out.print("cannot estimate the time: this machine does not have the cluster's GPUs; nothing was written")


def print_labelers(name: str | None) -> None:
    from labelers import base

    if name is not None:
        spec = base.find(name).spec
        out.print(f"{escape(spec.name)}: {escape(spec.paper)}; networks: {', '.join(spec.roles) or 'none'}")
        out.print(escape(base.parameters_text(name).rstrip() or "its settings are in its own package"))
        out.print(f"\nset one: annotate run --labeler {escape(name)} --set NAME=VALUE")
        return
    table = Table("labeler", "needs", "networks", "paper", box=None, pad_edge=False, header_style="bold")
    for each in base.available():
        spec = base.find(each).spec
        needs = "class names" if spec.needs_vocabulary else "nothing"
        table.add_row(
            spec.name, needs + (" with background" if spec.needs_background else ""), ", ".join(spec.roles), spec.paper
        )
    out.print(table)


def print_formats() -> None:
    from annotator.config import settings_of
    from annotator.spelling import option
    from exporters import base

    for name in base.available():
        registration = base.find(name)
        out.print(f"[bold]{escape(name)}[/]  {escape(registration.description)}")
        table = Table.grid(padding=(0, 2))
        for setting in settings_of(registration.options):
            default = f" [dim]default: {escape(setting.default)}[/]" if setting.default else ""
            table.add_row("", escape(option(setting.name, setting.value)), escape(setting.description) + default)
        out.print(table)


def print_export(summary: ExportSummary) -> None:
    written = f"{count(summary.images, 'photo')}, {count(summary.annotations, 'annotation')}"
    out.print(f"{written} → {escape(', '.join(map(str, summary.files)))}")
    for note in summary.notes:
        out.print(f"  note: {escape(note)}")


def print_packs() -> None:
    from annotator.models.packs import available_packs, describe, read_pack

    table = Table("pack", "files", "at hand", "what it is", box=None, pad_edge=False, header_style="bold")
    for name in available_packs():
        pack = read_pack(name)
        rows = describe(pack)
        here = sum(bool(row["path"]) for row in rows)
        table.add_row(name, str(len(rows)), "all" if here == len(rows) else str(here), pack.description)
    table.add_row("auto", "", "", "paper where its weights can be had, else embedded; the default")
    out.print(table)


def print_pack(name: str) -> None:
    from annotator.models.packs import describe, read_pack

    pack = read_pack(name)
    out.print(f"[bold]{escape(pack.name)}[/]  {escape(pack.description)}")
    for row in describe(pack):
        owner = f" (for {row['labeler']})" if row["labeler"] else ""
        out.print(f"\n[bold]{escape(row['slot'])}[/]{escape(owner)}  {escape(row['architecture'])}")
        for title, value in (
            ("source", " ".join(filter(None, (row["source"], row["size"])))),
            ("licence", row["licence"]),
            ("sha256", row["sha256"] or "recorded when it is first used"),
            ("file", row["path"] or "not on this machine"),
        ):
            if value:
                out.print(f"  {title}: {escape(value)}")


def pull(name: str, labeler: str | None) -> None:
    from annotator.models import packs

    rows = packs.pull(packs.read_pack(name), labeler, progress=status)
    out.print(f"{len(rows)} files of {escape(name)} are at hand and checked")


def print_evaluation(evaluation: Evaluation, files: Sequence[Path]) -> None:
    from evaluation.report import CLASS_COLUMNS, class_rows, summary_rows

    table = Table(*CLASS_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for row in class_rows(evaluation):
        table.add_row(*(Text(cell) for cell in row))
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)
    _print_end_of_report(summary_rows(evaluation), evaluation.notes, files)


def print_open_evaluation(evaluation: OpenEvaluation, files: Sequence[Path]) -> None:
    from evaluation.open_report import RESULT_COLUMNS, open_summary_rows, result_rows

    if rows := result_rows(evaluation):
        table = Table(*RESULT_COLUMNS, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        for column in table.columns[2:]:
            column.justify = "right"
        out.print(table)
    _print_end_of_report(open_summary_rows(evaluation), evaluation.notes, files)


def _print_end_of_report(rows: Sequence[tuple[str, str]], notes: Sequence[str], files: Sequence[Path]) -> None:
    for name, value in rows:
        out.print(f"[bold]{escape(name)}[/] {escape(value)}")
    for note in notes:
        out.print(f"  note: {escape(note)}")
    out.print(f"report → {escape(', '.join(map(str, files)))}")


def print_relabelled(done: Relabelled) -> None:
    directory = escape(str(done.run.directory))
    share = f" ({done.kept / done.segments:.0%})" if done.segments else ""
    out.print(f"{done.kept:,} of {count(done.segments, 'segment')}{share} kept a class → {directory}")
    out.print(f"what became of each: {directory}/mapping.csv")
    for note in done.changed.notes():
        out.print(f"  note: {escape(note)}")


def print_lines(lines: Sequence[Text]) -> None:
    for line in lines:
        out.print(line)


def print_picture(picture: Path) -> None:
    out.print(f"picture → {escape(str(picture))}")


def print_demo(overview: Path, own_photos: str) -> None:
    """own_photos: the command for them."""
    folder = overview.parent
    out.print(
        f"look at [bold]{escape(str(overview))}[/]; "
        f"masks, overlays, labels.json and the run lie in {escape(str(folder))}"
    )
    out.print(f"your own photos: {escape(own_photos)}")
