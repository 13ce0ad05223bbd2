"""Precision and threads: measured without a trace, recorded, followed by resume and rerun, changed under load."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cifarlab
from cifarlab import Data, Recipe, Run, UsageError
from cifarlab.data.batches import to_device
from cifarlab.device import choices, keep_threads, plainest
from cifarlab.experiments.rerun import rerun
from cifarlab.recipes import load
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import Computation, Rate
from cifarlab.training import session, speed
from cifarlab.training.loop import fit, one_step, settle
from cifarlab.training.preparation import Prepared, new_record, prepare
from cifarlab.training.session import Session
from cifarlab.training.state import begin, to_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for PyTorch, whatever the environment says."""
    with keep_threads():
        torch.set_num_threads(2)
        yield


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of seconds count as long, and measuring them takes a tenth of a second."""
    monkeypatch.setattr(speed, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(speed, "MEASURING_SECONDS", 0.1)


def fit_only(prepared: Prepared, folder: Path, **options: Any) -> Run:
    run = Run.create(folder / "a", new_record(prepared))
    fit(prepared, Session(run, quiet=True, **options))
    return run


def same_bits(one: Run, other: Run) -> bool:
    first, second = (torch.load(run.path / "checkpoint.pt", weights_only=True)["network"] for run in (one, other))
    assert first.keys() == second.keys() and len(first) > 4
    return all(torch.equal(first[name], second[name]) for name in first)


def test_measuring_ends_soon_before_a_training_of_days(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MOST_MEASURING_SECONDS", 0.3)
    prepared = prepare(small.changed({"epochs": 100_000}))
    training = begin(prepared)
    began = time.monotonic()
    assert speed.measure(training, one_step(training, to_device(prepared.parts.train, CPU)), [("fp32", 1), ("bf16", 1)])
    assert time.monotonic() - began < 30  # without a limit, a fiftieth of hours


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "skip_easy": 0.3}, {"optimizer": "muon", "momentum": 0.6}])
def test_measuring_leaves_no_trace(small: Recipe, changes: dict[str, Any], two_threads: None) -> None:
    prepared = prepare(small.changed({"input_dropout": 0.1, "augment.shift": 0.1, **changes}))
    training = begin(prepared)
    images = to_device(prepared.parts.train, CPU)
    step = one_step(training, images)
    for _ in range(3):  # so that the optimizer has a state
        step(64)

    def state() -> list[Any]:
        weights = [weight.grad for weight in training.classifier.network.parameters()]
        generators = [torch.get_rng_state(), torch.tensor(np.random.random())]
        return [to_checkpoint(training), weights, generators]

    np.random.seed(0)
    before = _copied(state())
    np.random.seed(0)
    allowed = [("fp32", 1), ("fp32", 2), ("bf16", 1)]
    rates = speed.measure(training, step, allowed, 0.2)
    assert [(rate.precision, rate.threads) for rate in rates] == allowed
    assert training.precision == speed.choices(small.changed({"threads": 1}), CPU)[-1][0]
    assert torch.get_num_threads() == 2
    assert _equal(before, state())


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def test_what_auto_may_choose(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.device.has_fast_bf16", lambda device: True)
    assert choices("auto", "auto", CPU) == [("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)]
    assert choices("fp32", "auto", CPU) == [("fp32", 1), ("fp32", 2)]
    assert choices("auto", 3, CPU) == [("fp32", 3), ("bf16", 3)]
    assert choices("bf16", 1, CPU) == [("bf16", 1)]
    torch.set_num_threads(8)
    assert choices("fp32", "auto", CPU) == [("fp32", 1), ("fp32", 4), ("fp32", 8)]
    torch.set_num_threads(1)
    assert choices("fp32", "auto", CPU) == [("fp32", 1)]
    monkeypatch.setattr("cifarlab.device.has_fast_bf16", lambda device: False)
    assert choices("auto", "auto", CPU) == [("fp32", 1)]
    assert len(speed.choices(load("lenet5").changed({"compile": True}), CPU)) == 1


def test_the_plainest_of_the_fastest_is_chosen() -> None:
    one, two, three = ("fp32", 1), ("fp32", 2), ("bf16", 2)
    assert plainest({one: 1.0, two: 0.5, three: 0.25}) == three
    assert plainest({one: 1.0, two: 0.51, three: 0.5}) == two
    assert plainest({one: 1.0, two: 2.0, three: 3.0}) == one


@pytest.mark.parametrize(
    ("recipe", "changes", "is_short"),
    [
        ("lenet5", {"dataset": "digits", "epochs": 2}, True),
        ("fast90", {"dataset": "digits", "epochs": 2}, False),
        ("relabel/cifar10", {"epochs": 0.1}, True),
        ("relabel/cifar10", {}, False),
        ("fast90", {}, False),
    ],
)
def test_only_long_trainings_are_measured(recipe: str, changes: dict[str, Any], is_short: bool) -> None:
    assert speed.is_short(prepare(load(recipe).changed(changes))) is is_short


@pytest.mark.slow
def test_the_choice_is_recorded_and_followed(small: Recipe, long: None, two_threads: None, tmp_path: Path) -> None:
    run = cifarlab.train(small, runs=tmp_path, name="a", quiet=True)
    [computed] = run.record.computed
    allowed = speed.choices(small, CPU)
    assert [(rate.precision, rate.threads) for rate in computed.measured] == allowed
    assert (computed.precision, computed.threads) in allowed and computed.epoch == computed.step == 0
    assert run.record.environment.threads == computed.threads
    log = (run.path / "log.txt").read_text()
    assert (
        "images/s measured: fp32 1 thread " in log and f"chosen: {computed.precision}, {computed.threads} thread" in log
    )
    assert torch.get_num_threads() == 2
    again = rerun(run, runs=tmp_path, quiet=True)
    assert again.matches and again.run.record.computed == run.record.computed


def test_given_values_are_not_measured(small: Recipe, long: None, two_threads: None, tmp_path: Path) -> None:
    recipe = small.changed({"precision": "fp32", "threads": 1})
    run = cifarlab.train(recipe, runs=tmp_path, name="a", quiet=True)
    assert run.record.computed == () and run.record.environment.threads == 1
    assert torch.get_num_threads() == 2


SWITCH = (
    Computation(precision="fp32", threads=1),
    Computation(epoch=0, step=5, precision="bf16", threads=1),
    Computation(epoch=1, step=3, precision="fp32", threads=1),
)


def test_changes_of_the_computation_repeat_to_the_bit(small: Recipe, tmp_path: Path) -> None:
    prepared = dataclasses.replace(prepare(small), computed=SWITCH)
    whole = fit_only(prepared, tmp_path / "whole", adapts=False)
    plain = fit_only(dataclasses.replace(prepare(small), computed=SWITCH[:1]), tmp_path / "plain", adapts=False)
    assert not same_bits(whole, plain)

    class Stop:
        def on_batch_end(self, run: Run, epoch: int, step: int) -> None:
            if (epoch, step) == self.place:
                raise KeyboardInterrupt

        def __init__(self, place: tuple[int, int]) -> None:
            self.place = place

    for place in ((1, 2), (2, 6)):
        folder = tmp_path / f"{place[0]}-{place[1]}"
        prepared = dataclasses.replace(prepare(small), computed=SWITCH)
        run = Run.create(folder / "a", new_record(prepared).model_copy(update={"checkpoint_every": "1"}))
        with pytest.raises(KeyboardInterrupt):
            fit(prepared, Session(run, quiet=True, callbacks=[Stop(place)]))
        resumed = cifarlab.resume(Run(run.path), quiet=True)
        assert resumed.record.computed == SWITCH and same_bits(resumed, whole), place
    repeated = rerun(whole, runs=tmp_path, quiet=True)
    assert repeated.matches and repeated.run.record.computed == SWITCH


@pytest.mark.slow
def test_a_slow_training_is_measured_again(
    small: Recipe, long: None, two_threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKS", 0.05)
    monkeypatch.setattr(session, "SECONDS_OF_SLOWNESS", 0.2)
    promised = Rate(precision="fp32", threads=7, images_per_second=1e9)  # that nothing reaches
    start = Computation(precision="fp32", threads=7, measured=(promised,))
    recipe = small.changed({"epochs": 8, "precision": "fp32"})
    run = fit_only(dataclasses.replace(prepare(recipe), computed=(start,)), tmp_path)
    first, second = run.record.computed  # measured again once, and then not for minutes
    assert first == start and (second.epoch, second.step) > (0, 0)
    assert [(rate.precision, rate.threads) for rate in second.measured] == [("fp32", 1), ("fp32", 2)]
    assert second.threads in (1, 2)
    assert "images/s were measured" in (run.path / "log.txt").read_text()
    fixed = fit_only(dataclasses.replace(prepare(recipe), computed=(start,)), tmp_path / "fixed", adapts=False)
    assert fixed.record.computed == (start,)
    again = rerun(run, runs=tmp_path, quiet=True)
    assert again.matches and again.run.record.computed == run.record.computed


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
@pytest.mark.parametrize("epochs", [0.3, 1.5])
def test_an_epoch_may_end_early(small: Recipe, epochs: float, schedule: str, tmp_path: Path) -> None:
    recipe = small.changed({"epochs": epochs, "schedule": schedule, "skip_easy": 0.2, "precision": "fp32"})
    run = fit_only(prepare(recipe), tmp_path)
    images = run.record.data.train
    steps = -(-images // recipe.batch_size)
    taken = [round(row.images_per_second * row.train_seconds) for row in run.history]
    assert len(run.history) == recipe.epoch_count == len(taken)
    last = -(-steps * (epochs % 1) // 1) * recipe.batch_size
    assert taken[-1] == min(last, images) and taken[:-1] == [images] * (len(taken) - 1)
    assert run.status == "finished" and not run.results["stopped_early"]
    if schedule == "one-cycle":
        assert run.history[-1].learning_rate < 0.1 * recipe.learning_rate


def test_epochs_are_a_number(small: Recipe) -> None:
    for epochs, text in ((3, "3"), (3.0, "3"), (2.5, "2.5")):
        made = small.changed({"epochs": epochs})
        assert f'"epochs":{text},' in made.model_dump_json() and str(made.epochs) == text
    assert isinstance(load("fast90").epochs, int)
    for wrong in (0, -1, float("nan"), 1e6, "many"):
        with pytest.raises(UsageError, match="epochs should be"):
            small.changed({"epochs": wrong})


def test_threads_are_auto_or_a_number(small: Recipe) -> None:
    assert small.threads == "auto" and small.changed({"threads": 4}).threads == 4
    for wrong in (0, -1, 1.5, "all", True, 10**6):
        with pytest.raises(UsageError, match='threads should be "auto" or a whole number from 1 to 1024, got'):
            small.changed({"threads": wrong})


@pytest.mark.parametrize(
    "forged",
    [{"threads": 0}, {"threads": 10**9}, {"precision": "int8"}, {"step": -1}, {"measured": [{"images_per_second": 0}]}],
)
def test_forged_computations_are_refused(forged: dict[str, Any], copied_run: Run) -> None:
    path = copied_run.path / "run.json"
    record = json.loads(path.read_text())
    record["computed"] = [{"precision": "fp32", "threads": 1}]
    path.write_text(json.dumps(record))
    assert RunFolder(copied_run.path).record.computed == (Computation(precision="fp32", threads=1),)
    record["computed"][0] |= forged
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"run\.json is damaged, or another version"):
        _ = RunFolder(copied_run.path).record


def test_threads_are_no_part_of_what_a_run_is(small: Recipe) -> None:
    records = [new_record(prepare(small.changed({"threads": threads}))) for threads in ("auto", 1, 2)]
    assert len({record.find_identity() for record in records}) == 1
    assert new_record(prepare(small.changed({"epochs": 3}))).find_identity() != records[0].find_identity()


@pytest.mark.parametrize(("recipe", "tta"), [("lenet5", False), ("fast94", True), ("fast90", False)])
def test_epochs_that_fit_take_that_long(recipe: str, tta: bool) -> None:
    made = load(recipe).changed({"tta": tta, "dataset": "digits"})
    prepared = prepare(made)
    parts = prepared.parts
    for count in (1, 2, 2.5, 3, 7):
        longer = dataclasses.replace(prepared, recipe=made.changed({"epochs": count}))
        work = speed.work_by_epoch(longer).sum()
        tested = len(parts.test) + (0 if parts.validation is parts.test else len(parts.validation))
        evaluated = longer.recipe.epoch_count * len(parts.validation) + (6 if tta else 1) * tested
        assert speed.expected_seconds(longer, 2.0) == pytest.approx((work + evaluated / 3) / 2)
    for seconds in (60.0, 240.0, 3600.0):
        epochs = speed.epochs_in(prepared, 30.0, seconds)
        taken = speed.expected_seconds(dataclasses.replace(prepared, recipe=made.changed({"epochs": epochs})), 30.0)
        assert 0.9 * seconds < taken <= seconds * 1.01, (epochs, taken)
    assert speed.epochs_in(prepared, 30.0, -5.0) == 0.01


@pytest.mark.slow
def test_minutes_decide_the_epochs(small: Recipe, two_threads: None, tmp_path: Path) -> None:
    began = time.monotonic()
    run = cifarlab.train(small, minutes=0.1, runs=tmp_path, name="a", quiet=True)
    assert run.recipe.epochs != small.epochs and run.recipe.time_budget == 0.1
    assert len(run.history) == run.recipe.epoch_count and len(run.record.computed) == 1
    trained = sum(row.train_seconds + row.validation_seconds for row in run.history)
    assert trained < 6 < time.monotonic() - began + 6
    with pytest.raises(UsageError, match="time_budget should be"):
        cifarlab.train(small, minutes=-1, runs=tmp_path, name="b", quiet=True)


def test_settling_keeps_the_fresh_weights(small: Recipe, long: None, two_threads: None) -> None:
    prepared = prepare(small)
    before = {name: value.clone() for name, value in prepared.classifier.network.state_dict().items()}
    settled = settle(prepared)
    assert settled.computed and settled.classifier is prepared.classifier
    after = settled.classifier.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_evaluation_measures_the_threads(trained_run: Run, cifar10: Data, two_threads: None) -> None:
    classifier = trained_run.classifier
    images = np.repeat(cifar10.test.images[:500], 10, axis=0)
    data = Data("repeated", cifar10.test, dataclasses.replace(cifar10.test, images=images, labels=np.zeros(5000, int)))
    data = dataclasses.replace(data, test=dataclasses.replace(data.test, classes=classifier.classes))
    logits = [
        cifarlab.inference.evaluation.evaluate(classifier, data.test, measures=measures).logits
        for measures in (True, False)
    ]
    assert torch.get_num_threads() == 2
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5)
