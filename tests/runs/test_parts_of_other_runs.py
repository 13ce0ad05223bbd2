"""A run refuses files of other runs, and changes of what its results belong to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cifarlab import Run, evaluate, resume
from cifarlab.errors import UsageError
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.runs.folder import RESULT_FILES, RunFolder
from cifarlab.runs.listing import read_row
from conftest import Cli


@pytest.mark.parametrize("name", RESULT_FILES)
def test_files_of_another_run_are_refused(name: str, copied_run: Run) -> None:
    path = copied_run.path / name
    assert path.exists() and copied_run.record.sums.keys() == {*RESULT_FILES, "results"}
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UsageError, match=rf"{name} is damaged, or of another run: its SHA-256 differs"):
        if name.endswith(".safetensors"):
            evaluate(path)
        else:
            _ = copied_run.history, copied_run.confusion, copied_run.predictions


def test_weights_of_another_run_are_refused(copied_run: Run) -> None:
    path = copied_run.weights
    classifier = load_weights(path)
    copied_run.update(sums={})  # as in older runs and in unfinished ones
    save_weights(replace(classifier, about={**classifier.about, "identity": "0" * 64}), path)
    for status in ("finished", "interrupted"):
        copied_run.update(status=status)
        with pytest.raises(UsageError, match=r"best\.safetensors belongs to a run with another recipe, seed or data"):
            evaluate(copied_run.path)
    with pytest.raises(UsageError, match=r"best\.safetensors belongs to a run with another"):
        resume(copied_run.path, quiet=True)


def test_a_checkpoint_of_another_run_is_refused(copied_run: Run) -> None:
    checkpoint = copied_run.read_checkpoint()
    assert checkpoint is not None and checkpoint["identity"] == copied_run.record.identity
    copied_run.write_checkpoint(checkpoint | {"identity": "0" * 64})
    copied_run.update(status="interrupted")
    with pytest.raises(UsageError, match=r"checkpoint\.pt belongs to a run with another recipe, seed or data set"):
        resume(copied_run.path, quiet=True)


@pytest.mark.parametrize("key", ["seed", "recipe.seed", "recipe.learning_rate", "recipe.model", "data.sha256"])
def test_an_edited_record_is_refused(key: str, copied_run: Run, cli: Cli) -> None:
    path = copied_run.path / "run.json"
    record = json.loads(path.read_text())
    table, _, inner = key.rpartition(".")
    place = record[table] if table else record
    place[inner] = {"model": "keras4", "sha256": "1" * 64}.get(inner, 3)
    path.write_text(json.dumps(record))
    for command in ("evaluate", "report", "resume"):
        ended = cli(command, copied_run.path, status=2)
        assert "run.json: recipe, seed or data are not those of the training" in ended.stderr
    assert read_row(RunFolder(copied_run.path)).status == "damaged"


@pytest.mark.parametrize("key", ["test_accuracy", "test_loss", "kept_epoch"])
def test_edited_results_are_refused(key: str, copied_run: Run, cli: Cli) -> None:
    path = copied_run.path / "run.json"
    record = json.loads(path.read_text())
    record["results"][key] = 0.99 if key != "kept_epoch" else 1 + record["results"][key] % 2
    path.write_text(json.dumps(record))
    for command in ("report", "compare", "evaluate"):
        assert "run.json: the results are not those of the training" in cli(command, copied_run.path, status=2).stderr
    assert read_row(RunFolder(copied_run.path)).status == "damaged"


def test_a_run_may_move_and_be_described_anew(copied_run: Run, tmp_path: Path) -> None:
    accuracy, path = copied_run.results["test_accuracy"], copied_run.path / "run.json"
    record = json.loads(path.read_text())
    record["recipe"] |= {"description": "Other words."}
    path.write_text(json.dumps(record))
    shutil.move(copied_run.path, tmp_path / "elsewhere")
    assert evaluate(tmp_path / "elsewhere").accuracy == accuracy
