"""Folders, globs, lists -> photos, in the order of their full paths."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from helpers_processes import nobody
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annotator.errors import ConfigError, ImageError
from annotator.images import ImageRef, decode, open_source

JPEG = b"\xff\xd8\xff\xe0"


def make(root: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def paths(images: str | Path | list[str | Path]) -> list[str]:
    return [ref.path for ref in open_source(images)]


# --- folders ---------------------------------------------------------------------------------------------------


def test_subfolders_in_order_of_full_paths(tmp_path: Path) -> None:
    # "-" and "." come before "/", letters after it: order by folder would give another result
    names = ["a/b.jpg", "a-b.jpg", "a.jpg", "a.b/c.jpg", "a-/z.jpg", "ab.jpg", "a/a/a.jpg", "B.jpg", "é.jpg", "😀.jpg"]
    expected = [
        "B.jpg",
        "a-/z.jpg",
        "a-b.jpg",
        "a.b/c.jpg",
        "a.jpg",
        "a/a/a.jpg",
        "a/b.jpg",
        "ab.jpg",
        "é.jpg",
        "😀.jpg",
    ]
    source = open_source(make(tmp_path, *names))
    assert [ref.path for ref in source] == expected
    assert [ref.path for ref in source] == expected  # again, from the same source
    assert all(ref.file == tmp_path / ref.path and ref.root == source.root for ref in source)


NAMES = st.text(alphabet="ab-./ !~0A\n\\é\uffff😀", min_size=1, max_size=9)


@settings(max_examples=80, deadline=None)
@given(st.lists(NAMES, max_size=25))
def test_order_of_any_tree_is_the_order_of_its_sorted_paths(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    make(root, "one.jpg")
    for name in names:
        with suppress(OSError):  # a name that is a folder already, or lies below a file
            make(root, os.path.normpath(f"{root}/{name}/../{name}") + "x.png")
    files = (str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
    expected = sorted(file for file in files if not any(part.startswith(".") for part in file.split("/")))
    found = paths(root)
    shutil.rmtree(root)
    assert found == expected


def test_content_decides_where_the_name_does_not(tmp_path: Path) -> None:
    make(tmp_path, "photo", "photo.dat", "deep/er/photo.txt", "UPPER.JPG", "odd.JpEg")
    make(tmp_path, "fake.jpg", "notes.txt", "BM notes", "P5 notes", content=b"BMW is no bitmap")
    make(tmp_path, "empty.png", "empty", content=b"")
    make(tmp_path, "raw.NEF", "raw.dng", content=b"II*\0\x08\0\0\0")
    assert paths(tmp_path) == [
        "UPPER.JPG",
        "deep/er/photo.txt",
        "empty.png",
        "fake.jpg",
        "odd.JpEg",
        "photo",
        "photo.dat",
    ]


FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM", "AVIF"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "1", "L"])
def test_every_format_is_known_by_its_first_bytes(tmp_path: Path, kind: str, mode: str) -> None:
    try:
        Image.new(mode, (20, 10)).save(tmp_path / "photo", kind)
    except (KeyError, OSError, ValueError):
        pytest.skip(f"Pillow does not write {kind} of mode {mode}")
    assert paths(tmp_path) == ["photo"]
    assert decode(tmp_path / "photo").pixels.shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("brands", "is_image"),
    [
        (b"heic\0\0\0\0mif1heic", True),
        (b"mif1\0\0\0\0mif1heic", True),
        (b"avif\0\0\0\0avifmif1", True),
        (b"mif1\0\0\0\0miafavif", True),
        (b"isom\0\0\x02\0isomiso2avc1mp41", False),  # a film
        (b"crx \0\0\0\x01crx isom", False),  # a camera raw file
    ],
)
def test_files_of_the_mp4_family(tmp_path: Path, brands: bytes, is_image: bool) -> None:
    make(tmp_path, "unnamed", content=(8 + len(brands)).to_bytes(4) + b"ftyp" + brands + bytes(40))
    make(tmp_path, "other.jpg")
    assert ("unnamed" in paths(tmp_path)) is is_image


def test_hidden_names_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", ".a.jpg", "._a.jpg", ".thumbnails/a.jpg", "b/.c/d.jpg")
    assert paths(tmp_path) == ["a.jpg"]
    make(tmp_path / ".mine", "a.jpg")
    assert paths(tmp_path / ".mine") == ["a.jpg"]  # named by the user


@pytest.mark.parametrize(
    "name", ["a b.jpg", "two\nlines.jpg", "写真😀.jpg", "x" * 251 + ".jpg", "back\\slash.jpg", "*.jpg"]
)
def test_unusual_names(tmp_path: Path, name: str) -> None:
    assert paths(make(tmp_path, name)) == [name]
    assert paths(tmp_path / name) == [name]


def test_same_stem_in_two_folders(tmp_path: Path) -> None:
    assert paths(make(tmp_path, "a/x.jpg", "b/x.jpg", "b/x.png")) == ["a/x.jpg", "b/x.jpg", "b/x.png"]


def test_only_regular_files(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe.jpg").symlink_to("pipe")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))
        assert paths(tmp_path) == ["a.jpg"]


def test_names_that_are_not_utf8_come_up_in_a_form_that_can_be_stored(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    make(tmp_path, "zebra.jpg", os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"caf\xe9"), "caf.jpg")
    make(folder, "in.jpg")
    refs = list(open_source(tmp_path))
    assert [ref.path for ref in refs] == ["\\xff/in.jpg", "caf.jpg", "caf\\xe9", "caf\\xe9.jpg", "zebra.jpg"]
    for ref in refs:
        ref.path.encode()
        assert ref.file.exists()
        assert (ref.name_on_disk is None) is (ref.path in ("caf.jpg", "zebra.jpg"))
    for ref in (refs[0], refs[2], refs[3]):
        with pytest.raises(ImageError, match="not valid UTF-8; rename it"):
            decode(ref.file)
    with pytest.raises(ConfigError, match=r"\\xff: the folder's name is not valid UTF-8"):
        open_source(folder)


def test_each_path_comes_once_even_where_a_shown_form_is_taken(tmp_path: Path) -> None:
    make(
        tmp_path,
        "caf\\xe9.jpg",
        os.fsdecode(b"caf\xe9.jpg"),
        os.fsdecode(b"\xe9\\xe9.jpg"),
        os.fsdecode(b"\\xe9\xe9.jpg"),
    )
    refs = list(open_source(tmp_path))
    assert [ref.path for ref in refs] == ["\\xe9\\xe9.jpg", "caf\\xe9.jpg"]
    assert refs[1].file == tmp_path / "caf\\xe9.jpg"


# --- links -----------------------------------------------------------------------------------------------------


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "store", "x.jpg", "deep/y.jpg")
    make(tmp_path / "photos", "a.jpg")
    (tmp_path / "photos/file.jpg").symlink_to("../store/x.jpg")
    (tmp_path / "photos/train").symlink_to("../store")
    (tmp_path / "photos/val").symlink_to("../store")
    expected = ["a.jpg", "file.jpg", "train/deep/y.jpg", "train/x.jpg", "val/deep/y.jpg", "val/x.jpg"]
    assert paths(tmp_path / "photos") == expected
    (tmp_path / "also").symlink_to("photos")
    assert paths(tmp_path / "also") == expected


def test_links_to_ancestors_are_not_entered(tmp_path: Path) -> None:
    make(tmp_path / "photos", "a/x.jpg", "y.jpg")
    for index, target in enumerate((".", "..", "../..", "../../photos", str(tmp_path / "photos/a"))):
        (tmp_path / f"photos/a/loop{index}").symlink_to(target)
    make(tmp_path, "outside.jpg")
    # loop2 leads to the folder above the root: what else is in there is found, the root itself not again
    assert paths(tmp_path / "photos") == ["a/loop2/outside.jpg", "a/x.jpg", "y.jpg"]


def test_folders_full_of_links_to_each_other_end(tmp_path: Path) -> None:
    folders = [f"d{index:02}" for index in range(20)]  # 20! ways through them without a guard
    for folder in folders:
        make(tmp_path, f"{folder}/x.jpg")
        for other in folders:
            (tmp_path / folder / f"to_{other}").symlink_to(f"../{other}")
    found = paths(tmp_path)
    assert found == sorted(set(found))
    assert {f"{folder}/x.jpg" for folder in folders} <= set(found)
    assert len(found) < 20 * 20 * 20


def test_broken_links_come_up_where_they_are_named_like_images(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    for name in ("gone.jpg", "gone", "gone.txt"):
        (tmp_path / name).symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    assert paths(tmp_path) == ["a.jpg", "gone.jpg", "self.png"]


# --- trees that change or resist -------------------------------------------------------------------------------


def test_what_vanishes_during_the_walk_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b/x.jpg", "c/y.jpg", "d", "e.jpg", "f/z.jpg")
    walk = iter(open_source(tmp_path))
    assert next(walk).path == "a.jpg"
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "d").unlink()
    (tmp_path / "e.jpg").unlink()
    shutil.rmtree(tmp_path / "f")
    (tmp_path / "f").write_bytes(JPEG)
    # e.jpg is not opened by the walk: that it is gone, decoding will say
    assert [ref.path for ref in walk] == ["c/y.jpg", "e.jpg"]


def test_what_may_not_be_read_comes_up_and_says_so(public_folder: Path) -> None:
    locked = public_folder / "locked"
    make(public_folder, "a.jpg", "lock-ed.jpg", "locked/x.jpg", "secret.jpg", "secret")
    for closed in (locked, public_folder / "secret.jpg", public_folder / "secret"):
        closed.chmod(0)
    with nobody():
        refs = list(open_source(public_folder))
        for ref in refs[2:]:
            with pytest.raises(ImageError, match=r"^cannot be read: permission denied$"):
                decode(ref.file)
        with pytest.raises(ConfigError, match="locked: cannot read the folder: permission denied"):
            open_source(locked)
        with pytest.raises(ConfigError, match="cannot read it: permission denied"):
            open_source(locked / "x.jpg")
    locked.chmod(0o755)
    assert [ref.path for ref in refs] == ["a.jpg", "lock-ed.jpg", "locked/", "secret.jpg"]


@pytest.mark.slow
def test_deeper_than_pythons_recursion_and_than_the_longest_path(tmp_path: Path) -> None:
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2100):  # 4,200 characters; the system allows 4,096 in one path
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    make(tmp_path, "x.jpg")
    make(tmp_path, "d/" * 1200 + "y.jpg")
    found = paths(tmp_path)
    assert found[0].endswith("d/d/")  # where the system gave up
    assert found[1:] == ["d/" * 1200 + "y.jpg", "x.jpg"]
    remove_deep(tmp_path / "d")


def remove_deep(folder: Path) -> None:
    """Moves each level up before removing its parent: pytest's own clean-up recurses."""
    spare = folder.parent / "spare"
    while (folder / "d").exists():
        (folder / "d").rename(spare)
        shutil.rmtree(folder)
        spare.rename(folder)


