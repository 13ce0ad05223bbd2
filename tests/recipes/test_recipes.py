"""Recipes: every built-in one, invalid ones with their errors, TOML files and differences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cifarlab import Data, recipe, train
from cifarlab.cli import main
from cifarlab.errors import UsageError
from cifarlab.models import model_names
from cifarlab.recipes import DEFAULT, FINE_TUNING, MILD, SMALL, load, names, parse_settings, to_toml
from cifarlab.recipes.differences import differing_settings, value_text
from cifarlab.recipes.loading import find, toml_value
from cifarlab.training.preparation import choose_recipe
from every_network import QUICK

PUBLISHED = {  # epochs and accuracy
    "relabel/cifar10": [(10, 0.6281)],
    "relabel/drop-truck": [(10, 0.6234)],
    "relabel/truck-as-automobile": [(10, 0.6553)],
    "relabel/truck-as-bird": [(10, 0.6329)],
    "lenet5-wide": [(15, 0.702)],
    "ygnet": [(200, 0.90)],
    "firststeps": [(600, 0.76)],
    "keras4": [(10, 0.7129), (20, 0.7457), (50, 0.7532), (100, 0.6706)],
    "keras6": [(10, 0.7561), (20, 0.7531), (50, 0.6993), (100, 0.6866)],
    "allcnn-c": [(350, 0.9092)],
    "allcnn-c-augmented": [(350, 0.9275)],
}

FIELD = {  # networks that the field compares with, and their published accuracy
    "resnet20": 0.9125,
    "resnet32": 0.9249,
    "resnet56": 0.9303,
    "resnet110": 0.9357,
    "resnet18": 0.9302,
    "resnet34": None,
    "resnet50": 0.9362,
    "preact-resnet18": 0.9511,
    "vgg11": None,
    "vgg16": 0.9264,
    "mobilenetv2": 0.9443,
    "densenet121": 0.9504,
    "densenet-bc-100-12": 0.9549,
    "resnext29-2x64d": 0.9482,
    "resnext29-32x4d": 0.9473,
    "resnext29-8x64d": 0.9635,
    "wide-resnet16-4": None,
    "wide-resnet28-10": 0.96,
    "cct-7-3x1": 0.965,
    "convmixer-256-8": 0.925,
    "vit-tiny": None,
}
FAST = ["resnet20-fast", "resnet18-fast"]


def test_all_seventeen_published_results_are_in_their_recipes() -> None:
    assert sum(map(len, PUBLISHED.values())) == 17
    for name, figures in PUBLISHED.items():
        assert [(figure.epochs, figure.accuracy) for figure in load(name).published] == figures
    assert {name for name in names() if load(name).published} == {*PUBLISHED, *(name for name in FIELD if FIELD[name])}


@pytest.mark.parametrize("name", FIELD)
def test_networks_of_the_field_have_a_recipe_with_result_and_source(name: str) -> None:
    made = load(name)
    assert made.model == name and made.validate_on == "test"
    assert [figure.accuracy for figure in made.published] == ([FIELD[name]] if FIELD[name] else [])
    assert all(figure.source and figure.epochs == made.epoch_count for figure in made.published)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (load(name).model not in QUICK)) for name in [*FIELD, *FAST]]
)
def test_networks_of_the_field_train_by_their_recipes(name: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    halves = [(pixels[half], np.arange(20) % 10) for half in (slice(20), slice(20, 40))]
    few = {"epochs": 1, "batch_size": 10, "validation_fraction": 0.5}
    run = train(recipe(name, **few), data=(halves[0], halves[1]), runs=tmp_path, name="a", quiet=True)
    assert run.status == "finished" and np.isfinite(run.results["test_loss"])


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_whole(name: str) -> None:
    loaded = load(name)
    assert loaded.name == name
    assert loaded.model in model_names()
    assert loaded.description
    text = find(name).read_text()
    assert f"cifarlab train {name}" in text or name == DEFAULT  # the header has the command
    assert all(figure.epochs <= loaded.epoch_count for figure in loaded.published)
    assert load(name) == type(loaded).model_validate(loaded.model_dump(mode="json"))  # as run.json stores and reads it


@pytest.mark.parametrize("name", [name for name in names() if load(name).published])
def test_published_recipes_choose_nothing_by_the_test_set(name: str) -> None:
    loaded = load(name)
    assert (loaded.train_on, loaded.validate_on, loaded.keep, loaded.patience) == ("all", "test", "last", 0)
    assert loaded.protocol().startswith("published protocol")


def test_the_default_split_is_honest() -> None:
    loaded = load(DEFAULT)
    assert (loaded.train_on, loaded.validate_on, loaded.validation_fraction) == ("split", "validation", 0.1)
    assert loaded.protocol().startswith("honest protocol")


def test_a_recipe_is_given_by_its_name() -> None:
    code = "from cifarlab.recipes import load; load(5)"  # in a process whose arguments' types are not checked
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError: a recipe is given by its name or TOML file, got 5" in ended.stderr


def test_keys_without_effect_are_named() -> None:
    recipe = load("lenet5")
    assert [load(name).without_effect() for name in names()] == [[]] * len(names())
    idle = recipe.changed({"head_learning_rate": 0.3, "milestones": [1], "factor": 0.01, "warmup": 0.5, "decay": 5})
    idle = idle.changed({"warmup_rate": 0.1})
    assert idle.without_effect() == [
        "head_learning_rate has no effect with optimizer = sgd",
        "decay has no effect with schedule = constant",
        "milestones has no effect with schedule = constant",
        "factor has no effect with schedule = constant",
        "warmup has no effect with schedule = constant",
        "warmup_rate has no effect with schedule = constant",
    ]
    assert idle.changed({"optimizer": "muon", "schedule": "step"}).without_effect() == [
        "decay has no effect with schedule = step"
    ]
    strong = recipe.changed({"augment.magnitude": 14})
    assert strong.without_effect() == ["augment.magnitude has no effect with augment.policy = none"]
    assert strong.changed({"augment.policy": "randaugment"}).without_effect() == []
    assert recipe.without_effect(["momentum", "nesterov"]) == []
    assert len(recipe.changed({"optimizer": "adam"}).without_effect(["momentum", "nesterov"])) == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 0}, "epochs should be greater than 0, got 0"),
        ({"epochs": "many"}, "epochs should be a number, got 'many'"),
        ({"learning_rate": float("nan")}, "learning_rate should be"),
        ({"optimizer": "sdg"}, "optimizer should be 'sgd', 'adam', 'adamw' or 'muon', got 'sdg'"),
        ({"momentun": 0.9}, "unknown key 'momentun': did you mean 'momentum'"),
        ({"augment.flipp": True}, "unknown key 'augment.flipp': did you mean 'augment.flip'"),
        ({"train_on": "all"}, "leaves nothing to validate on"),
        ({"validate_on": "test"}, "would choose by the test set"),
        ({"schedule": "step"}, "needs milestones"),
        ({"schedule": "step", "milestones": [0]}, "milestones.0 should be greater than 0, got 0"),
        ({"warmup_rate": 0.1}, "warmup_rate needs a warmup above 0"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs a momentum"),
        ({"augment.crop": 32}, "augment.crop should be less than the size of 32 pixels, got 32"),
        ({"normalize": "zca", "size": 128}, "needs a size of at most 64"),
        ({"epochs.x": 1}, "unknown key 'epochs.x'"),
        ({"mean": [0.5, 0.4]}, "std above 0, got mean 0.5/0.4 and std none"),
        ({"std": 0}, "std above 0"),
        ({"std": "a"}, "std.0 should be a number"),
        ({"mean": -1}, "mean.0 should be greater than or equal to 0, got -1"),
        ({"mean": 0.5, "std": 255}, 'got mean 0.5 and std 255: set normalize to "unit" for pixels from 0 to 1'),
        ({"mean": 0, "std": 1}, "do not tell the scale"),
        ({"mean": 104, "normalize": "unit"}, r"from 0 to 1 \(a white pixel\), std above 0, got mean 104"),
        ({"std": 64, "normalize": "unit"}, "got mean none and std 64"),
        ({"mean": 300}, "from 0 to 255"),
        ({"mean": 0.5, "normalize": "zca"}, 'mean and std need normalize = "unit", "raw" or "standard", got "zca"'),
        ({"channels": "grey"}, "channels should be 'rgb', 'bgr', 'gray' or 'mono', got 'grey'"),
        ({"resize": "squash"}, "resize should be 'crop', 'stretch' or 'pad', got 'squash'"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(changes: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text) as raised:
        load("lenet5").changed(changes)
    assert "\n" not in str(raised.value)


def test_settings_are_read_as_toml_reads_them() -> None:
    settings = ["epochs=3", "model=keras4", "augment.flip=true", "learning_rate = 1e-2", 'drop=["cat","dog"]']
    assert parse_settings(settings) == {
        "epochs": 3,
        "model": "keras4",
        "augment.flip": True,
        "learning_rate": 0.01,
        "drop": ["cat", "dog"],
    }
    changed = load("lenet5").changed(parse_settings([*settings, "model_options.activation=relu"]))
    assert changed.augment.flip and changed.drop == ("cat", "dog")
    assert changed.model_options["activation"] == "relu"
    with pytest.raises(UsageError, match="should be key=value"):
        parse_settings(["epochs"])
    with pytest.raises(UsageError, match="did you mean 'epochs'"):
        parse_settings(["epoch=3"])


@pytest.mark.parametrize("text", ["mean=0.5,0.4,0.3", "mean=[0.5, 0.4, 0.3]", "mean=127.5,102,76.5"])
def test_a_mean_is_read_on_the_scale_that_its_numbers_have(text: str) -> None:
    changed = load("lenet5").changed(parse_settings([text, "channels=bgr"]))
    assert changed.preprocessing.constants == ([0.5, 0.4, 0.3], [1 / changed.preprocessing.white])
    assert changed == type(changed).model_validate(tomllib.loads(to_toml(changed)))


def test_the_function_takes_changes_by_name() -> None:
    assert recipe("keras6", epochs=3).epochs == 3
    with pytest.raises(UsageError, match="unknown recipe 'keras5': did you mean 'keras"):
        recipe("keras5")


def test_recipe_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('model = "keras4"\nepochs = 2\n')
    assert load(str(file)).name == "mine"
    for text, message in (
        ("model = ", "not a TOML file"),
        ("epochs = 3", "the key 'model' is missing"),
        ('model = "keras4"\nbatchsize = 3', "unknown key 'batchsize': did you mean 'batch_size'"),
        ("x = " + "[" * 5000, "not a TOML file"),
        ("# " + "x" * 200_000, "too large for a recipe"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=message):
            load(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a TOML file"):
        load(str(file))
    with pytest.raises(UsageError, match=r"cannot read .*none\.toml: No such file or directory"):
        load(str(tmp_path / "none.toml"))


def test_a_recipe_takes_what_it_does_not_say_from_its_base(tmp_path: Path) -> None:
    file, base = tmp_path / "mine.toml", load("resnet18-fast")
    file.write_text('base = "resnet18-fast"\nepochs = 3\n[augment]\ncrop = 4\n')
    changes = {"name": "mine", "epochs": 3, "augment.crop": 4, "description": ""}
    assert load(str(file)) == base.changed(changes) and base.augment.alternate_flip
    file.write_text('base = "resnet18-fast"\nmodel = "vgg11"\n')
    assert load(str(file)) == base.changed({"name": "mine", "model": "vgg11", "description": ""})
    assert base.progressive_resizing and not load(str(file)).progressive_resizing
    file.write_text('base = "lenet5"\n[model_options]\nactivation = "relu"\n')
    assert load(str(file)).model_options == {**load("lenet5").model_options, "activation": "relu"}
    file.write_text('base = "keras4"\n')
    assert load("keras4").published and not load(str(file)).published  # a result belongs to one recipe
    for text, message in (("'keras5'", "unknown base 'keras5': did you mean 'keras"), ("[5]", "unknown base")):
        file.write_text(f"base = {text}")
        with pytest.raises(UsageError, match=message):
            load(str(file))


def test_another_model_starts_without_the_options_of_the_old_one() -> None:
    quick = load(DEFAULT).changed({"model_options.width": 32})
    assert quick.changed({"model": "keras4"}).model_options == {}
    assert quick.changed({"model": quick.model, "epochs": 1}).model_options == quick.model_options
    changed = quick.changed({"model": "lenet5", "model_options.c3": "dense"})
    assert changed.model_options == {"c3": "dense"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], DEFAULT),
        (["--model", "keras4"], MILD),
        (["--start-from", "pretrained:fastnet"], FINE_TUNING),
        (["keras6"], "keras6"),
    ],
)
def test_the_recipe_that_the_command_line_chooses(
    arguments: list[str], name: str, cifar10: Data, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["cifarlab", "train", *arguments, "--dry-run", "--json"])
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as `main` sets it, so that it does not stay
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert printed.err == "" and json.loads(printed.out)["recipe"] == name


FEW, MANY = {"cat": 30, "dog": 20}, {"cat": 300, "dog": 350}


def test_few_pictures_get_a_recipe_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, counts in (("few", FEW), ("many", MANY)):
        for label, count in counts.items():
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(count):
                (tmp_path / name / label / f"{number}.png").touch()  # counted by its name alone
    for name in ("a", "b"):
        (run := tmp_path / "few" / "runs" / name).mkdir(parents=True)  # no data
        (run / "run.json").touch()
    few, many = ({"dataset": f"folder:{tmp_path / name}"} for name in ("few", "many"))
    assert choose_recipe(few).name == SMALL
    expected = "40 training images: the recipe 'small' is chosen; name another to choose it: cifarlab train fast90\n"
    assert capsys.readouterr().err == expected
    for changes in (many, {}, {"dataset": "digits"}, few | {"model": "keras4"}, few | {"model": "", "size": 8}):
        assert choose_recipe(changes).name == DEFAULT
    assert capsys.readouterr().err == ""
    for key, value in (("size", 48), ("resize", "pad"), ("channels", "gray"), ("mean", 0.5)):
        assert choose_recipe(few | {key: value}).name == DEFAULT
        reason = f"because the weights of 'small', the default for few images, decide {key}\n"
        assert capsys.readouterr().err == f"40 training images: the recipe 'fast90' is chosen, {reason}"
    for changes in (few, many, {}):
        assert choose_recipe(changes | {"start_from": "pretrained:keras4"}).name == FINE_TUNING
    assert recipe(**few, epochs=3) == load(SMALL).changed({**few, "epochs": 3})
    assert capsys.readouterr().err == expected


def test_few_images_in_arrays_and_tables_count_too(tmp_path: Path) -> None:
    pixels, labels = np.random.default_rng(0).integers(0, 256, (700, 8, 8), np.uint8), np.arange(700) % 2
    for count, name in ((60, SMALL), (600, SMALL), (650, DEFAULT)):
        arrays = {"x_train": pixels[:count], "y_train": labels[:count]}
        np.savez(tmp_path / "a.npz", x_train=arrays["x_train"], y_train=arrays["y_train"])
        assert choose_recipe({"dataset": f"npz:{tmp_path / 'a.npz'}"}, quiet=True).name == name
        assert choose_recipe({}, data=arrays, quiet=True).name == name
    rows = [f"{number}.png,{number % 2},{'train' if number < 500 else 'test'}" for number in range(900)]
    (tmp_path / "a.csv").write_text("path,label,split\n" + "\n".join(rows))
    assert choose_recipe({"dataset": f"csv:{tmp_path / 'a.csv'}"}, quiet=True).name == SMALL


@pytest.mark.parametrize("name", names())
def test_a_recipe_written_as_toml_is_read_as_the_same(name: str, tmp_path: Path) -> None:
    recipe = load(name).changed({"published": (), "description": 'odd "\\ \x7f\nü', "model_options.a b": 1e-07})
    recipe = recipe.changed({"merge": {"truck": "a.b"}, "augment.shift": 0.125, "drop": ("x", 'y"')})
    file = tmp_path / "written.toml"
    file.write_text(to_toml(recipe, "why\nand how"), encoding="utf-8")
    assert load(str(file)) == recipe
    assert file.read_text(encoding="utf-8").startswith("# why\n# and how\n\nname = ")


VALUES = [1, 1.5, 1e-07, True, "a\n\x7fü\"'\\ ,]", [1, "a,", [2.5]], [], {}, {"a b": 1, "c": {"d": [1, 2]}}]


@pytest.mark.parametrize("value", VALUES)
def test_a_single_value_is_written_as_one_line_of_toml(value: object) -> None:
    text = toml_value(value)
    assert "\n" not in text and tomllib.loads(f"value = {text}") == {"value": value}


def test_differing_settings_have_the_values_of_both_recipes() -> None:
    first = load("lenet5")
    second = first.changed({"epochs": 3, "augment.flip": True, "model_options.c3": "dense", "description": "other"})
    assert differing_settings(first, first.changed({"published": ()})) == {}
    assert differing_settings(first, second) == {
        "epochs": (20, 3),
        "augment.flip": (False, True),
        "model_options.c3": ("sparse", "dense"),
    }
    assert differing_settings(first, first.changed({"model": "keras4"}))["model_options.c3"] == ("sparse", None)


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (1e-07, "1e-07"), (0.1234567891, "0.1234567891"), (True, "true"), ("a", "a")]
)
def test_values_as_short_text(value: object, text: str) -> None:
    assert value_text(value) == text


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match=r"cannot read .*pipe.toml is not a regular file"):
        load(str(tmp_path / "pipe.toml"))
