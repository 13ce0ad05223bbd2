"""Training: what a run keeps, when it ends, and what it says."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab.data.catalogue import load_parts
from cifarlab.errors import CifarlabError, Interrupted
from cifarlab.figures.curves import learning_curves
from cifarlab.inference.evaluation import evaluate
from cifarlab.inference.prediction import predict
from cifarlab.recipes import load
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow
from cifarlab.statistics import metrics
from cifarlab.training.early_stopping import best_epoch, is_out_of_patience
from cifarlab.training.loop import fit
from cifarlab.training.preparation import new_record, prepare
from cifarlab.training.session import Session
from cifarlab.training.state import Training
from small_trainings import StopAt, assert_equal_bits, train, train_only, weights


def test_a_run_folder_has_all_that_the_contract_names(whole: Run) -> None:
    for name in (
        "run.json",
        "metrics.csv",
        "confusion.npz",
        "best.safetensors",
        "last.safetensors",
        "checkpoint.pt",
        "predictions.npz",
        "report.html",
        "README.md",
    ):
        assert (whole.path / name).stat().st_size > 0, name
    assert whole.status == "finished"
    assert len(whole.history) == 3 and whole.confusion.shape == (3, 10, 10)
    assert {"curves", "confusion", "per_class", "samples"} <= set(whole.figures)
    assert not [path for path in whole.path.rglob(".*") if path.name != ".lock"]  # no temporary file is left
    state = torch.load(whole.path / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 3


def test_results_follow_from_what_is_kept(whole: Run, digits: Data) -> None:
    evaluation = whole.evaluate()
    assert evaluation.accuracy == whole.results["test_accuracy"]
    assert evaluation.loss == pytest.approx(whole.results["test_loss"])
    best = max(whole.history, key=lambda row: (row.validation_accuracy, -row.validation_loss))
    assert whole.results["kept_epoch"] == best.epoch
    assert whole.results["validation_accuracy"] == best.validation_accuracy
    assert np.trace(whole.confusion[best.epoch - 1]) / whole.confusion[best.epoch - 1].sum() == best.validation_accuracy
    assert whole.classifier.about["test_accuracy"] == evaluation.accuracy
    likely = predict(whole.classifier, digits.test.images)
    expected = torch.from_numpy(evaluation.logits / whole.results["temperature"]).softmax(dim=1)
    assert whole.classifier.temperature == whole.results["temperature"] and 0.1 < whole.classifier.temperature < 5
    assert likely == pytest.approx(expected.numpy(), abs=1e-5)
    assert whole.classifier.classes == digits.classes


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(whole: Run, full: Recipe, tmp_path: Path) -> None:
    assert_equal_bits(whole, train(full, tmp_path, "again"))
    other = train(full.changed({"seed": 1}), tmp_path, "other")
    assert not torch.equal(weights(whole)["network.0.weight"], weights(other)["network.0.weight"])


def test_training_leaves_the_callers_random_numbers_alone(small: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_only(small, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_lines_of_epochs_fit_a_terminal(whole: Run) -> None:
    lines = re.findall(r"epoch \d/3  loss .*", whole.log)
    assert len(lines) == 3
    for line in lines:  # two letters for `100/100`, one for `100.00%`, two for the time of a long epoch
        assert re.fullmatch(r"epoch \d/3  loss [\d.]+  accuracy [\d.]+%  validation [\d.]+, [\d.]+%  \d s", line)
        assert len(line) <= 80 - 8


def test_progress_is_that_of_the_whole_training(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarlab.progress.SECONDS_BETWEEN_LINES", 0.0)
    prepared = prepare(small)
    fit(prepared, Session(Run.create(tmp_path / "a", new_record(prepared))))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training: ")]
    assert re.match(r"training: 2%  epoch 1/2, ", lines[0]) and re.match(r"training: 52%  epoch 2/2, ", lines[21])


def test_a_stopped_fine_tuning_keeps_the_weights_that_it_names(small: Recipe, trained_run: Run, tmp_path: Path) -> None:
    stop = type("Stop", (), {"on_epoch_end": lambda self, run, row: run.stop()})()
    few = {"epochs": 3, "schedule": "linear", "start_from": str(trained_run.path), "validation_fraction": 0.05}
    run = train_only(small.changed(few), tmp_path, callbacks=[stop])
    assert run.results["kept_epoch"] == run.classifier.about["epoch"] == 1


def test_the_documented_augmentation_is_repeated_and_left_out_of_tests(small: Recipe, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "python.md").read_text()
    (code,) = re.findall(r"```python\n# noisy.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "noisy.py").write_text(code)
    own = small.changed({"model": f"{tmp_path}/noisy.py:Noisy", "epochs": 1})
    one, again = train_only(own, tmp_path / "1"), train_only(own, tmp_path / "2")
    assert_equal_bits(one, again)
    without = train_only(own.changed({"model_options.noise": 0.0}), tmp_path / "3")
    assert one.history[0].train_loss != without.history[0].train_loss
    assert one.evaluate().accuracy == one.results["test_accuracy"]


@pytest.mark.slow
def test_curves_and_confusion_are_redrawn_after_every_epoch_that_is_long_enough(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    class Look:
        def on_epoch_end(self, run: Run, row: EpochRow) -> None:
            seen.append(b"".join(run.figures[name].read_bytes() for name in ("curves", "confusion") if run.figures))

    monkeypatch.setattr("cifarlab.report.live.SHARE_OF_TIME", 1e9)
    train(small, tmp_path, "a", callbacks=[Look()])
    assert len(seen) == 2 and seen[0] != seen[1]
    monkeypatch.setattr("cifarlab.report.live.SHARE_OF_TIME", 1e-9)
    run = train(small, tmp_path, "b", callbacks=[Look()])
    assert seen[2:] == [b"", b""] and {"curves", "confusion"} < set(run.figures)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(small.changed({"model_options.activation": "relu"}), tmp_path, "wild", callbacks=[StopAt(1)])
    run = Run(tmp_path / "wild")
    good = run.read_checkpoint()
    run.update(recipe=run.recipe.changed({"learning_rate": 1e30}))
    assert good is not None
    run.write_checkpoint(good | {"identity": run.record.identity})
    with pytest.raises(CifarlabError, match=r"the loss is not a number any more, in epoch 2 .*lower learning rate"):
        cifarlab.resume(run, quiet=True)
    assert run.status == "failed" or RunFolder(run.path).status == "failed"
    assert "not a number" in RunFolder(run.path).record.reason
    kept = run.read_checkpoint()
    assert kept is not None
    assert (kept["epoch"], kept["step"]) == (good["epoch"], good["step"]) == (1, 1)
    assert all(torch.equal(value, kept["network"][name]) for name, value in good["network"].items())


def test_early_stopping_and_the_best_epoch(small: Recipe, tmp_path: Path) -> None:
    frozen = small.changed({"learning_rate": 1e-12, "epochs": 20, "patience": 2})
    run = train_only(frozen, tmp_path)
    assert (
        run.results["epochs"] == 3 and run.results["stopped_early"]
    )  # the first is the best, two more do not better it
    assert run.results["kept_epoch"] == 1


def rows(*accuracies_and_losses: tuple[float, float]) -> list[EpochRow]:
    return [
        EpochRow(number, 0.1, 1.0, 0.5, loss, accuracy, 1.0, 0.1, 100.0)
        for number, (accuracy, loss) in enumerate(accuracies_and_losses, start=1)
    ]


def test_the_loss_decides_between_epochs_of_equal_accuracy(small: Recipe) -> None:
    history = rows((0.8, 0.5), (1.0, 0.9), (1.0, 0.3), (1.0, 0.3), (0.9, 0.1))
    best = best_epoch(history)
    assert best is not None and best.epoch == 3 and best_epoch([]) is None
    columns = {field.name: [getattr(row, field.name) for row in history] for field in dataclasses.fields(EpochRow)}
    line = learning_curves(columns, "validation").axes[0].lines[2]
    assert line.get_label() == "best epoch: 3"
    assert is_out_of_patience(small.changed({"patience": 3}), history)  # which counts from the first of equals
    assert not is_out_of_patience(small.changed({"patience": 4}), history)


def test_few_validation_images_are_warned_of(small: Recipe, digits: Data, tmp_path: Path) -> None:
    few = dataclasses.replace(digits, train=digits.train.select(np.arange(200)))
    for name, changes in (("a", {}), ("b", {"keep": "last"})):
        run = train_only(small.changed({"epochs": 1, **changes}), tmp_path / name, data=few)
        assert ("only 20 validation images choose the best epoch" in run.log) == (name == "a")


def test_the_time_budget_ends_a_training(small: Recipe, tmp_path: Path) -> None:
    run = train_only(small.changed({"epochs": 1000, "time_budget": 1 / 60}), tmp_path)
    assert 1.0 <= run.results["train_seconds"] < 3.0
    assert run.results["stopped_early"] and run.status == "finished"
    assert f"ended in epoch {len(run.history)} of 1000: the time budget of 0.0166667 minutes is spent" in run.log


@pytest.mark.parametrize("schedule", ["linear", "cosine", "one-cycle", "constant"])
def test_a_schedule_ends_with_the_time_budget(small: Recipe, tmp_path: Path, schedule: str) -> None:
    recipe = small.changed({"epochs": 1000, "time_budget": 1 / 120, "schedule": schedule})
    run = train_only(recipe, tmp_path)
    share = run.history[-1].learning_rate / recipe.learning_rate
    assert share == 1 if schedule == "constant" else share < 0.1
    assert 0.5 <= run.results["train_seconds"] < 1.5


def test_a_time_budget_that_is_not_spent_changes_nothing(small: Recipe, tmp_path: Path) -> None:
    linear = small.changed({"schedule": "linear", "epochs": 1})
    one, other = (
        train_only(linear.changed({"time_budget": minutes}), tmp_path / str(minutes)) for minutes in (0.0, 1000.0)
    )
    assert_equal_bits(one, other)


def test_probabilities_of_test_images_are_those_that_predict_tells(whole: Run, digits: Data) -> None:
    assert whole.predictions is not None and whole.results["temperature"] != 1
    logits = whole.scale_logits(whole.predictions[0])
    told = predict(whole.classifier, digits.test.images[:50])
    np.testing.assert_allclose(metrics.probabilities(logits[:50]), told, atol=1e-5)


def test_a_training_that_learns_nothing_is_told_early_and_at_the_end(small: Recipe, tmp_path: Path) -> None:
    run = train_only(small.changed({"epochs": 4, "learning_rate": 0.04, "momentum": 0, "weight_decay": 20}), tmp_path)
    lines = run.log.splitlines()
    (place,) = [place for place, line in enumerate(lines) if "the same class 2 epochs in a row" in line]
    assert "epoch 2/4" in lines[place - 1] and "epoch 3/4" in lines[place + 1]
    assert re.search(r"every validation image '\d', which is right for \d+\.\d%, and has learned nothing", run.log)


def test_a_training_that_forgets_is_told_which_weights_are_kept(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_epoch = Session.begin_epoch

    def forget(session: Session, training: Training) -> None:
        """Make the network constant after two epochs, as a step that is too large does."""
        if training.epoch == 2:
            with torch.no_grad():
                for weight in training.classifier.network.parameters():
                    weight.zero_()
        begin_epoch(session, training)

    monkeypatch.setattr(Session, "begin_epoch", forget)
    run = train_only(small.changed({"epochs": 4, "momentum": 0, "learning_rate": 0.1}), tmp_path)
    kept = run.results["kept_epoch"]
    assert kept < 3 and run.results["test_accuracy"] > 0.3
    expected = rf"calls every validation image '\d', .*, since epoch 3: the weights of epoch {kept} are kept"
    assert re.search(expected, run.log) and "has learned nothing" not in run.log


def test_fp16_on_a_processor_is_said_to_be_slow(small: Recipe, tmp_path: Path) -> None:
    recipe = small.changed({"epochs": 1, "precision": "fp16", "validate_on": "test", "keep": "last"})
    run = train_only(recipe, tmp_path)
    assert "fp16 is for GPUs" in run.log
    assert "tests after each epoch use fp16 and the final test fp32: last digits may differ" in run.log


def test_averaged_weights_are_what_is_kept(whole: Run) -> None:
    state = whole.read_checkpoint()
    assert state is not None
    kept, raw = weights(whole), state["network"]
    assert torch.equal(kept["network.0.weight"], state["average"]["module.0.weight"])
    assert not torch.equal(kept["network.0.weight"], raw["0.weight"])


def test_averaging_leaves_tables_of_numbers_alone(small: Recipe, tmp_path: Path) -> None:
    run = train_only(small.changed({"ema": 0.9, "precision": "fp32"}), tmp_path)
    assert run.recipe.model_options["c3"] == "sparse"  # LeCun's table is a buffer of whole numbers
    row = run.history[run.results["kept_epoch"] - 1]
    parts = load_parts(run.recipe)[1]
    assert evaluate(run.classifier, parts.validation).loss == pytest.approx(row.validation_loss, rel=1e-6)


def test_the_first_layer_stops_where_the_recipe_says(small: Recipe, tmp_path: Path) -> None:
    kernels, output = [], []

    class Listener:
        def on_epoch_end(self, run: Run, row: EpochRow) -> None:
            kernels.append(weights(run)["network.0.weight"])
            output.append(weights(run)["network.11.weight"])

    train_only(small.changed({"epochs": 4, "freeze_first": 0.5, "momentum": 0.9}), tmp_path, callbacks=[Listener()])
    assert not kernels[0].equal(kernels[1]) and kernels[1].equal(kernels[2]) and kernels[2].equal(kernels[3])
    assert not output[2].equal(output[3])


def test_inverse_time_counts_the_steps_done_where_easy_images_are_left_out(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    after_step = Session.after_step

    def note(session: Session, training: Training, batch: Any) -> None:
        rates.append(training.optimizer.param_groups[0]["lr"])
        after_step(session, training, batch)

    monkeypatch.setattr(Session, "after_step", note)
    changes = {"epochs": 4, "skip_easy": 0.5, "schedule": "inverse-time", "decay": 0.1, "learning_rate": 0.02}
    recipe = small.changed(changes)
    with pytest.raises(Interrupted):
        train_only(recipe, tmp_path, callbacks=[StopAt(2)])
    fit(prepare(recipe, resumed=True), Session(RunFolder(tmp_path / "a"), quiet=True))
    assert rates == pytest.approx([0.02 / (1 + 0.1 * step) for step in range(len(rates))])
    assert 60 < len(rates) < 4 * 21  # steps of an epoch on all images


def test_deterministic_algorithms_are_asked_for_while_training_only(small: Recipe, tmp_path: Path) -> None:
    asked = []

    class Listener:
        def on_epoch_end(self, run: Run, row: EpochRow) -> None:
            asked.append(torch.are_deterministic_algorithms_enabled())

    train_only(small.changed({"deterministic": True, "epochs": 1}), tmp_path, callbacks=[Listener()])
    assert asked == [True] and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_like_the_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cifarlab", "train", "lenet5", "--data", "digits", "--runs", str(tmp_path)]
    command += ["--set", "epochs=1", "--set", "precision=fp32"]
    rows = []
    for setting in ("compile=false", "compile=true"):  # without the tests' type checks, which are not to be compiled
        subprocess.run([*command, "--name", setting, "--set", setting], check=True, capture_output=True)
        rows.append(RunFolder(tmp_path / setting).history[0])
    assert rows[1].train_loss == pytest.approx(rows[0].train_loss, rel=1e-3)
    assert rows[1].validation_loss == pytest.approx(rows[0].validation_loss, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_train_too(precision: str, small: Recipe, tmp_path: Path) -> None:
    run = train(small.changed({"precision": precision, "epochs": 3}), tmp_path, "a")
    plain = train(small.changed({"precision": "fp32", "epochs": 3}), tmp_path, "b")
    assert run.results["test_accuracy"] == pytest.approx(plain.results["test_accuracy"], abs=0.15)
    assert not torch.equal(weights(run)["network.0.weight"], weights(plain)["network.0.weight"])
    assert weights(run)["network.0.weight"].dtype == torch.float32


def test_two_processes_do_not_train_in_one_folder(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_only(small, tmp_path, callbacks=[StopAt(1)])
    with (
        RunFolder(tmp_path / "a").lock(),
        pytest.raises(CifarlabError, match="is being trained by another process"),
    ):
        cifarlab.resume("a", runs=tmp_path, quiet=True)


def test_the_published_protocol_trains_on_all_and_looks_at_the_test_set(digits: Data, tmp_path: Path) -> None:
    recipe = load("relabel/drop-truck").changed({"dataset": "digits", "drop": ["9"], "epochs": 1, "precision": "fp32"})
    run = train_only(recipe, tmp_path)
    data = run.record.data
    assert len(data.classes) == 9
    assert data.train == int((digits.train.labels != 9).sum())
    assert data.validation == data.test == int((digits.test.labels != 9).sum())
    assert run.results["validation_accuracy"] == run.results["test_accuracy"]
    assert run.results["temperature"] is None  # there is nothing left to fit it on
    assert run.record.protocol.startswith("published protocol")


def test_one_epoch_on_real_cifar10_without_truck(cifar10: Data, tmp_path: Path) -> None:
    """A published experiment, cut short: right images, right classes, and already far better than chance."""
    recipe = load("relabel/drop-truck").changed({"epochs": 1, "batch_size": 64})
    first = dataclasses.replace(cifar10, train=cifar10.train.select(np.arange(20_000)))
    run = train_only(recipe, tmp_path, data=first)
    data, kept = run.record.data, cifar10.test.labels < 9
    assert data.train == int((first.train.labels < 9).sum())
    assert (data.test, data.classes) == (9_000, cifar10.classes[:9])
    assert data.majority == pytest.approx(1 / 9)
    assert run.results["test_accuracy"] > 0.25
    assert weights(run)["network.11.weight"].shape == (9, 86)
    assert run.predictions is not None and np.array_equal(run.predictions[1], cifar10.test.labels[kept])


def test_gray_images_train_as_three_equal_channels_do(digits: Data, tmp_path: Path) -> None:
    recipe = load("lenet5").changed({"dataset": "digits", "epochs": 1, "augment.policy": "autoaugment", "tta": True})
    parts = (digits.train.select(np.arange(200)), digits.test.select(np.arange(50)))
    copies = (dataclasses.replace(part, images=part.images.repeat(3, axis=1)) for part in parts)
    runs = [
        cifarlab.train(recipe, data=Data("mine", *pair), runs=tmp_path, name=name, quiet=True)
        for name, pair in (("gray", parts), ("copies", copies))
    ]
    states = [cifarlab.load(run.path).network.state_dict() for run in runs]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    tested = [RunFolder(run.path).predictions for run in runs]
    assert tested[0] and tested[1] and np.array_equal(tested[0][0], tested[1][0])
    assert runs[0].record.data.sha256 == runs[1].record.data.sha256
