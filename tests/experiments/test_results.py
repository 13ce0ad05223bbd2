"""Results of experiments: means after the right epochs, intervals, runs that are too short, and files of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifarlab import UsageError, figures
from cifarlab.experiments.results.pictures import draw
from cifarlab.experiments.results.records import (
    Record,
    early_stop,
    honest_rows,
    published_rows,
    read_records,
    write_records,
)
from cifarlab.experiments.results.tables import make_tables, merged_accuracy, to_markdown

KEPT = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.json"))


def record(
    recipe: str,
    seed: int,
    accuracies: list[float],
    protocol: str = "published",
    setting: str = "",
    seconds: float = 2.0,
    **values: Any,
) -> Record:
    count = len(accuracies)
    fields = {
        "recipe": recipe,
        "protocol": protocol,
        "setting": setting,
        "seed": seed,
        "history": {
            "train_loss": [1.0] * count,
            "train_accuracy": [0.5] * count,
            "validation_loss": [1.0 + seed] * count,
            "validation_accuracy": accuracies,
            "train_seconds": [seconds] * count,
        },
        "kept_epoch": 7,
        "test_accuracy": accuracies[-1],
        "test_loss": 1.0,
        "balanced_accuracy": 0.5,
        "majority": 0.1,
        "classes": list("abc"),
        "confusion": [[5, 1, 0], [0, 6, 0], [1, 1, 4]],
        "original_recall": {"a": 5 / 6, "b": 1.0, "c": 4 / 6},
        "environment": {"device": "cpu", "gpu": None, "threads": 2, "cores": 4},
    }
    return Record.model_validate(fields | values)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_every_kept_file_opens_and_is_written_as_it_was(path: Path, tmp_path: Path) -> None:
    records = read_records(path)
    write_records(tmp_path / path.name, records)
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())
    assert records and all(record.epochs == len(record.history.train_seconds) > 0 for record in records)


def test_there_are_kept_files() -> None:
    assert len(KEPT) > 15


def test_losses_that_are_no_numbers_survive_the_file(tmp_path: Path) -> None:
    write_records(tmp_path / "a.json", [record("keras4", 0, [0.1], test_loss=float("nan"))])
    (read,) = read_records(tmp_path / "a.json")
    assert np.isnan(read.test_loss)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = record("keras4", 0, [0.5]).to_json()
    for content, message in (
        ("[", r"a\.json is damaged"),
        (json.dumps([{**whole, "seed": "one"}]), r"a\.json is damaged: 0\.seed"),
        (json.dumps([{**whole, "sead": 1}]), r"a\.json is damaged: unknown key '0\.sead'"),
        (json.dumps([{key: value for key, value in whole.items() if key != "seed"}]), r"the key '0\.seed' is missing"),
    ):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(UsageError, match=message):
            read_records(tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"cannot read .*b\.json: No such file or directory$"):
        read_records(tmp_path / "b.json")


def test_one_run_of_100_epochs_gives_four_rows() -> None:
    records = [record("keras4", seed, [epoch / 200 + seed / 100 for epoch in range(1, 101)]) for seed in (0, 1)]
    rows = published_rows(records)
    assert [row.epochs for row in rows] == [10, 20, 50, 100]
    assert [row.published for row in rows] == [0.7129, 0.7457, 0.7532, 0.6706]
    assert [row.accuracy.mean for row in rows] == pytest.approx([0.055, 0.105, 0.255, 0.505])
    assert [row.seconds for row in rows] == [20, 40, 100, 200]
    assert rows[0].loss.mean == 1.5 and not rows[0].is_short and rows[0].agrees is False


def test_a_published_result_in_the_interval_agrees() -> None:
    (row,) = published_rows([record("relabel/cifar10", seed, [0.5] * 9 + [0.62 + seed / 100]) for seed in range(3)])
    assert row.agrees is True
    (row,) = published_rows([record("relabel/cifar10", 0, [0.6281] * 10)])
    assert row.agrees is None  # one run has no interval


def test_a_published_result_is_compared_with_single_runs_and_not_with_our_mean() -> None:
    (row,) = published_rows([record("relabel/cifar10", seed, [0.61 + seed % 5 / 200] * 10) for seed in range(40)])
    assert row.accuracy.high is not None and row.accuracy.high < 0.6281 and row.agrees is True
    table = make_tables([record("relabel/cifar10", seed, [0.61 + seed / 200] * 10) for seed in range(3)])[0]
    assert table.cells[0][table.titles.index("single runs")] == "59.0% to 64.0%"


def test_a_seed_that_was_started_twice_counts_once() -> None:
    starts = [record("keras4", seed, [reached] * 100) for seed, reached in ((0, 0.5), (0, 0.7), (1, 0.8))]
    for row in published_rows(starts):
        assert row.accuracy.n == 2 and row.accuracy.mean == pytest.approx(0.7)
    honest = [start.model_copy(update={"protocol": "honest"}) for start in starts]
    (tested,) = honest_rows([*honest, record("keras4", 2, [0.9] * 50, "honest")])  # stopped halfway
    assert tested.accuracy.n == 2 and tested.accuracy.mean == pytest.approx(0.7)


def test_every_curve_is_drawn_to_its_own_end() -> None:
    records = [record("keras4", seed, [0.5 + seed / 10] * epochs) for seed, epochs in ((0, 100), (1, 60))]
    (axes,) = draw(records)["keras4-published-curves"].axes
    line = next(line for line in axes.lines if line.get_label() == "test images")
    assert np.asarray(line.get_ydata())[[59, 60, 99]] == pytest.approx([0.55, 0.5, 0.5])


def test_short_runs_say_so_and_agree_with_nothing() -> None:
    records = [record("keras6", seed, [0.5 + seed / 100] * 3) for seed in (0, 1)]
    (row,) = published_rows(records)
    assert row.is_short and row.agrees is None
    table = make_tables(records)[0]
    assert table.cells[0][:4] == ["keras6", "3 of 10", "75.61%", "published"]


def test_a_row_counts_the_runs_that_are_long_enough() -> None:
    records = [record("keras4", seed, [0.5 + seed / 10] * epochs) for seed, epochs in ((0, 100), (1, 60), (2, 15))]
    rows = published_rows(records)
    assert [(row.epochs, row.accuracy.n, row.is_short) for row in rows] == [
        (10, 3, False),
        (20, 2, False),
        (50, 2, False),
        (100, 1, False),
    ]
    short = published_rows(records[1:])[-1]
    assert (short.epochs, short.accuracy.n, short.is_short) == (60, 1, True)
    assert short.accuracy.mean == pytest.approx(0.6)


def test_a_row_names_the_machine_of_the_fastest_run() -> None:
    gpu = {"device": "cuda", "gpu": "NVIDIA H100", "threads": 2, "cores": 4}
    records = [record("ygnet", 0, [0.5] * 200, seconds=100), record("ygnet", 1, [0.5] * 200, environment=gpu)]
    (row,) = published_rows(records)
    assert row.machine == "NVIDIA H100" and row.seconds == 400  # of the fastest run
    assert records[0].machine == "2 of 4 cores"


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.1, 0.2, 0.3], (3, 3)),  # it never stops
        ([0.3, 0.2, 0.2, 0.2, 0.9], (4, 1)),  # nor sees what would have come
        ([0.3, 0.3, 0.3, 0.3], (4, 1)),  # as good is not better
        ([0.3, 0.2, 0.2, 0.4, 0.1, 0.1], (6, 4)),
    ],
)
def test_early_stopping_ends_after_its_patience(accuracies: list[float], expected: tuple[int, int]) -> None:
    assert early_stop(accuracies, patience=3) == expected


def test_long_trainings_have_a_table_of_early_stopping() -> None:
    rising = [0.5 + epoch / 100 for epoch in range(10)] + [0.5] * 90
    table = make_tables([record("keras6", seed, rising, "honest") for seed in (0, 1)])[2]
    assert table.cells == [
        ["keras6", "honest", "15, 15", "10, 10", "59.00%", "59.00%", "50.00%", "100, 100"],
    ]


def test_runs_that_learned_nothing_are_named_and_in_no_mean() -> None:
    dead = record("keras4", 1, [0.1] * 10, confusion=[[0, 6, 0], [0, 6, 0], [0, 6, 0]])
    records = [record("keras4", 0, [0.7] * 10), dead, record("keras4", 2, [0.8] * 10)]
    (row,) = published_rows(records)
    assert row.accuracy.mean == pytest.approx(0.75) and row.accuracy.n == 2
    assert make_tables(records)[0].caption.endswith("test image: keras4 (published protocol, seed 1, 10 epochs).")
    assert published_rows([dead]) == [] and draw([dead]) == {}


def test_tables_and_pictures_come_by_protocol() -> None:
    records = [record("relabel/cifar10", 0, [0.6] * 10, protocol) for protocol in ("published", "honest")]
    assert [row.protocol for row in published_rows(records)] == ["published", "honest"]
    (row,) = honest_rows(records)
    assert row.accuracy.mean == 0.6 and row.kept_epochs == [7]
    _, table = make_tables(records)
    assert to_markdown(table).splitlines()[2].startswith("| `relabel/cifar10` | 60.00% | - | - | 1 |")
    assert sorted(draw(records)) == [
        "published-and-ours",
        "relabel-cifar10-honest-confusion",
        "relabel-cifar10-honest-curves",
        "relabel-cifar10-published-confusion",
        "relabel-cifar10-published-curves",
    ]


def test_settings_stand_beside_the_first_with_a_test_over_seeds() -> None:
    reached = {"classic": 0.60, "ReLU": 0.65, "batch 128": 0.60}
    records = [
        record("lenet5", seed, [accuracy + (seed + 7 * len(setting) % 3 - 1) / 1000], "honest", setting)
        for seed in range(3)
        for setting, accuracy in reached.items()
    ]
    (table,) = make_tables(records)
    assert [row[0] for row in table.cells] == ["classic", "ReLU", "batch 128"]
    difference, p = table.titles.index("difference"), table.titles.index("p, corrected")
    assert table.cells[0][difference] == "-" and table.cells[1][p] == "< 1e-15" and float(table.cells[2][p]) > 0.01
    (picture,) = draw(records).values()  # no curves for every setting
    assert "batch 128" in figures.to_bytes(picture, "svg").decode()


def test_recall_is_by_class_as_it_was_before_merging() -> None:
    reached = {
        "relabel/cifar10": {"truck": 0.7, "bird": 0.5, "cat": 0.6},
        "relabel/truck-as-bird": {"truck": 0.5, "bird": 0.48, "cat": 0.6},
    }
    records = [
        record(
            name, seed, [0.6] * 10, "honest", original_recall={key: value + seed / 100 for key, value in values.items()}
        )
        for seed in range(4)
        for name, values in reached.items()
    ]
    records.append(record("relabel/drop-truck", 0, [0.6] * 10, "honest", original_recall={"bird": 0.5, "cat": 0.7}))
    table = next(table for table in make_tables(records) if table.titles[0] == "recall")
    assert table.titles == ("recall", "bird", "cat", "truck", "the untouched")
    assert table.cells == [
        ["relabel/cifar10", "51.5%", "61.5%", "71.5%", "61.5%"],
        ["relabel/truck-as-bird", "49.5%", "61.5%", "51.5%*", "61.5%"],
        ["relabel/drop-truck", "50.0%", "70.0%", "-", "70.0%"],
    ]
    assert "6 comparisons" not in table.caption and "4 comparisons" in table.caption
    assert to_markdown(table).endswith(table.caption + "\n")


def test_merged_training_is_compared_with_merging_afterwards() -> None:
    confusion = [[5, 1, 4], [2, 8, 0], [3, 1, 6]]
    assert merged_accuracy(confusion, ["bird", "cat", "truck"], {}) == pytest.approx(19 / 30)
    assert merged_accuracy(confusion, ["bird", "cat", "truck"], {"truck": "bird"}) == pytest.approx(26 / 30)
    records = [
        record("relabel/cifar10", seed, [0.6] * 10, "honest", confusion=confusion, classes=["a", "bird", "truck"])
        for seed in range(3)
    ]
    records += [record("relabel/truck-as-bird", seed, [0.7 + seed / 100] * 10, "honest") for seed in range(2)]
    table = next(table for table in make_tables(records) if table.titles[0] == "merging")
    (cells,) = table.cells
    assert cells[:3] == ["relabel/truck-as-bird", "70.50%", "66.67%"] and cells[-1] == "2 and 3"
    assert cells[3] == "+3.83%" and float(cells[4]) > 0
    assert cells[5] == "about 8%"
