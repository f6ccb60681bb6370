"""Ground truth from a folder of mask PNGs: which mask, which class, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotator.errors import ConfigError, VocabularyError
from annotator.vocabulary import ClassEntry, Vocabulary
from evaluation.confusion import evaluate_run
from evaluation.matching import IGNORE, MASK_KEYS, TruthError, pair_photos
from evaluation.truth import open_truth

ROW = [[0, 1, 2]]
SIZE = (1, 3)


@pytest.mark.parametrize(
    ("photos", "masks", "expected"),
    [
        (["a/x.jpg"], ["a/x.png"], {"a/x.jpg": "a/x.png"}),
        (["a/x.jpg"], ["a/x.jpg.png"], {"a/x.jpg": "a/x.jpg.png"}),
        (["a/x.v2.jpg"], ["a/x.v2.PNG"], {"a/x.v2.jpg": "a/x.v2.PNG"}),  # only the last extension goes
        (["a/x.jpg"], ["x.png"], {"a/x.jpg": "x.png"}),  # flat folder of masks
        (["x.jpg"], ["ann/val/x.jpg.png"], {"x.jpg": "ann/val/x.jpg.png"}),
        (["a/x.jpg", "b/x.jpg"], ["a/x.png", "b/x.png"], {"a/x.jpg": "a/x.png", "b/x.jpg": "b/x.png"}),
        (["a/x.jpg", "b/x.jpg"], ["a/x.png"], {"a/x.jpg": "a/x.png"}),  # b/x must not be scored against a's mask
        (["a/x.jpg", "b/x.jpg"], ["x.png"], {}),  # the stem fits two photos
        (["x.jpg"], ["a/x.png", "b/x.png"], {}),  # and here two masks
        (["x.jpg", "x.png"], ["x.png"], {}),
        (["x.jpg", "x.png"], ["x.jpg.png", "x.png.png"], {"x.jpg": "x.jpg.png", "x.png": "x.png.png"}),
        (["x.jpg"], ["y.png"], {}),
    ],
)
def test_photos_find_their_masks(photos: list[str], masks: list[str], expected: dict[str, str]) -> None:
    pairs, ambiguous = pair_photos(photos, masks, MASK_KEYS)
    assert pairs == expected
    assert set(ambiguous) == (set(photos) - pairs.keys() if masks != ["y.png"] else set())


def test_a_mask_is_given_once() -> None:
    """by and ay share the y, but ay is already ax's, by the stricter key."""
    keys = [(lambda photo: photo[0], lambda mask: mask[0]), (lambda photo: photo[1], lambda mask: mask[1])]
    assert pair_photos(["ax", "by"], ["ay"], keys) == ({"ax": "ay"}, [])
    assert pair_photos(["ax", "by"], ["ay"], keys[1:]) == ({"by": "ay"}, [])


@pytest.mark.parametrize(
    ("mode", "ignored"), [("L", 255), ("P", 255), ("I;16", 65535)], ids=["gray", "palette", "16-bit"]
)
def test_modes_are_read_as_indices(make_run: Callable, save_mask: Callable, mode: str, ignored: int) -> None:
    file = save_mask("x.png", [[0, 1], [2, ignored]], mode)
    truth = open_truth(file.parent, make_run({"x.jpg": [[0, 0], [0, 0]]}))
    mask = truth.mask("x.jpg", (2, 2))
    assert mask is not None
    assert mask.tolist() == [[0, 1], [2, IGNORE]]


def test_one_bit_mask(make_run: Callable, save_mask: Callable) -> None:
    file = save_mask("x.png", [[0, 1]], "1")
    mask = open_truth(file.parent, make_run({"x.jpg": [[0, 0]]})).mask("x.jpg", (1, 2))
    assert mask is not None
    assert mask.tolist() == [[0, 1]]


def test_more_classes_than_a_byte_holds(make_run: Callable, save_mask: Callable) -> None:
    classes = [f"class {index}" for index in range(300)]
    file = save_mask("x.png", [[254, 255, 299, 65535]], "I;16")
    run = make_run({"x.jpg": [[254, 255, 0, 1]]}, classes)
    scores = evaluate_run(run, open_truth(file.parent, run)).scores
    assert scores.iou[[254, 255, 299, 0]].tolist() == [1, 1, 0, 0]  # 255 is a class here
    assert np.isnan(scores.iou[1])  # under the ignored pixel


@pytest.mark.parametrize("place", ["given", "inside", "beside"])
def test_class_list_names_the_values(make_run: Callable, save_mask: Callable, tmp_path: Path, place: str) -> None:
    folder = save_mask("x.png", ROW).parent
    file = {"given": tmp_path / "names.txt", "inside": folder / "classes.txt", "beside": tmp_path / "classes.txt"}[
        place
    ]
    file.write_text("DOG\nbackground\ncat\n", encoding="utf-8")
    truth = open_truth(folder, make_run({"x.jpg": ROW}), file if place == "given" else None)
    mask = truth.mask("x.jpg", SIZE)
    assert mask is not None
    assert mask.tolist() == [[2, 0, 1]]
    assert truth.names == ("background", "cat", "dog")


