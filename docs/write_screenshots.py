"""Take the screenshots of board and report in docs/images. They show real runs on CIFAR-10, but none of its images.

pip install -c constraints.txt -e '.[board]' playwright
python docs/write_screenshots.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import cifarlab

IMAGES = Path(__file__).parent / "images"
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DESK, PHONE = {"width": 1100, "height": 1000}, {"width": 390, "height": 900}


def train(runs: Path) -> None:
    """Train two recipes with two seeds each."""
    for name, activation in (("tanh", "tanh"), ("relu", "relu")):
        for seed in (0, 1):
            changes = {"epochs": 5, "batch_size": 64, "learning_rate": 0.02, "seed": seed}
            recipe = cifarlab.recipe("lenet5", **changes, **{"model_options.activation": activation})
            cifarlab.train(recipe, runs=runs, name=f"lenet5-{name}-{seed}", quiet=True)


def take(browser: Browser, address: str, report: Path) -> None:
    """Take a screenshot of each page that the docs show."""
    run = f"{address}/runs/lenet5-relu-0"
    compare = "/compare?" + "&".join(f"run=lenet5-{name}-{seed}" for name in ("tanh", "relu") for seed in (0, 1))
    pages = (
        ("board-runs", f"{address}/", "light", DESK),
        ("board-run", run, "light", DESK),
        ("board-run-dark", run, "dark", DESK),
        ("board-run-phone", run, "light", PHONE),
        ("board-compare", address + compare, "light", DESK),
        ("board-charts", address + compare.replace("compare", "charts"), "light", DESK),
        ("board-train", f"{address}/train?recipe=lenet5", "light", DESK),
        ("report", report.as_uri(), "light", DESK),
        ("report-dark", report.as_uri(), "dark", DESK),
        ("report-phone", report.as_uri(), "light", PHONE),
    )
    for name, url, scheme, size in pages:
        page = browser.new_page(color_scheme=scheme, viewport=size)
        page.goto(url, wait_until="load")
        if url == run:
            page.wait_for_selector("#matrix button")
        if "run=" in url or url == run:
            page.wait_for_selector(".chart canvas")
        if "/train" in url:
            page.wait_for_function("document.querySelector('#command').textContent")
        page.screenshot(path=IMAGES / f"{name}.png")
        page.close()


def main() -> None:
    """Train the runs, start the board, and take the screenshots."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        runs = Path(folder)
        train(runs)
        command = [sys.executable, "-m", "cifarlab", "board", "--port", "0", "--runs", folder]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as board:
            assert board.stderr is not None
            address = board.stderr.readline().split()[1].rstrip("/")
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
            take(browser, address, runs / "lenet5-relu-0" / "report.html")
            browser.close()
            board.terminate()


if __name__ == "__main__":
    main()
