"""Resuming: equal bits wherever a training was cut, and nothing lost."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab.errors import CifarlabError, Interrupted, UsageError
from cifarlab.recipes import load
from cifarlab.runs.folder import CHECKPOINTS, RunFolder
from cifarlab.runs.record import EpochRow
from cifarlab.training.loop import fit
from cifarlab.training.preparation import prepare
from cifarlab.training.session import Session
from cifarlab.training.state import begin, restore, to_checkpoint
from small_trainings import StopAt, assert_equal_bits, train, train_only


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves(number: int, status: int, full: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="everything is saved: go on with: cifarlab resume") as raised:
        train_only(full, tmp_path, callbacks=[StopAt(1, number)])
    assert raised.value.status == status
    cut = RunFolder(tmp_path / "a")
    assert cut.status == "interrupted"
    state = cut.read_checkpoint()
    assert state is not None and (state["epoch"], state["step"]) == (1, 1)  # in the middle of an epoch


def test_an_interrupted_run_resumes_to_the_same_bits(whole: Run, full: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(full, tmp_path, "cut", callbacks=[StopAt(1)])
    assert_equal_bits(whole, cifarlab.resume("cut", runs=tmp_path, quiet=True))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(whole: Run, full: Recipe, tmp_path: Path) -> None:
    for part, delay in enumerate((0.0, 0.35)):  # early in the second epoch, and later in it
        name = f"killed{part}"
        script = (
            "import cifarlab, sys, pathlib\n"
            "from cifarlab.recipes import Recipe\n"
            f"recipe = Recipe.model_validate_json({full.model_dump_json()!r})\n"
            f"cifarlab.train(recipe, runs={str(tmp_path)!r}, name={name!r})\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/3  loss"):
                break
        time.sleep(delay)
        process.kill()
        process.communicate()
        run = RunFolder(tmp_path / name)
        assert run.status == "interrupted"
        assert_equal_bits(whole, cifarlab.resume(name, runs=tmp_path, quiet=True))


@pytest.mark.slow
def test_a_run_killed_before_its_first_epoch_resumes(whole: Run, full: Recipe, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Kill:
        def on_train_begin(self, run: Run) -> None:
            raise Killed

    with pytest.raises(Killed):
        train(full, tmp_path, "early", callbacks=[Kill()])
    assert_equal_bits(whole, cifarlab.resume("early", runs=tmp_path, quiet=True))


def test_short_epochs_are_saved_together_and_resumed_with_equal_bits(
    small: Recipe, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    class Kill:
        is_optional = True

        def on_epoch_end(self, run: Run, row: EpochRow) -> None:
            if row.epoch == 4:
                raise Killed

    recipe, data = small.changed({"epochs": 5}), (digits.train.images[:100], digits.train.labels[:100])
    whole, saved, real = train_only(recipe, tmp_path / "whole", data=data), list[int](), RunFolder.write_checkpoint

    def slow(run: RunFolder, state: Mapping[str, Any]) -> None:
        saved.append(state["epoch"])
        time.sleep(0.5)
        real(run, state)

    monkeypatch.setattr(RunFolder, "write_checkpoint", slow)
    with pytest.raises(Killed):
        train_only(recipe, tmp_path / "cut", data=data, callbacks=[Kill()])
    run = Run(tmp_path / "cut" / "a")
    assert saved == [0, 1] and len(run.history) == len(run.confusion) == 1
    fit(prepare(recipe, data=data, resumed=True), Session(run, quiet=True))
    assert saved[-1] == 5
    assert_equal_bits(whole, run)


def test_a_finished_run_is_not_resumed(whole: Run) -> None:
    with pytest.raises(UsageError, match="is finished"):
        cifarlab.resume(whole.path)


def test_a_damaged_checkpoint_is_named(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_only(small, tmp_path, callbacks=[StopAt(1)])
    path, older = (tmp_path / "a" / name for name in CHECKPOINTS)
    for damaged in (path, older):
        damaged.write_bytes(damaged.read_bytes()[:-500])
    with pytest.raises(CifarlabError, match=r"checkpoint\.pt is damaged, so the run cannot be resumed"):
        cifarlab.resume("a", runs=tmp_path, quiet=True)
    path.unlink()
    older.unlink()
    with pytest.raises(CifarlabError, match=r"checkpoint\.pt is missing, so the run cannot be resumed"):
        cifarlab.resume("a", runs=tmp_path, quiet=True)


def test_an_epoch_that_the_time_budget_ended_is_validated_after_a_resume(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(session: Session, training: Any) -> None:
        session.save(training)
        raise Interrupted("stopped while validating", 2)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Session, "end_steps", stop)
        train(small.changed({"epochs": 1000, "time_budget": 1 / 600}), tmp_path, "a")
    assert len(cifarlab.resume("a", runs=tmp_path, quiet=True).history) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        *({"optimizer": optimizer, "learning_rate": 0.003} for optimizer in ("adam", "adamw", "muon")),
        {"model": "firststeps", "model_options": {}, "epochs": 2, "ema": 0.9},  # batch normalisation
    ],
    ids=["adam", "adamw", "muon", "firststeps"],
)
def test_the_state_of_optimizers_and_batch_norm_survives(
    changes: dict[str, Any], small: Recipe, tmp_path: Path
) -> None:
    recipe = small.changed(changes)
    expected = train(recipe, tmp_path, "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, "cut", callbacks=[StopAt(1)])
    assert_equal_bits(expected, cifarlab.resume("cut", runs=tmp_path, quiet=True))


@pytest.mark.slow
def test_the_fast_recipe_resumes_to_the_same_bits(small: Recipe, tmp_path: Path) -> None:
    few = {
        "model_options.width": 8,
        "skip_easy": 0.3,
        "freeze_first": 0.5,
        "epochs": 3,
        "batch_size": 64,
        "dataset": "digits",
        "time_budget": 0,
        "train_on": "split",
    }
    recipe = load("fast94").changed(few | {"validate_on": "validation"})
    expected = train(recipe, tmp_path, "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, "cut", callbacks=[StopAt(1)])
    resumed = cifarlab.resume("cut", runs=tmp_path, quiet=True)
    assert_equal_bits(expected, resumed)
    assert "a mean over six views" in resumed.record.protocol
    assert resumed.results["tta"] and resumed.results["test_accuracy"] > 0.5


def test_a_checkpoint_that_does_not_count_earlier_steps_is_restored(small: Recipe) -> None:
    training = begin(prepare(small))
    checkpoint = {**to_checkpoint(training), "epoch": 2}
    del checkpoint["earlier_steps"]
    restore(training, checkpoint)
    assert training.earlier_steps == 2 * 21


@pytest.mark.slow
def test_in_fp16_the_loss_is_scaled_and_the_scale_survives(small: Recipe, tmp_path: Path) -> None:
    recipe = small.changed({"precision": "fp16", "gradient_clip": 0.5})
    expected = train(recipe, tmp_path, "whole")
    state = expected.read_checkpoint()
    assert state is not None and state["scaler"]["scale"] > 1
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, "cut", callbacks=[StopAt(1)])
    assert_equal_bits(expected, cifarlab.resume("cut", runs=tmp_path, quiet=True))
    plain = train(recipe.changed({"precision": "fp32"}), tmp_path, "plain")  # scaled gradients are clipped unscaled
    assert expected.history[0].train_loss == pytest.approx(plain.history[0].train_loss, rel=0.02)


def test_other_data_is_not_resumed_on(small: Recipe, tmp_path: Path, digits: Data) -> None:
    with pytest.raises(Interrupted):
        train_only(small, tmp_path, callbacks=[StopAt(1)])
    with pytest.raises(UsageError, match="SHA-256 differs"):
        cifarlab.resume("a", runs=tmp_path, data=dataclasses.replace(digits, sha256="0" * 64), quiet=True)
