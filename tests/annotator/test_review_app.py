"""A run in the real FiftyOne over a real MongoDB, and what a person changed there back in the run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from helpers_runs import write_photos
from PIL import Image
from pycocotools import mask as coco_mask
from reference.open_runs import Labelled, write_run
from typer.testing import CliRunner

from annotator.commands.review import review
from annotator.corrections import corrected, pulls, reviewed, undo
from annotator.errors import ConfigError, RunError
from annotator.locks import alone_in
from annotator.record import ImageRecord
from annotator.review.beside import add_other_run, add_truth
from annotator.review.database import cache_folder
from annotator.review.dataset import open_dataset
from annotator.review.folder import export_folder
from annotator.review.pull import pull
from annotator.review.views import decorate
from annotator.run import RunReader, RunWriter, part_files, write_part
from annotator.vocabulary import Vocabulary
from annotator.whereabouts import open_run_at
from exporters.base import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stress,
    pytest.mark.skipif(importlib.util.find_spec("fiftyone") is None, reason="needs pip install 'annotate[review]'"),
]

CLASSES = Vocabulary.of(["background", "cat", "dog"])
SCENE = np.zeros((24, 32), dtype=np.int32)  # two cats and a dog
SCENE[2:10, 3:12] = SCENE[14:20, 2:6] = 1
SCENE[12:22, 18:30] = 2
HOSTILE = "d'or \"<script>alert(1)</script>\n☃.jpg"


def scene(label_map: np.ndarray = SCENE, scores: tuple[float, ...] = (0.6, 0.9, 0.5)) -> Labelled:
    return Labelled(label_map, CLASSES.names, scores=scores)


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    photos = {"a.jpg": scene(scores=(0.6, 0.4, 0.5)), HOSTILE: scene(), "sub/c.jpg": scene(), "z.jpg": None}
    return write_run(tmp_path / f"run-{tmp_path.name}", photos, CLASSES, image_root=tmp_path / "photos")


def sample_of(dataset: Any, path: str) -> Any:
    (found,) = (sample for sample in dataset if sample["path"] == path)
    return found


def maps(run: RunReader) -> dict[str, list[list[int]]]:
    """Class maps as every export would have them."""
    return {
        record.path: record.prediction().class_map().tolist()
        for record in corrected(run.records(), run)
        if record.status == "ok"
    }


def test_a_run_becomes_a_dataset(fiftyone: Any, run: RunReader) -> None:
    opened = open_dataset(fiftyone, run)
    decorate(fiftyone, opened)
    dataset = fiftyone.load_dataset(run.directory.name)
    assert dataset.persistent
    assert dataset.values("path") == ["a.jpg", HOSTILE, "sub/c.jpg", "z.jpg"]
    assert dataset.values("filepath")[1] == str(run.image_root / HOSTILE)
    assert dataset.default_mask_targets == {0: "background", 2: "cat", 3: "dog", 255: "(nothing)"}
    sample = sample_of(dataset, HOSTILE)
    assert np.asarray(Image.open(sample.segments.mask_path)).tolist() == [
        [{0: 0, 1: 2, 2: 3}[value] for value in row] for row in SCENE.tolist()
    ]
    assert Path(sample.segments.mask_path).is_relative_to(cache_folder(run))
    assert sample.segments.mask is None  # on the disk, not in the database
    found = [(each.label, each.confidence, each.bounding_box, each.mask.shape) for each in sample.instances.detections]
    assert found == [
        ("cat", 0.9, [3 / 32, 2 / 24, 9 / 32, 8 / 24], (8, 9)),
        ("cat", 0.9, [2 / 32, 14 / 24, 4 / 32, 6 / 24], (6, 4)),
        ("dog", 0.5, [18 / 32, 12 / 24, 12 / 32, 10 / 24], (10, 12)),
    ]
    assert all(each.mask.all() for each in sample.instances.detections)
    labels = [(each.label, each.confidence, each.share) for each in sample.labels.classifications]
    assert labels == [("background", 0.6, 0.7188), ("cat", 0.9, 0.125), ("dog", 0.5, 0.1562)]
    assert sample.confidence == pytest.approx((0.6 * 552 + 0.9 * 96 + 0.5 * 120) / 768)
    assert (sample.metadata.width, sample.metadata.height, sample.tags) == (32, 24, [])
    failed = sample_of(dataset, "z.jpg")
    assert (failed.status, failed.error, failed.instances, failed.confidence) == ("failed", "empty file", None, None)
    assert dataset.info["labeler"] == "test"
    assert dataset.info["config"] == {"seed": 1}
    views = {name: dataset.load_saved_view(name).values("path") for name in dataset.list_saved_views()}
    assert views["least confident"] == ["a.jpg", HOSTILE, "sub/c.jpg"]
    assert views["failures"] == ["z.jpg"]
    assert views["not looked at"] == dataset.values("path")
    assert views["approve"] == views["reject"] == views["redo"] == []
    assert len(views["rare classes"]) == 3


def test_it_is_opened_again_and_not_made_twice(fiftyone: Any, run: RunReader) -> None:
    first = open_dataset(fiftyone, run)
    assert (first.added, first.refreshed) == (4, 0)
    first.dataset.add_sample_field("mine", fiftyone.StringField)
    first.dataset.set_values("mine", ["kept"] * 4)
    again = open_dataset(fiftyone, run)
    assert (again.added, again.refreshed, again.removed, again.waiting) == (0, 0, 0, 0)
    assert again.dataset.name == first.dataset.name
    with RunWriter.open(run.directory, run.manifest) as writer:  # the run goes on
        writer.write(ImageRecord("new.jpg", "failed", error="empty file"))
    other = SCENE.copy()
    other[0, 0] = 1
    resumed = open_dataset(fiftyone, run)
    assert (resumed.added, resumed.refreshed, resumed.dataset.count()) == (1, 0, 5)
    rerun = write_run(run.directory, {"a.jpg": scene(other), "sub/c.jpg": scene()}, CLASSES)
    renewed = open_dataset(fiftyone, rerun)
    assert (renewed.added, renewed.refreshed, renewed.removed) == (0, 1, 3)
    assert sample_of(renewed.dataset, "a.jpg").segments.get_mask()[0, 0] == 2
    assert set(renewed.dataset.values("mine")) == {"kept"}
    assert len(list((cache_folder(run) / "masks").rglob("*.png"))) == 3


def test_masks_that_were_deleted_are_written_again(fiftyone: Any, run: RunReader) -> None:
    dataset = open_dataset(fiftyone, run).dataset
    shutil.rmtree(cache_folder(run))
    sample = sample_of(dataset, "sub/c.jpg")
    sample.instances.detections.pop()
    sample.save()
    pulled = pull(fiftyone, run).pull
    assert pulled is not None
    assert (pulled.photos, pulled.edited) == (1, 1)
    assert open_dataset(fiftyone, run).refreshed == 2
    assert sample_of(dataset, "a.jpg").segments.get_mask().shape == SCENE.shape


def test_two_runs_of_one_name_have_a_dataset_each(fiftyone: Any, run: RunReader, tmp_path: Path) -> None:
    namesake = write_run(tmp_path / "elsewhere" / run.directory.name, {"b.jpg": scene()}, CLASSES)
    first, second = open_dataset(fiftyone, run), open_dataset(fiftyone, namesake)
    assert second.dataset.name.startswith(f"{first.dataset.name}-")
    assert second.dataset.values("path") == ["b.jpg"]
    assert open_dataset(fiftyone, namesake).added == 0


def test_exactly_what_was_changed_comes_back(fiftyone: Any, run: RunReader) -> None:
    dataset = open_dataset(fiftyone, run).dataset
    assert pull(fiftyone, run).pull is None
    sample = sample_of(dataset, "a.jpg")  # one cat goes, the other was a dog
    gone, other, _ = sample.instances.detections
    sample.instances.detections.remove(gone)
    other.label = "dog"
    sample.tags += ["approve", "my own"]
    sample.save()
    sample = sample_of(dataset, HOSTILE)  # painted over
    painted = sample.segments.get_mask().copy()
    painted[0:3, 0:3] = 3
    painted[23, :] = 255
    sample.segments.mask = painted
    sample.save()
    sample = sample_of(dataset, "sub/c.jpg")
    sample.tags.append("reject")
    sample.save()

    pulled = pull(fiftyone, run)
    assert pulled.pull is not None
    assert (pulled.pull.photos, pulled.pull.edited, pulled.stale, pulled.boxes) == (3, 2, 0, 0)
    first, second = SCENE.copy(), SCENE.copy()
    first[2:10, 3:12], first[14:20, 2:6] = 0, 2
    second[0:3, 0:3], second[23, :] = 2, -1
    assert maps(run) == {"a.jpg": first.tolist(), HOSTILE: second.tolist()}
    assert [each.verdict for each in reviewed(run)] == ["approve", "", "reject", ""]

    approved = partial(corrected, run=run, only_approved=True)
    out = run.directory.parent / "labels.json"
    export("coco", run, out, {"segmentation": "rle"}, amend=approved)  # and a reader that is not ours
    labels = json.loads(out.read_text())
    assert [image["file_name"] for image in labels["images"]] == ["a.jpg"]
    names = {category["id"]: category["name"] for category in labels["categories"]}
    masks = {names[each["category_id"]]: coco_mask.decode(each["segmentation"]) for each in labels["annotations"]}
    assert list(masks) == ["dog"]
    assert masks["dog"].tolist() == (first == 2).astype(int).tolist()

    assert pull(fiftyone, run).pull is None
    sample = sample_of(dataset, "a.jpg")  # the app shows what the run says now, everywhere
    assert [each.label for each in sample.instances.detections] == ["dog", "dog"]
    assert (sample.segments.get_mask() == np.array([0, 2, 3])[first]).all()
    assert (sample.tags, sample.edited) == (["my own", "approve"], True)
    assert open_dataset(fiftyone, run).refreshed == 0


def test_labels_and_new_shapes_come_back_too(fiftyone: Any, run: RunReader) -> None:
    dataset = open_dataset(fiftyone, run).dataset
    sample = sample_of(dataset, "a.jpg")
    sample.labels.classifications[1].label = "dog"  # every cat
    sample.save()
    sample = sample_of(dataset, "sub/c.jpg")
    cat, _, dog = sample.instances.detections
    cat.bounding_box = [3 / 32, 2 / 24, 18 / 32, 8 / 24]  # twice as wide
    dog.mask = np.tri(10, 12, dtype=bool)
    added = [
        fiftyone.Detection(label="dog", bounding_box=[0, 0, 2 / 32, 1 / 24], mask=np.ones((1, 2), dtype=bool)),
        fiftyone.Detection(label="dog", bounding_box=[0, 0, 0.5, 0.5]),
    ]
    sample.instances.detections += added
    sample.save()
    assert pull(fiftyone, run).boxes == 1
    first, second = SCENE.copy(), SCENE.copy()
    first[SCENE == 1] = 2
    second[2:10, 3:21] = 1
    second[12:22, 18:30] = np.where(np.tri(10, 12), 2, 0)
    second[0, 0:2] = 2
    assert maps(run) == {"a.jpg": first.tolist(), HOSTILE: SCENE.tolist(), "sub/c.jpg": second.tolist()}


def test_a_mistake_in_the_app_holds_up_its_photo_only(fiftyone: Any, run: RunReader) -> None:
    with pytest.raises(RunError, match="no FiftyOne dataset of this run"):
        pull(fiftyone, run)
    dataset = open_dataset(fiftyone, run).dataset
    sample = sample_of(dataset, "a.jpg")
    sample.tags.append("approve")
    sample.save()
    sample = sample_of(dataset, "sub/c.jpg")
    sample.instances.detections[0].label = "zebra"
    sample.save()
    pulled = pull(fiftyone, run)
    assert (pulled.new, pulled.refused) == ({"zebra": ["sub/c.jpg"]}, {})
    assert [(each.number, each.photos) for each in pulls(run.directory)] == [(1, 1)]
    opened = open_dataset(fiftyone, run, discard=True)
    assert (opened.refreshed, opened.waiting) == (1, 0)
    assert pull(fiftyone, run).pull is None
    sample = sample_of(dataset, "a.jpg")
    sample.segments.mask = np.zeros((3, 3), dtype=np.uint8)
    sample.save()
    pulled = pull(fiftyone, run)
    assert pulled.pull is None
    assert pulled.refused == {
        "a.jpg": "expected a mask of 32 x 24 whole numbers, but found uint8 of shape (3, 3)",
    }


def test_a_new_label_becomes_a_class_after_the_others(fiftyone: Any, run: RunReader) -> None:
    """The numbers of the run's own classes stay, in every export and in the app; undone, the class is gone."""

    def categories() -> dict[str, int]:
        out = run.directory.parent / "labels.json"
        export("coco", run, out, {"segmentation": "rle"}, amend=partial(corrected, run=run))
        labels = json.loads(out.read_text())
        used = {each["category_id"] for each in labels["annotations"]}
        return {each["name"]: each["id"] for each in labels["categories"] if each["id"] in used}

    before = categories()
    dataset = open_dataset(fiftyone, run).dataset
    sample = sample_of(dataset, "sub/c.jpg")
    sample.instances.detections[2].label = "zebra"
    sample.save()
    assert said_by_review(run, "--pull", exits=3)[1] == (
        "not pulled: 1 photo ('sub/c.jpg'), with labels that are no class of the run ('zebra'); mend them in the app, "
        f"or make classes of them: annotate review {run.directory} --pull --add-class zebra"
    )
    said_by_review(run, "--pull", "--add-class", "zebra")
    after = categories()
    assert after == {**before, "zebra": max(before.values()) + 1}
    expected = np.where(SCENE == 2, 3, SCENE)
    assert maps(run)["sub/c.jpg"] == expected.tolist()
    assert maps(run)["a.jpg"] == SCENE.tolist()
    assert run.vocabulary == CLASSES  # so that it can be resumed and scored
    decorate(fiftyone, opened := open_dataset(fiftyone, run))
    assert (opened.refreshed, opened.waiting) == (0, 0)
    assert dataset.reload() is None
    assert dataset.default_mask_targets == {0: "background", 2: "cat", 3: "dog", 4: "zebra", 255: "(nothing)"}
    sample = sample_of(dataset, "a.jpg")  # by now it is a class like the others
    sample.instances.detections[0].label = "zebra"
    sample.save()
    assert pull(fiftyone, run).pull is not None
    undo(run.directory, 1)
    assert categories()["zebra"] == after["zebra"]
    undo(run.directory, 2)
    assert categories() == before