# --- globs -----------------------------------------------------------------------------------------------------

TREE = ["top.jpg", "top.png", "2023/a.jpg", "2024/b.jpg", "2024/b.png", "2024/raw/c.jpg", "2024/raw/.d.jpg", ".h/e.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["top.jpg", "top.png"]),
        ("*.jpg", ["top.jpg"]),
        ("*/*.jpg", ["2023/a.jpg", "2024/b.jpg"]),
        ("**", ["2023/a.jpg", "2024/b.jpg", "2024/b.png", "2024/raw/c.jpg", "top.jpg", "top.png"]),
        ("**/*.jpg", ["2023/a.jpg", "2024/b.jpg", "2024/raw/c.jpg", "top.jpg"]),
        ("**/**/*.png", ["2024/b.png", "top.png"]),
        ("*4/**/*.jpg", ["2024/b.jpg", "2024/raw/c.jpg"]),
        ("**/raw/*", ["2024/raw/c.jpg"]),
        ("**/raw/.*", ["2024/raw/.d.jpg"]),
        ("[.]h/*", None),
        (".h*/*", [".h/e.jpg"]),
        ("202[34]/?.jpg", ["2023/a.jpg", "2024/b.jpg"]),
        ("**/*.tif", None),
    ],
)
def test_glob(tmp_path: Path, pattern: str, expected: list[str] | None) -> None:
    make(tmp_path, *TREE)
    make(tmp_path, "2024/notes.txt", "notes", content=b"no photo")
    if expected is None:
        with pytest.raises(ConfigError, match="expected photos, but found none"):
            open_source(f"{tmp_path}/{pattern}")
    else:
        source = open_source(f"{tmp_path}/{pattern}")
        assert (source.root, [ref.path for ref in source]) == (tmp_path, expected)


