"""Studies that are trained: what their folder holds, that they go on, and that a run that fails does not end them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifarlab import UsageError, run_study
from cifarlab.errors import CifarlabError
from cifarlab.experiments.study import grid
from cifarlab.experiments.study.display import Display, display
from cifarlab.experiments.study.engines.local import ending, shares, usable_cores
from cifarlab.experiments.study.jobs import Job, carry_out, clear
from cifarlab.experiments.study.outcome import State
from cifarlab.experiments.study.sweep import plan
from cifarlab.runs.folder import RunFolder
from conftest import Cli, answer

SMALL = {"dataset": "digits", "epochs": 1, "batch_size": 256}
SECONDS = 120.0  # for a busy machine

OWN = """import os, pathlib, signal
from torch import nn
class Net(nn.Module):
    def __init__(self, classes=10, bad=0):
        super().__init__()
        self.layers, self.bad, self.steps = nn.Sequential(nn.Flatten(), nn.Linear(3072, classes)), bad, 0
    def forward(self, images):
        self.steps += self.training and len(images) > 2
        tried = pathlib.Path(f"tried-{self.bad}")
        if self.steps == (2 if tried.exists() else 8) and self.bad and not pathlib.Path("mended").exists():
            tried.open("a").write("x")
            if self.bad < 0:
                raise ValueError("broken on purpose")
            if len(tried.read_text()) <= self.bad:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(images)
