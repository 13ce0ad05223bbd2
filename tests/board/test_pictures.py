"""Data sets of one's own pictures: uploads, names and changes over HTTP, and what is left on the disk."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cifarlab import load_data
from cifarlab.board.app import create_app
from cifarlab.data.corrections import correct_labels, read_labels, write_labels

ADDRESS = "http://127.0.0.1:8642"
TOKEN, READING = "t" * 20, "r" * 20


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    (tmp_path / "runs").mkdir()
    with TestClient(create_app(tmp_path / "runs", pictures=tmp_path / "pictures"), ADDRESS) as client:
        yield client


def picture(colour: int, width: int = 80, height: int = 60) -> bytes:
    pixels = np.random.default_rng(colour).integers(0, 200, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def add(client: TestClient, label: str, *contents: bytes) -> dict[str, Any]:
    files = [("pictures", (f"{number}.png", content)) for number, content in enumerate(contents)]
    answer = client.post(f"/api/pictures/pets/add?label={label}", files=files)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def make_pets(client: TestClient) -> None:
    assert client.post("/api/pictures", json={"name": "pets"}).status_code == 201
    for first, label in enumerate(("cat", "dog")):
        assert client.post("/api/pictures/pets/classes", json={"name": label}).status_code == 201
        add(client, label, *(picture(10 * first + number) for number in range(5)))


def test_a_data_set_is_made_and_read_by_trainings(client: TestClient, tmp_path: Path) -> None:
    make_pets(client)
    data = load_data(f"folder:{tmp_path / 'pictures' / 'pets'}", quiet=True)
    assert data.classes == ("cat", "dog") and len(data.train) + len(data.test) == 10
    assert f"folder:{tmp_path / 'pictures' / 'pets'}" in client.get("/api/trainings/form").json()["data"]
    image = client.get("/api/pictures/pets/classes/cat/000001.png")
    assert Image.open(io.BytesIO(image.content)).size == (60, 60)  # a square
    assert "pets" in client.get("/pictures").text and client.get("/pictures?name=pets").status_code == 200


def test_pictures_are_moved_deleted_and_brought_back(client: TestClient) -> None:
    make_pets(client)
    before = client.get("/api/pictures/pets").json()["classes"]
    moved = client.post("/api/pictures/pets/move", json={"pictures": ["cat/000001.png"], "label": "dog"}).json()
    assert "000001.png" in moved["classes"]["dog"] and len(moved["classes"]["cat"]) == 4
    client.post("/api/pictures/pets/move", json={"pictures": ["dog/000001.png", "dog/000006.png"]})
    renamed = client.post("/api/pictures/pets/rename", json={"label": "cat", "name": "kitten"}).json()
    assert list(renamed["classes"]) == ["dog", "kitten"]
    removed = client.post("/api/pictures/pets/rename", json={"label": "kitten"}).json()
    assert list(removed["classes"]) == ["dog"]
    for _ in range(4):
        answer = client.post("/api/pictures/pets/undo")
    assert answer.json()["classes"] == before
    while client.get("/api/pictures/pets").json()["can_undo"]:  # the uploads too
        answer = client.post("/api/pictures/pets/undo")
    assert answer.json()["classes"] == {"cat": [], "dog": []}
    assert client.post("/api/pictures/pets/undo").status_code == 400


def test_corrected_labels_follow_their_pictures(client: TestClient, tmp_path: Path) -> None:
    make_pets(client)
    table = tmp_path / "pictures" / "pets.labels.csv"
    before = {"cat/000001.png": "dog", "cat/000002.png": "", "cat/000003.png": "dog", "dog/000006.png": "cat"}
    write_labels(table, before)
    both = {"pictures": ["cat/000001.png", "cat/000002.png"], "label": "dog"}
    client.post("/api/pictures/pets/move", json=both)  # the newer decision; what is left out stays so
    assert read_labels(table) == {"dog/000002.png": "", "cat/000003.png": "dog", "dog/000006.png": "cat"}
    client.post("/api/pictures/pets/rename", json={"label": "cat", "name": "kitten"})
    assert read_labels(table) == {"dog/000002.png": "", "kitten/000003.png": "dog", "dog/000006.png": "kitten"}
    data = load_data(f"folder:{tmp_path / 'pictures' / 'pets'}", quiet=True)
    correct_labels(data, read_labels(table))  # a training takes them
    client.post("/api/pictures/pets/rename", json={"label": "kitten"})
    assert read_labels(table) == {"dog/000002.png": ""}
    for _ in range(3):
        client.post("/api/pictures/pets/undo")
    assert read_labels(table) == before


def test_trainings_use_the_corrected_labels(client: TestClient, tmp_path: Path) -> None:
    make_pets(client)
    write_labels(table := tmp_path / "pictures" / "pets.labels.csv", {"cat/000001.png": "no class"})
    training = client.post("/api/pictures/pets/train").json()
    assert f"--labels {table}" in training["command"]
    deadline = time.monotonic() + 60
    while (last := client.get("/api/trainings").json()["trainings"][-1])["status"] in ("waiting", "starting"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert last["status"] == "failed" and "corrected label of cat/000001.png" in last["reason"]


def test_a_data_set_does_not_inherit_corrected_labels(client: TestClient, tmp_path: Path) -> None:
    make_pets(client)
    write_labels(tmp_path / "pictures" / "pets.labels.csv", {"cat/000001.png": "dog"})
    shutil.rmtree(tmp_path / "pictures" / "pets")
    answer = client.post("/api/pictures", json={"name": "pets"})
    assert answer.status_code == 400 and "earlier data set 'pets'" in answer.json()["detail"]


def test_what_is_no_picture_is_refused_and_spoils_no_other(client: TestClient) -> None:
    make_pets(client)
    answer = add(client, "cat", b"no picture", picture(77), b"<svg/>", b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    assert sorted(answer["refused"]) == ["0.png", "2.png", "3.png"]
    assert "not an image in a known format" in answer["refused"]["0.png"]
    assert len(answer["set"]["classes"]["cat"]) == 6
    many = [("pictures", (f"{number}.png", b"")) for number in range(21)]
    assert "at most 20" in client.post("/api/pictures/pets/add?label=cat", files=many).json()["detail"]


def test_findings_name_their_pictures(client: TestClient) -> None:
    make_pets(client)
    add(client, "dog", picture(0))  # a cat's picture
    findings = client.get("/api/pictures/pets/findings").json()
    (contradiction,) = (each for each in findings if each["kind"] == "contradiction")
    assert contradiction["pictures"] == ["cat/000001.png", "dog/000011.png"]


@pytest.mark.parametrize(
    "name", ["", " ", "../pets", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "x" * 61, "__MACOSX", ".."]
)
def test_names_never_leave_their_folder(name: str, client: TestClient, tmp_path: Path) -> None:
    make_pets(client)
    before = sorted(tmp_path.rglob("*"))
    assert client.post("/api/pictures", json={"name": name}).status_code == 400
    assert client.post("/api/pictures/pets/classes", json={"name": name}).status_code == 400
    if name:  # an empty name removes the class
        assert client.post("/api/pictures/pets/rename", json={"label": "cat", "name": name}).status_code == 400
    upload = [("pictures", ("../../x.png", picture(1)))]
    assert client.post("/api/pictures/pets/add", params={"label": name}, files=upload).status_code == 400
    moving = {"pictures": [f"{name}/000001.png"], "label": "dog"}
    assert client.post("/api/pictures/pets/move", json=moving).status_code == 404
    moving = {"pictures": [f"cat/{name}"], "label": "dog"}
    assert client.post("/api/pictures/pets/move", json=moving).status_code == 404
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_not_followed(client: TestClient, tmp_path: Path) -> None:
    make_pets(client)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "000001.png").write_bytes(picture(1))
    (tmp_path / "pictures" / "pets" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "pictures" / "pets" / "cat" / "000099.png").symlink_to(tmp_path / "secret" / "000001.png")
    assert "link" not in client.get("/api/pictures/pets").json()["classes"]
    assert client.get("/api/pictures/pets/classes/link/000001.png").status_code == 404
    assert client.get("/api/pictures/pets/classes/cat/000099.png").status_code == 404


def test_changes_need_the_token_and_the_boards_own_pages(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    app = create_app(tmp_path, TOKEN, READING, pictures=pictures)
    open_app = create_app(tmp_path, pictures=pictures)
    with TestClient(app, ADDRESS) as client, TestClient(open_app, ADDRESS) as without_token:
        paths = [path for path, methods in app.openapi()["paths"].items() if "post" in methods]
        changing = [path.replace("{name}", "pets") for path in paths if path.startswith("/api/pictures")]
        assert len(changing) == 7
        for path in changing:
            assert client.post(path, json={}).status_code == 401
            assert client.post(path, json={}, headers={"Authorization": f"Bearer {READING}"}).status_code == 403
            elsewhere = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://elsewhere.example"}
            assert client.post(path, json={}, headers=elsewhere).status_code == 403
            assert without_token.post(path, json={}, headers={"Host": "elsewhere.example"}).status_code == 421
            assert without_token.post(path, json={}, headers={"Origin": elsewhere["Origin"]}).status_code == 403
            asked = client.post(path, json={}, headers={"Authorization": f"Bearer {TOKEN}"})
            assert asked.status_code in (404, 422)  # no such data set, or no name
        assert not pictures.exists()
        assert client.get("/api/pictures", headers={"Authorization": f"Bearer {READING}"}).json() == []


def test_too_few_pictures_are_not_trained_on(client: TestClient) -> None:
    client.post("/api/pictures", json={"name": "pets"})
    assert "at least two classes" in client.post("/api/pictures/pets/train").json()["detail"]
    client.post("/api/pictures/pets/classes", json={"name": "cat"})
    assert "'cat' has fewer" in client.post("/api/pictures/pets/train").json()["detail"]
    assert client.post("/api/pictures/none/train").status_code == 404
