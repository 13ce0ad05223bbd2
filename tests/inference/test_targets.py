"""Targets: a network is evaluated and predicts alike, however it is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab.errors import UsageError
from conftest import make_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=2, batch_size=64, drop=["8"], merge={"7": "1"})
    return cifarlab.train(recipe, runs=tmp_path_factory.mktemp("runs"), name="a", quiet=True)


def test_every_form_of_target_gives_the_same_answer(run: Run, tmp_path: Path, digits: Data) -> None:
    expected = run.results["test_accuracy"]
    runs = run.path.parent
    for target in (run, "a", run.path, str(run.path), run.weights, run.classifier):
        found = cifarlab.evaluate(target, runs=runs)
        assert found.accuracy == expected
    assert found.classes == ("0", "1", "2", "3", "4", "5", "6", "9")
    assert cifarlab.evaluate(run, digits).accuracy == expected  # classes are dropped and merged as for training
    assert cifarlab.evaluate(run, "digits").accuracy == expected
    Image.new("L", (9, 30)).save(tmp_path / "x.png")
    assert run.predict([tmp_path / "x.png"])[0] == cifarlab.predict("a", [tmp_path / "x.png"], runs=runs)[0]


def test_missing_targets_are_errors(run: Run, tmp_path: Path) -> None:
    runs = run.path.parent
    with pytest.raises(UsageError, match="unknown run 'aa': did you mean 'a'"):
        cifarlab.load("aa", runs=runs)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text((run.path / "run.json").read_text())
    with pytest.raises(UsageError, match=r"best\.safetensors is missing"):
        cifarlab.load("b", runs=tmp_path)
    Run(tmp_path / "b").update(status="interrupted")
    with pytest.raises(UsageError, match=r"has no weights yet\. Resume it: cifarlab resume"):
        cifarlab.load("b", runs=tmp_path)
    (tmp_path / "b" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="is damaged, or another version of cifarlab wrote it: the key 'recipe' is"):
        cifarlab.load("b", runs=tmp_path)


def test_dropped_and_merged_classes_are_dropped_and_merged_for_evaluation(
    digits: Data, small: Recipe, tmp_path: Path
) -> None:
    few = small.changed({"epochs": 1, "drop": ["9"], "merge": {"8": "0"}})
    trained = cifarlab.train(few, runs=tmp_path, name="a", quiet=True)
    relabelled = cifarlab.relabel(digits, few.drop, few.merge)
    assert trained.evaluate().accuracy == trained.evaluate(relabelled).accuracy == trained.results["test_accuracy"]


def test_a_folder_that_changed_is_not_evaluated_on_its_old_training_images(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "pets", {"cat": 20, "dog": 20})
    pets = small.changed({"dataset": f"folder:{tmp_path / 'pets'}", "epochs": 1})
    trained = cifarlab.train(pets, runs=tmp_path, name="a", quiet=True)
    assert trained.evaluate().accuracy == trained.results["test_accuracy"]
    (tmp_path / "pets" / "cat" / "0.png").unlink()
    monkeypatch.chdir(tmp_path)
    for name in (None, "folder:pets"):
        with pytest.raises(UsageError, match="has changed since the training"):
            cifarlab.evaluate(trained, name)


def test_one_picture_or_many_of_any_kind_are_predicted(trained_run: Run, digits: Data, tmp_path: Path) -> None:
    picture = digits.test.images[0].transpose(1, 2, 0)
    Image.fromarray(picture).save(path := tmp_path / "a.png")
    (expected,) = trained_run.predict([path])
    paths = (path, str(path), [str(path)], (path,))
    tensor = torch.from_numpy(digits.test.images[0])
    in_memory = (Image.open(path), [Image.open(path).convert("RGBA")], picture, picture[..., 0], picture / 255, tensor)
    for given in (*paths, *in_memory, [tensor, path][:1], tensor[None], digits.test.images[:1]):
        (prediction,) = cifarlab.predict(trained_run, given)
        assert (prediction.label, prediction.image) in ((expected.label, str(path)), (expected.label, "image 0"))
        assert prediction.probability == pytest.approx(expected.probability, abs=1e-6)
    mixed = trained_run.predict([path, Image.open(path), digits.test.images[1]])
    assert [prediction.image for prediction in mixed] == [str(path), "image 1", "image 2"]
    several = digits.test.images[:3]
    for given in (several, several.transpose(0, 2, 3, 1), several[:, 0], list(several), torch.from_numpy(several)):
        assert [answer.label for answer in trained_run.predict(given)][2] == trained_run.predict(several[2:])[0].label
    assert trained_run.predict([]) == []
    with pytest.raises(UsageError, match=r"an image should be images .* got float64"):
        trained_run.predict([picture - 300.0])