def test_one_pull_at_a_time(fiftyone: Any, run: RunReader) -> None:
    """From the first look at the app to the last sample that shows what was pulled."""
    dataset = open_dataset(fiftyone, run).dataset
    sample = sample_of(dataset, "a.jpg")
    sample.tags.append("approve")
    sample.save()
    tried = []

    def try_to_pull(done: int, total: int) -> None:
        with pytest.raises(BlockingIOError), alone_in(run.directory, wait=False):
            pass
        tried.append(done)

    assert pull(fiftyone, run, try_to_pull).pull is not None
    assert tried == [1, 2, 3, 4]
    with alone_in(run.directory, wait=False):
        pass


def said_by_review(run: RunReader, *flags: str, exits: int = 0) -> list[str]:
    app = typer.Typer()
    app.command()(review)
    result = CliRunner().invoke(app, [str(run.directory), *flags], catch_exceptions=False)
    assert result.exit_code == exits
    return result.stdout.splitlines()


def test_an_undone_pull_leaves_the_app_too(fiftyone: Any, run: RunReader) -> None:
    dataset = open_dataset(fiftyone, run).dataset
    sample = sample_of(dataset, "a.jpg")
    sample.instances.detections.pop()
    sample.tags.append("approve")
    sample.save()
    pull(fiftyone, run)
    assert maps(run)["a.jpg"] != SCENE.tolist()
    undo(run.directory, 1)
    assert maps(run)["a.jpg"] == SCENE.tolist()
    assert pull(fiftyone, run).pull is None  # nobody did anything in the app
    assert open_dataset(fiftyone, run).refreshed == 1
    sample = sample_of(dataset, "a.jpg")
    assert (len(sample.instances.detections), sample.tags) == (3, [])


