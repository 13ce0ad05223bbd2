"""Drive Debian's Chromium: launch it, press keys, and find barriers with axe-core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, FileChooser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = "CIFARLAB_TEST_ALL" in os.environ
AXE = "axe-core@4.10.3"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a moving picture, allowed to all

needs_chromium = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="there is no Chromium")


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET + CAMERA)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page that may neither log errors nor send requests to other machines."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if _is_elsewhere(request.url) else None)
    yield page
    page.close()
    assert not complaints


def _is_elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1"


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """A board in a process of its own, by its address."""
    command = [sys.executable, "-m", "cifarlab", "board", "--port", "0", "--runs", str(runs)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as board:
        assert board.stderr is not None
        yield board.stderr.readline().split()[1].rstrip("/")
        board.terminate()


def axe_source(folder: Path) -> str:
    """Return the source of axe-core, from the npm registry."""
    if shutil.which("npm") is None and not REQUIRED:
        pytest.skip("there is no npm")
    packed = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, check=True)
    with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


def serious_faults(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        (fault["id"], [node["html"][:200] for node in fault["nodes"][:3]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def press_until(page: Page, target: str) -> None:
    """Press Tab until the element with this text or id has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("[document.activeElement.textContent.trim(), document.activeElement.id]").count(target):
            return
    pytest.fail(f"{target} cannot be reached with Tab")


def choose_with_the_keyboard(page: Page, choosers: list[FileChooser], file: Path) -> None:
    """Choose a file with Tab and Space. `choosers` has listened to the page from before it opened."""
    press_until(page, "file")
    page.keyboard.press("Space")
    for _ in range(600):
        page.wait_for_timeout(100)
        if choosers:
            break
    choosers[0].set_files(file)
