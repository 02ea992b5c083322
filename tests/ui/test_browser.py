"""The page in a real browser: headless Chromium, where there is one."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finercam_clip.aviary import demo, drawing, world

from .question import TARGET

pytestmark = pytest.mark.browser

ENTER, TAB = "\ue007", "\ue004"


PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "C:/Program Files/Google/Chrome/Application")
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1400,950"
)


@pytest.fixture(scope="module")
def chromium() -> tuple[str, str]:
    """Chromium or Chrome, and its driver. Comes before the page: without a browser it need not be served."""
    if find_spec("selenium") is None:
        pytest.skip("no browser: selenium is not installed")
    path = os.pathsep.join([os.environ.get("PATH", ""), os.environ.get("CHROMEWEBDRIVER", "")])  # GitHub's runners
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", PLACES[0], f"{PLACES[1]}/chrome.exe")
    chromium = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    chromedriver = shutil.which("chromedriver", path=path)
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: on Debian, apt-get install chromium chromium-driver")
    return chromium, chromedriver


@pytest.fixture(scope="module")
def browser(
    chromium: tuple[str, str], page: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Chromium on the page, its downloads in `browser.downloads`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    for argument in (*OPTIONS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(chromium[1])) as driver:
        driver.downloads = downloads
        driver.get(page[1])
        yield driver


def until(value: Callable[[], Any], seconds: float = 20) -> Any:
    """Waits until a function gives something, and returns that. Elements that are being redrawn are waited for."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if result := value():
                return result
        except (StaleElementReferenceException, IndexError):
            pass
        time.sleep(0.05)
    raise AssertionError("the page did not come to it")