"""  # its 8th step is in the second epoch; it dies as often as `bad` says (then in the second), or raises below 0


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a small study, which the command line trained in two processes."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "rates.toml").write_text(
        'name = "rates"\nrecipe = "lenet5"\n[set]\ndataset = "digits"\nepochs = 1\nbatch_size = 256\n'
        "[vary]\nlearning_rate = [0.2, 0.001]\n"
    )
    command = [
        sys.executable,
        "-m",
        "cifarlab",
        "study",
        "rates.toml",
        "--vary",
        "seed=0:2",
        "--workers",
        "2",
        "--json",
    ]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (folder / "stdout.json").write_text(ended.stdout)
    (folder / "stderr.txt").write_text(ended.stderr)
    return folder


def test_a_study_is_a_table_of_ordinary_runs(trained: Path) -> None:
    folder = trained / "runs" / "rates"
    told = json.loads((trained / "stdout.json").read_text())
    assert told == json.loads((folder / "results.json").read_text())
    rows = table(folder)
    assert [(row["learning_rate"], row["seed"]) for row in rows] == [
        (rate, seed) for seed in ("0", "1") for rate in ("0.2", "0.001")
    ]
    share = shares(2, usable_cores(), [], os.environ)[0]
    for row in rows:
        run = RunFolder(folder / row["run"])
        assert run.status == "finished" and (run.path / "report.html").exists()
        assert str(run.results["test_accuracy"]) == row["test_accuracy"]
        assert (run.recipe.learning_rate, run.recipe.seed) == (float(row["learning_rate"]), int(row["seed"]))
        assert str(run.record.environment.threads) == share["OMP_NUM_THREADS"]
        assert "cifarlab train lenet5 --set batch_size=256 --set dataset=digits --set " in run.record.command
    assert [setting["values"]["learning_rate"] for setting in told["settings"]] == [0.2, 0.001]  # the best first
    assert told["compared"]["pairs"][0]["test"] == "welch"
    lines = (trained / "stderr.txt").read_text().splitlines()
    assert sum(": finished, accuracy " in line for line in lines) == 4 and all("\x1b" not in line for line in lines)


def test_the_same_command_trains_nothing_twice(trained: Path, cli: Cli) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("run.json")}
    ended = cli("study", trained / "runs" / "rates" / "study.toml", "--runs", trained / "runs")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("run.json")} == before and len(before) == 4
    assert "best by accuracy on validation images first" in ended.stdout and "real?" in ended.stdout
    assert "chose the first" not in ended.stdout


def test_who_ranks_by_test_images_is_told_what_that_does(trained: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    told = cli("study", tmp_path / "runs" / "rates" / "study.toml", "--metric", "test_accuracy").stdout
    assert told.splitlines()[0].split() == ["setting", "runs", "test", "deviation", "95", "%", "interval"]
    assert "The test images chose the first" in told


def test_a_damaged_run_is_one_that_failed_and_stops_nothing(trained: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    folder, name = tmp_path / "runs" / "rates", "learning_rate=0.2-seed=1"
    (folder / name / "run.json").write_text('{"schema": 1, "rec')
    ended = cli("study", folder / "study.toml", status=1)
    told = f"{name}: failed: {Path('runs') / 'rates' / name / 'run.json'} is damaged".split(": ")
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith(f"{name}: failed")]
    assert told[-1] in line and line.endswith(f"move the folder {name} away, and the run is trained anew")
    assert "1 of 4 runs failed" in ended.stderr and "damaged" not in ended.stderr.splitlines()[-1]
    assert [row["status"] for row in table(folder)].count("finished") == 3
    compared = cli("compare", "rat*")
    assert compared.stderr == f"left out: rates/{name} (damaged)\n" and "learning_rate=0.001" in compared.stdout


def test_other_commands_know_the_runs_of_a_study(trained: Path, cli: Cli) -> None:
    folder, runs = trained / "runs" / "rates", ("--runs", trained / "runs")
    listed = answer(cli("runs", *runs, "--json"))
    name = "rates/learning_rate=0.2-seed=1"
    assert len(listed) == 4 and name in {row["name"] for row in listed}
    assert answer(cli("evaluate", name, *runs, "--json"))["images"] == 359
    everything = sorted(folder.glob("*"))  # as a shell does with rates/*
    groups = answer(cli("compare", *everything, "--json"))["groups"]
    assert [group["seeds"] for group in groups] == [[0, 1], [0, 1]]
    for pattern in ("rates", "rates/*", f"{folder}/*seed*"):
        assert len(answer(cli("compare", pattern, *runs, "--json"))["groups"]) == 2
    cli("report", *everything, "--out", "page.html")
    assert "there is no finished run" in cli("compare", folder / "results.csv", status=2).stderr


def test_a_study_grows_by_values_and_keeps_what_it_has(tmp_path: Path) -> None:
    def grown(**varied: Any) -> list[dict[str, str]]:
        run_study("lenet5", set=SMALL, vary=varied, name="grown", runs=tmp_path, quiet=True)
        return table(tmp_path / "grown")

    first = grown(learning_rate=[0.2], seed="0:1")
    trained = (tmp_path / "grown" / "learning_rate=0.2-seed=0" / "metrics.csv").stat().st_mtime_ns
    more = grown(learning_rate=[0.1, 0.2], seed="0:2")
    assert len(first) == 1 and len(more) == 4 and first[0] in more
    assert (tmp_path / "grown" / "learning_rate=0.2-seed=0" / "metrics.csv").stat().st_mtime_ns == trained
    assert grid.read(tmp_path / "grown" / "study.toml")["vary"] == {"learning_rate": [0.1, 0.2], "seed": [0, 1]}
    assert grown(learning_rate=[0.2], seed="0:1") == more  # the smaller command of before goes on with all of it
    for other, told in (
        ({"learning_rate": [0.2]}, "it varies seed, which this command does not"),
        ({"learning_rate": [0.2], "seed": "0:3"}, "it has learning_rate=0.1, which this command lacks"),
    ):
        with pytest.raises(UsageError, match=f"grown holds another study: {told}: choose another --name"):
            grown(**other)


def test_what_is_wrong_is_said_before_anything_is_made(trained: Path, tmp_path: Path) -> None:
    runs = trained / "runs"
    with pytest.raises(UsageError, match="rates holds another study: it varies learning_rate, which this command"):
        run_study("lenet5", set=SMALL, vary={"seed": "0:2"}, name="rates", runs=runs)
    with pytest.raises(UsageError, match="is a run: choose another --name"):
        name = "learning_rate=0.2-seed=0"
        run_study("lenet5", set=SMALL, vary={"seed": "0:2"}, name=name, runs=runs / "rates")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    table: dict[str, Any] = {"set": SMALL, "vary": {"seed": "0:2"}, "runs": tmp_path}
    with pytest.raises(UsageError, match="taken is there, and is no study"):
        run_study("lenet5", **table, name="taken")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"metric": "test_acuracy"}, "did you mean 'test_accuracy'"),
        ({"engine": "rai"}, "did you mean 'ray'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"address": "auto"}, "add --engine ray"),
        ({"name": "a/b"}, "must be a plain name"),
        ({"name": "a*b"}, "must be a plain name"),
    ]
    for wrong, told in refused:
        with pytest.raises(UsageError, match=told):
            run_study("lenet5", **{**table, **wrong})
        planned = grid.define("lenet5", SMALL, table["vary"], wrong.pop("name", "new"))
        with pytest.raises(UsageError, match=told):
            plan(planned, runs=tmp_path, **wrong)
    for model, name, told in (("lenet6", "new", "unknown model 'lenet6'"), ("lenet5", "taken", "is no study")):
        with pytest.raises(UsageError, match=told):
            plan(grid.define("lenet5", SMALL, {"model": [model]}, name), runs=tmp_path)
    with pytest.raises(UsageError, match="unknown model 'lenet6'"):
        run_study("lenet5", set=SMALL, vary={"model": ["lenet5", "lenet6"]}, runs=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_one_process_at_a_time_runs_a_study(trained: Path) -> None:
    import filelock

    study = trained / "runs" / "rates"
    with (
        filelock.FileLock(study / ".lock"),
        pytest.raises(CifarlabError, match="is being run by another process"),
    ):
        run_study(str(study / "study.toml"), runs=trained / "runs", quiet=True)


def test_runs_that_fail_are_tried_again_from_their_checkpoints_and_told(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "net.py").write_text(OWN)
    words = [word for key, value in (SMALL | {"epochs": 2}).items() for word in ("--set", f"{key}={value}")]
    words = ["study", "lenet5", *words, "--set", "model=net.py:Net", "--vary", "model_options.bad=9,1,-1,0"]
    ended = cli(*words, "--name", "own", status=1)
    assert "error: 2 of 4 runs failed, which the same command tries again; reasons are in" in ended.stderr
    killed = "its process was killed by SIGKILL, as systems do that run out of memory (tried 2 times)"
    assert f"bad=9: failed: {killed}" in ended.stdout
    folder = tmp_path / "runs" / "own"
    rows = {row["run"]: row for row in table(folder)}
    assert [rows[f"bad={bad}"]["status"] for bad in (0, 1, 9, -1)] == ["finished", "finished", "failed", "failed"]
    assert rows["bad=9"]["reason"] == killed and "ValueError: broken on purpose" in rows["bad=-1"]["reason"]
    assert [(tmp_path / f"tried-{bad}").read_text() for bad in (1, 9, -1)] == ["xx", "xx", "xx"]
    assert RunFolder(folder / "bad=1").log.count("epoch 1/2") == 1  # the second try began at the checkpoint
    assert RunFolder(folder / "bad=9").status == "failed"
    (tmp_path / "mended").touch()
    told = answer(cli(*words, "--name", "own", "--json"))
    assert [row["status"] for row in told["runs"]] == ["finished"] * 4
    assert RunFolder(folder / "bad=9").log.count("epoch 1/2") == 1


def test_what_ends_a_study_loses_nothing_and_the_same_command_goes_on(tmp_path: Path, cli: Cli) -> None:
    words = ["lenet5", "--set", "dataset=digits", "--set", "epochs=12", "--set", "batch_size=64", "--vary", "seed=0:2"]
    command = [sys.executable, "-m", "cifarlab", "study", *words, "--name", "cut"]
    run = RunFolder(tmp_path / "runs" / "cut" / "seed=0")

    def rows_and_record() -> tuple[int, str]:
        record = json.loads((run.path / "run.json").read_text())
        return len(run.history), str(record["status"])

    study = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, text=True)
    wait_for(lambda: len(run.history) >= 1)
    study.kill()  # the process that trains notices, saves and ends
    study.wait()
    wait_for(lambda: rows_and_record()[1] != "running")
    epochs, status = rows_and_record()
    assert 1 <= epochs < 12 and status == "interrupted"

    study = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(run.history) > epochs)
    study.send_signal(signal.SIGINT)
    _, errors = study.communicate(timeout=SECONDS)
    assert study.returncode == 130
    assert "stopping: 1 run is saved\n" in errors
    assert "error: stopped by SIGINT, everything is saved: the same command continues" in errors
    assert rows_and_record()[1] == "interrupted" and not run.is_locked()
    assert [row["status"] for row in table(run.path.parent)] == ["interrupted", "waiting"]

    told = answer(cli("study", *words, "--name", "cut", "--json"))
    assert [row["status"] for row in told["runs"]] == ["finished"] * 2
    assert [row.epoch for row in run.history] == list(range(1, 13)) and run.log.count("epoch 1/12") == 1


def test_a_plan_is_listed_and_nothing_made(tmp_path: Path, cli: Cli) -> None:
    words = ("study", "lenet5", "--data", "digits", "--vary", "learning_rate=.1,.01", "--vary", "seed=0:2", "--dry-run")
    assert len(cli(*words).stdout.splitlines()) == 5
    assert answer(cli(*words, "--json"))["runs"][0] == {
        "run": "learning_rate=0.1-seed=0",
        "learning_rate": 0.1,
        "seed": 0,
    }
    assert not (tmp_path / "runs").exists()


def test_a_job_is_done_once_and_cleans_up_what_was_never_a_run(tmp_path: Path) -> None:
    member = grid.define("lenet5", SMALL, {"seed": [0]}).members[0]
    job = Job(member.name, member.recipe.model_dump(mode="json"), str(tmp_path), "cpu", "")
    (tmp_path / member.name / "figures").mkdir(parents=True)  # a process that was killed at once leaves this
    assert carry_out(job).status == "finished"
    before = (tmp_path / member.name / "run.json").stat().st_mtime_ns
    assert carry_out(job).status == "finished"
    assert (tmp_path / member.name / "run.json").stat().st_mtime_ns == before
    wrong = Job("b", {**job.recipe, "dataset": "folder:none"}, str(tmp_path), "cpu", "")
    ended = carry_out(wrong)
    assert (ended.status, ended.hopeless) == ("failed", True) and "none" in ended.reason
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"holds thesis.txt"):
        clear(tmp_path / "c")


def test_cores_and_gpus_are_shared_out() -> None:
    assert shares(1, 8, [], {}) == [{}]  # alone, it does as any training
    assert shares(3, 8, [], {}) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert shares(2, 8, [], {"OMP_NUM_THREADS": "1"}) == [{"OMP_NUM_THREADS": "1"}] * 2
    found = shares(3, 2, ["0", "GPU-7"], {})
    assert [share["CUDA_VISIBLE_DEVICES"] for share in found] == ["0", "GPU-7", "0"]
    assert {share["OMP_NUM_THREADS"] for share in found} == {"1"}


def test_the_end_of_a_process_is_explained() -> None:
    assert ending(-signal.SIGKILL, "") == "its process was killed by SIGKILL, as systems do that run out of memory"
    assert ending(-signal.SIGSEGV, "") == "its process was killed by SIGSEGV"
    assert ending(1, "MemoryError: \x1b[1m!") == "its process ended with exit status 1: MemoryError: [1m!"


def test_a_terminal_shows_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("TERM", "xterm"), ("COLUMNS", "150"), ("LINES", "12")):
        monkeypatch.setenv(name, value)
    study = grid.define("lenet5", {}, {"seed": "0:30"})
    states = {member.name: State("waiting") for member in study.members}
    with display(study, tmp_path) as shown:
        states["seed=3"] = State("running")
        states["seed=4"] = State("finished", results={"epochs": 10, "validation_accuracy": 0.5})
        states["seed=29"] = State("failed", "[red] herring")
        shown.changed(states, "seed=29")
        shown.say("a line that stays")
    told = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).split())
    assert "lenet5-seed: 1 running, 1 failed, 27 waiting, 1 finished" in told and "a line that stays" in told
    assert "[red] herring" in told and "and 23 more" in told and "0/10" not in told


def test_the_time_left_is_that_of_epochs_and_not_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = grid.define("lenet5", {"epochs": 10}, {"seed": "0:4"})
    states = {member.name: State("running") for member in study.members}
    now, epochs = [0.0], [0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Display, "_history", lambda *_: [None] * epochs[0])
    shown = Display(study, tmp_path)
    for now[0], epochs[0], left in ((30.0, 0, None), (60.0, 1, None), (70.0, 2, 80.0), (80.0, 3, 70.0)):
        assert shown.seconds_left(states) == left  # four at once, ten seconds an epoch, after a minute of starting
    states["seed=0"] = State("failed", "why")
    assert shown.seconds_left(states) == pytest.approx(70 * 3 / 4)


def test_a_reason_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = grid.define("lenet5", {}, {"seed": "0:1"})
    with display(study, tmp_path) as shown:
        for state in (State("waiting", "no memory"), State("failed", "no memory (tried 2 times)")):
            shown.changed({"seed=0": state}, "seed=0")
    assert capsys.readouterr().err.splitlines() == [
        "seed=0: waiting (again after: no memory)",
        "seed=0: failed (tried 2 times)",
    ]
