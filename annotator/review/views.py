"""How a dataset looks when it is opened: colours, what is ticked, and views to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annotator.corrections import VERDICTS
from annotator.review.dataset import Opened
from annotator.review.samples import INSTANCES, MASK
from exporters.classes import Classes

OTHER, TRUTH = "other_segments", "true_segments"
DISAGREEMENT, AGREEMENT = "disagreement", "agreement"
OPACITY = 0.6
RARE_SHARE, RARE_LEAST, RARE_MOST = 0.1, 3, 50
"""Rare classes: a tenth of all that occur, but no fewer than three and no more than fifty."""


def decorate(fiftyone: Any, opened: Opened) -> None:
    """Saved views, the colours of every export, and a sidebar that begins with what matters."""
    dataset, samples = opened.dataset, opened.samples
    _save_views(fiftyone, dataset, samples.labels_field)
    legend = samples.legend
    colors = legend.colors
    by_value = _targets(colors)
    others = [{"path": path, "maskTargetsColors": _targets(own)} for path, own in opened.colors.items()]
    if dataset.app_config.color_scheme is not None:
        others += [
            each
            for each in dataset.app_config.color_scheme.fields
            if each["path"] in (OTHER, TRUTH) and each["path"] not in opened.colors
        ]
    by_name = [{"value": name, "color": colors[value]} for value, name in legend.names.items()]
    named = [
        {"path": path, "colorByAttribute": "label", "valueColors": by_name}
        for path in (INSTANCES, samples.labels_field)
    ]
    _allow_annotation(dataset, samples.labels_field, legend.classes)
    dataset.app_config.color_scheme = fiftyone.ColorScheme(
        color_by="value",
        color_pool=list(dict.fromkeys(colors.values())) or None,
        fields=[{"path": MASK, "maskTargetsColors": by_value}, *others, *named],
        default_mask_targets_colors=by_value,
        opacity=OPACITY,
    )
    dataset.app_config.sidebar_groups = _groups(fiftyone, dataset, samples.labels_field)
    dataset.app_config.active_fields = fiftyone.ActiveFields(
        exclude=False, paths=["tags", MASK, INSTANCES, "confidence"]
    )
    dataset.save()


def _allow_annotation(dataset: Any, labels_field: str, classes: Classes) -> None:
    """The app's Annotate tab knows what there is to edit, and offers the run's classes."""
    closed = {"component": "dropdown", "classes": list(classes.names)}
    chosen = {"component": "text"} if classes.open_labels or not classes.names else closed
    for path in (INSTANCES, labels_field):
        schema = dataset.generate_label_schemas(path, scan_samples=False)
        dataset.update_label_schema(path, {**schema, **chosen})
        dataset.activate_label_schemas(path)


def _targets(colors: Mapping[int, str]) -> list[dict[str, Any]]:
    """The app never draws 0."""
    return [{"intTarget": value, "color": color} for value, color in colors.items() if value]


def _save_views(fiftyone: Any, dataset: Any, labels_field: str) -> None:
    field = fiftyone.ViewField
    rare = rarest(dataset.count_values(f"{labels_field}.classifications.label"))
    views: dict[str, tuple[Any, str]] = {
        "least confident": (dataset.exists("confidence").sort_by("confidence"), "the least sure photos first"),
        "rare classes": (
            dataset.match(field(f"{labels_field}.classifications").filter(field("label").is_in(rare)).length() > 0),
            f"photos with {', '.join(rare)}"[:500],
        ),
        "failures": (dataset.match(field("status") == "failed"), "photos that could not be labelled, and why"),
        "not looked at": (dataset.match_tags(list(VERDICTS), bool=False), "no verdict yet"),
        **{verdict: (dataset.match_tags(verdict), f"tagged {verdict}") for verdict in VERDICTS},
    }
    if dataset.has_sample_field(DISAGREEMENT):
        most = dataset.exists(DISAGREEMENT).sort_by(DISAGREEMENT, reverse=True)
        views["largest disagreement"] = most, f"where {dataset.info.get('other')} says something else"
    if dataset.has_sample_field(AGREEMENT):
        least = dataset.exists(AGREEMENT).sort_by(AGREEMENT)
        views["furthest from the truth"] = least, "the smallest share of pixels as in the ground truth first"
    for name, (view, description) in views.items():
        dataset.save_view(name, view, description=description, overwrite=True)


def rarest(counts: dict[str, int]) -> list[str]:
    """The labels in the fewest photos, the rarest first."""
    names = sorted((name for name in counts if name is not None), key=lambda name: (counts[name], name))
    return names[: min(max(round(len(names) * RARE_SHARE), RARE_LEAST), RARE_MOST)]


def _groups(fiftyone: Any, dataset: Any, labels_field: str) -> list[Any]:
    """Every field in one group; those that are of no use to a person closed and last."""
    there = set(dataset.get_field_schema())
    order: dict[str, tuple[list[str], bool]] = {
        "tags": (["tags"], True),
        "labels": ([MASK, OTHER, TRUTH, INSTANCES, labels_field], True),
        "photo": (["path", "status", "error", "edited", "confidence", DISAGREEMENT, AGREEMENT], True),
        "metadata": ([f"metadata.{each}" for each in ("size_bytes", "mime_type", "width", "height")], False),
        "bookkeeping": (["id", "filepath", "created_at", "last_modified_at", "shown", "content"], False),
    }
    groups = []
    for name, (paths, expanded) in order.items():
        known = [path for path in paths if path.split(".")[0] in there]
        groups.append(fiftyone.SidebarGroupDocument(name=name, paths=known, expanded=expanded))
    taken = {path.split(".")[0] for group in groups for path in group.paths}
    if own := sorted(there - taken - {"metadata"}):
        groups.append(fiftyone.SidebarGroupDocument(name="your own", paths=own, expanded=True))
    return groups
