"""Outcomes of studies: settings ranked over seeds, and the pictures that the varied keys allow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from cifarlab.experiments.study.definition import define
from cifarlab.experiments.study.outcome import (
    DEFAULT_METRIC,
    Outcome,
    RunState,
    collect,
    make_rows,
    rank_settings,
)
from cifarlab.experiments.study.pictures import draw, lines_by_value, means_by_values
from cifarlab.figures import studies, to_bytes
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import DataRecord, Environment, Results, RunRecord
from cifarlab.statistics.significance import estimate


def accuracy_of(values: dict[str, Any]) -> float:
    """A made-up accuracy in which any two settings of a test differ."""
    return round(0.1 + sum(0.02 * number * (len(str(value)) % 5) for number, value in enumerate(values.values(), 1)), 4)


def finished(accuracy: float, **metrics: float) -> RunState:
    """A finished run with made-up metrics."""
    fields: dict[str, Any] = {
        "validation_accuracy": accuracy,
        "validation_loss": accuracy,
        "test_accuracy": 1 - accuracy,
    }
    fields |= {"test_loss": 1.0, "train_seconds": 1.0, "images_per_second": 1.0, "epochs": 3, "kept_epoch": 3}
    return RunState("finished", results=Results.model_construct(**(fields | metrics)))  # accuracies may be above 1


def made_up(varied: dict[str, Any], metric: str = DEFAULT_METRIC, *, failing: str = "") -> Outcome:
    """A study whose runs have made-up results. Nothing of it is on the disk, so nothing is compared."""
    study = define("lenet5", {}, varied)
    states = {run.name: finished(accuracy_of(run.values)) for run in study.runs}
    if failing:
        states[failing] = RunState("failed", "a reason")
    return Outcome(study, Path(), metric, states, rank_settings(study, states, metric), None)


def text_of(figure: Figure) -> str:
    return to_bytes(figure, "svg").decode()


def test_seeds_are_grouped_and_the_best_setting_comes_first(tmp_path: Path) -> None:
    outcome = made_up({"learning_rate": [0.1, 0.01], "seed": [1, 10, 100]}, failing="learning_rate=0.1-seed=100")
    assert [(setting.name, len(setting.runs)) for setting in outcome.settings] == [
        ("learning_rate=0.01", 3),
        ("learning_rate=0.1", 2),
    ]
    best = outcome.settings[0]
    expected = estimate(best.metric_values)
    assert (best.estimate.mean, best.estimate.low) == (expected.mean, expected.low)
    assert best.test_accuracy.mean == pytest.approx(1 - expected.mean)
    assert outcome.failed == {"learning_rate=0.1-seed=100": "a reason"}
    (row,) = (row for row in make_rows(outcome.study, outcome.states) if row["status"] == "failed")
    assert row["reason"] == "a reason" and row["test_accuracy"] is None
    by_loss = made_up({"learning_rate": [0.1, 0.01], "seed": [1, 10]}, "validation_loss")
    assert [setting.name for setting in by_loss.settings] == ["learning_rate=0.1", "learning_rate=0.01"]
    replace(outcome, path=tmp_path).write()
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written) == [
        "schema",
        "study",
        "path",
        "recipe",
        "set",
        "vary",
        "metric",
        "runs",
        "settings",
        "compared",
        "optimism",
    ]
    assert written["vary"] == {"learning_rate": [0.1, 0.01], "seed": [1, 10, 100]}
    assert written["settings"][0]["figures"] == best.metric_values
    header = "run,status,reason,learning_rate,seed,validation_accuracy,validation_loss,test_accuracy,test_loss,"
    assert (tmp_path / "results.csv").read_text().startswith(header)


def test_intervals_of_fractions_stay_between_0_and_1() -> None:
    study = define("lenet5", {}, {"seed": [0, 1]})
    (setting,) = rank_settings(study, {"seed=0": finished(0.2), "seed=1": finished(0.9)}, DEFAULT_METRIC)
    assert (setting.estimate.low, setting.estimate.high) == (0.0, 1.0) and setting.name == "lenet5"


@pytest.mark.parametrize(
    ("varied", "names"),
    [
        ({"seed": [0, 1]}, {"settings"}),
        ({"optimizer": ["sgd", "adam"], "seed": [0, 1]}, {"settings"}),
        ({"learning_rate": [0.1, 0.01]}, {"by-learning_rate", "settings"}),
        ({"learning_rate": [0.1, 0.01], "augment.flip": [True, False]}, {"by-learning_rate", "map", "settings"}),
        (
            {"learning_rate": [0.1, 0.01], "batch_size": [32, 512], "augment.shift": [0.0, 0.125], "seed": [0]},
            {"by-learning_rate", "by-batch_size", "by-augment-shift", "parallel", "settings"},
        ),
    ],
)
def test_keys_decide_the_pictures(varied: dict[str, Any], names: set[str]) -> None:
    drawn = draw(made_up(varied))
    assert set(drawn) == names
    assert all("accuracy on validation images" in text_of(figure).lower() for figure in drawn.values())
    losses = draw(made_up(varied, "validation_loss"))
    assert set(losses) == names - {"settings"}  # whose axis ends at 100 %


def test_a_line_never_mixes_combinations_of_the_other_keys() -> None:
    few = made_up({"learning_rate": [0.1, 0.01], "optimizer": ["sgd", "adam"], "seed": [1, 10]})
    lines, note = lines_by_value(few, "learning_rate")
    assert not note
    assert set(lines) == {"optimizer=sgd", "optimizer=adam"}
    for name, line in lines.items():
        assert [value for value, _ in line] == [0.01, 0.1]
        for value, accuracies in line:
            setting = {"learning_rate": value, "optimizer": name.removeprefix("optimizer=")}
            assert accuracies == [accuracy_of({**setting, "seed": seed}) for seed in (1, 10)]
    many = made_up({"learning_rate": [0.1, 0.01], "epochs": list(range(1, 9))})
    lines, note = lines_by_value(many, "learning_rate")
    assert list(lines) == list(dict.fromkeys(f"epochs={setting.values['epochs']}" for setting in many.settings))[:6]
    assert note == "the 6 best of 8 combinations of the other keys"
    assert all(len(accuracies) == 1 for line in lines.values() for _, accuracies in line)
    assert note in text_of(draw(many)["by-learning_rate"])


def test_a_map_has_the_means_in_their_cells_and_holes_where_no_run_is_finished() -> None:
    keys: dict[str, list[Any]] = {"batch_size": [32, 512, 1024], "learning_rate": [0.1, 0.01]}
    outcome = made_up({**keys, "seed": [1]}, failing="batch_size=512-learning_rate=0.1-seed=1")
    means = means_by_values(outcome)
    expected = [
        [accuracy_of({"batch_size": size, "learning_rate": rate, "seed": 1}) for rate in keys["learning_rate"]]
        for size in keys["batch_size"]
    ]
    expected[1][0] = float("nan")
    np.testing.assert_allclose(means, expected)
    drawn = text_of(draw(outcome)["map"])
    for mean in means[np.isfinite(means)]:
        assert f"{mean:.1%}" in drawn


def test_a_study_without_finished_runs_draws_nothing() -> None:
    study = define("lenet5", {}, {"learning_rate": [0.1, 0.01]})
    outcome = collect(study, Path(), {run.name: RunState("failed", "a reason") for run in study.runs})
    assert draw(outcome) == {} and outcome.comparison is None and len(outcome.failed) == 2


def test_axes_are_logarithmic_if_values_span_decades() -> None:
    wide = studies.lines({"": [(0.001, [0.5]), (0.1, [0.6])]}, "learning_rate", "accuracy", percent=True)
    near = studies.lines({"": [(1, [0.5]), (3, [0.6])]}, "epochs", "accuracy", percent=True)
    assert (wide.axes[0].get_xscale(), near.axes[0].get_xscale()) == ("log", "linear")


def test_parallel_axes_stand_in_order() -> None:
    rows = [[0.1, "sgd", True], [0.001, "adam", True], [0.01, "sgd", True]]
    figure = studies.parallel(["rate", "optimizer", "flip"], rows, [0.5, 0.7, 0.9], "accuracy", percent=True)
    drawn = [np.asarray(line.get_ydata(), dtype=float).tolist() for line in figure.axes[0].lines]
    heights = sorted(tuple(each) for each in drawn if len(each) == 4)
    assert heights == [
        (0.0, 1.0, 0.5, pytest.approx(0.5)),
        (0.5, 0.0, 0.5, 1.0),
        (1.0, 0.0, 0.5, 0.0),
    ]
    assert "50.0%" in text_of(figure) and "90.0%" in text_of(figure)


def test_pictures_of_single_runs_name_no_interval_and_long_names_fit() -> None:
    varied: dict[str, Any] = {"learning_rate": [0.1, 0.05], "augment.flip": [True, False], "batch_size": [32, 64]}
    drawn = draw(made_up(varied | {"model_options.activation": ["tanh", "relu"]}))
    assert not any("95 %" in text_of(figure) for figure in drawn.values())
    assert "flip=true" in text_of(drawn["settings"]) and "True" not in text_of(drawn["settings"])
    assert "95 %" in text_of(draw(made_up(varied | {"seed": [1, 10]}))["settings"])
    for stem in ("settings", "parallel", "by-learning_rate"):
        figure = drawn[stem]
        figure.draw_without_rendering()
        assert figure.get_suptitle()
        box = next(each for each in figure.texts if each.get_text() == figure.get_suptitle()).get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, stem
        for label in figure.axes[0].get_yticklabels():
            assert label.get_window_extent().x0 >= 0


def test_the_title_of_a_map_fits_and_ticks_do_not_touch() -> None:
    keys: dict[str, Any] = {"epochs": [*range(1, 11), 100], "optimizer": ["sgd", "adam"]}
    drawn = draw(made_up(keys))
    for figure in drawn.values():
        figure.draw_without_rendering()
        title = next(each for each in figure.texts if each.get_text() == figure.get_suptitle())
        assert title.get_window_extent().x0 >= 0 and title.get_window_extent().x1 <= figure.bbox.width
    names = [label.get_text() for label in drawn["by-epochs"].axes[0].get_xticklabels()]
    assert names[0] == "1" and names[-1] == "100" and "" in names


def test_runs_whose_loss_exploded_are_listed() -> None:
    study = define("lenet5", {}, {"seed": [0, 1, 2, 3]})
    states = {f"seed={seed}": finished(0.1, validation_loss=loss) for seed, loss in enumerate((1.0, 1e31, 1e30))}
    states["seed=3"] = RunState("failed", "a reason")
    assert list(Outcome(study, Path(), DEFAULT_METRIC, states, [], None).exploded_losses) == ["seed=1", "seed=2"]


def test_all_settings_count_in_the_choice_of_the_best(tmp_path: Path) -> None:
    rates, generator = [0.001 * number for number in range(1, 31)], np.random.default_rng(0)
    study = define("lenet5", {"dataset": "digits"}, {"learning_rate": rates, "seed": [0, 1]})
    states = {}
    for run in study.runs:
        luck = generator.normal(0, 0.02)
        states[run.name] = finished(0.8 + luck, validation_loss=1 - luck, test_accuracy=0.8 + luck)
        data = DataRecord(name="d", sha256="0" * 64, classes=("a", "b"), train=9, validation=9, test=500)
        record = RunRecord(
            recipe=run.recipe, data=data, seed=run.recipe.seed, protocol="honest", environment=Environment(device="cpu")
        )
        folder, labels = RunFolder.create(tmp_path / run.name, record), np.arange(500) % 2
        correct = generator.permutation(500) < 500 * (0.8 + luck)
        folder.write_predictions(np.eye(2, dtype=np.float32)[np.where(correct, labels, 1 - labels)], labels)
        folder.update(status="finished", results=states[run.name].results)
    for metric in ("validation_loss", "test_accuracy"):
        outcome = collect(study, tmp_path, states, metric)
        assert outcome.comparison is not None and outcome.comparison.optimism is not None
        chosen_by = "accuracy" if metric == "test_accuracy" else "loss"
        best = rank_settings(study, states, f"validation_{chosen_by}")[0]
        assert outcome.comparison.labels[outcome.comparison.best] == best.name.replace(", ", "")
        of_all = (
            f"The best 20 of 30 settings are compared with {best.name}, the best by {chosen_by} on validation images."
        )
        assert outcome.comparison.table_note.startswith(of_all)
        assert f"is the best of 30 by {chosen_by} on validation images, partly" in outcome.comparison.choice_note
        assert outcome.comparison.optimism == pytest.approx(best.test_accuracy.mean - 0.8, abs=0.015)
