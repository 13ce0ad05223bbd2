"""Targets: a network is evaluated and predicts alike, however it is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab.data.dataset import in_colour
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.inference.explanation_files import explanation_paths
from conftest import answer, make_images, run_cifarlab


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
    picture = in_colour(digits.test.images[0]).transpose(1, 2, 0)
    Image.fromarray(picture).save(path := tmp_path / "a.png")
    (expected,) = trained_run.predict([path])
    paths = (path, str(path), [str(path)], (path,))
    tensor = torch.from_numpy(digits.test.images[0])
    in_memory = (
        Image.open(path),
        [Image.open(path).convert("RGBA")],
        picture,
        picture[..., 0],
        picture / 255,
        tensor,
        tensor.numpy(),
    )
    for given in (*paths, *in_memory, [tensor, path][:1], tensor[None], digits.test.images[:1]):
        (prediction,) = cifarlab.predict(trained_run, given)
        assert (prediction.label, prediction.image) in ((expected.label, str(path)), (expected.label, "image 0"))
        assert prediction.probability == pytest.approx(expected.probability, abs=1e-6)
    mixed = trained_run.predict([path, Image.open(path), digits.test.images[1]])
    assert [prediction.image for prediction in mixed] == [str(path), "image 1", "image 2"]
    several = digits.test.images[:3]
    for given in (
        several,
        several.transpose(0, 2, 3, 1),
        several[:, :1],
        list(several),
        list(several[:, 0]),
        torch.from_numpy(several),
    ):
        assert [answer.label for answer in trained_run.predict(given)][2] == trained_run.predict(several[2:])[0].label
    assert trained_run.predict([]) == []
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    for one in (opaque, opaque / 255, torch.from_numpy(opaque / 255)):
        assert [answer.label for answer in trained_run.predict(one)] == [expected.label]
    for wrong in (None, 3, np.array(3)):
        with pytest.raises(UsageError, match=r"images should be a path, a picture, an array or a list of them, got"):
            trained_run.predict(wrong)
    with pytest.raises(UsageError, match=r"an image should be images .* got float64"):
        trained_run.predict([picture - 300.0])


def test_damaged_weights_predict_nothing(trained_run: Run, digits: Data) -> None:
    classifier = cifarlab.load(trained_run)
    torch.nn.init.constant_(next(classifier.network.parameters()), float("nan"))
    with pytest.raises(CifarlabError, match="numbers that are NaN or infinite: its weights are damaged"):
        cifarlab.predict(classifier, digits.test.images[:2])


def test_all_images_of_another_data_set_are_test_images(trained_run: Run, digits: Data, tmp_path: Path) -> None:
    make_images(tmp_path / "new", {"3": 6, "1": 4})  # some of the network's ten classes
    evaluation = cifarlab.evaluate(trained_run, f"folder:{tmp_path / 'new'}")
    assert evaluation.classes == digits.classes
    assert [row.support for row in evaluation.per_class] == [0, 4, 0, 6, *[0] * 6]
    make_images(tmp_path / "tested" / "test", {"7": 3})  # neither training images nor a second class
    assert len(cifarlab.evaluate(trained_run, f"folder:{tmp_path / 'tested'}").labels) == 3
    assert len(cifarlab.evaluate(trained_run, f"folder:{tmp_path / 'tested' / 'test'}").labels) == 3
    rows = [f"new/1/{number}.png,1,test" for number in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    assert len(cifarlab.evaluate(trained_run, f"csv:{tmp_path / 'list.csv'}").labels) == 4
    np.savez(tmp_path / "a.npz", x_train=digits.test.images, y_train=digits.test.labels)
    assert cifarlab.evaluate(trained_run, f"npz:{tmp_path / 'a.npz'}").accuracy == trained_run.results["test_accuracy"]
    make_images(tmp_path / "other", {"1": 2, "fox": 2})
    with pytest.raises(UsageError, match=r"classes that the network lacks: fox; it has "):
        cifarlab.evaluate(trained_run, f"folder:{tmp_path / 'other'}")


def test_the_data_of_a_training_keeps_its_test_images_under_another_name(trained_run: Run, digits: Data) -> None:
    copy = replace(digits, name="folder:copy", test_is_split_off=True)
    assert len(cifarlab.evaluate(trained_run, copy).labels) == len(digits.test)
    changed = replace(copy, sha256="0")
    assert len(cifarlab.evaluate(trained_run, changed).labels) == len(digits.test) + len(digits.train)


def test_folders_are_predicted_and_damaged_files_do_not_stop_the_others(trained_run: Run, tmp_path: Path) -> None:
    make_images(tmp_path / "photos", {"a": 3, "b": 2})
    (tmp_path / "photos" / "a" / "1.png").write_bytes(b"damaged")
    run_cifarlab(tmp_path, "predict", trained_run.path, "photos", status=1)
    ended = run_cifarlab(tmp_path, "predict", trained_run.path, "photos", "photos/b/0.png", "--json", status=1)
    assert [Path(row["image"]).name for row in answer(ended)] == ["0.png", "2.png", "0.png", "1.png", "0.png"]
    assert "photos/a/1.png: not an image" in ended.stderr and "1 of 6 files cannot be read" in ended.stderr
    with pytest.raises(UsageError, match=r"1\.png: not an image"):
        trained_run.predict([tmp_path / "photos"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="there is no image in"):
        trained_run.predict([tmp_path / "none"])
    with pytest.raises(
        UsageError, match=r"2 of 3 images cannot be read: .*1\.png: not an image.*; there is no image '"
    ):
        trained_run.predict([tmp_path / "photos" / "a" / "[01].png", tmp_path / "x.png"])
    for words in (["photos/a/1.png", "x.png", "none"], ["x*.png", "photos/a/1.png", "none/"]):
        ended = run_cifarlab(tmp_path, "predict", trained_run.path, *words, "--json", status=2)
        assert ended.stderr.count("skipped: ") == 3 and "3 of 3 files cannot be read as images" in ended.stderr
        assert not ended.stdout


def test_an_explanation_never_replaces_its_picture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a-explained\.png is one of the images"):
        explanation_paths([tmp_path / "a.png", tmp_path / "a-explained.png"], tmp_path, force=True)


def test_a_network_of_one_channel_takes_gray_and_coloured_pictures(small: Recipe, digits: Data, tmp_path: Path) -> None:
    recipe = small.changed({"channels": "mono", "epochs": 1, "augment.policy": "trivialaugment", "tta": True})
    run = cifarlab.train(recipe, runs=tmp_path, name="gray", quiet=True)
    assert {"filters.png", "looks.png", "samples.png"} <= {path.name for path in (run.path / "figures").iterdir()}
    gray = digits.test.images[:2]
    Image.fromarray(gray[0, 0]).save(tmp_path / "gray.png")
    Image.fromarray(in_colour(gray[0]).transpose(1, 2, 0)).save(tmp_path / "rgb.png")
    first, second = run.predict([tmp_path / "gray.png", tmp_path / "rgb.png"])
    assert first.probabilities == second.probabilities
    cifarlab.predict(run, tmp_path / "rgb.png", explain_in=tmp_path / "why")
    train, test = (replace(part, images=part.images.repeat(3, axis=1)) for part in (digits.train, digits.test))
    coloured = cifarlab.evaluate(run, Data("mine", train, test))
    assert np.array_equal(coloured.logits, cifarlab.evaluate(run).logits)
    cifarlab.export(run, tmp_path / "int8.onnx", int8=True)
    further = cifarlab.train(recipe.changed({"start_from": str(run.path)}), runs=tmp_path, name="further", quiet=True)
    assert further.recipe.channels == "mono" and further.status == "finished"