def test_root_of_a_glob_is_its_fixed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *TREE)
    monkeypatch.chdir(tmp_path)
    source = open_source("./2024/raw/*.jpg")
    assert (source.root, [ref.path for ref in source]) == (tmp_path / "2024/raw", ["c.jpg"])


def test_name_with_brackets_is_no_glob_where_it_exists(tmp_path: Path) -> None:
    make(tmp_path, "set [1]/a.jpg", "b [2].jpg")
    assert paths(tmp_path / "set [1]") == ["a.jpg"]
    assert paths(tmp_path / "b [2].jpg") == ["b [2].jpg"]


def test_glob_walks_no_folder_that_cannot_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *TREE)
    visited: list[str] = []
    scan: Callable = os.scandir

    def watched(folder: Path) -> Iterable:
        visited.append(Path(folder).name)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", watched)
    list(open_source(f"{tmp_path}/2023/*.jpg"))
    list(open_source(f"{tmp_path}/*/raw/*.jpg"))
    assert set(visited) == {"2023", tmp_path.name, "2024", "raw"}


# --- lists, single files, sequences ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["b/2.jpg\na/1.jpg\n", "\ufeffa/1.jpg\r\n\r\nb/2.jpg\r\na/1.jpg", "./a/1.jpg\n  \nx/../b/2.jpg"]
)
def test_list_file(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "set", "a/1.jpg", "b/2.jpg", "b/3.jpg")
    (tmp_path / "set/train.txt").write_bytes(text.encode())
    monkeypatch.chdir(tmp_path)
    source = open_source("set/train.txt")
    assert (source.root, [ref.path for ref in source]) == (tmp_path / "set", ["a/1.jpg", "b/2.jpg"])


