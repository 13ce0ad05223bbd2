"""Studies that are trained: the files in their folder, continuing them, and runs that fail without ending them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from cifarlab import UsageError, run_study
from cifarlab.errors import CifarlabError, Interrupted
from cifarlab.experiments.study.definition import define, read_definition
from cifarlab.experiments.study.display import Display, display
from cifarlab.experiments.study.engines.local import (
    LocalEngine,
    describe_exit,
    usable_cores,
    worker_environments,
)
from cifarlab.experiments.study.folder import describe_other_recipe
from cifarlab.experiments.study.jobs import Job, run_job
from cifarlab.experiments.study.outcome import RunState
from cifarlab.experiments.study.sweep import plan
from cifarlab.models.registry import source_sha256
from cifarlab.progress import notice
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import absolute_start
from cifarlab.runs.record import EpochRow, Results
from conftest import Cli, answer, run_cifarlab

SMALL = {"dataset": "digits", "epochs": 1, "batch_size": 256}
SECONDS = 120.0  # for a busy machine

OWN_NETWORK = """import os, pathlib, signal
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


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def finished(accuracy: float, epochs: int) -> RunState:
    results = {"validation_accuracy": accuracy, "validation_loss": 1.0, "test_accuracy": accuracy, "test_loss": 1.0}
    counts = {"epochs": epochs, "kept_epoch": epochs, "train_seconds": 1.0, "images_per_second": 1.0}
    return RunState("finished", results=Results.model_validate(results | counts))