def test_edits_of_labels_that_are_gone_wait(fiftyone: Any, run: RunReader) -> None:
    dataset = open_dataset(fiftyone, run).dataset
    for path in ("a.jpg", "sub/c.jpg"):
        sample = sample_of(dataset, path)
        sample.instances.detections.pop()
        sample.save()
    other = SCENE.copy()
    other[0, 0] = 1
    rerun = write_run(run.directory, {"a.jpg": scene(other)}, CLASSES)
    assert pull(fiftyone, rerun).stale == 1
    opened = open_dataset(fiftyone, rerun)
    assert (opened.waiting, opened.removed) == (2, 2)
    assert len(sample_of(dataset, "a.jpg").instances.detections) == 2
    assert open_dataset(fiftyone, rerun, discard=True).waiting == 0
    assert dataset.values("path") == ["a.jpg"]
    assert len(sample_of(dataset, "a.jpg").instances.detections) == 4


def test_labels_that_a_labeler_made_up(fiftyone: Any, tmp_path: Path) -> None:
    """Captions; a class that a person makes up; and values that keep their meaning when the run goes on."""
    photos = {"b.jpg": Labelled(SCENE, ["grass", "a cat", "the Dogs"]), "c.jpg": Labelled(SCENE * 0, ["grass"])}
    run = write_run(tmp_path / f"open-{tmp_path.name}", photos)
    dataset = open_dataset(fiftyone, run).dataset
    assert dataset.default_mask_targets == {1: "cat", 2: "dog", 3: "grass"}
    sample = sample_of(dataset, "b.jpg")
    assert [each.label for each in sample.captions.classifications] == ["grass", "a cat", "the Dogs"]
    assert sorted(each.label for each in sample.instances.detections) == ["cat", "cat", "dog", "grass"]
    sample.captions.classifications[2].label = "a zebra"
    sample.save()
    pulled = pull(fiftyone, run)
    assert pulled.pull is not None
    record = next(corrected(run.records(), run))
    assert [(each.label, each.class_id) for each in record.segments] == [("grass", -1), ("a cat", -1), ("a zebra", -1)]
    assert record.prediction().label_map.tolist() == SCENE.tolist()
    assert dataset.default_mask_targets == {1: "cat", 2: "dog", 3: "grass", 4: "zebra"}
    longer = write_run(run.directory, {**photos, "a.jpg": Labelled(SCENE, ["ape", "bee", "cow"])})
    opened = open_dataset(fiftyone, longer)
    assert (opened.added, opened.refreshed) == (1, 0)
    targets = {1: "cat", 2: "dog", 3: "grass", 4: "zebra", 5: "ape", 6: "bee", 7: "cow"}
    assert opened.dataset.default_mask_targets == targets
    assert np.unique(sample_of(opened.dataset, "b.jpg").segments.get_mask()).tolist() == [1, 3, 4]
    assert np.unique(sample_of(opened.dataset, "a.jpg").segments.get_mask()).tolist() == [5, 6, 7]