def test_without_class_list_the_run_decides_and_says_so(make_run: Callable, save_mask: Callable) -> None:
    truth = open_truth(save_mask("x.png", ROW).parent, make_run({"x.jpg": ROW}))
    mask = truth.mask("x.jpg", SIZE)
    assert mask is not None
    assert mask.tolist() == ROW
    assert any("run's class order" in note for note in truth.notes)


def test_classes_that_the_run_lacks_are_missed(make_run: Callable, save_mask: Callable, tmp_path: Path) -> None:
    folder = save_mask("x.png", [[0, 1, 2, 2]]).parent
    (folder / "classes.txt").write_text("background\ncat\nhorse\n", encoding="utf-8")
    run = make_run({"x.jpg": [[0, 1, 2, -1]]})
    truth = open_truth(folder, run)
    evaluation = evaluate_run(run, truth)
    assert truth.names == ("background", "cat", "dog", "horse")
    assert truth.missing == ("horse",)
    assert evaluation.matrix.counts.tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 1]]
    assert evaluation.scores.miou == pytest.approx((1 + 1 + 0 + 0) / 4)  # dog is predicted, horse is missed
    notes = " ".join(evaluation.notes)
    assert "does not know: horse." in notes
    assert "never names, so that they can only be wrong: dog." in notes
    assert "50.0% of the truth's pixels" in notes
    assert "the run's own 3 classes alone the mIoU is 66.7%" in notes


@pytest.mark.parametrize(
    ("entries", "listed", "expected"),
    [
        # a synonym of the run
        ([ClassEntry("tvmonitor", ("tvmonitor", "TV"))], "tv", 0),
        # a synonym in the truth's list
        ([ClassEntry("tv", ("tv",))], "tvmonitor, tv", 0),
        # a name before another class's synonym
        ([ClassEntry("cat", ("cat", "dog")), ClassEntry("dog", ("dog",))], "dog", 1),
        # names that differ in case only
        ([ClassEntry("Cat", ("Cat",)), ClassEntry("cat", ("cat",))], "cat", 1),
        # a class merged into another counts as that one
        ([ClassEntry("dog", ("dog",)), ClassEntry("puppy", ("puppy",), merge_into="dog")], "puppy", 0),
        # the run's ignored class is not scored
        ([ClassEntry("dog", ("dog",)), ClassEntry("logo", ("logo",), ignore=True)], "logo", IGNORE),
        # background has another name in the run
        ([ClassEntry("dog", ("dog",)), ClassEntry("stuff", ("stuff",), background=True)], "Background", 1),
        # the run has no background
        ([ClassEntry("dog", ("dog",))], "background", IGNORE),
    ],
)
def test_class_names_meet(
    make_run: Callable, save_mask: Callable, entries: list[ClassEntry], listed: str, expected: int
) -> None:
    common = ClassEntry("common", ("common",))
    folder = save_mask("x.png", [[0]]).parent
    (folder / "classes.txt").write_text(f"{listed}\ncommon\n", encoding="utf-8")
    truth = open_truth(folder, make_run({"x.jpg": [[0]]}, Vocabulary((*entries, common))))
    mask = truth.mask("x.jpg", (1, 1))
    assert mask is not None
    assert mask.tolist() == [[expected]]
    assert truth.missing == ()
    assert truth.unscored == ((listed.split(",")[0],) if expected == IGNORE else ())


def test_a_class_that_the_background_is_merged_into_is_a_class_in_common(
    make_run: Callable, save_mask: Callable
) -> None:
    entries = (ClassEntry("stuff", ("stuff",), background=True, merge_into="sky"), ClassEntry("sky", ("sky",)))
    folder = save_mask("x.png", [[0, 1]]).parent
    (folder / "classes.txt").write_text("background\nsky\n", encoding="utf-8")
    mask = open_truth(folder, make_run({"x.jpg": [[0, 0]]}, Vocabulary(entries))).mask("x.jpg", (1, 2))
    assert mask is not None
    assert mask.tolist() == [[0, 0]]


def test_photos_are_counted(make_run: Callable, save_mask: Callable) -> None:
    """One scored, two without truth, one failed; a mask of no photo is told as well."""
    folder = save_mask("a/x.png", ROW).parent.parent
    save_mask("a/of-no-photo.png", ROW)
    save_mask("failed.png", ROW)
    run = make_run({"a/x.jpg": ROW, "a/y.jpg": ROW, "b/x.jpg": ROW, "failed.jpg": None}, state="interrupted")
    evaluation = evaluate_run(run, open_truth(folder, run))
    counts = (evaluation.images, evaluation.without_truth, evaluation.failed, evaluation.unused_truth)
    assert counts == (1, 2, 1, 1)
    assert evaluation.matrix.counts.sum() == 3
    assert any("its state is 'interrupted'" in note for note in evaluation.notes)
    assert any("b/x.jpg" in note for note in evaluation.notes)