def change_times(folder: Path) -> dict[Path, int]:
    """When each run.json below a folder was written last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a small study that the command line trained in two processes."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "rates.toml").write_text(
        'name = "rates"\nrecipe = "lenet5"\n[set]\ndataset = "digits"\nepochs = 1\nbatch_size = 256\n'
        "[vary]\nlearning_rate = [0.2, 0.001]\n"
    )
    words = ("study", "rates.toml", "--vary", "seed=0:2", "--workers", "2", "--json")
    ended = run_cifarlab(folder, *words, own_process=True)
    (folder / "stdout.json").write_text(ended.stdout)
    (folder / "stderr.txt").write_text(ended.stderr)
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained study's folder, in which a test may change something."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs" / "rates"


def test_a_study_is_a_table_of_ordinary_runs(trained: Path) -> None:
    folder = trained / "runs" / "rates"
    outcome = json.loads((trained / "stdout.json").read_text())
    assert outcome == json.loads((folder / "results.json").read_text())
    rows = read_table(folder)
    assert [(row["learning_rate"], row["seed"]) for row in rows] == [
        (rate, seed) for seed in ("0", "1") for rate in ("0.2", "0.001")
    ]
    variables = worker_environments(2, usable_cores(), [], os.environ)[0]
    for row in rows:
        run = RunFolder(folder / row["run"])
        assert run.status == "finished" and (run.path / "report.html").exists()
        assert str(run.results["test_accuracy"]) == row["test_accuracy"]
        assert (run.recipe.learning_rate, run.recipe.seed) == (float(row["learning_rate"]), int(row["seed"]))
        assert str(run.record.environment.threads) == variables["OMP_NUM_THREADS"]
        assert "cifarlab train lenet5 --set batch_size=256 --set dataset=digits --set " in run.record.command
    assert [setting["values"]["learning_rate"] for setting in outcome["settings"]] == [0.2, 0.001]  # the best first
    assert outcome["compared"]["pairs"][0]["test"] == "welch"
    lines = (trained / "stderr.txt").read_text().splitlines()
    assert sum(": finished, accuracy " in line for line in lines) == 4 and all("\x1b" not in line for line in lines)
    assert {path.name for path in (folder / "figures").glob("*.svg")} == {"by-learning_rate.svg", "settings.svg"}


def test_the_same_command_trains_nothing_twice(trained: Path, cli: Cli) -> None:
    before = change_times(trained)
    ended = cli("study", trained / "runs" / "rates" / "study.toml", "--runs", trained / "runs")
    assert change_times(trained) == before and len(before) == 4
    assert "sorted by accuracy on validation images, best first" in ended.stdout and "real?" in ended.stdout
    assert "chose the first" not in ended.stdout


def test_ranking_by_test_images_comes_with_a_warning(copied: Path, cli: Cli) -> None:
    output = cli("study", copied / "study.toml", "--metric", "test_accuracy").stdout
    assert output.splitlines()[0].split() == ["setting", "runs", "test", "deviation", "95", "%", "interval"]
    assert "The test images chose the first" in output


def test_a_run_on_other_data_than_the_first_counts_as_failed(copied: Path, cli: Cli) -> None:
    changed = RunFolder(copied / "learning_rate=0.2-seed=1")
    changed.update(data=changed.record.data.model_copy(update={"sha256": "1" * 64}))
    printed = cli("study", copied / "study.toml", status=1).stdout
    assert "learning_rate=0.2-seed=1: failed: data, the network's source" in printed
    assert ["learning_rate=0.2", "1"] in [line.split()[:2] for line in printed.splitlines()]


def test_runs_of_an_edited_network_are_not_continued(copied: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "net.py", RunFolder(copied / "learning_rate=0.2-seed=1")
    file.write_text("first")
    recipe = run.recipe.changed({"model": f"{file}:Net"})
    run.update(recipe=recipe, origins={"model": source_sha256(recipe.model)})
    assert describe_other_recipe(run.path, recipe) == ""
    file.write_text("second")
    assert describe_other_recipe(run.path, recipe).endswith(f"was trained with an earlier version of {file}:Net")


def test_a_damaged_run_fails_and_the_others_count(copied: Path, cli: Cli) -> None:
    name = "learning_rate=0.2-seed=1"
    (copied / name / "run.json").write_text('{"schema": 1, "rec')
    ended = cli("study", copied / "study.toml", status=1)
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith(f"{name}: failed")]
    assert f"{Path('runs') / 'rates' / name / 'run.json'} is damaged" in line
    assert line.endswith(f"Move the folder {name} away to train this run anew.")
    assert "1 of 4 runs failed" in ended.stderr and "damaged" not in ended.stderr.splitlines()[-1]
    assert [row["status"] for row in read_table(copied)].count("finished") == 3
    compared = cli("compare", "rat*")
    assert f"rates/{name} (damaged)" in compared.stderr and "learning_rate=0.001" in compared.stdout


@pytest.mark.slow
def test_other_commands_know_the_runs_of_a_study(trained: Path, cli: Cli) -> None:
    folder, runs = trained / "runs" / "rates", ("--runs", trained / "runs")
    listed = answer(cli("runs", *runs, "--json"))
    name = "rates/learning_rate=0.2-seed=1"
    assert len(listed) == 4 and name in {row["name"] for row in listed}
    assert answer(cli("evaluate", name, *runs, "--json"))["images"] == 359
    everything = sorted(folder.glob("*"))  # as a shell expands rates/*
    groups = answer(cli("compare", *everything, "--json"))["groups"]
    assert [group["seeds"] for group in groups] == [[0, 1], [0, 1]]
    for pattern in ("rates", "rates/*", f"{folder}/*seed*"):
        assert len(answer(cli("compare", pattern, *runs, "--json"))["groups"]) == 2
    cli(
        "report",
        *(path for path in everything if "seed=1" not in path.name and "0.001" not in path.name),
        "--out",
        "a.html",
    )
    assert "results.csv" in cli("compare", folder / "results.csv", status=2).stderr


@pytest.mark.slow
def test_a_study_grows_by_values_and_keeps_its_runs(tmp_path: Path) -> None:
    def run_grown(**varied: Any) -> list[dict[str, str]]:
        run_study("lenet5", set=SMALL, vary=varied, name="grown", runs=tmp_path, quiet=True)
        return read_table(tmp_path / "grown")

    first = run_grown(learning_rate=[0.2], seed="0:1")
    before = change_times(tmp_path)
    more = run_grown(learning_rate=[0.1, 0.2], seed="0:1")
    assert len(first) == 1 and len(more) == 2 and first[0] in more
    assert before.items() <= change_times(tmp_path).items()
    assert read_definition(tmp_path / "grown" / "study.toml").vary == {"learning_rate": [0.1, 0.2], "seed": [0]}
    assert run_grown(learning_rate=[0.2], seed="0:1") == more  # the smaller command continues the whole study
    for other, message in (
        ({"learning_rate": [0.2]}, "it varies seed, which this command does not"),
        ({"learning_rate": [0.2], "seed": "0:3"}, "it has learning_rate=0.1, which this command lacks"),
    ):
        with pytest.raises(UsageError, match=rf"grown holds another study: {message}\. Choose another --name"):
            run_grown(**other)


def test_a_changed_recipe_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs" / "rates" / "learning_rate=0.2-seed=0", tmp_path / "own" / "seed=0")
    (tmp_path / "own.toml").write_text('model = "lenet5"\nbatch_size = 128\ndataset = "digits"\n')
    (tmp_path / "own" / "study.toml").write_text(f'recipe = "{tmp_path / "own.toml"}"\n[vary]\nseed = [0, 1]\n')
    with pytest.raises(UsageError, match=r"seed=0 was trained with .*batch_size=256, not 128; .*recipe changed"):
        run_study(str(tmp_path / "own.toml"), vary={"seed": "0:2"}, name="own", runs=tmp_path)


def test_mistakes_are_refused_before_anything_is_made(trained: Path, tmp_path: Path) -> None:
    runs = trained / "runs"
    with pytest.raises(UsageError, match="rates holds another study: it varies learning_rate, which this command"):
        run_study("lenet5", set=SMALL, vary={"seed": "0:2"}, name="rates", runs=runs)
    with pytest.raises(UsageError, match=r"is a run, not a study\. Choose another --name"):
        name = "learning_rate=0.2-seed=0"
        run_study("lenet5", set=SMALL, vary={"seed": "0:2"}, name=name, runs=runs / "rates")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    cores = usable_cores()
    options: dict[str, Any] = {"set": SMALL, "vary": {"seed": f"0:{cores + 1}"}, "runs": tmp_path}
    with pytest.raises(UsageError, match="taken exists but is not a study"):
        run_study("lenet5", **options, name="taken")
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"metric": "test_acuracy"}, "did you mean 'test_accuracy'"),
        ({"engine": "rai"}, "did you mean 'ray'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"address": "auto"}, "Add --engine ray"),
        ({"workers": cores + 1}, f"--workers must be at most {cores}, the number of cores here, got {cores + 1}"),
        ({"name": "a/b"}, "must be a plain name"),
        ({"name": "a*b"}, "must be a plain name"),
    ]
    for wrong, message in mistakes:
        with pytest.raises(UsageError, match=message):
            run_study("lenet5", **{**options, **wrong})
        planned = define("lenet5", SMALL, options["vary"], wrong.pop("name", "new"))
        with pytest.raises(UsageError, match=message):
            plan(planned, runs=tmp_path, **wrong)
    for model, name, message in (("lenet6", "new", "unknown model 'lenet6'"), ("lenet5", "taken", "is not a study")):
        with pytest.raises(UsageError, match=message):
            plan(define("lenet5", SMALL, {"model": [model]}, name), runs=tmp_path)
    with pytest.raises(UsageError, match="unknown model 'lenet6'"):
        run_study("lenet5", set=SMALL, vary={"model": ["lenet5", "lenet6"]}, runs=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_one_process_at_a_time_runs_a_study(trained: Path) -> None:
    study = trained / "runs" / "rates"
    with (
        filelock.FileLock(study / ".lock"),
        pytest.raises(CifarlabError, match="another process is running the study in"),
    ):
        run_study(str(study / "study.toml"), runs=trained / "runs", quiet=True)


@pytest.mark.slow
def test_failed_runs_are_tried_again_from_their_checkpoints(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "net.py").write_text(OWN_NETWORK)
    words = [word for key, value in (SMALL | {"epochs": 2}).items() for word in ("--set", f"{key}={value}")]
    words = ["study", "lenet5", *words, "--set", "model=net.py:Net", "--vary", "model_options.bad=9,1,-1"]
    ended = cli(*words, "--name", "own", status=1)
    assert "error: 2 of 3 runs failed" in ended.stderr
    killed = "its process was killed by SIGKILL, which often means that memory ran out (tried 2 times)"
    assert f"bad=9: failed: {killed}" in ended.stdout
    folder = tmp_path / "runs" / "own"
    rows = {row["run"]: row for row in read_table(folder)}
    assert [rows[f"bad={bad}"]["status"] for bad in (1, 9, -1)] == ["finished", "failed", "failed"]
    assert rows["bad=9"]["reason"] == killed and "ValueError: broken on purpose" in rows["bad=-1"]["reason"]
    assert [(tmp_path / f"tried-{bad}").read_text() for bad in (1, 9, -1)] == ["xx", "xx", "xx"]
    assert RunFolder(folder / "bad=1").log.count("epoch 1/2") == 1  # the second try began at the checkpoint
    assert RunFolder(folder / "bad=9").status == "failed"
    (tmp_path / "mended").touch()
    outcome = answer(cli(*words, "--name", "own", "--json"))
    assert [row["status"] for row in outcome["runs"]] == ["finished"] * 3
    assert RunFolder(folder / "bad=9").log.count("epoch 1/2") == 1


@pytest.mark.slow
def test_ctrl_c_saves_the_study_and_the_same_call_continues_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"set": SMALL | {"epochs": 8}, "vary": {"seed": "0:2"}, "name": "cut", "runs": tmp_path}
    run = RunFolder(tmp_path / "cut" / "seed=0")

    def press_ctrl_c() -> None:
        wait_until(lambda: len(run.history) >= 1)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_ctrl_c, daemon=True)
    presser.start()
    with pytest.raises(Interrupted, match="stopped by SIGINT, everything is saved: the same command") as caught:
        run_study("lenet5", **options)
    presser.join()
    assert caught.value.status == 130 and "stopping: saving 1 run\n" in capsys.readouterr().err
    assert RunFolder(run.path).status == "interrupted" and not run.is_locked()
    assert [row["status"] for row in read_table(run.path.parent)] == ["interrupted", "waiting"]
    outcome = run_study("lenet5", **options, quiet=True)
    assert [state.status for state in outcome.states.values()] == ["finished"] * 2
    assert [row.epoch for row in run.history] == list(range(1, 9)) and run.log.count("epoch 1/8") == 1


@pytest.mark.slow
def test_a_killed_study_loses_nothing(tmp_path: Path) -> None:
    words = ["lenet5", "--set", "dataset=digits", "--set", "epochs=12", "--set", "batch_size=64", "--vary", "seed=0:1"]
    run = RunFolder(tmp_path / "runs" / "cut" / "seed=0")

    def recorded_status() -> str:
        return str(json.loads((run.path / "run.json").read_text())["status"])

    study = [sys.executable, "-m", "cifarlab", "study", *words, "--name", "cut"]
    process = subprocess.Popen(study, cwd=tmp_path, stderr=subprocess.DEVNULL, text=True)
    wait_until(lambda: len(run.history) >= 1)
    process.kill()  # the worker process notices, saves and ends
    process.wait()
    wait_until(lambda: recorded_status() != "running")
    assert 1 <= len(run.history) < 12 and recorded_status() == "interrupted"
    subprocess.run(study, cwd=tmp_path, check=True)
    assert [row.epoch for row in run.history] == list(range(1, 13)) and run.log.count("epoch 1/12") == 1


def test_a_dry_run_lists_the_runs_and_makes_nothing(tmp_path: Path, cli: Cli) -> None:
    words = ("study", "lenet5", "--data", "digits", "--vary", "learning_rate=.1,.01", "--vary", "seed=0:2", "--dry-run")
    assert len(cli(*words).stdout.splitlines()) == 5
    planned = answer(cli(*words, "--json"))["runs"]
    assert planned[0] == {"run": "learning_rate=0.1-seed=0", "learning_rate": 0.1, "seed": 0}
    assert not (tmp_path / "runs").exists()


def make_job(folder: Path, **settings: Any) -> Job:
    run = define("lenet5", SMALL, {"seed": [0]}).runs[0]
    return Job(run.name, run.recipe.model_dump(mode="json") | settings, str(folder), "cpu", "")


@pytest.mark.slow
def test_a_job_is_done_once_and_replaces_an_empty_folder(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / job.name / "figures").mkdir(parents=True)  # as a process leaves it that is killed at once
    assert run_job(job).status == "finished"
    before = change_times(tmp_path)
    assert run_job(job).status == "finished"
    assert change_times(tmp_path) == before
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").touch()
    result = run_job(replace(job, name="c"))
    assert (result.status, result.is_permanent) == ("failed", True) and "holds thesis.txt" in result.reason


def test_files_of_the_current_folder_do_not_replace_python_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('this is not the module of the standard library')")
    monkeypatch.chdir(tmp_path)
    engine = LocalEngine(1, "cpu")
    try:
        engine.submit(make_job(tmp_path, dataset="folder:missing"))
        results = engine.poll(SECONDS)
    finally:
        engine.close()
    (result,) = results
    assert (result.status, result.is_permanent) == ("failed", True) and "missing" in result.reason


def test_cores_and_gpus_are_shared_out() -> None:
    assert worker_environments(1, 8, [], {}) == [{}]  # a single worker uses all cores
    assert worker_environments(3, 8, [], {}) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert worker_environments(2, 8, [], {"OMP_NUM_THREADS": "1"}) == [{"OMP_NUM_THREADS": "1"}] * 2
    environments = worker_environments(3, 2, ["0", "GPU-7"], {})
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in environments] == ["0", "GPU-7", "0"]
    assert {variables["OMP_NUM_THREADS"] for variables in environments} == {"1"}


def test_the_end_of_a_process_is_explained() -> None:
    killed = "its process was killed by SIGKILL, which often means that memory ran out"
    assert describe_exit(-signal.SIGKILL, "") == killed
    assert describe_exit(-signal.SIGSEGV, "") == "its process was killed by SIGSEGV"
    assert describe_exit(1, "MemoryError: \x1b[1m!") == "its process ended with exit status 1: MemoryError: [1m!"


def test_a_terminal_shows_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("TERM", "xterm"), ("COLUMNS", "150"), ("LINES", "12")):
        monkeypatch.setenv(name, value)
    study = define("lenet5", {}, {"seed": "0:30"})
    states = {run.name: RunState("waiting") for run in study.runs}
    with display(study, tmp_path, states) as shown:
        states["seed=3"] = RunState("running")
        states["seed=4"] = finished(0.5, epochs=10)
        states["seed=29"] = RunState("failed", "[red] herring")
        shown.run_changed("seed=29")
        notice("a line that stays")
    drawn = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).split())
    assert "lenet5-seed: 1 running, 1 failed, 27 waiting, 1 finished" in drawn and "a line that stays" in drawn
    assert "[red] herring" in drawn and "and 23 more" in drawn and "0/10" not in drawn


def test_the_time_left_counts_from_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = define("lenet5", {"epochs": 10}, {"seed": "0:4"})
    states = {run.name: RunState("running") for run in study.runs}
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    shown = Display(study, tmp_path, states)
    columns = [field.name for field in fields(EpochRow)]
    for clock[0], epochs, left in ((30.0, 0, None), (60.0, 1, None), (70.0, 2, 80.0), (80.0, 3, 70.0)):
        rows = [[str(epoch), *["0.5"] * (len(columns) - 1)] for epoch in range(1, epochs + 1)]
        for run in study.runs:
            (tmp_path / run.name).mkdir(exist_ok=True)
            if rows:
                (tmp_path / run.name / "metrics.csv").write_text("\n".join(map(",".join, [columns, *rows])))
        assert shown.seconds_left() == left  # four at once, ten seconds an epoch, after a minute of starting
    states["seed=0"] = RunState("failed", "a reason")
    assert shown.seconds_left() == pytest.approx(70 * 3 / 4)


def test_a_reason_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = define("lenet5", {}, {"seed": "0:1"})
    states = {"seed=0": RunState("running")}
    with display(study, tmp_path, states) as shown:
        for states["seed=0"] in (RunState("waiting", "no memory"), RunState("failed", "no memory (tried 2 times)")):
            shown.run_changed("seed=0")
    assert capsys.readouterr().err.splitlines() == [
        "seed=0: waiting (again after: no memory)",
        "seed=0: failed (tried 2 times)",
    ]


def test_a_worker_that_was_stopped_ends_when_it_is_asked_to() -> None:
    engine = LocalEngine(1, "cpu")
    (process,) = (worker.process for worker in engine._workers)
    process.send_signal(signal.SIGSTOP)
    engine.stop()
    assert process.wait(8) == -signal.SIGTERM
    engine.close()


def test_runs_of_a_study_start_from_a_run_by_its_name(copied_run: RunFolder, tmp_path: Path) -> None:
    runs, path = tmp_path / "runs", str((tmp_path / "runs" / "base").resolve())
    for folder in (runs / "base", runs / "s" / "x"):
        shutil.copytree(copied_run.path, folder)
    assert absolute_start("base", runs) == absolute_start(path, runs) == path
    for name in ("pretrained:lenet5", "", "nowhere", "weights.safetensors"):
        assert absolute_start(name, runs) == name
    trained = RunFolder(runs / "s" / "x")
    trained.update(recipe=trained.record.recipe.changed({"start_from": path}))
    for start, difference in (("base", ""), ("nowhere", f"start_from={path}, not nowhere")):
        changed = trained.record.recipe.changed({"start_from": start})
        assert describe_other_recipe(trained.path, changed).endswith(difference)
        assert bool(describe_other_recipe(trained.path, changed)) is bool(difference)


@pytest.mark.slow
def test_a_study_fine_tunes_a_run_by_its_name(copied_run: RunFolder, tmp_path: Path) -> None:
    settings = {"start_from": "copied", "dataset": "digits", "epochs": 1}
    outcome = run_study("finetune", set=settings, vary={"seed": [0, 1]}, runs=tmp_path, name="s", quiet=True)
    assert not outcome.failed and outcome.protocol_note.endswith(": seed=1")
    assert [row["protocol"] for row in read_table(tmp_path / "s")] == ["honest protocol", "not honest"]