def test_another_run_and_the_truth_beside_it(fiftyone: Any, run: RunReader, tmp_path: Path) -> None:
    less = SCENE.copy()
    less[14:20, 2:6] = 0  # 24 of 768 pixels
    vocabulary = Vocabulary.of(["dog", "cat"])  # without background, and in another order
    lookup = np.array([-1, 1, 0])
    photos = {"a.jpg": Labelled(lookup[less], vocabulary.names), "sub/c.jpg": Labelled(lookup[SCENE], vocabulary.names)}
    other = write_run(tmp_path / "other", {**photos, "unknown.jpg": None}, vocabulary)
    truth = tmp_path / "truth" / "sub"
    truth.mkdir(parents=True)
    mask = SCENE.astype(np.uint8)
    mask[0, :4] = 255  # not scored
    mask[1, :] = 1
    Image.fromarray(mask).save(truth / "c.png")

    opened = open_dataset(fiftyone, run)
    assert add_other_run(fiftyone, opened, run, other, lambda done, total: None) == 2
    assert add_truth(fiftyone, opened, run, truth.parent, lambda done, total: None) == 1
    decorate(fiftyone, opened)
    dataset = fiftyone.load_dataset(run.directory.name)
    dataset.reload()
    assert dataset.values("disagreement") == [pytest.approx(24 / 768), None, 0.0, None]
    assert dataset.values("agreement") == [None, None, pytest.approx((764 - 32) / 764), None]
    assert dataset.mask_targets["other_segments"] == {1: "dog", 2: "cat"}
    shown = sample_of(dataset, "a.jpg").other_segments.get_mask()
    assert (shown == np.array([0, 2, 1])[less]).all()
    shown = sample_of(dataset, "sub/c.jpg").true_segments.get_mask()
    assert [shown[0, 0], shown[0, 4], shown[1, 0]] == [255, 0, 2]
    views = {name: dataset.load_saved_view(name).values("path") for name in dataset.list_saved_views()}
    assert views["largest disagreement"] == ["a.jpg", "sub/c.jpg"]
    assert views["furthest from the truth"] == ["sub/c.jpg"]
    assert pull(fiftyone, run).pull is None
    stranger = write_run(tmp_path / "stranger", {"x.jpg": scene()}, CLASSES)
    with pytest.raises(ConfigError, match="expected a run of the same photos"):
        add_other_run(fiftyone, opened, run, stranger, lambda done, total: None)


