"""A class: students join, hand in weights, and the scoreboard says which differences are real."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser, expect

import cifarlab
from chromium import needs_chromium, serious_faults
from cifarlab import Data, Run
from cifarlab import recipe as load_recipe
from cifarlab.board.app import create_app
from cifarlab.board.classroom import child
from cifarlab.board.classroom.scoreboard import Classroom, Student, Try, scoreboard
from cifarlab.errors import CifarlabError, UsageError

ADDRESS = "http://127.0.0.1:8642"
TOKENS = ("the-token-of-the-teacher", "the-token-of-the-pupils")
SECONDS = 120_000  # in milliseconds


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    """A folder with 200 images of digits, a folder per class."""
    folder = tmp_path_factory.mktemp("held-out")
    for number, (image, label) in enumerate(zip(digits.test.images[:200], digits.test.labels, strict=False)):
        path = folder / digits.classes[label] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path)
    return folder


@pytest.fixture
def classroom(held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Classroom]:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    classroom = Classroom(str(held_out), most_tries=2)
    yield classroom
    classroom.close()


@pytest.fixture
def client(classroom: Classroom, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(tmp_path / "runs", classroom=classroom), base_url=ADDRESS) as client:
        yield client


def a_try(correct: int, images: int = 1000) -> Try:
    bits = np.packbits(np.arange(images) < correct)
    packed = base64.b64encode(bits.tobytes()).decode()
    return Try(when="2026-01-01", sha256=str(correct), model="m", recipe="r", images=images, correct=packed)


def student(name: str, *correct: int) -> Student:
    return Student(name=name, key_sha256=name, tries=tuple(map(a_try, correct)))


def test_places_are_shared_unless_the_difference_is_real() -> None:
    rows = scoreboard((student("Cem", 700), student("Anna", 902), student("Ben", 900), student("Dora")))
    assert [(row.name, row.place, row.like_the_first) for row in rows] == [
        ("Anna", 1, False),
        ("Ben", 1, True),
        ("Cem", 3, False),
        ("Dora", None, False),
    ]
    assert rows[0].low is not None and rows[0].high is not None and rows[0].low < 0.902 < rows[0].high
    assert rows[0].luck == 0


def test_many_tries_cost_certainty() -> None:
    def is_like_the_first(tries: int) -> bool:
        return scoreboard((student("Anna", 910, *[909] * tries), student("Ben", 900)))[1].like_the_first

    assert not is_like_the_first(1) and is_like_the_first(40)  # 10 images that only one gets right: p = 0.002
    lucky = scoreboard((student("Anna", 905, 900, 895),))[0].luck
    assert lucky is not None and 0.002 < lucky < 0.02


def test_the_same_answers_are_shown() -> None:
    first, second = (a_try(900).model_copy(update={"answers_sha256": "same", "when": day}) for day in ("1", "2"))
    ben, anna = (
        Student(name=name, key_sha256=name, tries=(each,)) for name, each in (("Ben", second), ("Anna", first))
    )
    assert [(row.name, row.same_as) for row in scoreboard((ben, anna))] == [("Ben", "Anna"), ("Anna", "")]
    assert scoreboard((student("Cem", 900), student("Dora", 900)))[0].same_as == ""  # of earlier versions


def hand_in(client: TestClient, key: str, content: bytes, kind: str = "safetensors") -> tuple[int, str]:
    answer = client.post(f"/api/class/weights?format={kind}", content=content, headers={"X-Student-Key": key})
    return answer.status_code, answer.json().get("detail", "")


def test_a_student_hands_in_and_cannot_be_overwritten(
    client: TestClient, classroom: Classroom, trained_run: Run, held_out: Path
) -> None:
    anna = client.post("/api/class/join?name=Anna").json()["key"]
    ben = client.post("/api/class/join?name=Ben").json()["key"]
    assert client.post("/api/class/join?name=anna").status_code == 400
    weights = trained_run.weights.read_bytes()
    assert hand_in(client, anna, weights) == (200, "")
    assert hand_in(client, anna, weights) == (200, "")  # the same file again is no new try
    (row, waiting) = client.get("/api/class").json()["rows"]
    expected = cifarlab.evaluate(trained_run, f"folder:{held_out}")
    assert row["name"] == "Anna" and row["tries"] == 1 and row["accuracy"] == pytest.approx(expected.accuracy)
    assert waiting["name"] == "Ben" and waiting["tries"] == 0
    assert hand_in(client, "wrong", weights)[0] == 400
    assert hand_in(client, ben, b"")[0] == 400
    assert hand_in(client, ben, weights, "pt")[0] == 422
    client.app.state.board.handing_in.add(classroom.check(ben).key_sha256)  # type: ignore[attr-defined]
    status, reason = hand_in(client, ben, weights)
    assert status == 400 and "still being evaluated" in reason
    page = client.get("/class").text
    assert "Scoreboard" in page and anna not in page


@pytest.mark.slow
def test_refused_files_cost_no_try(client: TestClient, classroom: Classroom, trained_run: Run) -> None:
    ben = client.post("/api/class/join?name=Ben").json()["key"]
    status, reason = hand_in(client, ben, trained_run.weights.read_bytes()[:5000])
    assert status == 400 and reason.startswith("the file is not a safetensors file: ")  # without its place here
    assert classroom.check(ben).tries == ()


def changed(weights: Path, to: Path, **about: Any) -> Path:
    """Write weights whose metadata say something else of their origin."""
    with safetensors.safe_open(weights, framework="np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = about.pop("model", metadata["model"])
    metadata |= {"about": json.dumps(json.loads(metadata["about"]) | about), "model": model}
    to.write_bytes(safetensors.numpy.save(tensors, {key: text for key, text in metadata.items() if key != "sha256"}))
    return to


def test_weights_never_run_code(tmp_path: Path, trained_run: Run) -> None:
    source, ran = tmp_path / "net.py", tmp_path / "ran"
    source.write_text(f"open({str(ran)!r}, 'w')\n")
    weights = changed(trained_run.weights, tmp_path / "own.safetensors", model=f"{source}:Net")
    with pytest.raises(UsageError, match="not run here"):
        child.evaluate(weights, "digits")
    assert not ran.exists()


def test_weights_cannot_change_the_task(tmp_path: Path, trained_run: Run, digits: Data) -> None:
    honest = child.evaluate(trained_run.weights, "digits")
    predictions = trained_run.predictions
    assert predictions is not None
    labels = {f"test image {number}": digits.classes[label] for number, label in enumerate(predictions[0].argmax(1))}
    forged = changed(trained_run.weights, tmp_path / "forged.safetensors", labels=labels)
    assert cifarlab.evaluate(forged, quiet=True).accuracy == 1  # by correcting the labels of the test images
    assert child.evaluate(forged, "digits")["correct"] == honest["correct"]
    merged = changed(trained_run.weights, tmp_path / "merged.safetensors", merge={"zero": "one"})
    with pytest.raises(UsageError, match="easier task"):
        child.evaluate(merged, "digits")


def test_tries_are_limited(classroom: Classroom) -> None:
    key = classroom.join("Anna")
    for correct in (10, 20):
        classroom.add(key, a_try(correct, classroom.images))
    with pytest.raises(UsageError, match="all 2 tries of Anna are used up"):
        classroom.add(key, a_try(30, classroom.images))
    with pytest.raises(UsageError, match="trained on the others"):
        classroom.add(classroom.join("Ben"), a_try(30, classroom.images - 1))
    with pytest.raises(CifarlabError, match="another board"):
        Classroom(classroom.data.removeprefix("folder:"))


def test_names_that_look_alike_are_refused(classroom: Classroom) -> None:
    for name in ("Anna", "नेहा", "O'Neill-Søe"):
        classroom.join(name)
    for name in ("ANNA", "An na", "\uff21nna", "Anna.", "ONeill Søe"):
        with pytest.raises(UsageError, match="already"):
            classroom.join(name)


@pytest.mark.parametrize("name", ["", "../up", "<b>x</b>", "a" * 41, "a\x00b", "-a", "a\u200bb"])
def test_strange_names_are_refused(classroom: Classroom, name: str) -> None:
    with pytest.raises(UsageError, match="the name must be"):
        classroom.join(name)


def test_the_reading_token_hands_in_but_removes_nobody(classroom: Classroom, tmp_path: Path) -> None:
    app = create_app(tmp_path / "runs", *TOKENS, classroom)
    with TestClient(app, base_url="http://elsewhere.example") as client:
        teacher, pupil = ({"authorization": f"Bearer {token}"} for token in TOKENS)
        for path in ("/api/class/join?name=Anna", "/api/class/weights?format=onnx", "/api/class/remove?name=Anna"):
            assert client.post(path).status_code == 401
            assert client.post(path, headers=teacher | {"origin": "http://evil.example"}).status_code == 403
        assert client.post("/api/class/join?name=Anna", headers=pupil).status_code == 201
        assert client.post("/api/class/remove?name=Anna", headers=pupil).status_code == 403
        assert client.post("/api/class/remove?name=Ben", headers=teacher).status_code == 404
        assert client.post("/api/class/remove?name=Anna", headers=teacher).json()["rows"] == []


def test_a_board_without_a_class_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path), base_url=ADDRESS) as client:
        assert "--class FOLDER" in client.get("/api/class").json()["detail"]
        assert client.get("/class").status_code == 404 and 'href="/class"' not in client.get("/").text


@needs_chromium
@pytest.mark.slow
def test_three_students_see_the_scoreboard(
    browser: Browser, axe: str, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    weights = {}
    for name, epochs in (("Anna", 8), ("Cem", 1)):
        recipe = load_recipe("lenet5", dataset="digits", epochs=epochs, batch_size=64)
        weights[name] = cifarlab.train(recipe, runs=tmp_path / "theirs", name=name, quiet=True).weights
    weights["Ben"] = tmp_path / "ben.onnx"  # the same network, so that no test can tell it from Anna's
    cifarlab.export(weights["Anna"], weights["Ben"])
    command = ["board", "--port", "0", "--runs", str(tmp_path / "runs"), "--class", str(held_out)]
    with subprocess.Popen([sys.executable, "-m", "cifarlab", *command], stderr=subprocess.PIPE, text=True) as board:
        try:
            assert board.stderr is not None
            address = board.stderr.readline().split()[1].rstrip("/")
            projector = browser.new_page()
            projector.goto(f"{address}/class")
            for name, path in sorted(weights.items()):
                context = browser.new_context()
                page = context.new_page()
                page.goto(f"{address}/class/hand-in")
                page.get_by_label("Name").fill(name)
                page.keyboard.press("Enter")
                expect(page.locator("#result")).to_have_text(f"{name} has joined.")
                page.get_by_label("Weights file").set_input_files(path)
                page.get_by_role("button", name="Hand in").press("Enter")
                expect(page.locator("#result")).to_contain_text("on the scoreboard", timeout=SECONDS)
                assert serious_faults(page, axe) == []
                context.close()
            rows = projector.locator("#scoreboard tbody tr")
            expect(rows).to_have_count(3, timeout=SECONDS)
            expect(rows.nth(2)).to_contain_text("Cem", timeout=SECONDS)
            expect(rows.nth(2)).to_contain_text("lower")
            expect(rows.nth(1)).to_contain_text("not distinguishable")
            for scheme, width in (("light", 1280), ("dark", 390)):
                projector.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                projector.set_viewport_size({"width": width, "height": 800})
                assert serious_faults(projector, axe) == []
                assert projector.evaluate("document.documentElement.scrollWidth") <= width
                projector.screenshot(path=tmp_path / f"class-{scheme}.png")
        finally:
            board.terminate()
