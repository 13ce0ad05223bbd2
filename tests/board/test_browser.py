"""The board in Chromium: a real training, the keyboard alone, and axe-core to find barriers."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import FileChooser, Page, expect

import cifarlab
from chromium import choose_with_the_keyboard, needs_chromium, press_until, serious_faults, served
from cifarlab import Data
from cifarlab import recipe as load_recipe
from cifarlab.runs.folder import RunFolder

SECONDS = 120_000  # in milliseconds: the longest wait for a training on a busy machine

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def short(runs: Path, cifar10: Data) -> None:
    """Two finished runs on CIFAR-10."""
    for seed in (0, 1):
        recipe = load_recipe("lenet5", epochs=1, batch_size=256, seed=seed)
        cifarlab.train(recipe, data=cifar10, runs=runs, name=f"short-{seed}", quiet=True)


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with served(runs) as address:
        yield address


@pytest.fixture
def live(runs: Path) -> Iterator[str]:
    """A real training on CIFAR-10 in a process of its own."""
    command = [sys.executable, "-m", "cifarlab", "train", "lenet5", "--set", "epochs=60", "--name", "live", "--force"]
    training = subprocess.Popen([*command, "--runs", str(runs)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (runs / "live" / "run.json").exists():
        assert time.monotonic() < deadline and training.poll() is None
        time.sleep(0.1)
    yield "live"
    RunFolder(runs / "live").ask_to_stop()
    training.wait(60)


def number_from(least: int) -> re.Pattern[str]:
    """Match the numbers of the epochs of `live` from one on."""
    return re.compile(rf"^({'|'.join(map(str, range(least, 61)))})$")


def test_a_training_is_watched_stopped_and_resumed(page: Page, address: str, live: str, runs: Path, axe: str) -> None:
    page.goto(f"{address}/")
    page.get_by_role("link", name=live).click()
    expect(page.locator("#state")).to_have_text("running")
    curves, matrix = page.locator("#curves canvas"), page.locator("#matrix")
    expect(page.locator("#epochs")).to_have_text(number_from(1), timeout=SECONDS)  # the page may miss an epoch
    expect(curves).to_be_visible()
    seen, counts = int(page.locator("#epochs").inner_text()), matrix.inner_text()
    first = curves.evaluate("canvas => canvas.toDataURL()")
    expect(page.locator("#epochs")).to_have_text(number_from(seen + 1), timeout=SECONDS)  # nothing was reloaded
    has_grown = "first => document.querySelector('#curves canvas').toDataURL() !== first"
    page.wait_for_function(has_grown, arg=first, timeout=SECONDS)
    expect(matrix).not_to_have_text(counts, use_inner_text=True, timeout=SECONDS)
    expect(page.locator("#speed")).not_to_have_text("-", timeout=SECONDS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("interrupted", timeout=SECONDS)
    done = len(RunFolder(runs / live).history)
    page.locator("#epoch").fill("1")  # the first epoch again
    expect(page.locator("#shown-epoch")).to_contain_text("1 of")
    page.get_by_role("button", name="cat predicted as dog").click()
    expect(page.locator("#cell h3")).to_contain_text("cat, predicted as dog", timeout=SECONDS)
    expect(page.locator("#cell img").first).to_be_visible()
    assert serious_faults(page, axe) == []
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).to_have_text("running", timeout=SECONDS)
    expect(page.locator("#epochs")).to_have_text(number_from(done + 1), timeout=SECONDS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("interrupted", timeout=SECONDS)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_runs_are_searched_sorted_and_compared(page: Page, address: str, axe: str) -> None:
    page.goto(f"{address}/")
    page.get_by_label("Search").fill("short")
    expect(page.locator("#shown")).to_have_text("2 runs")
    names = page.locator("tbody tr:visible th")
    page.get_by_role("button", name="seed").click()
    expect(names).to_have_text(["short-0", "short-1"])
    page.get_by_role("button", name="seed").click()
    expect(names).to_have_text(["short-1", "short-0"])
    page.get_by_role("button", name="Compare selected runs").click()
    expect(page.locator("#message")).to_have_text("Select runs first.")
    for name in ("short-0", "short-1"):
        page.get_by_label(f"select {name}").check()
    assert serious_faults(page, axe) == []
    page.get_by_role("button", name="Compare selected runs").click()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    expect(page.locator("main")).to_contain_text("over seeds")
    expect(page.locator(".chart canvas")).to_be_visible()
    assert serious_faults(page, axe) == []


@pytest.mark.slow
def test_an_image_is_predicted_with_the_keyboard_alone(
    page: Page, address: str, axe: str, cifar10: Data, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(cifar10.test.images[0].transpose(1, 2, 0)).resize((300, 300)).save(photo)
    (expected,) = cifarlab.predict("pretrained:fastnet", [photo])
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # early: asking Chromium takes a moment
    page.goto(f"{address}/")
    press_until(page, "Predict")
    page.keyboard.press("Enter")
    page.wait_for_url("**/predict")
    choose_with_the_keyboard(page, choosers, photo)
    expect(page.locator("#top")).to_contain_text(f"{expected.label}, ", timeout=SECONDS)
    assert page.locator("#bars li").count() == 10
    heat = page.get_by_alt_text("heat map by Grad-CAM")
    assert heat.evaluate("image => image.naturalWidth") == 32
    assert serious_faults(page, axe) == []


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_class_page_shows_its_mistakes(page: Page, address: str, axe: str) -> None:
    page.goto(f"{address}/runs/short-0")
    page.get_by_role("link", name="frog").click()
    expect(page.get_by_role("heading", name="frog", exact=True)).to_be_visible()
    assert page.locator(".pictures img").count() > 20
    assert serious_faults(page, axe) == []


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_report_opens_from_disk_without_any_request(page: Page, runs: Path, axe: str) -> None:
    report = runs / "short-0" / "report.html"
    assert report.stat().st_size < 5_000_000
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert [url for url in asked if not url.startswith(("data:", report.as_uri()))] == []
    assert page.locator("figure img").count() > 5
    assert serious_faults(page, axe) == []
    page.set_viewport_size({"width": 390, "height": 800})  # a phone: figures are scrolled, the page is not
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious_faults(page, axe) == []