@pytest.mark.parametrize("photos", ["link", "copy", "none"])
def test_the_reviewed_dataset_as_a_folder(fiftyone: Any, run: RunReader, tmp_path: Path, photos: Any) -> None:
    """FiftyOne reads it back, moved elsewhere, with the run and all its caches gone."""
    write_photos(run.image_root, ["a.jpg", HOSTILE], SCENE.shape)  # the others are gone
    opened = open_dataset(fiftyone, run)
    sample = sample_of(opened.dataset, "a.jpg")
    painted = sample.segments.get_mask().copy()
    painted[0:5, 0:5] = 3
    sample.segments.mask = painted
    sample.tags += ["approve", "my own"]
    sample.save()
    assert pull(fiftyone, run).pull is not None
    opened = open_dataset(fiftyone, run)
    decorate(fiftyone, opened)
    datasets = set(fiftyone.list_datasets())
    expected = {path: np.array(found) for path, found in maps(run).items()}
    assert (expected["a.jpg"] != SCENE).sum() == 25
    expected_instances = {each["path"]: len(each.instances.detections) for each in opened.dataset if each.instances}

    exported = export_folder(fiftyone, opened, run, tmp_path / "out" / "set", photos, lambda done, total: None)
    assert (exported.photos, exported.unpulled) == (4, 0)
    assert exported.gone == (0 if photos == "none" else 2)
    assert set(fiftyone.list_datasets()) == datasets
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]
    moved = (tmp_path / "out" / "set").rename(tmp_path / "moved")
    assert str(run.directory) not in (moved / "metadata.json").read_text()
    shutil.rmtree(run.directory)

    read = fiftyone.Dataset.from_dir(str(moved), fiftyone.types.FiftyOneDataset)
    assert read.values("path") == ["a.jpg", HOSTILE, "sub/c.jpg", "z.jpg"]
    assert sample_of(read, "a.jpg").tags == ["my own", "approve"]
    assert read.count_sample_tags() == {"my own": 1, "approve": 1}
    assert read.default_mask_targets == {0: "background", 2: "cat", 3: "dog", 255: "(nothing)"}
    assert "least confident" in read.list_saved_views()
    for path, class_map in expected.items():
        sample = sample_of(read, path)
        assert Path(sample.segments.mask_path).is_relative_to(moved / "fields" / "segments")
        assert np.array_equal(sample.segments.get_mask(), np.array([0, 2, 3, 255])[class_map])
        assert len(sample.instances.detections) == expected_instances[path]
    assert sample_of(read, "z.jpg").segments is None
    for path in ("a.jpg", HOSTILE):
        file = Path(sample_of(read, path).filepath)
        assert file == (run.image_root if photos == "none" else moved / "data") / path
        assert file.is_symlink() == (photos == "link")
        assert file.read_bytes() == (run.image_root / path).read_bytes()


