"""Tuning: real trainings of a small network, judged on validation images, pruned, failed, stopped and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cifarlab
from cifarlab import Recipe, recipes
from cifarlab.cli.tune import print_tuning
from cifarlab.errors import Interrupted, UsageError
from cifarlab.experiments.tuning import search, sharing, trials
from cifarlab.experiments.tuning.search import tune
from cifarlab.experiments.tuning.trials import Tuning
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow
from conftest import Cli, answer

EPOCHS, TRIALS = 2, 8
GOOD, HOPELESS, IMPOSSIBLE = (0.01, 0.03), 1e-7, 1e38  # learning rates
SPACE: dict[str, Any] = {
    "learning_rate": {"choices": [*GOOD, HOPELESS, IMPOSSIBLE]},
    "momentum": {"low": 0.5, "high": 0.9},
}


def small(**changes: Any) -> Recipe:
    return cifarlab.recipe("lenet5", **{"dataset": "digits", "epochs": EPOCHS, "batch_size": 128, **changes})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    """A tuning in which some trials are good, some hopeless, and some fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "TRIALS_BEFORE_PRUNING", 2)
        patch.setattr(trials, "TRIALS_FOR_IMPORTANCE", 3)
        return tune(small(seed=1), SPACE, TRIALS, name="digits", runs=tmp_path_factory.mktemp("runs"), quiet=True)


def run_of(tuned: Tuning, number: int) -> RunFolder:
    return RunFolder(tuned.folder / trials.run_name(number))


def test_a_tuning_is_another_one_after_its_network_was_edited(tmp_path: Path) -> None:
    file, sums = tmp_path / "net.py", []
    for width in (1, 1, 2):
        file.write_text(
            f"from torch import nn\ndef net(classes=10):\n    return nn.Sequential(nn.Flatten(),"
            f" nn.Linear(3072, {width}), nn.Linear({width}, classes))\n"
        )
        sums.append(search._check(small(model=f"{file}:net"), {}, 1, "cpu", None, True))
    assert sums[0] == sums[1] != sums[2] and sums[0].split()[0] == sums[2].split()[0]


def test_trials_are_completed_pruned_or_failed_by_their_settings(tuned: Tuning) -> None:
    assert [trial.number for trial in tuned.trials] == list(range(TRIALS))
    assert {trial.state for trial in tuned.trials} == {"complete", "pruned", "failed"}
    states = {"complete": "finished", "pruned": "pruned", "failed": "failed"}
    for trial in tuned.trials:
        run = run_of(tuned, trial.number)
        assert run.status == states[trial.state] and run.record.reason == trial.reason
        rate = trial.parameters["learning_rate"]
        assert (run.recipe.learning_rate, run.recipe.momentum) == (rate, trial.parameters["momentum"])
        if trial.state == "complete":
            assert rate != IMPOSSIBLE and trial.validation_accuracy == run.results["validation_accuracy"]
        if trial.state == "pruned":
            assert (
                rate != IMPOSSIBLE and trial.epochs < EPOCHS and "the median of the trials was better" in trial.reason
            )
            assert trial.validation_accuracy == run.history[-1].validation_accuracy
        if trial.state == "failed":
            assert rate == IMPOSSIBLE and "the loss is not a number any more" in trial.reason
    assert {trial.state for trial in tuned.trials if trial.parameters["learning_rate"] == HOPELESS} == {"pruned"}


def test_the_first_trial_has_the_recipes_own_values(tuned: Tuning) -> None:
    assert dict(tuned.trials[0].parameters) == {"learning_rate": 0.01, "momentum": 0.9}
    assert len({trial.parameters["momentum"] for trial in tuned.trials}) == TRIALS


def test_the_best_trial_on_the_validation_images_becomes_a_recipe(tuned: Tuning) -> None:
    runs = [run_of(tuned, trial.number) for trial in tuned.trials if trial.state == "complete"]
    best = max(runs, key=lambda run: float(run.results["validation_accuracy"]))
    assert tuned.best is not None and tuned.best.run == best.name and tuned.best.parameters["learning_rate"] in GOOD
    written = recipes.load(str(tuned.best_file))
    assert written.name == "digits-best" and written == best.recipe.changed({"name": "digits-best"})
    text = tuned.best_file.read_text()
    assert f"trial {tuned.best.number}, accuracy {tuned.best.validation_accuracy:.2%} on the validation images" in text
    assert "published" not in text