def test_list_of_absolute_paths_and_what_is_in_it_comes_up_whatever_it_is(tmp_path: Path) -> None:
    make(tmp_path, "pool/x/a.jpg", "pool/y/b.jpg", "pool/y/notes.md")
    names = ["pool/y/notes.md", "pool/gone.jpg", "pool/x/a.jpg", "pool/x", "pool/y/b.jpg"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/all.TXT").write_text("\n".join(str(tmp_path / name) for name in names))
    source = open_source(tmp_path / "lists/all.TXT")
    assert source.root == tmp_path / "pool"
    assert [ref.path for ref in source] == ["gone.jpg", "x", "x/a.jpg", "y/b.jpg", "y/notes.md"]


def test_list_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    make(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    (ref,) = open_source(tmp_path / "list.txt")
    assert (ref.path, ref.file.exists()) == ("caf\\xe9.jpg", True)


def test_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/b.jpg", "a/c.jpg")
    assert list(open_source(tmp_path / "a/b.jpg")) == [ImageRef(tmp_path / "a", "b.jpg")]
    monkeypatch.chdir(tmp_path / "a")
    assert list(open_source("c.jpg")) == [ImageRef(tmp_path / "a", "c.jpg")]
    monkeypatch.chdir("/")
    assert list(open_source("dev/null")) == [ImageRef(Path("/dev"), "null")]


def test_sequence_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.jpg", "2.jpg")
    monkeypatch.chdir(tmp_path)
    source = open_source(["a/1.jpg", tmp_path / "2.jpg", "./a/1.jpg", Path("3.jpg")])
    assert (source.root, [ref.path for ref in source]) == (tmp_path, ["2.jpg", "3.jpg", "a/1.jpg"])


def test_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path, "a/1.jpg"))
    source = open_source(".")
    monkeypatch.chdir("/")
    assert [ref.file for ref in source] == [tmp_path / "a/1.jpg"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nothing_here", "nothing_here: expected a folder, a glob, a .txt list or an image"),
        ("no_folder/*.jpg", "there is no such folder"),
        ("", "got an empty name"),
        ("void", "void: expected photos, but found none"),
        ("void/*.jpg", "expected photos, but found none"),
        ("empty.txt", "empty.txt: expected photos, but found none"),
        ([], "expected photos, but found none"),
        ("n" * 300, "file name too long"),
    ],
)
def test_nothing_there(
    tmp_path: Path, images: str | list[str | Path], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "void/.hidden.jpg", "void/deep/.hidden.jpg")
    make(tmp_path, "void/notes.md", "empty.txt", content=b"\n\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        open_source(images)
    assert message in str(caught.value)


def test_ref_travels_between_processes() -> None:
    ref = ImageRef(Path("/photos"), "a/b.jpg")
    assert pickle.loads(pickle.dumps(ref)) == ref


# --- size ------------------------------------------------------------------------------------------------------


def peak_of_walk(root: Path) -> tuple[int, int]:
    """Bytes at the peak of a walk, and how many photos it found."""
    source = open_source(root)
    tracemalloc.start()
    count = sum(1 for _ in source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, count


@pytest.mark.stress
def test_memory_is_that_of_one_folder_and_time_is_short(tmp_path: Path) -> None:
    numbers = list(range(200))
    random.Random(0).shuffle(numbers)
    for folder in range(20):
        make(tmp_path / f"large/{folder:02}", *(f"IMG_{number:06}.jpg" for number in numbers))
    make(tmp_path / "small/00", *(f"IMG_{number:06}.jpg" for number in numbers))
    begun = time.process_time()
    large, count = peak_of_walk(tmp_path / "large")
    assert time.process_time() - begun < 3
    small, _ = peak_of_walk(tmp_path / "small")
    assert count == 4000
    assert large < 1.3 * small + 4096
