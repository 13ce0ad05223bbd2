"""Reproductions: planning runs, continuing them, and records with the results of the right epochs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cifarlab import api, recipes
from cifarlab import reproduce as reproduce_as_users_do
from cifarlab.errors import Interrupted, UsageError
from cifarlab.experiments import reproduce
from cifarlab.experiments.results.records import Record, read_records
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow
from conftest import Cli, answer

NAME = "relabel/truck-as-bird"
SHORT: dict[str, Any] = {"quick": True, "minutes": 0.04, "quiet": True}  # a part of the first epoch on CIFAR-10


def run_experiment(name: str, seeds: int | list[int], **options: Any) -> list[Record]:
    return [Record.model_validate(document) for document in reproduce.reproduce(name, seeds, **options)]


def test_every_published_result_belongs_to_an_experiment() -> None:
    names = reproduce.experiment_recipes("all")
    assert {name for name in recipes.names() if recipes.load(name).published} == {*names} - {"lenet5"}
    assert reproduce.experiment_recipes("relabel") == [name for name in names if name.startswith("relabel/")]
    assert len(reproduce.experiment_recipes("relabel")) == 4 and reproduce.experiment_recipes("keras6") == ["keras6"]
    with pytest.raises(UsageError, match="unknown experiment 'relable': did you mean 'relabel'"):
        reproduce.experiment_recipes("relable")
    assert {run.setting for run in reproduce.plan_runs("lenet5", [0])} == set(reproduce.SETTINGS)
    with pytest.raises(UsageError, match="unknown experiment 'fast94'"):  # which has no published result
        reproduce.experiment_recipes("fast94")


def test_each_seed_is_trained_under_both_protocols() -> None:
    planned = reproduce.plan_runs("relabel", seeds=range(2))
    assert len({run.name for run in planned}) == 16
    assert [run.recipe.seed for run in planned] == [0] * 8 + [1] * 8
    published, honest = planned[0].recipe, planned[1].recipe
    assert (published.train_on, published.validate_on) == ("all", "test")
    assert (honest.train_on, honest.validate_on, honest.keep) == ("split", "validation", "best")
    assert {run.recipe.epochs for run in reproduce.plan_runs("keras6", [0])} == {100}
    assert {run.recipe.epochs for run in reproduce.plan_runs("keras6", [0], quick=True)} == {2}


def test_seeds_are_a_number_or_a_range() -> None:
    assert list(reproduce.parse_seeds("3")) == [0, 1, 2] and list(reproduce.parse_seeds("2:5")) == [2, 3, 4]
    assert {run.recipe.seed for run in reproduce.plan_runs("ygnet", range(2, 4))} == {2, 3}
    for wrong in ("0", "5:5", "-1", "two", "1:2:3"):
        with pytest.raises(UsageError, match="--seeds must be a number of seeds, such as 5, or a range, such as 2:5"):
            reproduce.parse_seeds(wrong)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """The folder and the records of a short reproduction on CIFAR-10."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_experiment(NAME, 1, runs=folder, **SHORT)


def test_records_hold_the_results_of_the_runs(reproduced: tuple[Path, list[Record]]) -> None:
    folder, records = reproduced
    published, honest = records
    assert (published.protocol, honest.protocol) == ("published", "honest")
    run = RunFolder(folder / "reproduce" / "relabel-truck-as-bird-published-s0-quick")
    assert list(published.history.validation_accuracy) == [round(row.validation_accuracy, 5) for row in run.history]
    assert published.test_accuracy == run.results["test_accuracy"] > 0.1
    assert published.majority == 0.2 and 0 < published.balanced_accuracy < published.test_accuracy + 0.1
    assert len(published.original_recall) == 10  # trucks and birds are told apart here, though the network need not
    birds = published.classes.index("bird")
    right = published.confusion[birds][birds]
    assert 1000 * (published.original_recall["bird"] + published.original_recall["truck"]) == pytest.approx(right)