def test_a_tuning_says_how_lucky_its_best_trial_may_be(tuned: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned.optimism is not None and 0 < tuned.optimism < 0.05
    print_tuning(tuned, TRIALS)
    assert f"may be about {100 * tuned.optimism:.1f} points too high" in capsys.readouterr().out
    assert replace(tuned, folder=tuned.folder / "elsewhere").optimism is None  # another machine has the runs


def test_figures_and_table_are_written(tuned: Tuning) -> None:
    assert set(tuned.importance) == {"learning_rate", "momentum"}
    assert sum(tuned.importance.values()) == pytest.approx(1)
    for name, words in (("history", ("best so far", "pruned: ")), ("importance", ("learning_rate", "importance"))):
        svg = (tuned.folder / f"{name}.svg").read_text()
        assert all(word in svg for word in words)
        assert (tuned.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tuned.folder / "trials.json").read_text())["trials"]
    assert [row["validation_accuracy"] for row in rows] == [trial.validation_accuracy for trial in tuned.trials]


@pytest.mark.slow
def test_a_pruned_trial_can_be_resumed_with_a_warning_that_it_does_not_count(
    tuned: Tuning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = next(trial for trial in tuned.trials if trial.state == "pruned")
    folder = Path(shutil.copytree(run_of(tuned, pruned.number).path, tmp_path / "pruned"))
    assert cifarlab.resume(folder, quiet=True).status == "finished"
    assert "was pruned because other trials did better: its tuning will not count" in capsys.readouterr().err


def test_the_same_call_replaces_failed_trials_only_and_another_plan_is_refused(tuned: Tuning, tmp_path: Path) -> None:
    shutil.copytree(tuned.folder, tmp_path / "digits")

    def again(recipe: Recipe, space: dict[str, Any]) -> Tuning:
        return tune(recipe, space, TRIALS, name="digits", runs=tmp_path, quiet=True)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("digits/trial-*/run.json")}

    before, failed = times(), tuned.count("failed")
    assert failed >= 1
    repeated = again(small(seed=1), SPACE)
    assert repeated.trials[:TRIALS] == tuned.trials and times().items() >= before.items()
    assert len(repeated.trials) == len(times()) == TRIALS + failed  # one in place of each
    assert not {trial.parameters["momentum"] for trial in repeated.trials[TRIALS:]} & {
        trial.parameters["momentum"] for trial in tuned.trials
    }
    with pytest.raises(UsageError, match=r"the tuning 'digits' was begun with other settings of the recipe. Choose"):
        again(small(seed=2), SPACE)
    with pytest.raises(UsageError, match=r"the tuning 'digits' was begun with another --space. Choose another --name"):
        again(small(seed=1), {"momentum": SPACE["momentum"]})


@pytest.mark.slow
def test_a_stopped_tuning_continues_the_same_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path /= "{a}"  # braces in the path of a database are no placeholders
    space = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    report = search.TrialCallback.on_epoch_end

    def stop(self: Any, run: RunFolder, row: EpochRow) -> None:
        report(self, run, row)
        if run.name == "trial-0001":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(search.TrialCallback, "on_epoch_end", stop)
    with pytest.raises(
        Interrupted, match="stopped by SIGINT, everything is saved: the same command continues"
    ) as caught:
        tune(small(epochs=2), space, 3, name="a", runs=tmp_path, prune=False, quiet=True)
    assert caught.value.status == 130
    cut = RunFolder(tmp_path / "a" / "trial-0001")
    assert cut.status == "interrupted" and len(cut.history) == 1 and not (tmp_path / "a" / "trial-0002").exists()
    assert [trial["state"] for trial in json.loads((cut.path.parent / "trials.json").read_text())["trials"]] == [
        "complete",
        "running",
    ]
    created, rate = cut.record.created, cut.recipe.learning_rate
    monkeypatch.setattr(search.TrialCallback, "on_epoch_end", report)
    locked = threading.Event()

    def train_elsewhere() -> None:
        with cut.lock():
            locked.set()
            time.sleep(1.5)

    other_process = threading.Thread(target=train_elsewhere)
    other_process.start()
    locked.wait()
    continued = tune(small(epochs=2), space, 3, name="a", runs=tmp_path, prune=False, quiet=True)
    assert not other_process.is_alive()  # the tuning waited until the run folder was free
    assert [trial.state for trial in continued.trials] == ["complete"] * 3
    resumed = RunFolder(cut.path)
    assert (resumed.record.created, resumed.recipe.learning_rate) == (created, rate)  # it was resumed
    assert continued.trials[1].parameters["learning_rate"] == rate and continued.trials[1].epochs == 2
    assert len(list((tmp_path / "a").glob("trial-*"))) == 3


