"""Trainings that the board starts: the form, the queue, its order, and what a restart of the board leaves."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

import cifarlab
from chromium import needs_chromium, serious_faults, served
from cifarlab import recipe as load_recipe
from cifarlab.board.answers import BusyError
from cifarlab.board.app import create_app
from cifarlab.board.state import Board
from cifarlab.board.trainings.queue import Training, TrainingQueue
from cifarlab.errors import UsageError

SECONDS = 120  # the longest wait for a training on a busy machine
QUICK = ("lenet5", "--data", "digits", "--set", "epochs=1", "--set", "batch_size=256")
LONG = ("lenet5", "--data", "digits", "--set", "epochs=100000", "--threads", "1", "--precision", "fp32")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[TrainingQueue]:
    queue = TrainingQueue(tmp_path / "runs", at_once=1)
    yield queue
    for training in queue.trainings():
        if training.is_active:
            wait_for(queue, training, "running", "finished")
        if not training.has_ended:
            queue.cancel(training.id)
    queue.close()


def wait_for(queue: TrainingQueue, training: Training, *statuses: str) -> Training:
    deadline = time.monotonic() + SECONDS
    while True:
        (now,) = (each for each in queue.trainings() if each.id == training.id)
        if now.status in statuses:
            return now
        assert time.monotonic() < deadline and not now.has_ended, now
        time.sleep(0.05)


def test_a_training_runs_as_its_command_says(queue: TrainingQueue, tmp_path: Path) -> None:
    training = queue.add([*QUICK, "--seed", "3"])
    assert shlex.split(training.command)[:3] == ["cifarlab", "train", "lenet5"]
    assert training.name.startswith("lenet5-") and training.status == "waiting"
    assert wait_for(queue, training, "finished").reason == ""
    here = cifarlab.train(
        load_recipe("lenet5", dataset="digits", epochs=1, batch_size=256, seed=3), runs=tmp_path, quiet=True
    )
    run = cifarlab.Run(tmp_path / "runs" / training.name)
    assert run.results["test_accuracy"] == here.results["test_accuracy"]


@pytest.mark.slow
def test_others_wait_are_ordered_and_cancelled(queue: TrainingQueue, tmp_path: Path) -> None:
    first = queue.add([*LONG, "--name", "first"])
    names = [queue.add([*QUICK, "--name", name]).name for name in ("second", "third", "fourth")]
    wait_for(queue, first, "running")
    assert [each.status for each in queue.trainings()] == ["running", *["waiting"] * 3] and names[0] == "second"
    queue.move(4, -1)
    queue.move(2, 1)
    assert [each.name for each in queue.trainings()] == ["first", "fourth", "second", "third"]
    with pytest.raises(UsageError, match="cannot move"):
        queue.move(4, -1)
    with pytest.raises(UsageError, match="there is no training 9"):
        queue.move(9, 1)
    with pytest.raises(UsageError, match="'second' already exists or waits"):
        queue.add([*QUICK, "--name", "second"])
    with pytest.raises(UsageError, match="plain name"):
        queue.add([*QUICK, "--name", "../second"])
    with pytest.raises(BusyError, match="another board"):
        TrainingQueue(tmp_path / "runs").add(QUICK)
    queue.cancel(2)
    queue.cancel(3)
    queue.cancel(1)
    stopped = wait_for(queue, first, "interrupted")
    assert "stopped by request" in stopped.reason
    wait_for(queue, queue.trainings()[1], "finished")
    assert [each.status for each in queue.trainings()] == ["interrupted", "finished", "cancelled", "cancelled"]
    with pytest.raises(UsageError, match="is cancelled"):
        queue.cancel(2)


def test_a_failure_keeps_its_reason(queue: TrainingQueue) -> None:
    training = queue.add(["no-recipe"])
    assert "unknown recipe 'no-recipe'" in wait_for(queue, training, "failed").reason


@pytest.mark.slow
def test_a_restart_of_the_board_loses_nothing(queue: TrainingQueue, tmp_path: Path) -> None:
    running, waiting = queue.add([*LONG, "--name", "long"]), queue.add([*QUICK, "--name", "quick"])
    wait_for(queue, running, "running")
    queue.close()
    later = TrainingQueue(tmp_path / "runs", at_once=1)
    assert [each.status for each in later.trainings()] == ["running", "waiting"]
    later.open()
    later.cancel(running.id)
    wait_for(later, running, "interrupted")
    wait_for(later, waiting, "finished")
    later.close()
    queue.open()
    assert [each.status for each in queue.trainings()] == ["interrupted", "finished"]


def test_a_damaged_file_is_named(queue: TrainingQueue, tmp_path: Path) -> None:
    wait_for(queue, queue.add(["no-recipe"]), "failed")
    (path,) = (tmp_path / "home").rglob("queue.json")
    queue.close()
    path.write_text("[")
    queue.open()
    for _ in range(2):
        with pytest.raises(UsageError, match="Delete that file"):
            queue.trainings()
        with pytest.raises(UsageError, match="Delete that file"):
            queue.add(["no-recipe"])
    assert path.read_text() == "["
    path.unlink()


ADDRESS = "http://127.0.0.1:8642"
TOKENS = ("the-token-of-the-teacher", "the-token-of-the-pupils")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(tmp_path / "runs"), base_url=ADDRESS) as client:
        yield client
        for training in client.get("/api/trainings").json()["trainings"]:
            client.post(f"/api/trainings/{training['id']}/cancel")


def test_the_form_offers_what_the_schema_says(client: TestClient) -> None:
    choices = client.get("/api/trainings/form").json()
    epochs = next(setting for setting in choices["settings"] if setting["key"] == "epochs")
    assert epochs["limits"] == "above 0, at most 100,000" and epochs["meaning"].startswith("Passes over")
    recipes = {recipe["name"]: recipe for recipe in choices["recipes"]}
    assert recipes.keys() == set(cifarlab.recipes.names())
    assert recipes["fast90"]["values"]["epochs"] == load_recipe("fast90").epochs
    assert choices["data"]["cifar10"][3] == "cat" and "cifar10.1" not in choices["data"]  # it is only a test set
    page = client.get("/train").text
    assert all(f'id="set-{setting["key"]}"' in page for setting in choices["settings"])


def test_the_command_says_what_the_form_says(client: TestClient) -> None:
    form = {"recipe": "lenet5", "data": "digits", "drop": ["3"], "merge": ["4=5"], "set": ["epochs=2", "tta=true"]}
    command = client.get("/api/trainings/command", params={**form, "seed": 7, "name": "mine"}).json()["command"]
    words = "--data digits --drop 3 --merge 4=5 --set epochs=2 --set tta=true --seed 7 --name mine"
    assert command == f"cifarlab train lenet5 {words}"
    command = client.get("/api/trainings/command?data=digits&minutes=0.5").json()["command"]
    assert command == "cifarlab train --data digits --minutes 0.5"


def test_a_class_called_like_an_option_stays_a_class(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"folder:photos": ("--trust", "cat")}
    monkeypatch.setattr(Board, "own_data", lambda board: own)
    form = {"recipe": "small", "data": "folder:photos", "drop": "--trust", "merge": "--trust=net.py"}
    command = client.get("/api/trainings/command", params=form).json()["command"]
    assert command.endswith("--data folder:photos --drop=--trust --merge=--trust=net.py")


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({}, "choose a recipe, a data set or both"),
        ({"recipe": "/etc/passwd"}, "unknown recipe"),
        ({"recipe": "mine.toml"}, "unknown recipe"),
        ({"recipe": "lenet5", "data": "folder:/etc"}, "unknown data set"),
        ({"recipe": "lenet5", "set": ["model=net.py:Net"]}, "no setting 'model'"),
        ({"recipe": "lenet5", "set": ["start_from=/etc/passwd"]}, "no setting 'start_from'"),
        ({"recipe": "lenet5", "set": ["epochs=-1"]}, "epochs"),
        ({"recipe": "lenet5", "set": ["epochs=2"], "minutes": 1}, "either epochs or minutes"),
        ({"recipe": "lenet5", "drop": ["truk"]}, "truk"),
        ({"recipe": "lenet5", "merge": ["truck"]}, "FROM=INTO"),
        ({"recipe": "lenet5", "name": "../up"}, "plain name"),
    ],
)
def test_wrong_forms_start_nothing(client: TestClient, form: dict[str, str], reason: str) -> None:
    answer = client.post("/api/trainings", params=form)
    assert answer.status_code == 400 and reason in answer.json()["detail"]
    assert client.get("/api/trainings").json()["trainings"] == []


def test_wrong_kinds_of_values_are_refused(client: TestClient) -> None:
    assert client.post("/api/trainings/1/cancel").status_code == 404  # before there is a file of the queue
    for query in ("seed=-1", "seed=a", "minutes=0", "minutes=nan", "force=true", "set=" + "a" * 301):
        assert client.post(f"/api/trainings?recipe=lenet5&{query}").status_code == 422, query
    assert client.post("/api/trainings/1/cancel").status_code == 404
    assert client.post("/api/trainings/1/run").status_code == 422


def test_a_training_is_started_and_cancelled_over_http(client: TestClient) -> None:
    form = {"recipe": "lenet5", "data": "digits", "set": "epochs=1000"}
    begun = [client.post("/api/trainings", params={**form, "name": name}) for name in ("a", "b")]
    assert [answer.status_code for answer in begun] == [202, 202]
    assert "--name a" in begun[0].json()["command"] and "process" not in begun[0].json()
    trainings = client.post("/api/trainings/2/cancel").json()["trainings"]
    assert [training["name"] for training in trainings] == ["a", "b"]


def test_an_estimate_is_the_dry_run_of_the_command(client: TestClient) -> None:
    plan = client.post("/api/trainings/estimate?recipe=lenet5&data=digits&set=epochs=2&drop=3").json()
    assert plan["epochs"] == 2 and len(plan["classes"]) == 9 and plan["seconds"] > 0 and plan["changed"]
    answer = client.post("/api/trainings/estimate?recipe=lenet5&data=digits&set=batch_size=1&set=schedule=step")
    assert answer.status_code == 400 and "milestones" in answer.json()["detail"]


def test_who_may_not_change_starts_nothing(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path / "runs", *TOKENS), base_url="http://elsewhere.example") as client:
        for path in (
            "/api/trainings?recipe=lenet5",
            "/api/trainings/estimate?recipe=lenet5",
            "/api/trainings/1/cancel",
        ):
            assert client.post(path).status_code == 401
            assert client.post(path, headers={"authorization": f"Bearer {TOKENS[1]}"}).status_code == 403
            foreign = {"authorization": f"Bearer {TOKENS[0]}", "origin": "http://evil.example"}
            assert client.post(path, headers=foreign).status_code == 403
        reading = client.get("/train", headers={"authorization": f"Bearer {TOKENS[1]}"}).text
        assert "only reads" in reading and 'id="add"' not in reading
    with TestClient(create_app(tmp_path / "runs"), base_url="http://evil.example") as client:
        assert client.post("/api/trainings?recipe=lenet5").status_code == 421


@needs_chromium
@pytest.mark.slow
def test_a_pupil_trains_by_clicking(tmp_path: Path, browser: Browser, axe: str) -> None:
    with served(tmp_path / "runs") as address:
        page = browser.new_page()  # which may log refusals
        page.goto(f"{address}/train")
        page.get_by_label("Recipe", exact=True).select_option("lenet5")
        page.get_by_label("Data set").select_option("digits")
        page.get_by_label("epochs", exact=True).last.fill("2")
        page.get_by_text("Classes: leave out or merge").click()
        page.get_by_label("3", exact=True).select_option("leave out")
        page.get_by_label("4", exact=True).select_option("count as 5")
        command = "cifarlab train lenet5 --data digits --drop 3 --merge 4=5 --set epochs=2"
        expect(page.locator("#command")).to_have_text(command)
        page.get_by_role("button", name="Estimate the time").click()
        expect(page.locator("#plan")).to_contain_text("2 epochs", timeout=1000 * SECONDS)
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator("#queue .state")).to_have_text("finished", timeout=1000 * SECONDS)
        page.reload()
        expect(page.locator("#queue .state")).to_have_text("finished")
        expect(page.locator("#command")).to_have_text(command)  # the form keeps its values
        page.locator("#set-epochs").fill("-1")
        expect(page.get_by_role("alert")).to_contain_text("epochs should be greater than 0")
        assert serious_faults(page, axe) == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#queue a").click()
        expect(page.locator("#epochs")).to_have_text("2")
        page.close()
