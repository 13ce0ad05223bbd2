"""Corrected labels over HTTP: decisions are written beside the data, and taken back."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import cifarlab
from cifarlab import Run
from cifarlab import recipe as load_recipe
from cifarlab.board.app import create_app
from cifarlab.data.corrections import read_labels

ADDRESS = "http://127.0.0.1:8642"
TOKEN, READING = "t" * 20, "r" * 20


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_run: Run) -> Iterator[TestClient]:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    shutil.copytree(trained_run.path, tmp_path / "runs" / "first")
    with TestClient(create_app(tmp_path / "runs"), ADDRESS) as client:
        yield client


def train_on_patterns(folder: Path, name: str, count: int = 10, resize: str = "crop") -> None:
    """Train on two classes of wide pictures, whose left and right ends a crop would cut off."""
    for label, colour in (("left", (255, 0, 0)), ("right", (0, 0, 255))):
        (folder / "own" / label).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (96, 32), (number, 0, 0))
            image.paste(colour, (0, 0, 16, 32))
            image.save(folder / "own" / label / f"{number}.png")
    own = {"dataset": f"folder:{folder / 'own'}", "epochs": 1, "batch_size": 8, "resize": resize}
    cifarlab.train(load_recipe("lenet5").changed(own), runs=folder / "runs", name=name, quiet=True)


def test_decisions_are_written_and_taken_back(client: TestClient) -> None:
    state = client.get("/api/relabel?run=first").json()
    assert not state["has_searched"] and state["suspects"] == []
    label, image = state["classes"][3], {"run": "first", "image": "train image 7"}
    assert client.post("/api/relabel/train?run=first").status_code == 400  # no decision yet
    assert client.post("/api/relabel/decide", json=image | {"label": label}).status_code == 200
    other = image | {"image": "test image 0", "label": ""}
    assert client.post("/api/relabel/decide", json=other).status_code == 200
    table = Path(state["table"])
    assert read_labels(table) == {"train image 7": label, "test image 0": ""}
    assert f"--labels {table}" in state["command"] and "epochs=2" in state["command"]
    client.post("/api/relabel/decide", json=image | {"label": None})
    assert read_labels(table) == {"test image 0": ""}


def test_unknown_images_classes_and_runs_are_refused(client: TestClient) -> None:
    decision = {"run": "first", "image": "../first", "label": None}
    assert client.post("/api/relabel/decide", json=decision).status_code == 404
    decision = {"run": "first", "image": "train image 7", "label": "no class"}
    assert client.post("/api/relabel/decide", json=decision).status_code == 400
    assert client.post("/api/relabel/search?run=../first").status_code == 404
    assert client.get("/api/relabel/image?run=first&image=../x").status_code == 404
    assert client.get("/api/relabel/image?run=first&image=train%20image%207").headers["content-type"] == "image/png"
    assert client.get("/relabel?run=first").status_code == 200


def test_images_are_shown_as_the_network_sees_them(client: TestClient, tmp_path: Path) -> None:
    train_on_patterns(tmp_path, "wide", resize="stretch")
    answer = client.get("/api/relabel/image?run=wide&image=left/3.png")
    assert Image.open(io.BytesIO(answer.content)).convert("RGB").getpixel((0, 16)) == (255, 0, 0)
    command = client.get("/api/relabel?run=wide").json()["command"]
    assert set(command.partition(" --seed 0 ")[2].split()) == {"--set", "resize=stretch", "epochs=1", "batch_size=8"}


def test_changed_data_is_not_decided_on(client: TestClient, tmp_path: Path) -> None:
    train_on_patterns(tmp_path, "own")
    decision = {"run": "own", "image": "left/3.png", "label": "right"}
    assert client.post("/api/relabel/decide", json=decision).status_code == 200
    (tmp_path / "own" / "left" / "3.png").rename(tmp_path / "own" / "right" / "13.png")
    answer = client.post("/api/relabel/decide", json=decision)
    assert answer.status_code == 400 and "has changed since the training" in answer.json()["detail"]


def test_a_failed_search_says_why(client: TestClient, tmp_path: Path) -> None:
    train_on_patterns(tmp_path, "few", count=4)
    assert client.post("/api/relabel/search?run=few").status_code == 202
    assert client.post("/api/relabel/search?run=first").status_code == 503  # one at a time
    deadline = time.monotonic() + 60
    while (state := client.get("/api/relabel?run=few").json())["is_searching"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert state["failure"] == "folds must be from 2 to 4, half the images, got 5" and not state["has_searched"]


def test_changes_need_the_token_and_the_boards_own_pages(tmp_path: Path) -> None:
    app = create_app(tmp_path, TOKEN, READING)
    with TestClient(app, ADDRESS) as client, TestClient(create_app(tmp_path), ADDRESS) as without_token:
        paths = [path for path, methods in app.openapi()["paths"].items() if "post" in methods]
        changing = [path for path in paths if path.startswith("/api/relabel")]
        assert sorted(changing) == ["/api/relabel/decide", "/api/relabel/search", "/api/relabel/train"]
        for path in changing:
            assert client.post(path).status_code == 401
            assert client.post(path, headers={"Authorization": f"Bearer {READING}"}).status_code == 403
            elsewhere = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://elsewhere.example"}
            assert client.post(path, headers=elsewhere).status_code == 403
            assert without_token.post(path, headers={"Host": "elsewhere.example"}).status_code == 421
            assert without_token.post(path, headers={"Origin": "http://elsewhere.example"}).status_code == 403
            assert client.post(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 422  # is asked
