"""Fine-tuning: weights are taken over, kept where they are frozen, and survive a resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab.errors import Interrupted, UsageError
from cifarlab.models import build_model
from cifarlab.runs.record import EpochRow
from cifarlab.training.finetuning import BATCH_NORM, doubt, freeze, layers_with_weights, trainings_of, warning
from cifarlab.training.preparation import prepare
from cifarlab.training.state import begin


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Knows the digits 0 to 4."""
    recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=6, batch_size=32, drop=list("56789"))
    return cifarlab.train(recipe, runs=tmp_path_factory.mktemp("runs"), name="source", quiet=True)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.classifier.network.state_dict()


def test_other_classes_get_a_new_output_layer_and_the_rest_is_taken_over(source: Run, tmp_path: Path) -> None:
    other = cifarlab.recipe("keras4", dataset="digits", epochs=1, learning_rate=1e-9, start_from=str(source.path))
    trained = cifarlab.train(other, runs=tmp_path, name="a", quiet=True)
    assert trained.recipe.model == "lenet5" and trained.recipe.normalize == source.recipe.normalize
    old, new = weights(source), weights(trained)
    changed = {name for name in new if new[name].shape != old[name].shape}
    assert {name.rpartition(".")[0] for name in changed} == {names_of_layers(trained)[-1]}
    for name in new.keys() - changed:
        torch.testing.assert_close(new[name], old[name], atol=1e-6, rtol=0)


def names_of_layers(run: Run) -> list[str]:
    network = run.classifier.network
    chosen = layers_with_weights(network)
    return [name for name, layer in network.named_modules() if layer in chosen]


def test_the_same_classes_go_on_where_the_weights_stood(source: Run, tmp_path: Path) -> None:
    again = source.recipe.changed({"start_from": str(source.path), "epochs": 1, "learning_rate": 1e-9})
    trained = cifarlab.train(again, runs=tmp_path, name="a", quiet=True)
    assert trained.results["test_accuracy"] == source.results["test_accuracy"]


def test_what_is_frozen_stays_and_the_rest_learns(source: Run, tmp_path: Path, small: Recipe) -> None:
    tuned = small.changed({"start_from": str(source.path), "freeze": 2})
    trained = cifarlab.train(tuned, runs=tmp_path, name="a", quiet=True)
    old, new = weights(source), weights(trained)
    kept = {name for name in new if new[name].shape == old[name].shape and torch.equal(new[name], old[name])}
    assert {name.rpartition(".")[0] for name in kept if "weight" in name} == set(names_of_layers(trained)[:2])


@pytest.mark.slow
def test_frozen_batch_statistics_stay(tmp_path: Path, small: Recipe) -> None:
    few = small.changed({"model": "firststeps", "model_options": {}, "epochs": 1})
    first = cifarlab.train(few, runs=tmp_path, name="a", quiet=True)
    second = cifarlab.train(few.changed({"start_from": "a", "freeze": 4}), runs=tmp_path, name="b", quiet=True)
    statistics = [name for name in weights(first) if name.endswith("running_mean")]
    same = [torch.equal(weights(first)[name], weights(second)[name]) for name in statistics]
    assert same[:2] == [True, True] and not any(same[2:]) and len(same) > 4


@pytest.mark.slow
def test_a_fine_tuning_that_was_cut_ends_with_the_same_bits(source: Run, tmp_path: Path, small: Recipe) -> None:
    class Stop:
        def on_epoch_end(self, run: Run, row: Any) -> None:
            run.ask_to_stop()

    tuned = small.changed({"start_from": str(source.path), "freeze": 1, "epochs": 3})
    whole = cifarlab.train(tuned, runs=tmp_path, name="whole", quiet=True)
    with pytest.raises(Interrupted):
        cifarlab.train(tuned, runs=tmp_path, name="cut", callbacks=[Stop()], quiet=True)
    cut = cifarlab.resume("cut", runs=tmp_path, quiet=True)
    assert all(torch.equal(value, weights(cut)[name]) for name, value in weights(whole).items())


