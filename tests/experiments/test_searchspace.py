"""Search spaces: reading a file, drawing values, and the errors for a wrong file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from cifarlab import recipes
from cifarlab.errors import UsageError
from cifarlab.experiments.tuning import searchspace
from cifarlab.experiments.tuning.searchspace import Choice, Range

WHOLE = """
[learning_rate]
low = 1e-3
high = 0.3
log = true

[momentum]
low = 0
high = 0.9
step = 0.3

[batch_size]
low = 32
high = 128
step = 32

[epochs]
low = 1
high = 64
log = true

["augment.flip"]
choices = [false, true]

["model_options.activation"]
choices = ["tanh", "relu"]

[milestones]
choices = [[2], [2, 4]]
"""


def test_a_space_is_read_and_every_value_drawn_fits_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(WHOLE)
    recipe = recipes.load("lenet5")
    space = searchspace.load(file, recipe)
    assert list(space.items())[:3] == [
        ("learning_rate", Range(low=0.001, high=0.3, log=True)),
        ("momentum", Range(low=0, high=0.9, step=0.3)),
        ("batch_size", Range(low=32, high=128, step=32, whole=True)),
    ]
    assert space["milestones"] == Choice(choices=[[2], [2, 4]])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: dict[str, list[Any]] = {key: [] for key in space}
    for _ in range(60):
        trial = study.ask()
        values: dict[str, Any] = {key: each.suggest(key, trial) for key, each in space.items()}
        changed = recipe.changed(values)
        assert changed.learning_rate == values["learning_rate"] and changed.milestones == tuple(values["milestones"])
        for key, value in values.items():
            drawn[key].append(value)
        assert {key: each.value_of(trial.params[key]) for key, each in space.items()} == values
    assert set(drawn["batch_size"]) == {32, 64, 96, 128} and all(type(each) is int for each in drawn["batch_size"])
    assert {round(each, 9) for each in drawn["momentum"]} == {0, 0.3, 0.6, 0.9}
    assert 15 < sum(rate < 0.0173 for rate in drawn["learning_rate"]) < 45  # as many below the geometric mean as above
    assert set(drawn["augment.flip"]) == {False, True} and len(drawn["milestones"]) == 60


def test_the_recipes_own_values_are_known_where_they_lie_in_the_space() -> None:
    recipe = recipes.load("lenet5")  # learning rate .01, momentum .9, batches of 32, tanh
    tables: dict[str, Any] = {
        "learning_rate": {"low": 0.05, "high": 0.1},
        "momentum": {"low": 0.0, "high": 0.9, "step": 0.3},
        "batch_size": {"low": 30, "high": 40, "step": 5},
        "model_options.activation": {"choices": ["relu", "tanh"]},
        "milestones": {"choices": [[], [3]]},
    }
    space = searchspace.load(tables, recipe)
    assert searchspace.own_values(space, recipe) == {
        "momentum": 0.9,
        "model_options.activation": "tanh",
        "milestones": "[]",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty, but must have a table for each key"),
        ("[learning_rte]\nlow = 1\nhigh = 2", "unknown key 'learning_rte': did you mean 'learning_rate'?"),
        ("learning_rate = 0.1", "learning_rate must be a table with low and high, or with choices"),
        ("[learning_rate]\nlow = 0.1", "learning_rate: the key 'high' is missing"),
        ("[learning_rate]\nlow = 0.2\nhigh = 0.1", "learning_rate: low must be less than high, got 0.2 and 0.1"),
        ("[learning_rate]\nlow = 0.1\nhigh = inf", "learning_rate: high should be a finite number, got inf"),
        ("[learning_rate]\nlow = 'a'\nhigh = 1", "learning_rate: low should be a number, got 'a'"),
        ("[learning_rate]\nlow = 0.1\nhigh = 1\nlogs = true", "unknown key 'logs': did you mean 'log'?"),
        ("[learning_rate]\nlow = 1\nhigh = 2\nwhole = true", "learning_rate: unknown key 'whole'"),
        ("augment = true", 'augment is a table: name one of its keys in quotes, such as ["augment.KEY"]'),
        ("[momentum]\nlow = true\nhigh = 0.5", "momentum: low should be a number, got True"),
        ("[learning_rate]\nlow = 0.1\nhigh = 1\nlog = 1", "learning_rate: log should be true or false, got 1"),
        ("[learning_rate]\nlow = 0.1\nhigh = 1\nlog = true\nstep = 0.1", "needs low above 0 and no step"),
        (
            "[momentum]\nlow = 0.1\nhigh = 0.5\nstep = 0.3",
            "step must divide high - low, got 0.3, 0.1 and 0.5",
        ),
        ("[momentum]\nlow = 0.5\nhigh = 1.5", "less than 1, got 1.5"),
        ("[batch_size]\nlow = 0.5\nhigh = 64.0", "batch_size takes whole numbers: write 0, 64"),
        ("[optimizer]\nchoices = ['sgd', 'sdg']", "'sgd', 'adam', 'adamw' or 'muon', got 'sdg'"),
        (
            "[optimizer]\nchoices = ['sgd']",
            "optimizer: choices must be at least two different values, got ['sgd']",
        ),
        (
            "[nesterov]\nchoices = [true, true]",
            "nesterov: choices must be at least two different values, got [True, True]",
        ),
        ("[augment.flip]\nchoices = [true, false]", 'a key with a dot needs quotes: write ["augment.flip"]'),
        ("[model_options.activation]\nchoices = ['tanh', 'relu']", 'needs quotes: write ["model_options.activation"]'),
        ("[augment]\nflip = true", 'augment is a table: name one of its keys in quotes, such as ["augment.KEY"]'),
        ("[momentum]\nlow = 0.1\nhigh = 0.5\nstep = 0", "momentum: step should be greater than 0, got 0"),
        ("[batch_size]\nlow = 32\nhigh = 64\nstep = -1", "batch_size: step should be greater than 0, got -1"),
        ("[seed]\nlow = 0\nhigh = 9", "seed cannot be tuned, because it decides which images judge a trial"),
        ("[name]\nchoices = ['a', 'b']", "name cannot be tuned, because it does not change the training"),
        ("[learning_rate", "not a TOML file"),
    ],
)
def test_an_error_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        searchspace.load(file, recipes.load("lenet5"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_error_lists_all_faults(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text("[momentum]\nlow = 2\nhigh = 3\n[epoch]\nlow = 1\nhigh = 2\n")
    with pytest.raises(UsageError, match=r"less than 1, got 2.0; unknown key 'epoch': did you mean"):
        searchspace.load(file, recipes.load("lenet5"))
    with pytest.raises(UsageError, match="No such file"):
        searchspace.load(tmp_path / "none.toml", recipes.load("lenet5"))