def test_the_command_writes_a_folder_and_overwrites_none(fiftyone: Any, run: RunReader, tmp_path: Path) -> None:
    """With what stands beside the run's masks, and with edits that were not pulled."""
    opened = open_dataset(fiftyone, run)
    sample = sample_of(opened.dataset, "a.jpg")
    sample.instances.detections.pop()
    sample.save()
    other = write_run(tmp_path / "other", {"a.jpg": scene(1 - SCENE.clip(0, 1))}, CLASSES)
    folder = tmp_path / "set"
    folder.mkdir()
    app = typer.Typer()
    app.command()(review)
    arguments = [str(run.directory), "--export", str(folder), "--photos", "none", "--compare", str(other.directory)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "4 photos as a FiftyOne dataset" in result.stdout
    assert "edits of the app in 1 photo are not pulled" in result.stdout
    read = fiftyone.Dataset.from_dir(str(folder), fiftyone.types.FiftyOneDataset)
    sample = sample_of(read, "a.jpg")
    assert len(sample.instances.detections) == 2
    assert np.array_equal(sample.segments.get_mask(), np.array([0, 2, 3])[SCENE])
    assert np.array_equal(sample.other_segments.get_mask(), np.array([2, 0, 0])[SCENE])
    assert Path(sample.other_segments.mask_path).is_relative_to(folder)
    assert sample_of(read, "sub/c.jpg").other_segments is None
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        export_folder(fiftyone, opened, run, folder, "none", lambda done, total: None)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_is_written_to_the_home(fiftyone: Any) -> None:
    assert fiftyone.config.do_not_track
    strangers = {path.name for path in Path.home().iterdir()} - {"first", ".fiftyone"}
    assert strangers == set()


def with_photos(run: RunReader, folder: Path) -> RunReader:
    """The run as if it had been made from these photos."""
    rows = []
    for row in run:
        file = folder / row.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"photo")
        rows.append(replace(row, bytes=5, mtime=file.stat().st_mtime))
    for part in part_files(run.directory):
        part.unlink()
    write_part(run.directory, 0, rows)
    return RunReader(run.directory, folder)


