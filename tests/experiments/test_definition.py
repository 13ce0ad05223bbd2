"""Studies before anything is trained: reading values and files, combining them, and refusing what is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from cifarlab.errors import UsageError
from cifarlab.experiments.study.definition import Study, define, list_values, parse_varied, read_definition


def test_values_are_read_as_people_write_them() -> None:
    varied = parse_varied(
        [
            "learning_rate=.1,1e-2",
            "seed=0:3,7",
            "augment.flip=true,false",
            "optimizer=sgd, adam",
            "drop=[],['cat', 'dog']",
            'model="lenet5","keras4"',
        ]
    )
    assert varied == {
        "learning_rate": [0.1, 0.01],
        "seed": [0, 1, 2, 7],
        "augment.flip": [True, False],
        "optimizer": ["sgd", "adam"],
        "drop": [[], ["cat", "dog"]],
        "model": ["lenet5", "keras4"],
    }
    assert list_values("2:4") == [2, 3] and list_values(5) == [5] and list_values(range(2)) == [0, 1]
    assert list_values([(), ("cat",)]) == [[], ["cat"]]


def test_every_combination_of_values_gets_a_run() -> None:
    study = define("lenet5", {"epochs": 1}, {"augment.flip": [False, True], "learning_rate": [0.1], "seed": "0:2"})
    assert study.name == "lenet5-flip-learning_rate-seed" and study.keys == ["augment.flip", "learning_rate"]
    assert [run.name for run in study.runs] == [
        "flip=false-learning_rate=0.1-seed=0",
        "flip=true-learning_rate=0.1-seed=0",
        "flip=false-learning_rate=0.1-seed=1",
        "flip=true-learning_rate=0.1-seed=1",
    ]
    last = study.runs[-1]
    assert last.values == {"augment.flip": True, "learning_rate": 0.1, "seed": 1}
    recipe = last.recipe
    assert (recipe.augment.flip, recipe.learning_rate, recipe.seed, recipe.epochs) == (True, 0.1, 1, 1)


def test_options_go_with_the_model_that_a_study_sets() -> None:
    study = define("keras4", {"model": "lenet5"}, {"model_options.activation": ["tanh", "relu"]})
    assert [run.recipe.model_options["activation"] for run in study.runs] == ["tanh", "relu"]


def test_names_of_runs_are_plain_and_differ() -> None:
    rates = [0.12345678, 0.12345679]
    names = [run.name for run in define("lenet5", {}, {"learning_rate": rates}).runs]
    assert names == ["learning_rate=0.123457", "learning_rate=0.123457-2"]
    datasets = {"dataset": ["folder:a/b c", "npz:" + "x" * 200, "npz:" + "x" * 201]}
    names = [run.name for run in define("lenet5", {}, datasets).runs]
    assert len(set(names)) == 3 and names[0] == "dataset=folder_a_b_c"
    assert all(len(name) <= 100 and "/" not in name for name in names)
    names = [run.name for run in define("lenet5", {}, {"merge.a*b/c": ["x", "y"]}).runs]
    assert names == ["a_b_c=x", "a_b_c=y"]  # no letters that would make a pattern of the name


def test_a_file_defines_the_same_study_as_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "rates"\nrecipe = "lenet5"\n[set]\nepochs = 2\naugment.flip = true\n'
        '[vary]\nlearning_rate = [0.1, 0.01]\nseed = "0:2"\n[vary.model_options]\nactivation = ["tanh", "relu"]\n'
    )
    from_file = define(str(path))
    from_command = define(
        "lenet5",
        {"epochs": 2, "augment.flip": True},
        {"learning_rate": [0.1, 0.01], "seed": [0, 1], "model_options.activation": ["tanh", "relu"]},
        "rates",
    )
    assert from_file == from_command and len(from_file.runs) == 8
    changed = define(str(path), {"epochs": 3}, {"seed": [5]})
    assert {run.recipe.seed for run in changed.runs} == {5} and changed.runs[0].recipe.epochs == 3


def test_a_study_file_written_by_an_older_version_still_opens(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'name = "old"\nrecipe = "lenet5"\n\n[set]\n"augment.flip" = true\nmerge = {"truck" = "automobile"}\n\n'
        '[vary]\nlearning_rate = [0.2, 0.001]\ndrop = [[], ["cat"]]\nseed = [0, 1]\n'
    )
    study = define(str(tmp_path / "study.toml"))
    assert len(study.runs) == 8 and study.fixed == {"augment.flip": True, "merge.truck": "automobile"}
    assert study.runs[0].recipe.merge == {"truck": "automobile"}


def test_every_kind_of_value_survives_the_file(tmp_path: Path) -> None:
    studies = [
        define("lenet5", {"dataset": 'npz:a "quoted" \\ name ü\x7f.npz'}, {"learning_rate": [1e-7, 3]}),
        define("lenet5", {}, {"drop": [[], ["cat"], ["dog", "frog"]], "augment.flip": [True, False]}),
        define("lenet5", {}, {"merge": [{}, {"cat": "dog"}], "seed": "0:2"}),
    ]
    for study in studies:
        text = tomli_w.dumps(study.definition.model_dump())
        (tmp_path / "study.toml").write_text(text)
        assert define(str(tmp_path / "study.toml")) == study
        assert tomllib.loads(text)["vary"] == study.varied


def test_fixed_tables_survive_the_file(tmp_path: Path) -> None:
    study = define("lenet5", {"merge": {"cat": "dog"}}, {"seed": "0:2"}, "merged")
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study.definition.model_dump()))
    assert study.describe_missing(read_definition(tmp_path / "study.toml")) == ""


def test_a_study_can_vary_the_users_own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text('model = "lenet5"\nepochs = 4\n')
    monkeypatch.chdir(tmp_path)
    study = define("own.toml", {}, {"seed": "0:2"})
    assert study.recipe == str(tmp_path / "own.toml") and study.runs[0].recipe.epochs == 4
    (tmp_path / "study.toml").write_text('recipe = "own.toml"\n[vary]\nseed = [0, 1]\n')
    monkeypatch.chdir("/")
    assert define(str(tmp_path / "study.toml")) == study  # a recipe beside the study's file is found from everywhere


@pytest.mark.parametrize(
    ("fixed", "varied", "message"),
    [
        ({}, {}, "no key is varied"),
        ({}, {"learning_rat": [1]}, "unknown key 'learning_rat': did you mean 'learning_rate'"),
        ({"epohcs": 1}, {"seed": [1]}, "unknown key 'epohcs': did you mean 'epochs'"),
        ({}, {"learning_rate": [0.1, -1]}, "learning_rate .* greater than 0, got -1"),
        ({}, {"seed": []}, "seed has no value to vary"),
        ({}, {"seed": [0, 1, 0]}, "seed has the value 0 twice"),
        ({}, {"augment.shift": [0, 0.0]}, "shift=0 and shift=0-2 would be the same run"),
        ({"seed": 1}, {"seed": [0]}, "seed is both set and varied"),
        ({}, {"head_learning_rate": [0.05, 0.5]}, "head_learning_rate has no effect with optimizer = sgd, so that a"),
        ({"schedule": "cosine"}, {"factor": [0.1, 0.2]}, "factor has no effect with schedule = cosine"),
        ({}, {"optimizer": ["sgd", "adam"], "warmup": [0, 0.1]}, "warmup has no effect with schedule = constant"),
        ({}, {"description": ["a"]}, "description does not change what is trained"),
        ({}, {"seed": "0:200", "epochs": range(1, 200)}, "a study has at most 10,000 runs, got 39,800"),
        ({}, {"seed": "5:2"}, "a range must hold 1 to 10,000 numbers, got '5:2'; 0:5 means 0 to 4"),
    ],
)
def test_wrong_tables_are_refused(fixed: dict[str, Any], varied: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        define("lenet5", fixed, varied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('recipe = "lenet5"\nvarry = 1\n', "unknown key 'varry': did you mean 'vary'"),
        ("[vary]\nseed = [1]\n", "the key 'recipe' is missing"),
        ('recipe = "lenet5"\nvary = 3\n', "vary should be a table, got 3"),
        ("recipe = 3\nvary = {}\n", "recipe should be a text, got 3"),
        ('recipe = "lenet5"\n[vary]\nseed = [2026-01-01]\n', "vary.seed.0.str should be a text, got datetime"),
        ('recipe = "lenet5"\n[vary]\nseed = "5:2"\n', "got '5:2'"),
        ("recipe = \n", "not a TOML file"),
        ('recipe = "lenet"\n[vary]\nseed = [1]\n', "unknown recipe 'lenet': did you mean 'lenet5'"),
        ("# nothing\n", 'a.toml is empty. A study needs recipe = "NAME" and a table'),
        ("#" * 100_001, "at most 100,000 bytes"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(UsageError, match=message):
        define(str(tmp_path / "a.toml"))


def test_keys_that_count_in_some_runs_may_be_varied() -> None:
    study = define("lenet5", {}, {"optimizer": ["sgd", "muon"], "head_learning_rate": [0.05, 0.5]})
    assert len(study.runs) == 4


def test_settings_without_values_are_refused() -> None:
    for text in ("seed", "seed=", "seed= "):
        with pytest.raises(UsageError, match="--vary must be KEY=VALUE,VALUE, got 'seed"):
            parse_varied([text])
    with pytest.raises(UsageError, match="--vary seed occurs twice"):
        parse_varied(["seed=1", "seed=2"])
    with pytest.raises(UsageError, match=r"cannot read none\.toml: No such file or directory$"):
        define("none.toml")


def test_the_difference_from_another_study_is_named() -> None:
    def study(fixed: dict[str, Any], **varied: Any) -> Study:
        return define("lenet5", fixed, varied)

    small = study({"epochs": 1}, learning_rate=[0.1], seed="0:2")
    large = study({"epochs": 1}, learning_rate=[0.1, 0.01], seed="0:5")
    assert large.describe_missing(small.definition) == "" == small.describe_missing(small.definition)
    for other, message in (
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
        (define("keras4", {"epochs": 1}, {"learning_rate": [0.1], "seed": "0:2"}), "its recipe is keras4, not"),
    ):
        assert message in small.describe_missing(other.definition)


def test_an_empty_table_empties_that_of_the_recipe() -> None:
    study = define("relabel/truck-as-bird", {"merge": {}}, {"seed": "0:2"})
    assert [run.recipe.merge for run in study.runs] == [{}, {}] and study.definition.set == {"merge": {}}
