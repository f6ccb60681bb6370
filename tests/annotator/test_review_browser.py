"""`annotate review` as a person meets it: the command, a MongoDB of the user's own, and the app in a real browser."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import needs_browser, open_browser, screenshot, wait_for
from helpers_mongo import mongo_server
from helpers_processes import PATIENCE, free_port, started, wait_until
from helpers_runs import ROOT
from PIL import Image
from reference.open_runs import Labelled, write_run
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable, invisibility_of_element_located

from annotator.corrections import corrected, pulls
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary
from exporters.classes import voc_color

FIFTYONE = importlib.util.find_spec("fiftyone")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.stress,
    pytest.mark.timeout(900),  # FiftyOne is imported five times, and a browser draws without a graphics card
    pytest.mark.skipif(FIFTYONE is None, reason="needs pip install 'annotate[review]'"),
    needs_browser,
]

REVIEW = (sys.executable, "-c", "from annotator.cli import main; main()", "review")
NAMES = ("background", "cat", "dog")
SCENE = np.zeros((120, 160), dtype=np.int32)
SCENE[10:60, 15:75] = 1
SCENE[70:110, 90:150] = 2
GRAY = 90
LEGEND = ["2", "2", "cat", "dog", "label"]
"""The words of it, sorted: the app has no order for classes that are equally frequent."""
HOSTILE = "b <script>window.hacked=1<∕script> \"'☃\n.png"
NOT_OURS = ("fonts.googleapis.com", "GL Driver Message", "was preloaded using link preload")
"""Of FiftyOne's page: fonts that it would fetch, and the speed of drawing without a graphics card."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a user who has a MongoDB server of their own, and an empty home."""
    home = tmp_path_factory.mktemp("home")
    with mongo_server(tmp_path_factory.mktemp("mongo")) as uri:
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FIFTYONE", "MPL"))},
            "FIFTYONE_DATABASE_URI": uri,
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunReader:
    """Gray photos, a cat and a dog drawn by the masks alone; and one that is no photo."""
    folder = tmp_path_factory.mktemp("review")
    photos = {"a.png": 0.9, HOSTILE: 0.4}
    (folder / "photos").mkdir()
    for name in photos:
        Image.fromarray(np.full((*SCENE.shape, 3), GRAY, np.uint8)).save(folder / "photos" / name)
    (folder / "photos" / "z.png").write_bytes(b"no photo")
    labelled = {name: Labelled(SCENE, NAMES, scores=(0.6, score, 0.5)) for name, score in photos.items()}
    return write_run(folder / "pets", {**labelled, "z.png": None}, Vocabulary.of(NAMES), image_root=folder / "photos")


