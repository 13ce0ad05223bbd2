"""What studies say: settings over seeds, the best first, and the pictures that their keys allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from cifarlab.experiments.study import grid, outcome
from cifarlab.experiments.study.outcome import State
from cifarlab.figures import studies
from cifarlab.statistics.significance import estimate


def figure_of(values: dict[str, object]) -> float:
    """A made-up accuracy that any two settings of a test differ in."""
    return round(0.3 + sum(0.07 * number * (len(str(value)) % 5) for number, value in enumerate(values.values(), 1)), 4)


def collected(varied: dict[str, object], metric: str = outcome.METRIC, *, failing: str = "") -> outcome.Outcome:
    """A study whose runs have made-up results; nothing of it is on the disk, so nothing is compared."""
    study = grid.define("lenet5", {}, varied)
    states = {}
    for member in study.members:
        accuracy = figure_of(member.values)
        results = {"validation_accuracy": accuracy, "test_accuracy": 1 - accuracy, "validation_loss": accuracy}
        states[member.name] = State("finished", results=results | {"train_seconds": 1.0, "epochs": 3})
        if member.name == failing:
            states[member.name] = State("failed", "a reason")
    rows = [outcome._row(member, states[member.name]) for member in study.members]
    return outcome.Outcome(study, Path(), metric, rows, outcome._settings(study, rows, metric), None)


def texts(figure: Figure) -> str:
    from cifarlab.figures import to_bytes

    return to_bytes(figure, "svg").decode()


def test_seeds_are_grouped_and_the_best_comes_first() -> None:
    found = collected({"learning_rate": [0.1, 0.01], "seed": [1, 10, 100]}, failing="learning_rate=0.1-seed=100")
    assert [(setting.name, len(setting.runs)) for setting in found.settings] == [
        ("learning_rate=0.01", 3),
        ("learning_rate=0.1", 2),
    ]
    best = found.settings[0]
    expected = estimate(best.figures)
    assert (best.estimate.mean, best.estimate.low) == (expected.mean, expected.low)
    assert best.test_accuracy.mean == pytest.approx(1 - expected.mean)
    assert [row["run"] for row in found.failed] == ["learning_rate=0.1-seed=100"]
    assert found.failed[0]["reason"] == "a reason" and found.failed[0]["test_accuracy"] is None
    by_loss = collected({"learning_rate": [0.1, 0.01], "seed": [1, 10]}, "validation_loss")
    assert [setting.name for setting in by_loss.settings] == ["learning_rate=0.1", "learning_rate=0.01"]
    assert json.loads(json.dumps(found.record()))["runs"] == found.rows


def test_a_share_is_never_said_to_lie_outside_0_and_1() -> None:
    study = grid.define("lenet5", {}, {"seed": [0, 1]})
    results = [{"validation_accuracy": value, "test_accuracy": value} for value in (0.2, 0.9)]
    rows = [
        outcome._row(member, State("finished", results=each))
        for member, each in zip(study.members, results, strict=True)
    ]
    (setting,) = outcome._settings(study, rows, outcome.METRIC)
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
def test_keys_decide_the_pictures(varied: dict[str, object], names: set[str]) -> None:
    drawn = outcome.draw(collected(varied))
    assert set(drawn) == names
    assert all("accuracy on validation images" in texts(figure).lower() for figure in drawn.values())
    losses = outcome.draw(collected(varied, "validation_loss"))
    assert set(losses) == names - {"settings"}  # whose axis is of shares


def test_lines_are_those_of_the_other_keys_and_never_of_several_together() -> None:
    few = collected({"learning_rate": [0.1, 0.01], "optimizer": ["sgd", "adam"], "seed": [1, 10]})
    lines, note = outcome._lines(few, "learning_rate")
    assert not note
    assert set(lines) == {"optimizer=sgd", "optimizer=adam"}
    for name, line in lines.items():
        assert [value for value, _ in line] == [0.01, 0.1]
        for value, figures in line:
            where = {"learning_rate": value, "optimizer": name.removeprefix("optimizer=")}
            assert figures == [figure_of({**where, "seed": seed}) for seed in (1, 10)]
    many = collected({"learning_rate": [0.1, 0.01], "epochs": list(range(1, 9))})
    lines, note = outcome._lines(many, "learning_rate")
    assert list(lines) == list(dict.fromkeys(f"epochs={each.values['epochs']}" for each in many.settings))[:6]
    assert note == "the 6 best of 8 combinations of the other keys"
    assert all(len(figures) == 1 for line in lines.values() for _, figures in line)  # nothing is mixed
    assert note in texts(outcome.draw(many)["by-learning_rate"])


def test_a_map_has_the_means_in_their_places_and_holes_where_nothing_is() -> None:
    keys: dict[str, list[Any]] = {"batch_size": [32, 512, 1024], "learning_rate": [0.1, 0.01]}
    found = collected({**keys, "seed": [1]}, failing="batch_size=512-learning_rate=0.1-seed=1")
    means = outcome._means(found, "batch_size", "learning_rate")
    expected = [
        [figure_of({"batch_size": size, "learning_rate": rate, "seed": 1}) for rate in keys["learning_rate"]]
        for size in keys["batch_size"]
    ]
    expected[1][0] = float("nan")
    np.testing.assert_allclose(means, expected)
    shown = texts(outcome.draw(found)["map"])
    for mean in means[np.isfinite(means)]:
        assert f"{mean:.1%}" in shown


def test_a_study_of_which_nothing_is_finished_draws_nothing() -> None:
    study = grid.define("lenet5", {}, {"learning_rate": [0.1, 0.01]})
    states = {member.name: State("failed", "why") for member in study.members}
    found = outcome.collect(study, Path(), states)
    assert outcome.draw(found) == {} and found.comparison is None and len(found.failed) == 2


def test_axes_are_logarithmic_where_values_span_decades() -> None:
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
    assert "50.0%" in texts(figure) and "90.0%" in texts(figure)


def test_pictures_of_single_runs_speak_of_no_interval_and_long_names_fit() -> None:
    varied: dict[str, object] = {"learning_rate": [0.1, 0.05], "augment.flip": [True, False], "batch_size": [32, 64]}
    drawn = outcome.draw(collected(varied | {"model_options.activation": ["tanh", "relu"]}))
    assert not any("95 %" in texts(figure) for figure in drawn.values())
    assert "flip=true" in texts(drawn["settings"]) and "True" not in texts(drawn["settings"])
    assert "95 %" in texts(outcome.draw(collected(varied | {"seed": [1, 10]}))["settings"])
    for stem in ("settings", "parallel", "by-learning_rate"):
        figure = drawn[stem]
        figure.draw_without_rendering()
        assert figure.get_suptitle()
        box = next(each for each in figure.texts if each.get_text() == figure.get_suptitle()).get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, stem
        for label in figure.axes[0].get_yticklabels():
            assert label.get_window_extent().x0 >= 0


def test_the_title_of_a_map_fits_and_ticks_do_not_touch() -> None:
    keys: dict[str, object] = {"epochs": [*range(1, 11), 100], "optimizer": ["sgd", "adam"]}
    drawn = outcome.draw(collected(keys))
    for figure in drawn.values():
        figure.draw_without_rendering()
        title = next(each for each in figure.texts if each.get_text() == figure.get_suptitle())
        assert title.get_window_extent().x0 >= 0 and title.get_window_extent().x1 <= figure.bbox.width
    names = [label.get_text() for label in drawn["by-epochs"].axes[0].get_xticklabels()]
    assert names[0] == "1" and names[-1] == "100" and "" in names


def test_finished_runs_whose_loss_exploded_are_told_apart() -> None:
    study = grid.define("lenet5", {}, {"seed": [0, 1, 2]})
    losses = (1.0, 1e31, float("nan"))
    rows = [
        outcome._row(member, State("finished", results={"validation_accuracy": 0.1, "validation_loss": loss}))
        for member, loss in zip(study.members, losses, strict=True)
    ]
    found = outcome.Outcome(study, Path(), outcome.METRIC, rows, [], None)
    assert [row["run"] for row in found.exploded] == ["seed=1", "seed=2"]
