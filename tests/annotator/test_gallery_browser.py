"""The pages of `annotate report` in a real browser, opened from the file system."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import needs_browser, open_browser, screenshot, wait_for
from helpers_gallery import HOSTILE, write_hostile_run, write_plain_run
from helpers_runs import write_photos
from PIL import Image, ImageColor
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from annotator.gallery.markup import visible
from annotator.gallery.report import make_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stress,
    needs_browser,
]

WIDE, PHONE = (1400, 1000), (390, 844)
CATS, DOGS = (0, 3), (1, 4)
Show = Callable[..., None]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile"), "--disable-gpu", "--hide-scrollbars") as driver:
        yield driver


@pytest.fixture
def show(browser: Chrome) -> Iterator[Show]:
    """show(page, size, dark): opens it and waits until each picture that it asks for is there.

    What the browser complains about fails the test.
    """

    def open_page(page: Path | str, size: tuple[int, int] = WIDE, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(page.as_uri() if isinstance(page, Path) else page)
        browser.execute_script("for (const image of document.images) image.loading = 'eager'")
        script = "return [...document.images].every((image) => image.complete)"
        wait_for(browser, lambda driver: driver.execute_script(script))

    yield open_page
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos, three a page: cats in the 1st and 4th, dogs in the 2nd and 5th, background in each."""
    folder = tmp_path_factory.mktemp("pets")
    found = {f"{n}.png": [(0, 0.9)] for n in range(5)}
    for place, index in ((CATS, 1), (DOGS, 2)):
        for n in place:
            found[f"{n}.png"] = [(index, 0.5 if index == 1 else 0.1), (0, 0.9)]
    run = write_plain_run(folder, found)
    write_photos(folder / "photos", found, (60, 80))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotator.gallery.report.PER_PAGE", 3)
        make_report(run, folder / "report")
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return make_report(write_hostile_run(folder), folder / "report").index