@pytest.mark.parametrize(
    ("values", "mode", "message"),
    [
        ([[0, 3, 0]], "L", r"x\.png: value 3 names no class; .*run has 3 \(0 to 2\), and 255 is not scored$"),
        ([[0, 255, 0]], "I;16", r"x\.png: value 255 names no class; .*, and 65535 is not scored$"),
        ([[0, 65534, 0]], "I;16", r"x\.png: value 65534 names no class"),
        ([[0, 1]], "L", r"x\.png: expected the size of its photo, 3 x 1, but found 2 x 1$"),
        ([[0], [1], [2]], "L", r"3 x 1, but found 1 x 3; the truth ignores the photo's EXIF rotation$"),
    ],
)
def test_masks_that_do_not_fit(make_run: Callable, save_mask: Callable, values: list, mode: str, message: str) -> None:
    run = make_run({"x.jpg": ROW})
    truth = open_truth(save_mask("x.png", values, mode).parent, run)
    with pytest.raises(TruthError, match=message):
        evaluate_run(run, truth)


@pytest.mark.parametrize("kind", ["colour", "text", "jpeg", "truncated", "vanished"])
def test_files_that_are_no_masks(make_run: Callable, save_mask: Callable, kind: str) -> None:
    run = make_run({"x.jpg": np.zeros((40, 40))})
    file = save_mask("x.png", np.random.default_rng(0).integers(0, 3, (40, 40)))
    truth = open_truth(file.parent, run)
    if kind == "colour":
        Image.new("RGB", (40, 40)).save(file)
    elif kind == "text":
        file.write_text("no picture")
    elif kind == "jpeg":
        Image.new("L", (40, 40)).save(file, "JPEG")
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-80])
    else:
        file.unlink()
    expected = (
        "one channel of class indices, but found RGB" if kind == "colour" else "a PNG mask, but it cannot be read"
    )
    with pytest.raises(TruthError, match=rf"^\S+x\.png: expected {expected}") as caught:
        truth.mask("x.jpg", (40, 40))
    assert "\n" not in str(caught.value)


def test_truth_that_cannot_be_used(make_run: Callable, save_mask: Callable, tmp_path: Path) -> None:
    """Each mistake is one line that names what was looked for."""
    run = make_run({"photos/x.jpg": ROW, "photos/y.jpg": ROW})
    folder = save_mask("other.png", ROW).parent
    with pytest.raises(
        TruthError, match=r"run's 2 photos; looked for 'photos/x\.png' .* found 1 such as 'other\.png'$"
    ):
        open_truth(folder, run)
    with pytest.raises(TruthError, match="no such file or folder"):
        open_truth(tmp_path / "nowhere", run)
    with pytest.raises(VocabularyError, match="no such file"):
        open_truth(folder, run, tmp_path / "nowhere.txt")
    (folder / "classes.txt").write_text("background\nhorse\n", encoding="utf-8")
    with pytest.raises(TruthError, match=r"run's classes \(background, cat, dog\), but found others \(horse\)"):
        open_truth(folder, run)


def test_all_names_ambiguous(make_run: Callable, save_mask: Callable) -> None:
    run = make_run({"a/x.jpg": ROW, "b/x.jpg": ROW})
    with pytest.raises(TruthError, match=r"share a name: a/x\.jpg, b/x\.jpg$"):
        open_truth(save_mask("x.png", ROW).parent, run)


def test_runs_that_cannot_be_scored(make_run: Callable, save_mask: Callable) -> None:
    folder = save_mask("x.png", ROW).parent
    run = make_run({"x.jpg": None, "y.jpg": ROW})
    with pytest.raises(TruthError, match="every photo that has truth failed"):
        evaluate_run(run, open_truth(folder, run))
    with pytest.raises(ConfigError, match="no metric 'iou'; known are miou"):
        evaluate_run(run, open_truth(folder, run), ["iou"])


def test_a_labeler_without_vocabulary_has_no_miou(make_run: Callable, save_mask: Callable) -> None:
    run = make_run({"x.jpg": [[0]]}, None)
    with pytest.raises(ConfigError, match="miou needs a run with a vocabulary, but test names its own classes"):
        open_truth(save_mask("x.png", [[0]]).parent, run)


def test_an_empty_run(make_run: Callable, save_mask: Callable) -> None:
    with pytest.raises(TruthError, match="the run has no photo yet"):
        open_truth(save_mask("x.png", ROW).parent, make_run({}))
