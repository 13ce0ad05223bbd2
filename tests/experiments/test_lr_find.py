"""The learning-rate range test: its suggestions, and that it leaves a training exactly as it was."""

from __future__ import annotations

import copy
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifarlab import Data, Recipe, find_learning_rate, recipe
from cifarlab.data import batches
from cifarlab.data.catalogue import load_parts
from cifarlab.errors import UsageError
from cifarlab.experiments import lr_find
from cifarlab.training.loop import set_training_mode, train_step
from cifarlab.training.preparation import prepare_images
from cifarlab.training.state import Training, begin, keep_random_state
from conftest import Cli, answer

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "muon": {"optimizer": "muon", "learning_rate": 0.02, "weight_decay": 0.01},
}


def tiny(**changes: Any) -> Recipe:
    """A small network with batch normalisation on digits, with everything on that a training can hold."""
    defaults = {"dataset": "digits", "size": 16, "batch_size": 64, "precision": "fp32", "ema": 0.9, "skip_easy": 0.2}
    return recipe("firststeps", **{"train_on": "split", "validate_on": "validation", **defaults, **changes})


def everything(training: Training) -> list[Any]:
    """Return copies of all that a training holds, and of PyTorch's and NumPy's random state.

    Python's random state is left out, because the checks of types draw from it.
    """
    networks = [training.classifier.network, training.classifier.preprocess]
    networks += [] if training.average is None else [training.average]
    optimizer = training.optimizer
    state: list[Any] = [(name, value) for each in networks for name, value in each.state_dict().items()]
    state += [(module.training, type(module).__name__) for each in networks for module in each.modules()]
    state += [weight.grad for weight in training.classifier.network.parameters()]
    state += [weight.requires_grad for weight in training.classifier.network.parameters()]
    for group in optimizer.param_groups:
        state += sorted((key, value) for key, value in group.items() if key != "params")
        state += [sorted(optimizer.state[weight].items()) for weight in group["params"] if weight in optimizer.state]
    state += [training.scaler.state_dict(), len(optimizer.state)]
    objects = ("recipe", "classifier", "optimizer", "average", "device", "autocast", "scaler", "forward")
    plain = {*objects, "frozen", "first_layer"}
    state += [getattr(training, each.name) for each in fields(training) if each.name not in plain]
    return copy.deepcopy([*state, torch.get_rng_state(), np.random.get_state()])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        return type(one) is type(other) and bool(np.array_equal(one, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "in the middle"])
def test_a_training_is_left_as_it_was_to_the_bit(name: str, begun: bool, digits16: Data) -> None:
    chosen = tiny(**OPTIMIZERS[name])
    images = load_parts(chosen, data=digits16)[1].train
    training = begin(prepare_images(chosen, images, torch.device("cpu")))
    on_device = batches.to_device(images, training.device)
    steps = list(batches.batches(on_device, chosen.batch_size, chosen.seed, 0))
    set_training_mode(training)
    for batch in steps[:3] if begun else []:
        train_step(training, batch)
    training.classifier.network.eval() if begun else None
    before = everything(training)
    result = find_learning_rate(training, data=digits16, steps=20, lowest=1e-3, highest=0.3, quiet=True)
    assert len(result.rates) > 10 and result.losses[-1] != result.losses[0]
    after = everything(training)
    for one, other in zip(before, after, strict=True):
        assert same(one, other), one
    set_training_mode(training)
    batches.seed_step(0, 0, 3)
    train_step(training, steps[3])
    assert not same(before, everything(training))  # a step would have been noticed


def test_every_random_state_is_kept() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    with keep_random_state():
        inside = draw()
    assert draw() == inside


