"""Corrected labels over HTTP: decisions are written beside the data, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import cifarlab
from cifarlab import recipe as load_recipe
from cifarlab.board.app import create_app
from cifarlab.data.corrections import read_labels

ADDRESS = "http://127.0.0.1:8642"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    recipe = load_recipe("lenet5", dataset="digits", epochs=1, batch_size=256)
    cifarlab.train(recipe, runs=tmp_path / "runs", name="first", quiet=True)
    with TestClient(create_app(tmp_path / "runs"), ADDRESS) as client:
        yield client


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
    assert f"--labels {table}" in state["command"] and "epochs=1" in state["command"]
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
