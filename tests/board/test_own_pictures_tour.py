"""Pages of one's own pictures and of corrected labels in Chromium: a class's whole way, with a fake camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import cifarlab
from chromium import needs_chromium, press_until, serious_faults, served
from cifarlab import load_data
from cifarlab import recipe as load_recipe
from cifarlab.data.corrections import read_labels
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import run_paths

pytestmark = [needs_chromium, pytest.mark.slow]
MILLISECONDS = 300_000  # the longest wait for trainings on a busy machine
COLOURS = {"apple": (200, 30, 30), "leaf": (30, 160, 30), "sky": (60, 90, 220)}


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    (tmp_path / "runs").mkdir()
    with served(tmp_path / "runs") as address:
        yield address


def write_picture(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-30, 30, (48, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(path)


def check_looks(page: Page, axe: str) -> None:
    """Find no barriers on a wide light screen and on a dark phone, which does not scroll sideways."""
    looks: list[tuple[Any, int]] = [("light", 1280), ("dark", 390)]
    for scheme, width in looks:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious_faults(page, axe) == []
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 800})


def test_pictures_are_taken_trained_on_and_tried_live(page: Page, address: str, axe: str, tmp_path: Path) -> None:
    page.goto(f"{address}/pictures")
    page.get_by_label("Name").fill("things")
    page.get_by_role("button", name="Make a data set").click()
    for label in ("apple", "leaf", "camera"):
        page.get_by_label("New class").fill(label)
        page.get_by_role("button", name="Add class").click()
        expect(page.get_by_role("heading", name=f"{label}: 0")).to_be_visible()
    for label in ("apple", "leaf"):
        photos = [tmp_path / "photos" / f"{label}{number}.png" for number in range(20)]
        for number, photo in enumerate(photos):
            write_picture(photo, COLOURS[label], number)
        page.get_by_label("Add pictures to").select_option(label)
        page.locator("#files").set_input_files(photos)
        expect(page.get_by_role("heading", name=f"{label}: 20")).to_be_visible(timeout=MILLISECONDS)
    page.get_by_label("Add pictures to").select_option("camera")
    page.get_by_role("button", name="Start camera").click()
    for count in (10, 20):
        page.get_by_role("button", name="Take 10 pictures").click()
        expect(page.get_by_role("heading", name=f"camera: {count}")).to_be_visible(timeout=MILLISECONDS)
        expect(page.get_by_role("button", name="Take 10 pictures")).to_be_enabled(timeout=MILLISECONDS)
    page.get_by_role("button", name="Stop camera").click()
    check_looks(page, axe)
    page.get_by_role("button", name="Train on these pictures").click()
    expect(page.locator("#trained")).to_contain_text(re.compile("finished|failed"), timeout=MILLISECONDS)
    expect(page.locator("#trained")).to_contain_text("finished")
    page.get_by_role("button", name="Try it with the camera").click()
    expect(page.locator("#top")).to_contain_text("camera, ", timeout=MILLISECONDS)
    assert page.locator("#bars li").count() == 3
    page.screenshot(path=tmp_path / "pictures.png", full_page=True)
    page.get_by_role("button", name="Stop camera").click()
    (run,) = run_paths(tmp_path / "runs")
    assert RunFolder(run).recipe.name == "small" and RunFolder(run).results["test_accuracy"] > 0.8


def test_wrong_labels_are_corrected_with_the_keyboard(
    browser: Browser, page: Page, address: str, axe: str, tmp_path: Path
) -> None:
    folder, right = tmp_path / "own-pictures" / "things", dict[str, str]()
    for label, colour in COLOURS.items():
        for number in range(40):
            write_picture(folder / label / f"{number:06}.png", colour, number)
    data = load_data(f"folder:{folder}", quiet=True)
    for images, count in ((data.test, 2), (data.train, 3)):  # five pictures get what belongs into the next class
        for place in np.random.default_rng(0).permutation(len(images))[:count]:
            path = Path(images.names[place])
            right[f"{path.parent.name}/{path.name}"] = data.classes[(images.labels[place] + 1) % 3]
    for seed, (name, label) in enumerate(right.items(), start=100):
        write_picture(folder / name, COLOURS[label], seed)
    settings = {"dataset": f"folder:{folder}", "epochs": 30, "batch_size": 16}
    first = cifarlab.train(load_recipe("lenet5").changed(settings), runs=tmp_path / "runs", name="first", quiet=True)

    page.goto(f"{address}/relabel?run=first")
    expect(page.locator("#state")).to_have_text("Nothing was searched yet.")
    press_until(page, "search")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("Searching")
    expect(page.locator("#state")).to_contain_text("suspicious images", timeout=MILLISECONDS)
    check_looks(page, axe)
    (count,) = map(int, re.findall(r"^1 of (\d+)", page.locator("#place").inner_text()))
    for number in range(1, count + 1):
        expect(page.locator("#place")).to_contain_text(f"{number} of {count}")
        name = page.locator("#place").inner_text().partition(": ")[2]
        if name in right:
            page.keyboard.press(str(data.classes.index(right[name]) + 1))
        if number == count:
            break
        if name not in right:
            page.keyboard.press("ArrowRight")
    expect(page.locator("#state")).to_contain_text(f"{count} suspicious images")
    page.screenshot(path=tmp_path / "relabel.png", full_page=True)
    assert read_labels(folder.with_name("things.labels.csv")) == right

    press_until(page, "train")
    page.keyboard.press("Enter")
    expect(page.locator("#trained")).to_contain_text("is in the queue")
    page.locator("#trained a").click()
    expect(page.locator("main")).to_contain_text("finished", timeout=MILLISECONDS)
    (second,) = (RunFolder(path) for path in run_paths(tmp_path / "runs") if path.name != "first")
    assert second.recipe.labels == right
    assert second.results["test_accuracy"] > first.results["test_accuracy"]

    (folder / "apple" / "000000.png").unlink()
    later = browser.new_page()  # a page that may log the refusal
    later.goto(f"{address}/relabel?run=first")
    expect(later.locator("#state")).to_contain_text("has changed since the training")
    later.close()
