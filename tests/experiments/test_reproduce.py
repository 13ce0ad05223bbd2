"""Reproductions: what is planned, that they go on where they were, and that figures come from the right epochs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cifarlab import api, recipes
from cifarlab.errors import Interrupted, UsageError
from cifarlab.experiments import reproduce
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow

EPOCHS = 1  # of the reproduction that the tests share


def test_every_published_figure_belongs_to_an_experiment() -> None:
    names = reproduce.experiments("all")
    assert sum([len(recipes.load(name).published) for name in names]) == 17
    assert reproduce.experiments("relabel") == [name for name in names if name.startswith("relabel/")]
    assert len(reproduce.experiments("relabel")) == 4 and reproduce.experiments("keras6") == ["keras6"]
    with pytest.raises(UsageError, match="unknown experiment 'relable': did you mean 'relabel'"):
        reproduce.experiments("relable")
    assert {member.setting for member in reproduce.members("lenet5", [0])} == set(reproduce.SETTINGS)
    with pytest.raises(UsageError, match="unknown experiment 'fast94'"):  # nobody published a figure for it
        reproduce.experiments("fast94")


def test_each_seed_is_trained_under_both_protocols() -> None:
    planned = reproduce.members("relabel", seeds=range(2))
    assert len({member.name for member in planned}) == 16
    assert [member.recipe.seed for member in planned] == [0] * 8 + [1] * 8
    published, honest = planned[0].recipe, planned[1].recipe
    assert (published.train_on, published.validate_on) == ("all", "test")
    assert (honest.train_on, honest.validate_on, honest.keep) == ("split", "validation", "best")
    assert {member.recipe.epochs for member in reproduce.members("keras6", [0])} == {100}
    assert {member.recipe.epochs for member in reproduce.members("keras6", [0], quick=True)} == {2}


def test_seeds_are_so_many_or_a_range() -> None:
    assert list(reproduce.seeds_of("3")) == [0, 1, 2] and list(reproduce.seeds_of("2:5")) == [2, 3, 4]
    assert {member.recipe.seed for member in reproduce.members("ygnet", range(2, 4))} == {2, 3}
    for wrong in ("0", "5:5", "-1", "two", "1:2:3"):
        with pytest.raises(UsageError, match="seeds should be how many, such as 5, or from:to"):
            reproduce.seeds_of(wrong)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A short reproduction of one experiment on CIFAR-10."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "QUICK_EPOCHS", EPOCHS)
        return folder, reproduce.reproduce("relabel/truck-as-bird", 1, quick=True, runs=folder, quiet=True)


def test_records_hold_what_the_runs_found(reproduced: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = reproduced
    published, honest = records
    assert (published["protocol"], honest["protocol"]) == ("published", "honest")
    run = RunFolder(folder / "reproduce" / "relabel-truck-as-bird-published-s0-quick")
    assert published["history"]["validation_accuracy"] == [round(row.validation_accuracy, 5) for row in run.history]
    assert published["test_accuracy"] == run.results["test_accuracy"] > 0.2
    assert published["majority"] == 0.2 and published["balanced_accuracy"] < published["test_accuracy"] + 0.1
    recall = published["original_recall"]
    assert len(recall) == 10  # trucks and birds are told apart here, though the network need not
    birds = published["classes"].index("bird")
    right = published["confusion"][birds][birds]
    assert 1000 * (recall["bird"] + recall["truck"]) == pytest.approx(right)
    json.dumps(records)


def test_a_second_call_trains_nothing(
    reproduced: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, records = reproduced
    monkeypatch.setattr(reproduce, "QUICK_EPOCHS", EPOCHS)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    assert reproduce.reproduce("relabel/truck-as-bird", 1, quick=True, runs=folder, quiet=True) == records
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")} == before


def test_a_run_with_other_settings_is_refused_before_anything_is_trained(
    reproduced: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = reproduced
    monkeypatch.setattr(reproduce, "QUICK_EPOCHS", 2)
    there = sorted((folder / "reproduce").iterdir())
    for seeds in (1, [1, 0]):  # seed 0 is there, after one epoch
        with pytest.raises(UsageError, match="-s0-quick was trained with epochs=1, not 2: move it away, or choose"):
            reproduce.reproduce("relabel/truck-as-bird", seeds, quick=True, runs=folder, quiet=True)
    with pytest.raises(UsageError, match="was trained with epochs=1, not 2; time_budget=0, not 3: move"):
        reproduce.reproduce("relabel/truck-as-bird", 1, quick=True, minutes=3, runs=folder, quiet=True)
    assert sorted((folder / "reproduce").iterdir()) == there


def test_a_damaged_run_is_named(reproduced: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(reproduced[0], tmp_path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "QUICK_EPOCHS", EPOCHS)
        for name in ("metrics.csv", "predictions.npz"):
            (tmp_path / "reproduce" / "relabel-truck-as-bird-honest-s0-quick" / name).write_bytes(b"")
            with pytest.raises(UsageError, match=f"honest-s0-quick/{name} is damaged"):
                reproduce.reproduce("relabel/truck-as-bird", 1, quick=True, runs=tmp_path, quiet=True)


def test_table_and_pictures_are_written(reproduced: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = reproduced
    where = reproduce.write(records, "relabel/truck-as-bird", quick=True, runs=folder)
    text = (where / "table.md").read_text()
    assert "| `relabel/truck-as-bird` | 1 of 10 | 63.29% | published |" in text
    assert json.loads((where / "records.json").read_text()) == records
    assert {path.name for path in where.glob("*.svg")} == {"published-and-ours.svg"} | {
        f"relabel-truck-as-bird-{protocol}-{what}.svg"
        for protocol in ("published", "honest")
        for what in ("curves", "confusion")
    }


def test_a_cut_reproduction_goes_on_with_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop:
        def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
            if "-s1" in run.name:
                raise Interrupted("stopped by SIGINT, everything is saved: go on with: ...", 2)

    monkeypatch.setattr(reproduce, "QUICK_EPOCHS", 2)
    monkeypatch.setattr(reproduce, "SETTINGS", {"small": {"batch_size": 1000, "dataset": "digits"}})
    whole = api.train
    monkeypatch.setattr("cifarlab.api.train", lambda recipe, **options: whole(recipe, callbacks=[Stop()], **options))
    with pytest.raises(
        Interrupted, match="stopped by SIGINT, everything is saved: the same command continues"
    ) as caught:
        reproduce.reproduce("lenet5", 2, quick=True, runs=tmp_path, quiet=True)
    assert caught.value.status == 130
    kept = tmp_path / "reproduce" / "lenet5-quick" / "records.json"
    assert [each["seed"] for each in json.loads(kept.read_text())] == [0]
    (cut,) = (tmp_path / "reproduce").glob("*-s1-quick/metrics.csv")
    first = cut.read_text()
    monkeypatch.setattr("cifarlab.api.train", whole)
    records = reproduce.reproduce("lenet5", 2, quick=True, runs=tmp_path, quiet=True)
    assert len(records[1]["history"]["train_loss"]) == 2 and cut.read_text().startswith(first)
    assert json.loads(kept.read_text()) == records
    assert reproduce.reproduce("lenet5", [1], quick=True, runs=tmp_path, quiet=True) == records  # seed 0 stays
    assert json.loads(kept.read_text()) == records