def test_a_photo_that_has_changed_is_not_shown(fiftyone: Any, run: RunReader, tmp_path: Path) -> None:
    """Nor does anything come back of it that was said before."""
    run = with_photos(run, tmp_path / "photos")
    opened = open_dataset(fiftyone, run)
    assert (len(opened.dataset), opened.changed.count) == (4, 0)
    for path in ("a.jpg", "sub/c.jpg"):
        sample = sample_of(opened.dataset, path)
        sample.tags = ["approve"]
        sample.save()
    (tmp_path / "photos/a.jpg").write_bytes(b"another photo")
    pulled = pull(fiftyone, run)
    assert pulled.pull is not None
    assert (pulled.pull.photos, pulled.changed.example) == (1, "a.jpg")
    opened = open_dataset(fiftyone, run, discard=True)
    assert sorted(opened.dataset.values("path")) == sorted([HOSTILE, "sub/c.jpg", "z.jpg"])
    assert opened.changed.notes() == [
        "1 photo has changed since it was labelled: 'a.jpg'; `annotate run` labels it again"
    ]
    other = write_run(tmp_path / "other", {"a.jpg": scene(), "sub/c.jpg": scene()}, CLASSES)
    assert add_other_run(fiftyone, opened, run, other, lambda done, total: None) == 1


def test_photos_are_shown_where_they_are_now(fiftyone: Any, run: RunReader, tmp_path: Path) -> None:
    before = open_dataset(fiftyone, with_photos(run, tmp_path / "photos"))
    sample = sample_of(before.dataset, "a.jpg")
    assert sample.filepath == str(tmp_path / "photos/a.jpg")
    (tmp_path / "photos").rename(tmp_path / "moved")
    after = open_dataset(fiftyone, open_run_at(run.directory, tmp_path / "moved"))
    assert (after.added, after.refreshed, after.removed) == (0, 0, 0)
    assert all(Path(file).is_file() for file in after.dataset.values("filepath"))