def test_what_does_not_fit_is_said_and_creates_nothing(source: Run, tmp_path: Path, small: Recipe) -> None:
    for changes, text in (
        ({"start_from": "nothing"}, "unknown run 'nothing'"),
        ({"freeze": 5}, "freeze must be less than 5, the number of layers with weights, got 5"),
        (
            {"start_from": str(source.path), "freeze": 9},
            "freeze must be less than 5, the number of layers with weights, got 9",
        ),
    ):
        with pytest.raises(UsageError, match=text):
            cifarlab.train(small.changed(changes), runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("schedule", ["constant", "linear"])  # with `linear` and few validation images, the last counts
def test_a_fine_tuning_never_ends_below_its_start(
    schedule: str, source: Run, digits: Data, tmp_path: Path, small: Recipe
) -> None:
    class Stop:
        def on_epoch_end(self, run: Run, row: Any) -> None:
            run.ask_to_stop()

    ruin = {"learning_rate": 5.0, "momentum": 0.0, "schedule": schedule, "epochs": 2, "drop": source.recipe.drop}
    recipe = small.changed({**ruin, "start_from": str(source.path)})
    with pytest.raises(Interrupted):
        cifarlab.train(recipe, runs=tmp_path, name="a", callbacks=[Stop()], quiet=True)
    run = cifarlab.resume("a", runs=tmp_path, quiet=True)
    assert run.recipe.keep == "best" and run.record.data.validation < 100
    assert run.results["kept_epoch"] == 0 and run.history[-1].validation_accuracy < 0.7
    assert run.results["test_accuracy"] == source.results["test_accuracy"] > 0.8
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(source).items())
    assert "those that it started from" in (run.path / "README.md").read_text()
    log = (run.path / "log.txt").read_text()
    assert log.count("epoch 0/2  before any training: validation loss") == 1
    assert "warning: the learning rate 5 of lenet5 is made for training from scratch" in log


def test_a_start_for_other_classes_is_no_epoch(source: Run, digits: Data, tmp_path: Path, small: Recipe) -> None:
    ruin = small.changed({"learning_rate": 1e-9, "epochs": 1, "start_from": str(source.path)})
    assert cifarlab.train(ruin, runs=tmp_path, name="a", quiet=True).results["kept_epoch"] == 1


def test_few_validation_images_choose_no_epoch(digits: Data, small: Recipe) -> None:
    few = tuple(part.select(np.arange(200)) for part in (digits.train, digits.test))
    rows = [EpochRow(number, 0, 0, 0, 1 - value, value, 0, 0, 0) for number, value in ((1, 0.9), (2, 0.8))]
    for changes, data, kept in (
        ({"schedule": "linear"}, few, 2),
        ({"schedule": "linear"}, (digits.train, digits.test), 1),  # 144 validation images
        ({"schedule": "linear", "keep": "best-of-few"}, few, 1),
        ({"schedule": "linear", "patience": 1}, few, 1),
        ({"schedule": "constant"}, few, 1),  # its last step is as large as all others
    ):
        training = begin(prepare(small.changed(changes), data=Data("few", data[0], data[1])))
        training.history, training.epoch = rows, 2
        assert training.kept is rows[kept - 1], changes


@pytest.mark.parametrize(
    ("recipe", "changes", "is_warned"),
    [
        ("keras4", {}, True),
        ("lenet5", {}, True),
        ("fast90", {}, True),
        ("lenet5", {"learning_rate": 1e-3}, False),
        ("finetune", {}, False),
        ("small", {}, False),
        ("small", {"learning_rate": 0.01}, True),
        ("finetune", {"learning_rate": 0.01}, True),
    ],
)
def test_large_steps_on_trained_weights_are_warned_of(recipe: str, changes: dict[str, Any], is_warned: bool) -> None:
    loaded = cifarlab.recipe(recipe, **{"start_from": "pretrained:keras4", **changes})
    advice = "use at most 0.001 to fine-tune" if recipe in ("finetune", "small") else "use the recipe finetune instead"
    assert (advice in warning(loaded)) is bool(warning(loaded)) is is_warned
    assert "\n" not in warning(loaded) and not warning(cifarlab.recipe("keras4"))


def test_statistics_are_frozen_except_those_of_new_outputs() -> None:
    network = build_model("firststeps")
    norms = [layer for layer in network.modules() if isinstance(layer, BATCH_NORM)]
    assert freeze(network, 0) == [] and freeze(network, 0, statistics=True) == norms and len(norms) == 7
    network.output_layers = [norms[-1]]  # type: ignore[assignment]
    assert freeze(network, 0, statistics=True) == norms[:-1]
    assert all(weight.requires_grad for weight in network.parameters())
    with pytest.raises(UsageError, match="freeze_statistics needs start_from"):
        cifarlab.recipe("small", start_from="")


NEW = ("cat", "dog")
CLEAN, SEEN, UNKNOWN = "honest protocol:", "not honest, because", "not known to be honest, because"


@pytest.mark.parametrize(
    ("name", "seed", "expected"),
    [("lenet5-3x3", 0, SEEN), ("lenet5-3x3", 1, CLEAN), ("lenet5", 0, CLEAN), ("fastnet", 0, SEEN)],
)
def test_shipped_weights_are_honest_on_their_own_split_alone(
    name: str, seed: int, expected: str, cifar10: Data
) -> None:
    few = dataclasses.replace(cifar10, train=cifar10.train.select(np.arange(500)))
    recipe = cifarlab.recipe("lenet5", seed=seed, start_from=f"pretrained:{name}", normalize="standard")
    assert prepare(recipe, data=few).parts.protocol.startswith(expected)
    published = recipe.changed({"validate_on": "test", "keep": "last"})
    assert prepare(published, data=few).parts.protocol.startswith("published protocol: ")


