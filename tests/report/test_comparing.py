"""Comparisons of simulated run folders, where the true difference is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import cifarlab
from cifarlab.board.app import create_app
from cifarlab.recipes import Recipe
from cifarlab.report.comparing import compare_runs
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import DataRecord, Environment, Results, RunRecord
from conftest import Cli

IMAGES = 1000


def simulate(
    folder: Path, recipe: Recipe, accuracy: float, labels: np.ndarray | None = None, name: str = ""
) -> RunFolder:
    """Make a finished run of this accuracy, with a spread between seeds."""
    generator = np.random.default_rng([recipe.seed, round(1e4 * accuracy)])
    truth = np.arange(IMAGES) % 10 if labels is None else labels
    classes = [str(label) for label in range(truth.max() + 1)]
    reached = accuracy + generator.normal(0, 0.004)
    correct = generator.permutation(IMAGES) < reached * IMAGES
    predictions = np.where(correct, truth, (truth + 1) % len(classes))
    logits = np.eye(len(classes), dtype=np.float32)[predictions]
    data = DataRecord(name="simulated", sha256="0" * 64, classes=tuple(classes), train=9, validation=1, test=IMAGES)
    record = RunRecord(
        recipe=recipe,
        data=data,
        seed=recipe.seed,
        protocol="honest protocol: none",
        environment=Environment(device="cpu"),
    )
    run = RunFolder.create(folder / (name or f"{recipe.name}-{accuracy}-{recipe.seed}"), record)
    run.write_predictions(logits, truth)
    run.update(status="finished")
    return run


def results(validation_accuracy: float) -> Results:
    return Results(
        epochs=1,
        kept_epoch=1,
        validation_accuracy=validation_accuracy,
        validation_loss=1.0,
        test_accuracy=0.5,
        test_loss=1.0,
        train_seconds=1.0,
        images_per_second=1.0,
    )


def simulate_seeds(folder: Path, recipe: Recipe, accuracy: float, seeds: range) -> list[RunFolder]:
    return [simulate(folder, recipe.changed({"seed": seed}), accuracy) for seed in seeds]


def test_five_seeds_tell_different_recipes_from_equal_ones(small: Recipe, tmp_path: Path) -> None:
    slower = small.changed({"learning_rate": 0.001})
    same = small.changed({"batch_size": 32})
    runs = [
        *simulate_seeds(tmp_path / "a", small, 0.70, range(5)),
        *simulate_seeds(tmp_path / "b", slower, 0.73, range(5)),
    ]
    runs += simulate_seeds(tmp_path / "c", same, 0.70, range(5, 10))
    comparison = compare_runs(runs)
    assert [group.accuracy.n for group in comparison.groups] == [5, 5, 5]
    assert [pair.test for pair in comparison.pairs] == ["welch"] * 3
    assert [pair.real for pair in comparison.pairs] == [True, False, True]
    first = comparison.pairs[0]
    assert first.found is not None and first.corrected is not None
    assert first.found.difference == pytest.approx(0.03, abs=0.01) and first.corrected > first.found.p
    assert first.found.detectable is not None and 0.003 < first.found.detectable < 0.02
    assert comparison.groups[1].name == "lenet5 (batch_size=64, learning_rate=0.001)"


def test_single_runs_are_compared_over_images(small: Recipe, tmp_path: Path) -> None:
    runs = [simulate(tmp_path, small, 0.70), simulate(tmp_path, small.changed({"epochs": 9}), 0.80)]
    (pair,) = compare_runs(runs).pairs
    assert pair.test == "mcnemar" and pair.on_images == "differ"
    assert (pair.verdict, pair.real) == ("undecided: one seed each", False)  # another seed may turn it round
    low, high = compare_runs(runs).groups[0].test_interval
    assert low < 0.70 < high and high - low < 0.07


def test_the_interval_of_a_perfect_run_reaches_below_one(small: Recipe, tmp_path: Path) -> None:
    run = simulate(tmp_path, small, 1.1)
    assert compare_runs([run]).groups[0].test_interval[0] < 0.999
    assert compare_runs([run], "balanced_accuracy").groups[0].test_interval == (
        1.0,
        1.0,
    )  # the bootstrap's


def test_runs_of_one_recipe_and_seed_count_once(small: Recipe, tmp_path: Path) -> None:
    run = simulate(tmp_path, small, 0.7)
    comparison = compare_runs([run, run, simulate(tmp_path / "again", small, 0.7, name="again")])
    assert [group.accuracy.n for group in comparison.groups] == [1] and not comparison.pairs
    assert comparison.repeated == ["again"]


@pytest.mark.parametrize("key", ["model", "network", "start_from", "data"])
def test_other_files_behind_equal_recipes_make_another_group(small: Recipe, tmp_path: Path, key: str) -> None:
    runs = []
    for checksum, accuracy in (("a" * 64, 0.6), ("b" * 64, 0.9)):
        for run in simulate_seeds(tmp_path / checksum[0], small, accuracy, range(3)):
            changed = run.record.data.model_copy(update={"sha256": checksum})
            run.update(**{"data": changed} if key == "data" else {"origins": {key: checksum}})
            runs.append(run)
    comparison = compare_runs(runs)
    word = {"model": "source", "start_from": "weights"}.get(key, key)
    assert [group.label for group in comparison.groups] == [f"{word}=aaaaaaaa", f"{word}=bbbbbbbb"]
    assert [group.accuracy.n for group in comparison.groups] == [3, 3] and not comparison.repeated
    (pair,) = comparison.pairs
    assert pair.verdict == "yes" and ("SHA-256 differs" in pair.note) == (key == "data")


def test_runs_that_a_callback_stopped_are_a_group_of_their_own(small: Recipe, tmp_path: Path) -> None:
    runs = [run for name in "abc" for run in simulate_seeds(tmp_path / name, small, 0.7, range(2))]
    for number, run in enumerate(runs):
        early, by_callback = number >= 2, number >= 4  # those in the middle ran out of patience
        ended = {"stopped_early": early, "stopped_by_callback": by_callback, "epochs": 4 - number // 2}
        run.update(results=results(0.7).model_copy(update=ended))
    comparison = compare_runs([RunFolder(run.path, f"{run.path.parent.name}{run.recipe.seed}") for run in runs])
    assert [group.runs for group in comparison.groups] == [["a0", "a1"], ["c0", "c1"]]
    assert [group.label for group in comparison.groups] == ["stopped_after=no", "stopped_after=2"]
    assert comparison.repeated == ["b0", "b1"]


def test_data_at_another_image_size_are_not_called_other_data(small: Recipe, tmp_path: Path) -> None:
    runs = [simulate(tmp_path / str(size), small.changed({"size": size}), 0.7) for size in (32, 28)]
    runs[1].update(data=runs[1].record.data.model_copy(update={"sha256": "1" * 64}))
    assert all("SHA-256" not in pair.note for pair in compare_runs(runs).pairs)


def test_labels_are_names_of_single_runs_or_short_settings(small: Recipe, tmp_path: Path) -> None:
    own = [small.changed({"model": f"/a/long/path/{file}:Net"}) for file in ("bn.py", "plain.py")]
    comparison = compare_runs([*simulate_seeds(tmp_path, own[0], 0.7, range(2)), simulate(tmp_path, own[1], 0.8)])
    assert [group.label for group in comparison.groups] == ["model=bn.py:Net", "lenet5-0.8-0"]
    assert comparison.groups[1].setting == "model=plain.py:Net"
    same = [small.changed({"model": f"/{folder}/net.py:Net"}) for folder in "ab"]
    runs = [simulate(tmp_path / recipe.model[1], recipe, 0.7, name="first") for recipe in same]
    assert [group.label for group in compare_runs(runs).groups] == [f"model={recipe.model}" for recipe in same]


def test_single_runs_are_undecided_everywhere(small: Recipe, tmp_path: Path, cli: Cli) -> None:
    for name, rate, accuracy in (("anna", 0.01, 0.6), ("ben", 0.02, 0.9)):
        recipe = small.changed({"learning_rate": rate})
        with_validation(simulate(tmp_path / "runs", recipe, accuracy, name=name), accuracy)
    lines = cli("compare", "anna", "ben").stdout.splitlines()
    assert lines[1].startswith("anna: learning_rate=0.01 ") and lines[3].split()[-3:] == ["these", "images", "real?"]
    assert lines[4].startswith("ben - anna ") and " differ " in lines[4]
    assert lines[4].endswith("undecided: one seed each") and "train each with five seeds" in lines[5]
    (pair,) = json.loads(cli("compare", "anna", "ben", "--json").stdout)["pairs"]
    assert (pair["real"], pair["verdict"], pair["on_images"]) == (False, "undecided: one seed each", "differ")
    board = (
        TestClient(create_app(tmp_path / "runs"), base_url="http://127.0.0.1:8700")
        .get("/compare?run=anna&run=ben")
        .text
    )
    assert "undecided: one seed each; on these images: differ" in board and "train each with five seeds" in board
    shown = repr(cifarlab.compare(["anna", "ben"], runs=tmp_path / "runs")).splitlines()
    assert re.fullmatch(r"anna: \d\d\.\d\d%, n = 1", shown[0]) and shown[1].endswith("%, n = 1")
    assert re.fullmatch(r"ben - anna: \+\d\d\.\d\d%, real\? undecided: one seed each", shown[2]) and len(shown) == 4


def test_notes_say_why_groups_cannot_be_compared(small: Recipe, tmp_path: Path) -> None:
    several = simulate_seeds(tmp_path / "a", small, 0.7, range(2))
    single = simulate(tmp_path / "b", small.changed({"epochs": 9}), 0.8)
    without = [simulate(tmp_path / name, small.changed({"drop": [name]}), 0.8) for name in ("1", "2")]
    (pair,) = compare_runs(without).pairs
    assert pair.found is None and "different test images: train more seeds" in pair.note
    others = simulate(tmp_path / "c", small, 0.8)
    record = others.record
    others.update(data=record.data.model_copy(update={"name": "other", "sha256": "1" * 64}))
    (pair,) = compare_runs([without[0], others]).pairs
    assert "different test images: train or evaluate both on one data set" in pair.note
    (pair,) = compare_runs([*several, single]).pairs
    assert pair.found is None and not pair.real and "one run against several" in pair.note
    merged = np.where(np.arange(IMAGES) % 10 == 9, 1, np.arange(IMAGES) % 10)
    relabelled = simulate(tmp_path / "c", small.changed({"merge": {"9": "1"}}), 0.8, merged)
    (pair,) = compare_runs([single, relabelled]).pairs
    assert "has 10.0% and 20.0% of the images" in pair.note
    (pair,) = compare_runs([single, relabelled], "balanced_accuracy").pairs
    assert "more seeds" in pair.note


def test_the_interval_of_an_accuracy_ends_at_one(small: Recipe, tmp_path: Path) -> None:
    runs = [simulate(tmp_path, small.changed({"seed": seed}), reached) for seed, reached in ((0, 0.9), (1, 0.99))]
    (group,) = compare_runs(runs).groups
    assert group.accuracy.high == 1 and group.accuracy.low is not None and 0 <= group.accuracy.low < 0.9


def test_groups_are_named_by_the_settings_that_differ(small: Recipe, tmp_path: Path) -> None:
    other = small.changed({"model_options.activation": "relu"})
    runs = [simulate(tmp_path / str(number), recipe, 0.8) for number, recipe in enumerate((small, other))]
    names = [group.name for group in compare_runs(runs).groups]
    assert names == ["lenet5 (activation=tanh)", "lenet5 (activation=relu)"]


def test_balanced_accuracy_is_the_mean_recall(small: Recipe, tmp_path: Path) -> None:
    labels = np.where(np.arange(IMAGES) % 10 == 9, 1, np.arange(IMAGES) % 10)
    (group,) = compare_runs([simulate(tmp_path, small, 0.7, labels)]).groups
    assert group.majority == pytest.approx(0.2)
    assert group.balanced_accuracy.mean == pytest.approx(np.mean([each.mean for each in group.recall.values()]))


@pytest.fixture
def runs(small: Recipe, tmp_path: Path) -> Path:
    """Three seeds each of two recipes that differ by much."""
    for name, rate, accuracy in (("short", 0.01, 0.9), ("slow", 0.0003, 0.6)):
        for seed in range(3):
            recipe = small.changed({"learning_rate": rate, "seed": seed})
            simulate(tmp_path / "runs", recipe, accuracy, name=f"{name}-{seed}")
    return tmp_path / "runs"


def test_the_command_compares_runs(runs: Path, cli: Cli) -> None:
    printed = json.loads(cli("compare", "short-*", "slow-*", "--runs", runs, "--json").stdout)
    (pair,) = printed["pairs"]
    assert pair["test"] == "welch" and pair["real"] and pair["found"]["difference"] < 0
    assert [group["runs"] for group in printed["groups"]] == [[f"{n}-{s}" for s in range(3)] for n in ("short", "slow")]
    table = cli("compare", "short-*", "slow-*", "--runs", runs).stdout
    assert (
        "learning_rate=0.0003 - learning_rate=0.01 " in table
        and "yes" in table
        and "\ndetectable: the smallest true difference" in table
    )
    assert "detectable: " not in cli("compare", "short-*", "slow-0", "--runs", runs).stdout  # it has no value


def test_wrong_names_are_errors_of_one_line(runs: Path, cli: Cli) -> None:
    assert "unknown run 'shor-9'" in cli("compare", "shor-9", "--runs", runs, status=2).stderr
    assert (
        "unknown metric 'acuracy': did you mean 'accuracy'?"
        in cli("compare", "short-0", "--metric", "acuracy", "--runs", runs, status=2).stderr
    )


def test_an_unfinished_run_is_refused(small: Recipe, tmp_path: Path) -> None:
    run = simulate(tmp_path, small, 0.7)
    run.update(status="interrupted")
    with pytest.raises(cifarlab.UsageError, match="is not finished"):
        compare_runs([run])


def test_a_note_says_that_data_sets_differ(small: Recipe, tmp_path: Path) -> None:
    runs = simulate_seeds(tmp_path, small, 0.70, range(2))
    others = simulate_seeds(tmp_path, small.changed({"dataset": "npz:other.npz"}), 0.90, range(2))
    for run in others:
        run.update(data=run.record.data.model_copy(update={"name": "other", "sha256": "1" * 64}))
    (pair,) = compare_runs([*runs, *others]).pairs
    assert pair.note == "their data sets differ: simulated and other"


def test_no_detectable_difference_exceeds_one(small: Recipe, tmp_path: Path) -> None:
    a = [simulate(tmp_path, small.changed({"seed": 0}), 0.05), simulate(tmp_path, small.changed({"seed": 1}), 0.95)]
    b = simulate_seeds(tmp_path / "b", small.changed({"learning_rate": 0.001}), 0.5, range(2))
    (pair,) = compare_runs([*a, *b]).pairs
    assert pair.found is not None and pair.found.detectable is None


def test_notes_point_out_other_classes_and_constant_predictions(small: Recipe, tmp_path: Path) -> None:
    merged = [small.changed({"merge": {"9": into}}) for into in ("1", "3")]
    runs = [simulate(tmp_path / into, recipe, 0.7) for into, recipe in zip("ab", merged, strict=True)]
    (pair,) = compare_runs(runs).pairs
    assert pair.note == "their classes differ, and one task may be easier than the other"
    stuck = [simulate(tmp_path / "c", small.changed({"seed": seed}), 0.7) for seed in range(2)]
    logits, labels = stuck[1].predictions or (np.zeros(0), np.zeros(0))
    stuck[1].write_predictions(np.zeros_like(logits), labels)
    other = simulate_seeds(tmp_path / "d", small.changed({"learning_rate": 0.001}), 0.7, range(2))
    (pair,) = compare_runs([*map(RunFolder, [run.path for run in stuck]), *other]).pairs
    assert pair.note == f"the same prediction for all images: {stuck[1].name}"


def test_equal_runs_of_a_recipe_are_not_compared_over_seeds(small: Recipe, tmp_path: Path) -> None:
    runs = []
    for rate, correct in ((0.1, 700), (0.2, 800)):
        for seed in range(2):
            run = simulate(tmp_path / f"{rate}", small.changed({"learning_rate": rate, "seed": seed}), 0.7)
            labels = np.arange(IMAGES) % 10
            predictions = np.where(np.arange(IMAGES) < correct, labels, (labels + 1) % 10)
            run.write_predictions(np.eye(10, dtype=np.float32)[predictions], labels)
            runs.append(RunFolder(run.path))
    (pair,) = compare_runs(runs).pairs
    assert (pair.test, pair.found, pair.real) == ("", None, False) and "the effect of seeds is unknown" in pair.note


def with_validation(run: RunFolder, accuracy: float) -> RunFolder:
    run.update(results=results(accuracy))
    return run


def test_many_groups_are_compared_with_the_best_on_validation_images(small: Recipe, tmp_path: Path) -> None:
    flipped = small.changed({"augment.flip": True})
    recipes = [small.changed({"learning_rate": rate}) for rate in (0.5, 0.2, 0.1, 0.02)] + [flipped]
    runs = [
        with_validation(simulate(tmp_path / str(number), recipe, 0.7 + 0.03 * number), 0.9 if number == 2 else 0.5)
        for number, recipe in enumerate(recipes)
    ]
    comparison = compare_runs(runs)
    assert len(comparison.pairs) == 10 and len(comparison.with_best) == 4
    assert (comparison.best, comparison.labels[comparison.best]) == (comparison.groups[2].name, "lenet5-0.76-0")
    assert comparison.groups[2].setting.startswith("learning_rate=0.1, augment.flip=false")
    assert comparison.groups[4].setting.endswith("augment.flip=true") and "True" not in comparison.groups[4].name
    for pair in comparison.with_best:
        assert pair.a == comparison.best and pair.found is not None and pair.corrected is not None
        assert pair.found.low is not None and pair.found.high is not None
        assert pair.found.low <= pair.found.difference <= pair.found.high
        assert pair in comparison.pairs and pair.found.p <= pair.corrected <= min(1.0, 10 * pair.found.p)
    assert not compare_runs(runs[:4]).with_best  # of so few groups, all pairs are shown
    assert comparison.table_pairs == comparison.with_best and "compared with lenet5-0.76-0" in comparison.table_note
    assert "by an unknown amount" in comparison.choice_note and comparison.optimism is None
    assert not compare_runs(runs[:4]).choice_note
    assert compare_runs(runs[:4]).table_pairs == compare_runs(runs[:4]).pairs and not compare_runs(runs[:4]).table_note
    runs[0].update(results=None)
    unknown = compare_runs(runs)
    assert (unknown.best, unknown.with_best) == ("", [])
    best = max(unknown.groups, key=lambda group: group.accuracy.mean).name
    assert len(unknown.table_pairs) == 4 and all(best in (pair.a, pair.b) for pair in unknown.table_pairs)
    assert "corrected for all 10 comparisons" in unknown.table_note


def test_compare_names_the_runs_it_leaves_out_and_fits_80_columns(small: Recipe, tmp_path: Path, cli: Cli) -> None:
    for number, rate in enumerate((0.5, 0.2, 0.1, 0.05, 0.02, 0.01)):
        recipe = small.changed({"learning_rate": rate, "augment.flip": number % 2 == 0})
        with_validation(simulate(tmp_path / "rates", recipe, 0.7 + 0.02 * number), 0.5 + 0.1 * (number == 1))
    simulate(tmp_path / "rates", small.changed({"learning_rate": 0.3}), 0.1).update(status="pruned")
    (tmp_path / "rates" / "study.toml").touch()
    ended = cli("compare", "rat*", "--runs", tmp_path)
    assert ended.stderr == "left out: rates/lenet5-0.1-0 (pruned)\n"
    assert (
        "All are compared with lenet5-0.72-0, the best by accuracy on validation images. p-values are" in ended.stdout
    )
    assert "Which recipe is better is undecided" in ended.stdout and " yes" not in ended.stdout
    assert (
        "best of 6 by accuracy on validation images, partly by luck: its accuracy may be too high by an unknown"
        in ended.stdout
    )
    assert "corrected for all 15 comparisons (Holm). All 15 pairs: --json" in ended.stdout
    table = ended.stdout.partition("--json.\n")[2].splitlines()
    assert table[0].startswith("setting ") and len(table) == 8 and "lenet5 (" not in ended.stdout


def test_every_protocol_of_a_recipe_counts(small: Recipe, tmp_path: Path, cli: Cli) -> None:
    reason = "not honest, because the weights that it started from were trained on its validation images"
    runs = simulate_seeds(tmp_path / "r", small, 0.7, range(3))
    runs += simulate_seeds(tmp_path / "r", small.changed({"learning_rate": 0.3}), 0.8, range(3))
    assert "honest" not in repr(compare_runs(runs))
    for run in runs[1:3]:
        run.update(protocol=f"{reason}: 10% of the training images")
    comparison = compare_runs(runs)
    assert comparison.pairs[0].note == "their protocols differ"
    assert comparison.notes == [f"{reason}: {runs[1].name}, {runs[2].name}"]
    assert comparison.notes[0] in repr(comparison)
    for run in runs[4:]:
        run.update(protocol=f"{reason}: 10% of the training images")
    assert not compare_runs(runs).pairs[0].note  # as many seeds of each recipe
    assert cli("compare", "r/*", "--runs", tmp_path).stdout.count(reason) == 1


def test_one_training_written_in_two_ways_is_one_recipe(small: Recipe, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"drop": ["1", "2"]},
        {"drop": ["2", "1"], "model_options": {"activation": "tanh"}},
    ]
    runs = [simulate(tmp_path, small.changed({"seed": seed, **each}), 0.7) for seed, each in enumerate(changes)]
    assert [group.seeds for group in compare_runs(runs).groups] == [[0, 1]]
    again = simulate(tmp_path / "again", small.changed({**changes[0], "seed": 0}), 0.7, name="again")
    assert "left out: again (another run has the same recipe and seed)" in repr(compare_runs([*runs, again]))


def test_a_file_at_two_sizes_makes_other_test_images(small: Recipe, tmp_path: Path) -> None:
    runs = [simulate(tmp_path / str(size), small.changed({"size": size}), 0.7) for size in (32, 28)]
    runs[1].update(data=runs[1].record.data.model_copy(update={"sha256": "1" * 64}))
    (pair,) = compare_runs(runs).pairs
    assert "sizes 32 and 28 make other images of one file, train more seeds" in pair.note


def test_equal_runs_have_a_dash_for_their_interval(small: Recipe, tmp_path: Path, cli: Cli) -> None:
    runs = simulate_seeds(tmp_path / "r", small, 0.7, range(2))
    runs[1].write_predictions(*(runs[0].predictions or ()))
    assert re.search(r"2 +\d+\.\d+% +0\.00% +- ", cli("compare", "r/*", "--runs", tmp_path).stdout)
    client = TestClient(create_app(tmp_path), base_url="http://127.0.0.1")
    assert "%" in client.get("/compare", params={"run": [f"r/{run.name}" for run in runs]}).text