def test_a_second_call_trains_nothing_and_returns_json(reproduced: tuple[Path, list[Record]]) -> None:
    folder, records = reproduced
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    documents = reproduce_as_users_do(NAME, 1, runs=folder, **SHORT)
    assert documents == [record.to_json() for record in records]
    assert json.loads(json.dumps(documents)) == documents
    assert documents[0]["history"]["train_loss"] == list(records[0].history.train_loss)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")} == before


def test_a_run_with_other_settings_is_refused_before_anything_is_trained(
    reproduced: tuple[Path, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = reproduced
    files = sorted((folder / "reproduce").iterdir())
    for seeds in (1, [1, 0]):  # the run of seed 0 exists
        with pytest.raises(UsageError, match=r"-s0-quick was trained with time_budget=0\.04, not 3\. Move that folder"):
            run_experiment(NAME, seeds, runs=folder, **SHORT | {"minutes": 3})
    monkeypatch.setattr(reproduce, "QUICK_EPOCHS", 1)
    with pytest.raises(UsageError, match=r"was trained with epochs=2, not 1; time_budget=0\.04, not 3\. Move"):
        run_experiment(NAME, 1, runs=folder, **SHORT | {"minutes": 3})
    assert sorted((folder / "reproduce").iterdir()) == files


def test_a_damaged_run_is_named(reproduced: tuple[Path, list[Record]], tmp_path: Path) -> None:
    shutil.copytree(reproduced[0], tmp_path, dirs_exist_ok=True)
    for name in ("metrics.csv", "predictions.npz"):
        (tmp_path / "reproduce" / "relabel-truck-as-bird-honest-s0-quick" / name).write_bytes(b"")
        with pytest.raises(UsageError, match=f"honest-s0-quick/{name} is damaged"):
            run_experiment(NAME, 1, runs=tmp_path, **SHORT)


def test_the_command_writes_table_and_pictures(reproduced: tuple[Path, list[Record]], cli: Cli) -> None:
    folder, records = reproduced
    words = ("--seeds", "1", "--quick", "--minutes", str(SHORT["minutes"]), "--runs", folder, "--json")
    output = answer(cli("reproduce", NAME, *words))
    assert [(row["recipe"], row["protocol"]) for row in output["rows"]] == [(NAME, "published"), (NAME, "honest")]
    assert [row["accuracy"]["mean"] for row in output["tested"]] == [records[1].test_accuracy]
    written = Path(output["folder"])
    assert "| `relabel/truck-as-bird` | 1 of 10 | 63.29% | published |" in (written / "table.md").read_text()
    assert read_records(written / "records.json") == records
    assert {path.name for path in written.glob("*.svg")} == {"published-and-ours.svg"} | {
        f"relabel-truck-as-bird-{protocol}-{picture}.svg"
        for protocol in ("published", "honest")
        for picture in ("curves", "confusion")
    }


@pytest.mark.slow
def test_the_same_call_continues_an_interrupted_reproduction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop:
        def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
            if "-s1" in run.name:
                raise Interrupted("stopped by SIGINT, everything is saved: go on with: ...", 2)

    monkeypatch.setattr(reproduce, "SETTINGS", {"small": {"batch_size": 1000, "dataset": "digits"}})
    train = api.train
    monkeypatch.setattr("cifarlab.api.train", lambda recipe, **options: train(recipe, callbacks=[Stop()], **options))
    options: dict[str, Any] = {"quick": True, "runs": tmp_path, "quiet": True}
    with pytest.raises(Interrupted, match="stopped by SIGINT, everything is saved: the same command") as caught:
        run_experiment("lenet5", 2, **options)
    assert caught.value.status == 130
    kept = tmp_path / "reproduce" / "lenet5-quick" / "records.json"
    assert [record.seed for record in read_records(kept)] == [0]
    (cut,) = (tmp_path / "reproduce").glob("*-s1-quick/metrics.csv")
    first = cut.read_text()
    monkeypatch.setattr("cifarlab.api.train", train)
    records = run_experiment("lenet5", 2, **options)
    assert records[1].epochs == 2 and cut.read_text().startswith(first)
    assert read_records(kept) == records
    assert run_experiment("lenet5", [1], **options) == records  # the record of seed 0 stays
    assert read_records(kept) == records