def test_a_training_goes_on_as_if_there_had_been_no_test(digits16: Data) -> None:
    def weights(tested: bool) -> list[torch.Tensor]:
        chosen = tiny(**OPTIMIZERS["adam"])
        images = load_parts(chosen, data=digits16)[1].train
        training = begin(prepare_images(chosen, images, torch.device("cpu")))
        set_training_mode(training)
        for batch in list(batches.batches(batches.to_device(images, training.device), 64, 0, 0))[:6]:
            if tested and batch.step == 3:
                find_learning_rate(training, data=digits16, steps=15, quiet=True)
            batches.seed_step(0, 0, batch.step)
            train_step(training, batch)
        return [weight.detach() for weight in training.evaluated.network.state_dict().values()]

    assert same(weights(True), weights(False))


@pytest.fixture(scope="module")
def digits16() -> Data:
    from cifarlab import load_data

    return load_data("digits", size=16)


def test_groups_of_weights_keep_the_ratio_of_their_rates(digits16: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tiny(optimizer="muon", learning_rate=0.2, head_learning_rate=0.1, bias_learning_rate=0.05, ema=0.0)
    seen = []

    def watched(training: Training, batch: batches.Batch) -> None:
        seen.append([group["lr"] for group in training.optimizer.param_groups])
        train_step(training, batch)

    monkeypatch.setattr(lr_find, "train_step", watched)
    result = find_learning_rate(chosen, data=digits16, steps=5, lowest=1e-4, highest=1e-2, quiet=True)
    assert result.rates == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2])
    assert seen == [pytest.approx([rate, rate / 2, rate / 4]) for rate in result.rates]


def curve(steepest: float, noise: float, seed: int, steps: int = 300) -> tuple[Any, Any]:
    """Noisy losses that fall fastest at one learning rate and grow beyond a hundred times that rate."""
    rates = np.geomspace(1e-6, 10, steps)
    place = np.log10(rates / steepest)
    losses = 2.3 - 1.5 / (1 + np.exp(-4 * place)) + 4 * np.maximum(place - 1.7, 0) ** 2
    return rates, losses + np.random.default_rng(seed).normal(0, noise, steps)


@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.25])
def test_the_suggestion_is_where_the_loss_falls_fastest_whatever_the_noise(steepest: float, noise: float) -> None:
    suggestions = [lr_find.judge(*curve(steepest, noise, seed)).suggestion for seed in range(40)]
    assert None not in suggestions
    away = np.abs(np.log10(np.array(suggestions, dtype=float) / steepest))
    assert away.max() < (0.06 if noise == 0 else 0.5) and np.median(away) < 0.2


def narrow_curve(steepest: float, noise: float, seed: int, steps: int = 60) -> tuple[Any, Any]:
    """Noisy losses of a narrow range: flat at first, then falling within a tenth of a power of ten."""
    rates = np.geomspace(0.05, 0.9, steps)
    place = np.log10(rates / steepest)
    losses = 2.3 - 1.8 / (1 + np.exp(-30 * place)) + 2 * np.maximum(place - 0.4, 0) ** 2
    return rates, losses + np.random.default_rng(seed).normal(0, noise, steps)


@pytest.mark.parametrize("steepest", [0.09, 0.13, 0.2])
def test_in_a_narrow_range_the_smoothed_loss_is_flat_where_the_losses_are(steepest: float) -> None:
    for seed in range(40):
        rates, losses = narrow_curve(steepest, 0.05, seed)
        result = lr_find.judge(rates, losses)
        flat = rates < steepest / 1.5
        assert np.abs(np.array(result.smoothed)[flat] - 2.3).max() < 0.2
        assert result.suggestion is not None and abs(np.log10(result.suggestion / steepest)) < 0.06


@pytest.mark.parametrize(("lowest", "steps"), [(0.05, 60), (0.05, 300), (1e-6, 60)])
def test_noise_in_any_range_suggests_nothing(lowest: float, steps: int) -> None:
    rates = np.geomspace(lowest, 0.9, steps)
    generator = np.random.default_rng(0)
    for scatter in (np.full(steps, 0.2), np.linspace(0.02, 0.6, steps), np.linspace(0.6, 0.02, steps)):
        results = [lr_find.judge(rates, 2.3 + scatter * generator.normal(size=steps)) for _ in range(100)]
        assert sum(each.suggestion is not None for each in results) <= 2


