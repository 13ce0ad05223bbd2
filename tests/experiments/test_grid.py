"""What a study is: its values, its names, its file, and what is refused before anything is made."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cifarlab.errors import UsageError
from cifarlab.experiments.study import grid


def test_values_are_read_as_people_write_them() -> None:
    read = grid.parse_varied(
        [
            "learning_rate=.1,1e-2",
            "seed=0:3,7",
            "augment.flip=true,false",
            "optimizer=sgd, adam",
            "drop=[],['cat', 'dog']",
            'model="lenet5","keras4"',
        ]
    )
    assert read == {
        "learning_rate": [0.1, 0.01],
        "seed": [0, 1, 2, 7],
        "augment.flip": [True, False],
        "optimizer": ["sgd", "adam"],
        "drop": [[], ["cat", "dog"]],
        "model": ["lenet5", "keras4"],
    }
    assert grid.values_of("2:4") == [2, 3] and grid.values_of(5) == [5] and grid.values_of(range(2)) == [0, 1]


def test_there_is_a_run_for_every_combination() -> None:
    study = grid.define("lenet5", {"epochs": 1}, {"augment.flip": [False, True], "learning_rate": [0.1], "seed": "0:2"})
    assert study.name == "lenet5-flip-learning_rate-seed" and study.keys == ["augment.flip", "learning_rate"]
    assert [member.name for member in study.members] == [
        "flip=false-learning_rate=0.1-seed=0",
        "flip=true-learning_rate=0.1-seed=0",
        "flip=false-learning_rate=0.1-seed=1",
        "flip=true-learning_rate=0.1-seed=1",
    ]
    last = study.members[-1]
    assert last.values == {"augment.flip": True, "learning_rate": 0.1, "seed": 1}
    assert (last.recipe.augment.flip, last.recipe.learning_rate, last.recipe.seed, last.recipe.epochs) == (
        True,
        0.1,
        1,
        1,
    )


def test_options_go_with_a_model_that_is_varied_or_set() -> None:
    study = grid.define("keras4", {"model": "lenet5"}, {"model_options.activation": ["tanh", "relu"]})
    assert [member.recipe.model_options["activation"] for member in study.members] == ["tanh", "relu"]


def test_names_are_plain_and_differ() -> None:
    rates = [0.12345678, 0.12345679]
    names = [member.name for member in grid.define("lenet5", {}, {"learning_rate": rates}).members]
    assert names == ["learning_rate=0.123457", "learning_rate=0.123457-2"]
    sets = {"dataset": ["folder:a/b c", "npz:" + "x" * 200, "npz:" + "x" * 201]}
    names = [member.name for member in grid.define("lenet5", {}, sets).members]
    assert len(set(names)) == 3 and names[0] == "dataset=folder_a_b_c"
    assert all(len(name) <= 100 and "/" not in name for name in names)


def test_a_file_says_what_the_command_line_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "rates"\nrecipe = "lenet5"\n[set]\nepochs = 2\naugment.flip = true\n'
        '[vary]\nlearning_rate = [0.1, 0.01]\nseed = "0:2"\n[vary.model_options]\nactivation = ["tanh", "relu"]\n'
    )
    told = grid.define(str(path))
    said = grid.define(
        "lenet5",
        {"epochs": 2, "augment.flip": True},
        {"learning_rate": [0.1, 0.01], "seed": [0, 1], "model_options.activation": ["tanh", "relu"]},
        "rates",
    )
    assert told == said and len(told.members) == 8
    (tmp_path / "study.toml").write_text(told.to_toml())
    assert grid.define(str(tmp_path / "study.toml")) == told
    more = grid.define(str(path), {"epochs": 3}, {"seed": [5]})
    assert {member.recipe.seed for member in more.members} == {5} and more.members[0].recipe.epochs == 3


def test_texts_and_tables_survive_the_file() -> None:
    values = ['a "quoted" \\ text\nof two lines', "ü\x7f", 1e-7, True, 3, [], ["a", 2], {"cat": "dog"}]
    for value in values:
        assert tomllib.loads(f"value = {grid.as_toml(value)}") == {"value": value}


def test_a_recipe_of_ones_own_can_be_varied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text('model = "lenet5"\nepochs = 4\n')
    monkeypatch.chdir(tmp_path)
    study = grid.define("own.toml", {}, {"seed": "0:2"})
    assert study.recipe == str(tmp_path / "own.toml") and study.members[0].recipe.epochs == 4
    (tmp_path / "study.toml").write_text('recipe = "own.toml"\n[vary]\nseed = [0, 1]\n')
    monkeypatch.chdir("/")
    assert grid.define(str(tmp_path / "study.toml")) == study  # a file beside the study's is found from everywhere


@pytest.mark.parametrize(
    ("fixed", "varied", "told"),
    [
        ({}, {}, "nothing is varied"),
        ({}, {"learning_rat": [1]}, "unknown key 'learning_rat': did you mean 'learning_rate'"),
        ({"epohcs": 1}, {"seed": [1]}, "unknown key 'epohcs': did you mean 'epochs'"),
        ({}, {"learning_rate": [0.1, -1]}, "learning_rate should be greater than 0, got -1"),
        ({}, {"seed": []}, "seed: there is no value to vary"),
        ({}, {"seed": [0, 1, 0]}, "seed: the value 0 is there twice"),
        ({}, {"augment.shift": [0, 0.0]}, "would be the same run"),
        ({"seed": 1}, {"seed": [0]}, "seed is both set and varied"),
        ({}, {"description": ["a"]}, "changes nothing that is trained"),
        ({}, {"seed": "0:200", "epochs": range(1, 200)}, "that would be 39,800 runs, and a study has at most 10,000"),
        ({}, {"seed": "5:2"}, "the range '5:2' should hold 1 to 10,000 numbers; 0:5 is 0 to 4"),
    ],
)
def test_wrong_tables_are_refused(fixed: dict[str, object], varied: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        grid.define("lenet5", fixed, varied)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('recipe = "lenet5"\nvarry = 1\n', "unknown key 'varry': did you mean 'vary'"),
        ("[vary]\nseed = [1]\n", "the key 'recipe' is missing"),
        ('recipe = "lenet5"\nvary = 3\n', "vary should be a table"),
        ("recipe = 3\n", "recipe should be a text"),
        ("recipe = \n", "not a TOML file"),
        ('recipe = "lenet"\n[vary]\nseed = [1]\n', "unknown recipe 'lenet': did you mean 'lenet5'"),
        ("# nothing\n", 'a.toml is empty: a study needs recipe = "NAME" and a table'),
        ("#" * 100_001, "larger than 100,000 bytes"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(UsageError, match=told):
        grid.define(str(tmp_path / "a.toml"))


def test_settings_without_values_are_refused() -> None:
    for text in ("seed", "seed=", "seed= "):
        with pytest.raises(UsageError, match="should be key=value,value"):
            grid.parse_varied([text])
    with pytest.raises(UsageError, match="--vary seed is there twice"):
        grid.parse_varied(["seed=1", "seed=2"])
    with pytest.raises(UsageError, match=r"cannot read none\.toml: No such file or directory$"):
        grid.define("none.toml")


def test_what_another_study_has_is_named() -> None:
    def study(fixed: dict[str, object], **varied: object) -> grid.Study:
        return grid.define("lenet5", fixed, varied)

    small = study({"epochs": 1}, learning_rate=[0.1], seed="0:2")
    large = study({"epochs": 1}, learning_rate=[0.1, 0.01], seed="0:5")
    assert large.lacks(small.definition()) == "" == small.lacks(small.definition())
    for other, told in (
        (large, "it has learning_rate=0.01, which this command lacks"),
        (study({"epochs": 1}, learning_rate=[0.1], seed="0:4"), "it has seed=2, 3, which this command lacks"),
        (study({"epochs": 2}, learning_rate=[0.1], seed="0:2"), "it has epochs=2, and this command epochs=1"),
        (study({}, learning_rate=[0.1], seed="0:2"), "it has no epochs, and this command epochs=1"),
        (study({"epochs": 1}, seed="0:2"), "it does not vary learning_rate, as this command does"),
        (
            study({"epochs": 1}, learning_rate=[0.1], seed="0:2", **{"augment.flip": [True, False]}),
            "it varies augment.flip, which this command does not",
        ),
        (study({"epochs": 1}, seed="0:2", learning_rate=[0.1]), "another order: seed, learning_rate"),
        (grid.define("keras4", {"epochs": 1}, {"learning_rate": [0.1], "seed": "0:2"}), "its recipe is keras4, not"),
    ):
        assert told in small.lacks(other.definition())


def test_a_class_name_in_a_key_makes_no_pattern_of_a_run_s_name() -> None:
    names = [member.name for member in grid.define("lenet5", {}, {"merge.a*b/c": ["x", "y"]}).members]
    assert names == ["a_b_c=x", "a_b_c=y"]