class Page:
    """What a visitor does."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def all(self, css: str) -> list[Any]:
        elements: list[Any] = self.driver.find_elements("css selector", css)
        return elements

    def heatmap(self, name: str = "difference") -> str:
        """The picture that is shown, as the data of its address."""
        return str(until(lambda: self.all(f'#results img[data-shows="{name}"]')[0].get_attribute("src")))

    def write(self, box: str, text: str) -> None:
        (area,) = self.all(f"#{box} textarea")
        area.clear()
        area.send_keys(text)

    def ask(self) -> None:
        self.all("#ask")[0].click()

    def upload(self, path: Path) -> None:
        for remove in self.all('#image button[aria-label="Remove Image"]'):
            remove.click()
        until(lambda: self.all('#image input[type="file"]'))[0].send_keys(str(path))

    def bring(self, paths: list[Path]) -> None:
        """Several images at once."""
        (box,) = self.all('input[data-testid="Several images-upload-button"]')
        box.send_keys("\n".join(str(path) for path in paths))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def error(self) -> str:
        return str(until(lambda: self.all("#results .fc-error")[0].text))

    def downloaded(self, button: str, name: str) -> Path:
        self.all(f"#{button}")[0].click()
        path = Path(self.driver.downloads) / name
        until(path.is_file)
        return path


@pytest.fixture
def visitor(browser: Any) -> Page:
    return Page(browser)


def test_browser_the_page_opens_with_an_answer_and_fetches_nothing_from_elsewhere(
    visitor: Page, page: tuple[Any, str]
) -> None:
    assert visitor.heatmap().startswith("data:image/jpeg;base64,")
    events = [json.loads(entry["message"])["message"] for entry in visitor.driver.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in sent if request["documentURL"].startswith(page[1])]
    assert urls
    assert [url for url in urls if not url.startswith((page[1], "data:", "blob:"))] == []
    assert [entry for entry in visitor.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_browser_upload_ask_and_see_the_heatmap_follow_the_contrast(visitor: Page, tmp_path: Path) -> None:
    before = visitor.heatmap()
    picture = tmp_path / "my bird.png"
    Image.fromarray(drawing.draw(demo.BIRD, 7, size=300).image).save(picture)
    visitor.upload(picture)
    until(lambda: visitor.heatmap() != before)
    visitor.write("targets", "a bird with a red crown and orange legs")
    visitor.write("contrasts", "a bird with a red crown and blue legs")
    before = visitor.heatmap()
    visitor.press(ENTER)
    until(lambda: visitor.heatmap() != before)
    legs = visitor.heatmap()
    visitor.write("contrasts", "a bird with a blue crown and orange legs")
    visitor.ask()
    until(lambda: visitor.heatmap() != legs)
    assert "encoded before" in visitor.all("#results")[0].text

    picture = visitor.downloaded("png", "finercam.png")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1000
    numbers = json.loads(visitor.downloaded("json", "finercam.json").read_text())
    assert numbers["contrasts"] == ["a bird with a blue crown and orange legs"]
    assert numbers["image_size"] == {"width": 300, "height": 300}


def test_browser_a_click_on_an_example_answers_it(visitor: Page) -> None:
    button = next(b for b in visitor.all("button") if "traits at once" in b.text)
    button.click()
    until(lambda: len(visitor.all('#results img[data-shows="trait"]')) == len(world.PARTS))


def test_browser_mistakes_are_said_in_the_page(visitor: Page, tmp_path: Path) -> None:
    visitor.write("targets", "a bird with a zygomatic crown")
    visitor.ask()
    assert "zygomatic" in visitor.error()
    visitor.write("targets", TARGET)
    visitor.ask()
    until(lambda: not visitor.all("#results .fc-error"))
    bad = tmp_path / "text.jpg"
    bad.write_text("a bird\n")
    visitor.upload(bad)
    assert visitor.error() == "text.jpg is not an image that Pillow can read"
    assert not visitor.all("#results img")


def birds(folder: Path, *seeds: int) -> list[Path]:
    """Pictures of the bundled bird, drawn anew."""
    paths = [folder / f"bird-{seed}.png" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        Image.fromarray(drawing.draw(demo.BIRD, seed, size=240).image).save(path)
    return paths


def test_browser_several_images_are_a_strip_and_two_are_compared(visitor: Page, tmp_path: Path) -> None:
    visitor.driver.refresh()
    before = visitor.heatmap()
    visitor.bring(birds(tmp_path, 11, 12, 13))
    until(lambda: len(visitor.all("#strip .fc-thumb")) == 3)
    until(lambda: visitor.heatmap() != before)  # the first of them is asked about

    before = visitor.heatmap()
    visitor.all("#strip .fc-thumb")[1].click()
    until(lambda: visitor.heatmap() != before)
    assert visitor.all("#targets textarea")[0].get_attribute("value") == TARGET  # the same question

    visitor.all("#strip .fc-beside")[2].click()
    until(lambda: visitor.all('#results img[data-shows="second image"]'))
    assert "both maps on one scale" in visitor.all("#results")[0].text
    visitor.all('#second button[aria-label="Remove Image"]')[0].click()
    assert visitor.heatmap()  # one image again


def test_browser_everything_is_reached_with_the_keyboard(visitor: Page, tmp_path: Path) -> None:
    visitor.driver.refresh()
    visitor.heatmap()
    visitor.bring(birds(tmp_path, 21, 22))
    until(lambda: len(visitor.all("#strip .fc-thumb")) == 2)
    reached: list[str] = []
    where = """
        const e = document.activeElement, box = e.closest('[id]:not([id^="html-"]):not([id^="component-"])');
        return (box ? box.id : '') + ' ' + (e.getAttribute('aria-label') || e.innerText)"""
    visitor.driver.execute_script("document.activeElement.blur()")
    for _ in range(60):
        visitor.press(TAB)
        reached.append(visitor.driver.execute_script(where))
    places = {line.split(maxsplit=1)[0] for line in reached if line.strip()}
    columns = {"image", "several", "folder", "targets", "contrasts", "ask", "comparison", "gamma", "model", "method"}
    assert columns | {"null", "strip", "png", "json"} <= places, reached
    assert any("traits at once" in line for line in reached)

    thumb = visitor.all("#strip .fc-thumb")[1]
    before = visitor.heatmap()
    thumb.send_keys(ENTER)
    until(lambda: visitor.heatmap() != before)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_browser_a_phone_shows_all_of_it(visitor: Page, page: tuple[Any, str], theme: str) -> None:
    driver = visitor.driver
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        driver.get(f"{page[1]}?__theme={theme}")
        visitor.heatmap()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        tops = [picture.location["y"] for picture in visitor.all("#results img")]
        assert tops[-1] == min(tops)  # the difference comes first
        visitor.ask()
        until(lambda: visitor.all("#results")[0].rect["y"] - driver.execute_script("return scrollY") < 844)
        ink = driver.execute_script("return getComputedStyle(document.querySelector('.fc-head p')).color")
        assert (min(map(int, ink[4:-1].split(","))) > 128) == (theme == "dark")
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.get(page[1])