def test_noise_alone_suggests_nothing() -> None:
    rates = np.geomspace(1e-6, 10, 300)
    generator = np.random.default_rng(0)
    results = [lr_find.judge(rates, generator.normal(2.3, 0.2, 300)).suggestion for _ in range(200)]
    assert sum(each is not None for each in results) <= 4
    assert lr_find.judge(rates, np.full(300, 2.3)).suggestion is None
    assert lr_find.judge(rates[:3], np.array([2.0, 1.0, 0.5])).suggestion is None


def test_lines_are_fitted_exactly_where_the_losses_lie_on_one() -> None:
    place = np.linspace(-6, 1, 100)
    levels, slopes = lr_find.fit_lines(place)
    assert np.allclose(levels @ (3 - 0.7 * place), 3 - 0.7 * place) and np.allclose(slopes @ (3 - 0.7 * place), -0.7)


def test_the_suggested_rate_trains_better_than_a_tenth_of_it_and_the_highest_diverges(digits: Data) -> None:
    chosen = recipe("lenet5", dataset="digits", batch_size=32, momentum=0.0)
    result = find_learning_rate(chosen, data=digits, quiet=True)
    assert result.suggestion is not None and 0.001 < result.suggestion < 1
    assert result.diverged and result.rates[-1] < 10 and len(result.losses) == len(result.rates) == len(result.smoothed)
    again = find_learning_rate(chosen, data=digits, quiet=True)
    assert again == result
    losses = [mean_loss(chosen.changed({"learning_rate": result.suggestion * factor}), digits) for factor in (1, 0.1)]
    assert losses[0] < losses[1] - 0.3


def mean_loss(chosen: Recipe, data: Data, steps: int = 40) -> float:
    """Return the mean loss of the last ten steps at a constant learning rate."""
    images = load_parts(chosen, data=data)[1].train
    training = begin(prepare_images(chosen, images, torch.device("cpu")))
    set_training_mode(training)
    losses = []
    for batch in list(batches.batches(batches.to_device(images, training.device), chosen.batch_size, 0, 0))[:steps]:
        training.loss_sum.zero_()
        train_step(training, batch)
        losses.append(float(training.loss_sum) / len(batch.labels))
    return float(np.mean(losses[-10:]))


def test_wrong_rates_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"highest": float("inf")}]
    for rates in wrong:
        with pytest.raises(UsageError, match="learning rates must satisfy 0 < lowest < highest"):
            find_learning_rate("lenet5", quiet=True, **rates)
    with pytest.raises(UsageError, match="steps must be from 2 to"):
        find_learning_rate("lenet5", steps=1, quiet=True)
    with pytest.raises(UsageError, match="unknown recipe 'lenet': did you mean 'lenet5'"):
        find_learning_rate("lenet", quiet=True)


def test_the_command_draws_and_prints_the_next_command(cli: Cli, tmp_path: Path) -> None:
    command = ("lr-find", "lenet5", "--set", "dataset=digits", "--set", "optimizer=adam", "--steps", "100")
    document = answer(cli(*command, "--json", "--out", "test.svg"))
    assert document["recipe"] == "lenet5" and document["picture"] == "test.svg" and 1e-5 < document["suggestion"] < 0.1
    picture = (tmp_path / "test.svg").read_text()
    assert "learning rate" in picture and ">0.001<" in picture and "mathdefault" not in picture
    assert "the file exists" in cli(*command, "--out", "test.svg", status=2).stderr
    assert "should end in .png or .svg" in cli(*command, "--out", "test.txt", status=2).stderr
    printed = cli(*command).stdout
    settings = f"--set dataset=digits --set optimizer=adam --set learning_rate={document['suggestion']:.3g}"
    assert f"next: cifarlab train lenet5 {settings}" in printed
    assert (tmp_path / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    hopeless = ("--set", "optimizer=sgd", "--lowest", "1e-8", "--highest", "1e-7", "--steps", "50", "--force")
    assert "no suggestion: the loss does not clearly fall in this range" in cli(*command[:4], *hopeless).stdout
