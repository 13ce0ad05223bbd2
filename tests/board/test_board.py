"""The board without a browser: its answers, its errors, and who gets in."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import numpy as np
import pytest
from fastapi.testclient import TestClient
from matplotlib import colormaps
from PIL import Image

import cifarlab
from cifarlab import Data, Run
from cifarlab import recipe as load_recipe
from cifarlab.board import confusion
from cifarlab.board.access import COOKIE
from cifarlab.board.app import create_app
from cifarlab.board.predictions import LARGEST_UPLOAD
from cifarlab.board.resuming import Resumer
from cifarlab.board.state import Board, run_state, state_versions
from cifarlab.errors import Interrupted, UsageError
from cifarlab.figures.mosaics import HEAT_COLOURS
from cifarlab.report.rendering import TEMPLATES
from cifarlab.runs.folder import RunFolder
from conftest import Cli, answer

ADDRESS = "http://127.0.0.1:8642"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs and one that was stopped, on digits."""
    folder = tmp_path_factory.mktemp("runs")
    few = {"dataset": "digits", "epochs": 3, "batch_size": 64}
    for seed in (0, 1):
        cifarlab.train(load_recipe("lenet5", **few, seed=seed), runs=folder, name=f"whole-{seed}", quiet=True)

    class Ask:
        def on_epoch_end(self, run: Run, row: Any) -> None:
            run.ask_to_stop()

    with pytest.raises(Interrupted, match="stopped by request"):
        cifarlab.train(load_recipe("lenet5", **few), runs=folder, name="stopped", quiet=True, callbacks=[Ask()])
    return folder


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    with TestClient(create_app(runs), base_url=ADDRESS) as client:
        yield client


def test_runs_are_listed_with_their_status(client: TestClient) -> None:
    rows = {row["name"]: row for row in client.get("/api/runs").json()}
    assert rows.keys() == {"whole-0", "whole-1", "stopped"}
    assert rows["whole-0"]["status"] == "finished" and rows["whole-0"]["test_accuracy"] > 0.5
    assert rows["stopped"]["status"] == "interrupted" and rows["stopped"]["epochs_done"] == 1
    page = client.get("/").text
    assert "whole-0" in page and "stopped" in page


def test_a_damaged_run_is_listed_with_the_reason(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "stopped", tmp_path / "broken")
    (tmp_path / "broken" / "metrics.csv").write_text("no table\n")
    with TestClient(create_app(tmp_path), base_url=ADDRESS) as client:
        (row,) = client.get("/api/runs").json()
        assert row["status"] == "damaged" and "metrics.csv is damaged" in row["reason"]
        assert row["reason"] in client.get("/").text.replace("&#39;", "'")


