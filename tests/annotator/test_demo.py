"""`annotate demo` on the real sample photos: what it says it writes is there and shows every photo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from annotator import cli

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("options", "pictures", "label"),
    [
        (["--labeler", "maskclip"], "overlays", "cat"),
        (["--labeler", "zeroguide", "--set", "captioner=retrieval", "--set", "overlap=1"], "captions", "dining table"),
    ],
)
def test_demo(
    options: list[str],
    pictures: str,
    label: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "demo"
    monkeypatch.setattr("sys.argv", ["annotate", "demo", "--out", str(out), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (None, 0)
    photos = {file.stem for file in (out / "photos").iterdir()}
    assert len(photos) >= 6
    for folder in {pictures, "overlays"}:
        assert {file.stem for file in (out / folder).glob("*.jpg")} == photos
    assert {file.stem for file in (out / "masks").rglob("*.png")} >= photos
    assert label in {category["name"] for category in json.loads((out / "labels.json").read_text())["categories"]}
    with Image.open(out / "overview.png") as sheet:
        assert sheet.width > 1000
    printed = capsys.readouterr().out
    assert "overview.png" in printed
    assert ("--vocab" in printed) == (pictures == "overlays")
