"""Corrected labels: the table beside the data, and trainings that use it."""

from __future__ import annotations

from pathlib import Path

import pytest

import cifarlab
from cifarlab import Data, load_data
from cifarlab import recipe as load_recipe
from cifarlab.data.corrections import correct_labels, image_names, read_labels, write_labels
from cifarlab.errors import UsageError
from cifarlab.experiments.rerun import rerun
from conftest import Cli, make_images

QUICK = ("lenet5", "--set", "epochs=1", "--set", "batch_size=256")


def test_labels_change_and_images_are_left_out(digits: Data) -> None:
    before = digits.train.labels[[3, 5]].copy()
    other = digits.classes[(before[0] + 1) % 10]
    corrected = correct_labels(digits, {"train image 3": other, "train image 5": "", "test image 0": digits.classes[7]})
    assert corrected.classes[corrected.train.labels[3]] == other
    assert len(corrected.train) == len(digits.train) - 1 and corrected.test.labels[0] == 7
    assert (corrected.train.images[5] == digits.train.images[6]).all()
    assert digits.train.labels[[3, 5]].tolist() == before.tolist()  # the data set itself is as it was
    assert correct_labels(digits, {}) is digits


def test_files_are_named_below_their_folder(tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    data = load_data(f"folder:{tmp_path / 'pets'}", quiet=True)
    name = image_names(data)["train"][0]
    assert name.startswith("cat/") and (tmp_path / "pets" / name).is_file()
    for spelling in (name, str(tmp_path / "pets" / name)):
        corrected = correct_labels(data, {spelling: "dog"})
        assert corrected.train.labels[0] == 1 and corrected.sha256 == data.sha256
    with pytest.raises(UsageError, match=r"unknown image in the corrected labels 'cat/none.png'"):
        correct_labels(data, {"cat/none.png": "dog"})
    with pytest.raises(UsageError, match="did you mean 'dog'"):
        correct_labels(data, {name: "dogs"})


def test_a_table_is_written_and_read(tmp_path: Path) -> None:
    labels = {'cat/a, "b".png': "dog", "train image 7": ""}
    write_labels(tmp_path / "labels.csv", labels)
    assert read_labels(tmp_path / "labels.csv") == labels


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a.png,cat\n", "should begin with the line image,label"),
        ("image,label\na.png\n", "row 2 should be an image and its label"),
        ("image,label\na.png,cat\n\na.png,dog\n", "row 4 has the image 'a.png' again"),
        ("", "should begin with"),
    ],
)
def test_a_wrong_table_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(UsageError, match="not a table"):
        read_labels(tmp_path / "none.csv")


def test_a_training_records_corrected_labels_and_repeats(cli: Cli, tmp_path: Path, digits: Data) -> None:
    table, runs = tmp_path / "labels.csv", tmp_path / "runs"
    labels = {f"train image {number}": digits.classes[0] for number in range(100)} | {"test image 1": ""}
    write_labels(table, labels)
    train = ("train", *QUICK, "--data", "digits", "--runs", str(runs), "--labels", str(table))
    cli(*train, "--name", "corrected")
    run = cifarlab.Run(runs / "corrected")
    assert run.recipe.labels == labels
    assert run.record.data.test == len(digits.test) - 1
    assert "101 labels checked or corrected by hand" in run.record.protocol
    assert run.evaluate().accuracy == run.results["test_accuracy"]
    told = cli("evaluate", str(runs / "corrected")).stderr
    assert "the training's table of corrected labels has 1 of the test images" in told
    table.unlink()  # the run knows the labels by itself
    assert rerun(run, runs=runs, quiet=True).matches
    plain = cifarlab.train(
        load_recipe("lenet5", dataset="digits", epochs=1, batch_size=256), runs=runs, name="plain", quiet=True
    )
    assert plain.history[-1].train_loss != run.history[-1].train_loss


def test_a_wrong_label_creates_nothing(cli: Cli, tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", {"train image 1": "cat"})
    table = ("--labels", str(tmp_path / "labels.csv"))
    ended = cli("train", *QUICK, "--data", "digits", "--runs", str(tmp_path / "runs"), *table, status=2)
    assert "unknown class" in ended.stderr and not (tmp_path / "runs").exists()