def test_one_odd_run_does_not_hide_the_others(runs: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "runs"
    for name in ("good", "fifo", "results"):
        shutil.copytree(runs / "stopped", folder / name)
    (folder / "fifo" / "metrics.csv").unlink()
    os.mkfifo(folder / "fifo" / "metrics.csv")
    record = json.loads((folder / "good" / "run.json").read_text())
    (folder / "results" / "run.json").write_text(json.dumps(record | {"results": [1], "created": None}))
    with TestClient(create_app(folder), base_url=ADDRESS) as client:
        rows = {row["name"]: row["status"] for row in client.get("/api/runs").json()}
        assert client.get("/").status_code == 200
    listed = answer(cli("runs", "--json"))
    assert rows == {row["name"]: row["status"] for row in listed}
    assert rows == {"good": "interrupted", "fifo": "damaged", "results": "damaged"}
    ended = cli("runs")
    assert len(ended.stdout.splitlines()) == 4 and ended.stderr.count("damaged: ") == 2


def test_runs_one_level_down_have_pages(runs: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("anna", "ben")):
        shutil.copytree(runs / f"whole-{seed}", tmp_path / name / "first")
    with TestClient(create_app(tmp_path), base_url=ADDRESS) as client:
        assert [row["name"] for row in client.get("/api/runs").json()] == ["ben/first", "anna/first"]
        assert 'href="/runs/anna/first"' in client.get("/").text
        page = client.get("/runs/anna/first").text
        assert 'data-name="anna/first"' in page and 'href="/runs/anna/first/classes/0"' in page
        paths = [f"/{name}" for name in ("confusions", "figures/curves.svg", "images/test/0.png")]
        for path in ("/runs/anna/first/classes/0", *(f"/api/runs/anna%2Ffirst{path}" for path in ["", *paths])):
            assert client.get(path).status_code == 200, path
        assert client.post("/api/runs/anna/first/stop").json()["detail"].startswith("the run 'anna/first' is finished")
        page = client.get("/compare", params={"run": ["anna/first", "ben/first"]}).text
        assert "anna/first" in page and "ben/first" in page
        for name in ("anna", "anna/none", "/etc", ".hidden/first"):
            assert client.get(f"/api/runs/{name}").status_code == 404, name
    for name in ("../ben/first", str(tmp_path / "ben" / "first"), "./first", "first/", ""):
        with pytest.raises(UsageError, match="unknown run"):
            Board(tmp_path / "anna").run(name)


def test_a_run_has_its_record_history_and_log(client: TestClient, runs: Path) -> None:
    answer = client.get("/api/runs/whole-0").json()
    assert answer["record"]["recipe"]["name"] == "lenet5" and len(answer["history"]) == 3
    assert "epoch 3/3" in answer["log"] and answer["log"] == RunFolder(runs / "whole-0").log
    assert client.get("/api/runs/stopped").json()["reason"].startswith("stopped by request")


@pytest.mark.parametrize("epoch", [1, 3, None])
def test_behind_each_cell_are_the_images_that_it_counts(client: TestClient, digits: Data, epoch: int | None) -> None:
    found = client.get("/api/runs/whole-0/confusions").json()
    matrix = np.array(found["test"] if epoch is None else found["epochs"][epoch - 1])
    query = {} if epoch is None else {"epoch": epoch}
    off = matrix - np.diag(np.diag(matrix))
    true, predicted = (int(place) for place in np.unravel_index(off.argmax(), off.shape))
    cell = client.get("/api/runs/whole-0/cell", params={"true": true, "predicted": predicted, **query}).json()
    assert cell["count"] == matrix[true, predicted] == len(cell["images"]) > 0
    if epoch is None:
        assert (digits.test.labels[cell["images"]] == true).all()
        png = client.get(f"/api/runs/whole-0/images/test/{cell['images'][0]}.png").content
        with Image.open(io.BytesIO(png)) as image:
            assert (np.atleast_3d(np.asarray(image)).transpose(2, 0, 1) == digits.test.images[cell["images"][0]]).all()


def test_only_new_epochs_are_sent_again(client: TestClient) -> None:
    found = client.get("/api/runs/whole-0/confusions").json()
    later = client.get("/api/runs/whole-0/confusions?after=1").json()
    assert len(found["epochs"]) == 3 and later == found | {"epochs": found["epochs"][1:]}
    with mock.patch.object(confusion, "MOST_CELLS", 299):  # an answer has a limit
        assert client.get("/api/runs/whole-0/confusions").json() == found | {"epochs": found["epochs"][:2]}


def test_a_forged_run_is_an_error_not_a_fault(runs: Path, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(runs / "whole-0", tmp_path / "a"))
    run.update(sums={})
    logits, labels = run.predictions or (np.zeros(0), np.zeros(0))
    part = run.predicted.shape[1] // 2
    run._write_arrays("confusion.npz", labels=np.zeros(part, int), predicted=run.predicted[:, :part])
    with TestClient(create_app(tmp_path), base_url=ADDRESS) as client:
        assert client.get("/api/runs/a/cell?true=1&predicted=1&epoch=1").status_code == 400
        run.write_predictions(logits, labels - 5)
        for address in ("confusions", "cell?true=1&predicted=1", "figures/confusion.svg"):
            assert client.get(f"/api/runs/a/{address}").status_code == 400
        metrics = run.path / "metrics.csv"
        lines = [line.split(",") for line in metrics.read_text().splitlines()]
        metrics.write_text(
            "\n".join(
                ",".join([*line[:-2], "1e308", line[-1]]) if line[0].isdigit() else ",".join(line) for line in lines
            )
        )
        assert client.get("/").status_code == 200 and client.get("/api/runs").json()[0]["status"] == "damaged"


def test_every_figure_can_be_had_as_svg(client: TestClient) -> None:
    for path in ("curves.svg", "confusion.svg", "confusion.svg?epoch=2"):
        answer = client.get(f"/api/runs/whole-0/figures/{path}")
        assert answer.headers["content-type"] == "image/svg+xml" and b"<svg" in answer.content, path
    assert b"whole-1" in client.get("/api/compare.svg?run=whole-0&run=whole-1").content


def test_two_runs_are_compared(client: TestClient) -> None:
    page = client.get("/compare?run=whole-0&run=whole-1").text
    assert "whole-0" in page and "over seeds" in page
    assert "Select runs" in client.get("/compare").text
    assert "not finished" in client.get("/compare?run=whole-0&run=stopped").text


def test_paper_gets_light_colours_and_nothing_to_click(client: TestClient) -> None:
    style = client.get("/static/board.css").text
    dark, printed = (line for line in style.splitlines() if "prefers-color-scheme" in line or "@media print" in line)
    assert dark.startswith("@media screen and (prefers-color-scheme: dark)")
    assert "color-scheme: light;" in printed and ".on-screen" in printed
    screen = client.get("/runs/whole-0").text.partition('class="on-screen"')[2].partition("</p>")[0]
    assert "Select a cell" in screen and "slider" in screen


def test_captions_say_how_curves_and_heat_maps_are_read(client: TestClient) -> None:
    captions = (TEMPLATES / "headings_and_captions.toml").read_text()
    for text in (captions, client.get("/runs/whole-0").text):
        assert "Training loss and accuracy are measured while the network learns" in text
    dark, _, hot = (colormaps[HEAT_COLOURS](value)[:3] for value in (0.3, 0.6, 0.95))
    assert dark[2] > dark[1] and hot[0] > 0.9 and hot[1] > 0.7 and hot[2] < 0.6  # purple, and yellow
    for text in (captions, client.get("/predict").text):
        assert "yellow areas raised the score" in text and "brighter" not in text


def test_a_class_shows_its_mistakes(client: TestClient) -> None:
    page = client.get("/runs/whole-0/classes/8").text
    matrix = np.array(client.get("/api/runs/whole-0/confusions").json()["test"])
    mistakes = matrix[8].sum() + matrix[:, 8].sum() - 2 * matrix[8, 8]
    assert page.count("/images/test/") == mistakes > 0
    wrong = client.get("/runs/whole-0/classes/99")
    assert wrong.status_code == 400 and "The number of a class must be 0 to 9, got 99." in wrong.text


def test_mistakes_are_shown_with_their_files(client: TestClient, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"photos/image-{number}.png" for number in range(len(digits.test)))
    monkeypatch.setattr(confusion, "held_out_images", lambda run, part: replace(digits.test, names=names))
    page = client.get("/runs/whole-0/classes/8").text
    numbers = re.findall(r"/images/test/(\d+).png", page)
    assert all(f'title="photos/image-{number}.png">image-{number}.png<' in page for number in numbers)
    cell = client.get("/api/runs/whole-0/cell?true=8&predicted=8").json()
    assert cell["files"] == [names[number] for number in cell["images"]] != []

    def missing(run: RunFolder, part: str) -> None:
        raise UsageError("the data set is not here")

    monkeypatch.setattr(confusion, "held_out_images", missing)
    assert client.get("/api/runs/whole-0/cell?true=8&predicted=8").json() == cell | {"files": []}


def test_the_report_is_linked_and_runs_no_scripts(client: TestClient, runs: Path) -> None:
    assert 'href="/runs/whole-0/report.html">' in client.get("/runs/whole-0").text
    report = client.get("/runs/whole-0/report.html")
    assert report.content == (runs / "whole-0" / "report.html").read_bytes()
    policy = report.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "sandbox" in policy
    assert client.get("/runs/stopped/report.html").status_code == 404
    assert 'href="/runs/stopped/report.html" hidden>' in client.get("/runs/stopped").text


def jpeg(value: int = 120) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def test_an_image_is_predicted_as_by_the_command_line(client: TestClient, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    (expected,) = cifarlab.predict("whole-0", [tmp_path / "photo.jpg"], runs=runs)
    answer = client.post("/api/predict?target=whole-0", content=jpeg()).json()
    assert {row["name"]: row["probability"] for row in answer["classes"]} == pytest.approx(expected.probabilities)
    assert answer["classes"][0]["name"] == expected.label
    assert answer["heats"].keys() == {"Grad-CAM", "occlusion"} and answer["image"].startswith("data:image/png;base64,")
    assert client.get("/api/targets").json()[-2:] == ["whole-1", "whole-0"]


def test_a_prediction_without_heat_maps_has_only_classes(client: TestClient) -> None:
    for large in (False, True):
        content = jpeg() if not large else resized(jpeg(), 900)
        answer = client.post("/api/predict?target=whole-0&explain=false", content=content).json()
        assert answer.keys() == {"classes", "sure"} and len(answer["classes"]) == 10


def resized(content: bytes, side: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).resize((side, side)).save(file, "PNG")
    return file.getvalue()


def test_many_images_are_predicted_by_one_request(client: TestClient) -> None:
    files = {"a.jpg": jpeg(10), "broken.png": b"no image", "large.png": resized(jpeg(200), 900), "c.jpg": jpeg(250)}
    form = [("images", (name, content)) for name, content in files.items()]
    answer = client.post("/api/predict/batch?target=whole-0", files=form).json()["images"]
    assert [image.pop("name") for image in answer] == list(files)
    assert "not an image" in answer[1]["error"] and answer[1].keys() == {"error"}
    for image, content in zip(answer, files.values(), strict=True):
        if "error" not in image:
            alone = client.post("/api/predict?target=whole-0&explain=false", content=content).json()
            assert image["sure"] == alone["sure"] == (alone["classes"][0]["probability"] >= 0.5)
            likely = [{row["name"]: row["probability"] for row in each["classes"]} for each in (image, alone)]
            assert likely[0] == pytest.approx(likely[1], abs=1e-5)
    assert client.post("/api/predict/batch?target=none", files=form).status_code == 404


def test_too_many_requests_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.board.predictions.MOST_UPLOADED", 10)
    refused = client.post("/api/predict?target=whole-0", content=jpeg())
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
    assert refused.json() == {"detail": "too many images are being uploaded. Try again later."}
    form = [("images", ("a.jpg", jpeg()))]
    assert client.post("/api/predict/batch?target=whole-0", files=form).json() == refused.json()
    monkeypatch.undo()
    monkeypatch.setattr("cifarlab.board.predictions.MOST_BATCHES", 0)
    refused = client.post("/api/predict/batch?target=whole-0", files=form)
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
    assert refused.json() == {"detail": "too many batches are being predicted. Try again later."}
    monkeypatch.setattr("cifarlab.board.api.MOST_STREAMS", 0)
    assert client.get("/api/runs/whole-0/events").status_code == 503
    monkeypatch.setattr("cifarlab.board.resuming.MOST_RESUMED", 0)
    refused = client.post("/api/runs/stopped/resume")
    assert refused.status_code == 503 and "trainings that were resumed here are running" in refused.json()["detail"]


def test_the_page_shows_the_newest_of_many_runs(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.board.pages.MOST_RUNS", 1)
    assert client.get("/").text.count("data-row") == 1 and "Show all 3 runs" in client.get("/").text
    assert client.get("/?every=true").text.count("data-row") == 3


def test_a_long_log_is_not_sent_whole(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(runs / "whole-0")
    assert run_state(run)["log"] == run.log
    monkeypatch.setattr("cifarlab.board.state.LONGEST_LOG", 200)
    assert run.log.endswith(run_state(run)["log"]) and 1 <= run_state(run)["log"].count("\n") < 4


@pytest.mark.parametrize("name", ["run.json", "progress.json"])
def test_numbers_that_json_lacks_are_not_sent(name: str, runs: Path, tmp_path: Path) -> None:
    path = shutil.copytree(runs / "whole-0", tmp_path / "a") / name
    text = '{"seconds_left": NaN}' if name == "progress.json" else path.read_text()
    path.write_text(re.sub('"test_loss": [0-9.]+', '"test_loss": NaN', text))
    run = RunFolder(tmp_path / "a")
    if name == "progress.json":
        assert run.progress.seconds_left is None
    else:
        with pytest.raises(UsageError, match=r"results\.test_loss should be a finite number"):
            _ = run.record


def test_errors_are_one_line_with_the_right_status_code(client: TestClient) -> None:
    wrong = client.post("/api/predict?target=whole-0", content=b"no picture")
    assert wrong.status_code == 400
    assert wrong.json()["detail"].startswith("the image: not an image in a known format (PNG, JPEG")
    assert client.post("/api/predict?target=whole-0", content=b"0" * (LARGEST_UPLOAD + 1)).status_code == 400
    for target in ("none", "a" * 300, "a/" * 3000):
        assert client.post(f"/api/predict?target={target}", content=jpeg()).status_code == 404
    for path in (
        "/api/runs/whole-9",
        "/runs/whole-9",
        "/api/runs/..%2f..%2fetc/cell?true=0&predicted=0",
        "/runs/%2e%2e",
        f"/runs/{'a' * 10_000}",
        f"/runs/{'%E1%B9%B0' * 200}",
    ):
        assert client.get(path).status_code == 404, path
    for path in ("/nothing", "/runs/whole-0/classes/x", "/static/none.css", "/predict/x"):
        missing = client.get(path)
        assert missing.status_code == 404 and "<h1>This did not work</h1>" in missing.text, path
    assert client.get("/api/nothing").json() == {"detail": "there is no page '/api/nothing'"}
    assert client.get("/api/predict").status_code == 405
    assert "did you mean 'whole-0'" in client.get("/api/runs/whole0").json()["detail"]
    assert client.post("/api/runs/whole-0/resume").json() == {"detail": "the run 'whole-0' is finished"}
    assert client.post("/api/runs/stopped/stop").json() == {"detail": "the run 'stopped' is interrupted, not running"}


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "127.0.0.2"])
def test_the_printed_address_opens_the_board(host: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.board.server.serve", lambda app, listening: listening.close())
    first, *others = cli("board", "--host", host, "--port", "0").stderr.splitlines()
    address = first.split()[1]
    assert [line.partition("?")[0] for line in others] == (
        [f"to read and predict only: {address.partition('?')[0]}"] if host == "0.0.0.0" else []
    )
    assert address.partition("token=")[2] not in "".join(others) or not others
    shown = urlsplit(address)
    assert shown.hostname and shown.port and ("token=" in shown.query) == (host == "0.0.0.0")
    assert (shown.hostname == host) == (host != "0.0.0.0")


def test_a_board_with_a_token_refuses_visitors_without_it(runs: Path) -> None:
    client = TestClient(create_app(runs, token="secret"), base_url="http://elsewhere.example")
    assert client.get("/").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/?token=secret").status_code == 200
    assert client.cookies[COOKIE] == "secret" and client.get("/api/runs").status_code == 200


def test_the_reading_token_neither_stops_nor_resumes(runs: Path) -> None:
    app = create_app(runs, token="secret", reading_token="reader")
    reader, owner = (TestClient(app, base_url="http://elsewhere.example") for _ in range(2))
    before = state_versions(RunFolder(runs / "stopped"))
    for path in ("/?token=reader", "/", "/api/runs", "/runs/stopped", "/api/runs/stopped/figures/curves.svg"):
        assert reader.get(path).status_code == 200, path
    assert reader.cookies[COOKIE] == "reader"
    assert reader.post("/api/predict?target=whole-0&explain=false", content=jpeg()).status_code == 200
    form = [("images", ("a.jpg", jpeg()))]
    assert reader.post("/api/predict/batch?target=none", files=form).status_code == 404  # allowed, but there is no run
    for action in ("stop", "resume"):
        refused = reader.post(f"/api/runs/stopped/{action}")
        assert refused.status_code == 403 and "only reads and predicts" in refused.text
    for method in ("PUT", "DELETE", "PATCH"):
        assert reader.request(method, "/api/runs/stopped").status_code == 403
    assert state_versions(RunFolder(runs / "stopped")) == before
    page = reader.get("/runs/stopped").text
    assert "data-reads-only" in page and '<button type="button" id="resume" hidden>' in page
    assert '<button type="button" id="resume">' in owner.get("/runs/stopped?token=secret").text
    assert owner.post("/api/runs/stopped/stop").status_code == 400  # allowed, but this run is not running
    for board in (create_app(runs, token="secret"), create_app(runs, token="secret", reading_token="reader")):
        nobody = TestClient(board, base_url="http://elsewhere.example")
        assert nobody.get("/").status_code == nobody.get("/?token=").status_code == 401
        assert nobody.post("/api/predict/batch?target=whole-0", files=form).status_code == 401


def test_a_board_without_a_token_answers_only_to_local_names(runs: Path) -> None:
    app = create_app(runs)
    for host, status in (("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost", 200), ("[::1]:80", 200)):
        assert TestClient(app, base_url=f"http://{host}").get("/api/runs").status_code == status, host
    for host in ("evil.example:99999", "[::1", "a{b.evil.example", "", "localhost@evil.example"):
        client = TestClient(app, base_url=ADDRESS)
        assert client.get("/api/runs", headers={"host": host}).status_code == 421, host
        assert client.post("/api/predict/batch?target=whole-0", headers={"host": host}).status_code == 421, host


def test_pages_of_other_sites_cannot_change_anything(client: TestClient) -> None:
    for path in ("runs/stopped/resume", "predict?target=whole-0", "predict/batch?target=whole-0"):
        refused = client.post(f"/api/{path}", headers={"origin": "http://elsewhere.example"})
        assert refused.status_code == 403
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_a_stopped_run_is_resumed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "stopped", tmp_path / "again")
    run, resumer = RunFolder(tmp_path / "again"), Resumer()
    resumer.resume(run)
    with pytest.raises(UsageError, match=r"is being resumed|is running"):
        resumer.resume(run)
    wait_for(lambda: RunFolder(run.path).status == "finished")
    assert len(run.history) == 3


@pytest.mark.slow
def test_a_resumed_training_outlives_the_board(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "stopped", tmp_path / "again")
    board = (
        "import sys, pathlib; from cifarlab.board.state import Board; board = Board(pathlib.Path(sys.argv[1]));"
        "board.resumer.resume(board.run('again'))"
    )
    subprocess.run([sys.executable, "-c", board, str(tmp_path)], check=True)
    wait_for(lambda: RunFolder(tmp_path / "again").status == "finished")


def test_a_resumption_that_fails_is_in_the_log(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "stopped", tmp_path / "broken")
    (tmp_path / "broken" / "checkpoint.pt").write_bytes(b"no checkpoint")
    run = RunFolder(tmp_path / "broken")
    Resumer().resume(run)
    wait_for(lambda: "checkpoint.pt is damaged" in run.log)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_thousand_runs_are_listed_and_read_once(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        (tmp_path / f"r{number}").symlink_to(runs / "whole-0")
    board = Board(tmp_path)
    assert len(board.rows()) == 1000
    monkeypatch.setattr(RunFolder, "history", property(lambda run: pytest.fail("the run is read again")))
    assert len(board.rows()) == 1000