@pytest.mark.parametrize(
    ("origin", "changes", "expected"),
    [
        ({}, {}, CLEAN),
        ({}, {"seed": 1}, SEEN),
        ({}, {"validation_fraction": 0.05}, CLEAN),  # a part of the images that were held out before
        ({}, {"validation_fraction": 0.2}, SEEN),
        ({}, {"drop": ["9"]}, SEEN),  # which splits in another way
        ({"drop": list("01234")}, {"drop": list("56789")}, CLEAN),
        ({"train_on": "all"}, {}, SEEN),
        ({"protocol": "published protocol: trained on all training images, and"}, {}, SEEN),
        ({"sha256": "0" * 64}, {}, UNKNOWN),  # the data set has changed
        ({"sha256": "0" * 64, "dataset": "other"}, {}, UNKNOWN),  # which may hold the same images
        ({"sha256": ""}, {}, UNKNOWN),
        ({"origins": {"start_from": "0" * 64}}, {}, UNKNOWN),
        ({"ancestors": [{"dataset": "other", "sha256": "0" * 64}]}, {}, UNKNOWN),
        ({"ancestors": [{"dataset": "digits", "seed": 1}]}, {}, SEEN),
    ],
)
def test_what_the_weights_have_seen_decides_whether_validation_is_honest(
    origin: dict[str, Any], changes: dict[str, Any], expected: str, digits: Data, trained_run: Run
) -> None:
    for ancestor in origin.get("ancestors", ()):
        ancestor.setdefault("sha256", digits.sha256)
    classifier = trained_run.classifier
    about = {"dataset": "digits", "seed": 0, "sha256": digits.sha256, **origin}
    source = dataclasses.replace(classifier, about=about)
    recipe = trained_run.recipe.changed(changes)
    reason = doubt(recipe, digits, source)
    assert (reason or CLEAN).startswith(expected)
    own_validation = dataclasses.replace(digits, validation=digits.test)
    reason = doubt(recipe, own_validation, source)
    assert (reason or CLEAN).startswith(UNKNOWN if expected == UNKNOWN else CLEAN)
    other_classes = dataclasses.replace(digits, sha256="1" * 64, train=dataclasses.replace(digits.train, classes=NEW))
    is_unknown = not all(each.sha256 for each in trainings_of(source))
    assert bool(doubt(recipe.changed({"drop": []}), other_classes, source)) is is_unknown


def test_weights_of_unknown_images_make_no_honest_validation_whatever_their_classes_are_called(
    digits: Data, trained_run: Run
) -> None:
    names = tuple(f"class{number}" for number in range(10))
    source = dataclasses.replace(trained_run.classifier, classes=names, about={"imported": "w.pth"})
    assert doubt(trained_run.recipe, digits, source).startswith(UNKNOWN)


def test_run_report_and_weights_say_what_the_start_weights_have_seen(trained_run: Run, tmp_path: Path) -> None:
    changes = {"seed": 1, "epochs": 1, "start_from": str(trained_run.path)}
    run = cifarlab.train(trained_run.recipe.changed(changes), runs=tmp_path, name="a", quiet=True)
    assert run.record.protocol.startswith(SEEN) and SEEN in run.log
    for page in ("report.html", "README.md"):
        assert "ot honest, because the weights" in (run.path / page).read_text(encoding="utf-8")
    assert run.classifier.about["protocol"] == run.record.protocol
    assert [(each.seed, each.dataset) for each in trainings_of(run.classifier)] == [(1, "digits"), (0, "digits")]
    back = trained_run.recipe.changed({"start_from": str(run.path)})  # the first weights' own split
    assert prepare(back).parts.protocol.startswith(SEEN)


def test_the_last_layer_cannot_be_frozen() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert freeze(network, 1) == [network[0]]
    assert [weight.requires_grad for weight in network.parameters()] == [False, False, True, True]
    with pytest.raises(UsageError, match="freeze must be less than 2, the number of layers with weights, got 2"):
        freeze(network, 2)


@pytest.mark.slow
def test_balanced_class_weights_raise_the_recall_of_a_rare_class(digits: Data, small: Recipe, tmp_path: Path) -> None:
    rare = np.flatnonzero((digits.train.labels != 8) | (np.arange(len(digits.train)) % 16 == 0))
    data = Data("rare", digits.train.select(rare), digits.test, "0" * 64, "memory", "")
    recalls = []
    for balance in ("none", "balanced"):
        recipe = small.changed({"class_weights": balance, "epochs": 4})
        run = cifarlab.train(recipe, data=data, runs=tmp_path, name=balance, quiet=True)
        recalls.append(run.evaluate(data).per_class[8].recall)
    assert recalls[1] > recalls[0] + 0.1