@pytest.fixture(scope="module")
def address(run: RunReader, environment: dict[str, str]) -> Iterator[str]:
    """Where the command says that the app is, while it runs."""
    command = [*REVIEW, str(run.directory), "--no-browser", "--port", str(free_port())]
    with started(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = None
        said = []
        while found is None and (line := process.stdout.readline()):
            said.append(line)
            found = re.search(r"the app: (\S+)", line)
        assert found is not None, said
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    profile = tmp_path_factory.mktemp("profile")
    with open_browser(profile, "--window-size=1500,950", "--enable-unsafe-swiftshader") as driver:
        yield driver  # the Annotate tab draws by WebGL


def share_of(color: tuple[int, ...], picture: np.ndarray) -> float:
    """Of pixels that are gray with a class's colour over it, so that at least half of it is the colour."""
    way = np.array(color) - GRAY
    opacity = (picture - GRAY) @ way / (way @ way)
    off = np.abs(picture - GRAY - opacity[..., None] * way).max(axis=-1)
    return float(((off < 8) & (opacity > 0.5) & (opacity < 1)).mean())


def wait(browser: Chrome, selector: str, count: int = 1) -> list:
    """Elements, once there are so many of them."""
    wait_for(browser, lambda driver: len(driver.find_elements(By.CSS_SELECTOR, selector)) >= count)
    return browser.find_elements(By.CSS_SELECTOR, selector)


def click(browser: Chrome, selector: str) -> None:
    wait(browser, selector)
    wait_for(browser, element_to_be_clickable((By.CSS_SELECTOR, selector))).click()


def open_page(browser: Chrome, address: str) -> None:
    """The app with all photos on it, and its advertisement out of the way."""
    browser.get(address)
    wait(browser, "[data-cy='looker']", 3)
    dismiss = (By.XPATH, "//*[text()='Dismiss']")
    wait_for(browser, element_to_be_clickable(dismiss)).click()
    wait_for(browser, invisibility_of_element_located(dismiss))


def test_the_app_shows_masks_and_classes_and_takes_edits(
    browser: Chrome, address: str, run: RunReader, environment: dict[str, str]
) -> None:
    open_page(browser, address)
    wait_until(lambda: both_classes_are_drawn(screenshot(browser, "review-grid.png")))
    click(browser, "[data-cy='sidebar-field-arrow-enabled-instances']")
    legend = "[data-cy='categorical-filter-instances.detections.label']"
    wait_for(browser, lambda driver: sorted(wait(driver, legend)[0].text.split()) == LEGEND)
    assert browser.execute_script("return window.hacked") is None
    screenshot(browser, "review-legend.png")

    click(browser, "[data-cy='looker']")  # the first photo, and its cat is deleted as a person does it
    click(browser, "[data-cy='annotate']")
    cat = (By.XPATH, "//div[@data-cy='sidebar']//div[text()='cat']")
    wait_for(browser, element_to_be_clickable(cat)).click()
    click(browser, "[data-cy='label-menu-trigger']")
    screenshot(browser, "review-annotate.png")
    click(browser, "[data-cy='label-menu-delete']")
    import pymongo  # FiftyOne's own requirement

    database = pymongo.MongoClient(environment["FIFTYONE_DATABASE_URI"])["fiftyone"]
    (samples,) = (name for name in database.list_collection_names() if name.startswith("samples."))
    wait_for(browser, lambda driver: labels_of(database[samples], "a.png") == ["dog"])
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [text for text in complaints if not any(known in text for known in NOT_OURS)] == []

    said = subprocess.run(
        [*REVIEW, str(run.directory), "--pull"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.match(r"pull 1  \S+  1 photo: 1 edited\nexports apply it; take it back: annotate review ", said)
    assert [each.edited for each in pulls(run.directory)] == [1]
    found = {record.path: record for record in corrected(run.records(), run)}
    expected = np.where(SCENE == 1, 0, SCENE)
    assert found["a.png"].prediction().class_map().tolist() == expected.tolist()
    assert found[HOSTILE].prediction().class_map().tolist() == SCENE.tolist()


def both_classes_are_drawn(picture: np.ndarray) -> bool:
    return min(share_of(voc_color(index + 1), picture) for index in (1, 2)) >= 0.005


def labels_of(samples: Any, path: str) -> list[str]:
    return [each["label"] for each in samples.find_one({"path": path})["instances"]["detections"]]


def test_only_this_machine_can_connect(address: str) -> None:
    port = int(address.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    with pytest.raises(OSError), socket.create_connection((own_address(), port), timeout=3):  # noqa: PT011
        pass


def own_address() -> str:
    """One by which other machines know this one; none is sent anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


def test_nothing_is_left_in_the_home(address: str, environment: dict[str, str]) -> None:
    """There is no database of FiftyOne's own: FIFTYONE_DATABASE_URI is where it all is."""
    home = Path(environment["HOME"])
    assert {path.relative_to(home).parts[0] for path in home.rglob("*")} <= {".fiftyone"}
    assert list(home.rglob("*mongo*")) == []


def test_no_database_is_one_line(run: RunReader, environment: dict[str, str]) -> None:
    """One that does not answer, and a FiftyOne that came without a server."""
    script = """
import sys
from annotator.errors import ConfigError
from annotator.review.database import open_fiftyone
from annotator.run import open_run
import fiftyone.constants
fiftyone.constants.FIFTYONE_DB_BIN_DIR = "/nowhere"
fiftyone.core.service.fosu.find_processes_by_args = lambda arguments: []  # nor does one run that it could join
for uri in (None, "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200"):
    fiftyone.config.database_uri = uri
    try:
        open_fiftyone(open_run(sys.argv[1]))
    except ConfigError as error:
        print(error)
"""
    without = {name: value for name, value in environment.items() if name != "FIFTYONE_DATABASE_URI"}
    said = subprocess.run(
        [sys.executable, "-c", script, str(run.directory)],
        env=without, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(said) == 2
    for line in said:
        assert line.startswith("expected a MongoDB server, but found none (")
        assert line.endswith(f"to look at a run without FiftyOne: annotate report {run.directory}")
        assert "FIFTYONE_DATABASE_URI" in line