def test_wrong_usage_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    space = {"learning_rate": {"low": 0.001, "high": 0.1}}
    with pytest.raises(UsageError, match="keras4 validates on the test images, and choosing by them would flatter"):
        tune("keras4", space, runs=tmp_path)
    with pytest.raises(UsageError, match="decay has no effect with schedule = constant, so that tuning it"):
        tune("lenet5", {"decay": {"low": 0.1, "high": 1}}, runs=tmp_path)
    with pytest.raises(UsageError, match="--trials must be at least 1, got 0"):
        tune(small(), space, 0, runs=tmp_path)
    for name in ("a/b", "a*b", "-a"):
        with pytest.raises(UsageError, match="must be a plain name"):
            tune(small(), space, 1, name=name, runs=tmp_path)
    with pytest.raises(UsageError, match=r"space: learning_rate .* greater than 0, got -1"):
        tune(small(), {"learning_rate": {"low": -1, "high": 0.1}}, 1, runs=tmp_path)
    with pytest.raises(UsageError, match="unknown option of lenet5 'activaton': did you mean 'activation'"):
        tune(small(), {"model_options.activaton": {"choices": ["relu", "tanh"]}}, 1, runs=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("")
    with pytest.raises(UsageError, match=r"taken exists but is not a tuning. Choose another --name."):
        tune(small(), space, 1, name="taken", runs=tmp_path)


@pytest.mark.slow
def test_the_command_prints_a_table_json_and_the_next_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("[learning_rate]\nlow = 0.005\nhigh = 0.05\nlog = true\n")
    settings = ("--set", "dataset=digits", "--set", "epochs=1", "--set", "batch_size=128")
    command = ("tune", "lenet5", "--space", "space.toml", "--trials", "2", *settings)
    document = answer(cli(*command, "--json"))
    assert document["folder"] == "runs/lenet5-tune" and document["recipe"] == "lenet5" and len(document["trials"]) == 2
    assert document["best"]["validation_accuracy"] == max(row["validation_accuracy"] for row in document["trials"])
    assert document["best_recipe"] == "runs/lenet5-tune/best.toml" and document["trials"][0]["run"] == "trial-0000"
    printed = cli(*command).stdout
    assert printed.splitlines()[0].split() == ["trial", "validation", "accuracy", "trained", "learning_rate"]
    assert "2 trials: 2 complete" in printed and "next: cifarlab train runs/lenet5-tune/best.toml" in printed
    assert "1 epoch, complete" in printed and "table, pictures and runs: runs/lenet5-tune" in printed
    assert "importance of the settings: known after 8 complete trials, so far there are 2" in printed
    cli(*command[:5], "1", *settings)  # a call for fewer trials does not change the head of best.toml
    head = (tmp_path / "runs" / "lenet5-tune" / "best.toml").read_text()
    assert "--space space.toml --trials 2" in head
    assert "No such file" in cli("tune", "lenet5", "--space", "none.toml", status=2).stderr
    plan = answer(cli("train", document["best_recipe"], "--dry-run", "--json"))
    assert plan["recipe"] == "lenet5-tune-best" and plan["epochs"] == 1


def test_failures_of_all_trials_are_shown_at_once_and_end_with_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("[learning_rate]\nlow = 1e37\nhigh = 1e38\n")
    settings = ("--set", "dataset=digits", "--set", "epochs=1", "--set", "batch_size=128")
    ended = cli("tune", "lenet5", "--space", "space.toml", "--trials", "2", "--name", "a", *settings, status=1)
    lines = ended.stderr.splitlines()
    places = [next(n for n, line in enumerate(lines) if line.startswith(f"trial {each}")) for each in (0, 1)]
    assert any(line.startswith("trial 0 failed: the loss is not a number") for line in lines[places[0] : places[1]])
    assert lines[-1] == (
        "error: no trial is complete; 2 of 2 failed. Reasons: runs/a/trials.json. The same command trains "
        "others in their place."
    )
    whole = ended.stdout + ended.stderr
    assert whole.count("trial 1 failed: ") == whole.count("trial 0 failed: ") == 1
    assert ended.stdout == "2 trials: 2 failed; reasons: runs/a/trials.json\ntable and runs: runs/a\n"
    assert not list(tmp_path.glob("runs/a/*.[sp][vn]g")) and (tmp_path / "runs" / "a" / "trials.json").is_file()