def click(browser: Chrome, selector: str) -> None:
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def press(browser: Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def shown(browser: Chrome) -> list[str]:
    """Names of the photos that are not hidden."""
    cards = browser.find_elements(By.CSS_SELECTOR, ".card")
    return [card.find_element(By.CSS_SELECTOR, ".path").text for card in cards if card.is_displayed()]


def pixels(browser: Chrome, selector: str) -> np.ndarray:
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"), int)


def evaluate(browser: Chrome, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def until(browser: Chrome, script: str, expected: object) -> None:
    """For what a page does after an event of its own."""
    wait_for(browser, lambda driver: evaluate(driver, script) == expected)


def edges(browser: Chrome, selector: str, name: str) -> list[float]:
    """Of each such element as it is on the screen: top, bottom, width, height."""
    return evaluate(
        browser, f"[...document.querySelectorAll('{selector}')].map((e) => e.getBoundingClientRect().{name})"
    )


def test_every_picture_is_there(browser: Chrome, show: Show, pets: Path) -> None:
    show(pets)
    assert shown(browser) == ["0.png", "1.png", "2.png"]
    assert evaluate(browser, "[...document.images].map((image) => image.naturalWidth)") == [8, 8, 8, 8, 4, 4]
    boxes = "[...document.querySelectorAll('.stage img')].map((i) => JSON.stringify(i.getBoundingClientRect()))"
    found = evaluate(browser, boxes)
    assert found[0::2] == found[1::2]  # each mask exactly over its photo
    loaded = evaluate(browser, "[...document.querySelectorAll('[src], [href]')].map((each) => each.src || each.href)")
    assert {link.split(":")[0] for link in loaded} == {"file", "data"}


def test_the_slider_and_the_switch(browser: Chrome, show: Show, pets: Path) -> None:
    opacity = "Number(getComputedStyle(document.querySelector('.card .mask')).opacity)"
    show(pets)
    assert evaluate(browser, opacity) == pytest.approx(0.55)
    browser.find_element(By.ID, "opacity").send_keys(Keys.ARROW_RIGHT * 5)
    assert evaluate(browser, opacity) == pytest.approx(0.6)
    browser.find_element(By.ID, "opacity").send_keys(Keys.HOME)
    assert evaluate(browser, opacity) == 0
    without = pixels(browser, ".card .stage")
    browser.find_element(By.ID, "opacity").send_keys(Keys.END)
    assert evaluate(browser, opacity) == 1
    assert evaluate(browser, "document.querySelector('output').value") == "100%"
    left = pixels(browser, ".card .stage")[100, 60]
    assert np.abs(left - ImageColor.getrgb("#008000")).max() <= 2  # VOC's colour of value 2: the cat
    click(browser, "#masks")
    np.testing.assert_array_equal(pixels(browser, ".card .stage"), without)
    assert evaluate(browser, "document.getElementById('masks').getAttribute('aria-pressed')") == "false"


def test_a_class_hides_the_photos_without_it(browser: Chrome, show: Show, pets: Path) -> None:
    show(pets)
    click(browser, "#legend [data-class='1']")
    assert shown(browser) == ["0.png"]
    assert "cat: 1 of 3 photos on this page, 2 in the run, on 2 pages" in browser.find_element(By.ID, "filter").text
    assert evaluate(browser, "location.hash") == "#class=1"
    dim = "[...document.querySelectorAll('.card:not([hidden]) .label')].map((l) => l.classList.contains('dim'))"
    assert sorted(evaluate(browser, dim)) == [False, True]

    browser.find_element(By.LINK_TEXT, "Next page with it →").click()
    assert browser.current_url.endswith("/files-1/page-0002.html#class=1")
    assert shown(browser) == ["3.png"]
    browser.find_element(By.LINK_TEXT, "← Page before with it").click()
    assert shown(browser) == ["0.png"]
    press(browser, Keys.ESCAPE)
    assert shown(browser) == ["0.png", "1.png", "2.png"]
    assert evaluate(browser, "location.hash") == ""
    click(browser, "#legend [data-class='1']")
    click(browser, "#legend [data-class='1']")
    assert shown(browser) == ["0.png", "1.png", "2.png"]


def test_a_class_of_another_page_and_nonsense_in_the_address(browser: Chrome, show: Show, pets: Path) -> None:
    show(f"{pets.as_uri()}#class=77&opacity=20")
    assert shown(browser) == []
    assert "No photo on this page has that class." in browser.find_element(By.ID, "filter").text
    assert evaluate(browser, "document.getElementById('opacity').value") == "20"
    show(f"{pets.as_uri()}#class=__proto__&opacity=<b>")
    assert len(shown(browser)) == 3
    assert evaluate(browser, "document.getElementById('opacity').value") == "55"


def test_the_chosen_class_alone_has_its_colour(browser: Chrome, show: Show, tmp_path: Path) -> None:
    """Both halves in full at first; then one in its colour, the other in gray and faint."""
    run = write_plain_run(tmp_path, {"a.png": [(1, 0.5), (2, 0.5)]})
    write_photos(tmp_path / "photos", ["a.png"], (6, 8))
    show(f"{make_report(run, tmp_path / 'report').index.as_uri()}#opacity=100")
    cat, dog = (ImageColor.getrgb(color) for color in ("#008000", "#808000"))

    def halves_shown() -> tuple[np.ndarray, np.ndarray]:
        stage = pixels(browser, ".card .stage")
        middle = stage.shape[0] // 2
        return stage[middle, stage.shape[1] // 4], stage[middle, 3 * stage.shape[1] // 4]

    left, right = halves_shown()
    assert (tuple(left), tuple(right)) == (cat, dog)
    click(browser, "#legend [data-class='2']")
    left, right = halves_shown()
    assert tuple(right) == dog
    press(browser, "m")
    photo, _ = halves_shown()
    press(browser, "m")
    np.testing.assert_allclose(left, 0.3 * 127.5 + 0.7 * photo, atol=2)  # faint gray over the photo
    click(browser, "#legend [data-class='1']")
    left, right = halves_shown()
    assert tuple(left) == cat
    assert tuple(right) != dog
    press(browser, Keys.ESCAPE)
    chip = browser.find_elements(By.CSS_SELECTOR, ".card .label")[1]
    ActionChains(browser).move_to_element(chip).perform()
    left, right = halves_shown()
    assert tuple(right) == dog
    assert tuple(left) != cat


def test_bars_are_as_high_as_their_counts(browser: Chrome, show: Show, tmp_path: Path) -> None:
    scores = {0.02: 8, 0.13: 4, 0.52: 2, 0.99: 1}
    photos = {f"{score}-{n}": [(1, score)] for score, count in scores.items() for n in range(count)}
    photos["dog"] = [(2, 0.52)] * 1
    show(make_report(write_plain_run(tmp_path, photos), tmp_path / "report").index)
    heights = np.array(edges(browser, ".histogram rect", "height"))
    expected = np.zeros(20)
    expected[[0, 2, 10, 19]] = 8, 4, 3, 1
    np.testing.assert_allclose(heights / heights.max(), expected / 8, atol=1e-3)
    assert heights.max() > 100
    assert np.ptp(edges(browser, ".histogram rect", "bottom")) < 0.01
    widths = edges(browser, ".bars rect", "width")
    assert widths[1] / widths[0] == pytest.approx(1 / 15, abs=1e-3)


def test_it_can_be_used_by_keyboard(browser: Chrome, show: Show, pets: Path) -> None:
    show(pets)
    press(browser, Keys.TAB)
    assert evaluate(browser, "document.activeElement.textContent") == "Skip to the photos"
    press(browser, Keys.ENTER)
    browser.execute_script("document.querySelector('.card .stage').focus()")
    press(browser, Keys.ENTER)
    dialog = browser.find_element(By.ID, "large")
    assert dialog.is_displayed()
    assert dialog.find_element(By.CSS_SELECTOR, ".path").text == "0.png"
    press(browser, Keys.ARROW_RIGHT)
    assert dialog.find_element(By.CSS_SELECTOR, ".path").text == "1.png"
    assert len(dialog.find_elements(By.CSS_SELECTOR, ".label")) == 2
    until(browser, "[...document.querySelectorAll('dialog img')].map((image) => image.naturalWidth)", [8, 8])
    press(browser, "m")
    assert not dialog.find_element(By.CSS_SELECTOR, ".mask").is_displayed()
    press(browser, Keys.ESCAPE)
    assert not dialog.is_displayed()
    focused = "document.activeElement.closest('.card').querySelector('.path').textContent"
    until(browser, focused, "1.png")
    press(browser, Keys.ARROW_RIGHT)
    wait_for(browser, lambda driver: driver.current_url.endswith("page-0002.html"))
    press(browser, Keys.ARROW_LEFT)
    wait_for(browser, lambda driver: driver.current_url.endswith("index.html"))


def test_a_class_can_be_looked_for(browser: Chrome, show: Show, hostile: Path) -> None:
    show(hostile)
    browser.find_element(By.ID, "find").send_keys("JAVASCRIPT")
    entries = browser.find_elements(By.CSS_SELECTOR, "#legend li")
    assert [entry.text.split("\n")[0] for entry in entries if entry.is_displayed()] == ["javascript:window.hacked=1"]


def test_hostile_names_run_nothing(browser: Chrome, show: Show, hostile: Path) -> None:
    """Not when the page opens, nor when every class, every label and every photo of it is touched."""
    show(hostile)
    elements = "JSON.stringify([...document.querySelectorAll('body *')].map((e) => [e.tagName, e.getAttributeNames()]))"
    before = evaluate(browser, elements)
    assert sorted(shown(browser)) == sorted(visible(f"{name}.png") for name in HOSTILE)
    for number in range(len(HOSTILE)):
        click(browser, f"#legend [data-class='{number}']")
        assert len(shown(browser)) == 2
        assert browser.find_element(By.ID, "filter").text.startswith(f"{visible(HOSTILE[number])}: 2 of 12 photos")
    press(browser, Keys.ESCAPE)
    browser.execute_script(
        "for (const each of document.querySelectorAll('.label, .path, h1, td, li'))"
        "  for (const kind of ['pointerover', 'mouseover', 'pointerout', 'click'])"
        "    if (!each.closest('a, button')) each.dispatchEvent(new PointerEvent(kind, {bubbles: true}))"
    )
    browser.execute_script("document.querySelector('.card .stage').click()")
    names = []
    for _ in HOSTILE:
        names.append(browser.find_element(By.CSS_SELECTOR, "dialog .path").text)
        press(browser, Keys.ARROW_RIGHT)
    assert names == shown(browser)
    press(browser, Keys.ESCAPE)
    assert evaluate(browser, "typeof window.hacked") == "undefined"
    assert evaluate(browser, "document.scripts.length") == 2
    assert evaluate(browser, "document.querySelectorAll('.card').length") == len(HOSTILE)
    assert evaluate(browser, "document.querySelectorAll('[onerror], [onmouseover], iframe, b > *').length") == 0
    browser.execute_script("document.querySelector('dialog .stage').replaceChildren()")
    show(hostile)
    assert evaluate(browser, elements) == before
    show(hostile.parent / "files-1" / "failures-0001.html")
    assert evaluate(browser, "typeof window.hacked") == "undefined"
    assert evaluate(browser, "document.scripts.length") == 0
    assert evaluate(browser, "document.querySelectorAll('td').length") == 2 * len(HOSTILE)


@pytest.mark.parametrize("size", [WIDE, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_in_both_schemes(
    browser: Chrome, show: Show, pets: Path, hostile: Path, size: tuple[int, int], dark: bool
) -> None:
    pages = {"pets": pets, "hostile": hostile, "failures": hostile.parent / "files-1" / "failures-0001.html"}
    for name, page in pages.items():
        show(page, size, dark)
        screenshot(browser, f"report-{name}-{size[0]}-{'dark' if dark else 'light'}.png")
        assert evaluate(browser, "document.documentElement.scrollWidth") <= size[0]
        paper = evaluate(browser, "getComputedStyle(document.body).backgroundColor")
        ink = evaluate(browser, "getComputedStyle(document.body).color")
        brightness = [sum(map(int, color[4:-1].split(","))) / 3 for color in (paper, ink)]
        assert (brightness[0] < 60 < 200 < brightness[1]) if dark else (brightness[1] < 60 < 200 < brightness[0])
