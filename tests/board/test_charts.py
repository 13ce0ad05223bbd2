"""Interactive charts: the metrics that they get, a thousand runs, and an hour of live updates."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

import cifarlab
from chromium import needs_chromium, serious_faults, served
from cifarlab import recipe as load_recipe
from cifarlab.board import charts
from cifarlab.board.app import create_app
from cifarlab.runs.folder import RunFolder

ADDRESS = "http://127.0.0.1:8642"
EPOCHS, RUNS = 100, 1_000
HOUR = 1_800  # updates, one every two seconds


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs on digits."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = load_recipe("lenet5", dataset="digits", epochs=3, batch_size=64)
    return cifarlab.train(recipe, runs=folder, name="first", quiet=True).path


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    with TestClient(create_app(runs), base_url=ADDRESS) as client:
        yield client


def write_epochs(run: Path, epochs: int) -> None:
    """Let a run have so many epochs, as if it had trained them."""
    folder = RunFolder(run)
    folder.update(sums={})
    head, *rows = csv.reader((run / "metrics.csv").read_text().splitlines())
    longer = [[str(epoch), *rows[(epoch - 1) % len(rows)][1:]] for epoch in range(1, epochs + 1)]
    (run / "metrics.csv").write_text("\n".join(",".join(row) for row in [head, *longer]) + "\n")


def test_a_chart_gets_the_metrics_of_its_runs(client: TestClient, runs: Path) -> None:
    first, second = client.get("/api/charts?run=b&run=a").json()
    assert (first["name"], second["name"]) == ("b", "a") and first["held_out"] == "validation"
    assert first["columns"] == RunFolder(runs / "b").columns and first["status"] == "finished"
    assert {run["name"] for run in client.get("/api/charts").json()} == {"a", "b"}  # those that trained last


def test_only_new_epochs_are_sent(client: TestClient, runs: Path) -> None:
    write_epochs(runs / "b", 5)
    first, second = client.get("/api/charts?run=a&after=3&run=b&after=3").json()
    assert first["columns"]["epoch"] == [] and second["columns"]["epoch"] == [4, 5] and second["after"] == 3
    (again,) = client.get("/api/charts?run=a&after=4").json()  # it has begun again since
    assert again["columns"]["epoch"] == [1, 2, 3] and again["after"] == 0
    with mock.patch.object(charts, "MOST_ROWS", 4):
        first, second = client.get("/api/charts?run=a&run=b").json()
    assert len(first["columns"]["epoch"]) == 3 and len(second["columns"]["epoch"]) == 1 and second["epochs"] == 5


def test_wrong_charts_are_refused(client: TestClient, runs: Path) -> None:
    many = "&".join(["run=a"] * 201)
    for query, status in ((many, 400), ("run=none", 404), ("run=a&after=1&after=2", 400), ("run=a&after=-1", 400)):
        assert client.get(f"/api/charts?{query}").status_code == status
    (runs / "a" / "metrics.csv").write_text("no table")
    assert [run["name"] for run in client.get("/api/charts").json()] == ["b"]
    assert client.get("/api/charts?run=a").status_code == 400


def test_pages_have_charts_instead_of_pictures(client: TestClient) -> None:
    for path in ("/charts?run=a", "/runs/a", "/compare?run=a&run=b"):
        page = client.get(path).text
        assert 'class="chart" data-runs="[&#34;a&#34;' in page and "/static/uplot/uPlot.iife.min.js" in page, path


def test_uplot_is_the_published_one() -> None:
    folder = Path(charts.__file__).parent / "static" / "uplot"
    checksums = dict(re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.M))
    assert len(checksums) == 2
    for name, expected in checksums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert "MIT" in (folder / "LICENSE").read_text()


@pytest.mark.slow
def test_a_thousand_runs_are_served_at_once(trained: Path, tmp_path: Path) -> None:
    write_epochs(shutil.copytree(trained, tmp_path / "run-0"), EPOCHS)
    for number in range(1, RUNS):
        (tmp_path / f"run-{number}").mkdir()
        for name in ("run.json", "metrics.csv"):
            shutil.copy(tmp_path / "run-0" / name, tmp_path / f"run-{number}")
    with TestClient(create_app(tmp_path), base_url=ADDRESS) as client:
        for path, limit in (("/charts", 0.5), ("/api/charts", 1)):
            began = time.perf_counter()
            answer = client.get(path)
            seconds = time.perf_counter() - began
            print(f"{path}: {seconds:.3f} s")
            assert answer.status_code == 200 and seconds < limit
        assert len(client.get("/api/charts").json()) == charts.NEWEST


@needs_chromium
@pytest.mark.slow
def test_charts_are_zoomed_smoothed_and_saved(runs: Path, page: Page, axe: str) -> None:
    write_epochs(runs / "a", EPOCHS)
    with served(runs) as address:
        page.goto(f"{address}/charts?run=a&run=b")
        legend = page.locator(".u-legend")
        expect(legend).to_contain_text("b, validation")
        page.locator(".plot").focus()
        page.keyboard.press("ArrowRight")
        expect(legend).to_contain_text(f"{100 * RunFolder(runs / 'a').history[0].validation_accuracy:.2f}%")
        page.get_by_label("Epochs from").fill("20")
        page.get_by_label("to", exact=True).fill("30")
        page.keyboard.press("Tab")
        page.get_by_role("combobox", name="Metric").select_option("loss")
        page.get_by_label("logarithmic").check()
        page.get_by_label("Smoothing").fill("0.5")
        expect(legend).to_contain_text("a, training")
        for kind, beginning in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("CSV", b"run,epoch,train_loss")):
            with page.expect_download() as download:
                page.get_by_role("button", name=kind, exact=True).click()
            assert Path(download.value.path()).read_bytes().startswith(beginning)
        assert serious_faults(page, axe) == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@needs_chromium
@pytest.mark.slow
def test_memory_stays_flat_over_an_hour_of_live_updates(runs: Path, page: Page) -> None:
    RunFolder(runs / "a").update(status="interrupted")  # the page asks for new epochs of all but finished runs
    with served(runs) as address:
        page.clock.install()
        page.goto(f"{address}/charts?run=a")
        expect(page.locator(".u-legend")).to_contain_text("a, validation")
        heaps = [heap(page)]
        for update in range(1, HOUR + 1):
            if update % 18 == 0:  # an epoch every 36 seconds
                write_epochs(runs / "a", 3 + update // 18)
            with page.expect_response("**/api/charts?*"):
                page.clock.run_for(2_000)
            if update % (HOUR // 6) == 0:
                heaps.append(heap(page))
        print("MB of JavaScript objects:", [round(size / 1e6, 2) for size in heaps])
        assert page.evaluate("document.querySelectorAll('.chart canvas').length") == 1
        assert heaps[-1] - heaps[1] < 2_000_000


def heap(page: Page) -> float:
    """Return the bytes of JavaScript objects that are still in use."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = session.send("Performance.getMetrics")
    session.detach()
    return float(next(metric["value"] for metric in metrics["metrics"] if metric["name"] == "JSHeapUsedSize"))
