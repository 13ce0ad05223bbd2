"""Trials of a tuning: what is printed and drawn of few and many, complete and failed ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cifarlab import recipes
from cifarlab.cli.tune import MOST_SHOWN, print_tuning
from cifarlab.experiments.tuning import trials
from cifarlab.experiments.tuning.trials import Tuning

RECIPE = recipes.load("lenet5")


def printed(states: dict[str, int], asked: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the command prints for a tuning with these numbers of trials in these states."""
    ends = [state for state, count in states.items() for _ in range(count)]
    rows = [
        trials.Trial(number, state, 0.5, number % 2 + 1, {"epochs": 2}, "", trials.run_name(number))
        for number, state in enumerate(ends)
    ]
    print_tuning(Tuning(folder, RECIPE, tuple(rows), {}), asked)
    return capsys.readouterr().out.splitlines()


def test_the_table_says_how_many_trials_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert MOST_SHOWN == 10
    lines = printed({"complete": 9, "pruned": 3, "failed": 2}, 14, tmp_path, capsys)
    assert (
        lines[0].split() == ["trial", "validation", "accuracy", "trained", "epochs"] and "1 epoch, complete" in lines[1]
    )
    assert lines[11] == f"the best 10 of 12 trials; all are in {tmp_path}/trials.json"
    assert lines[12] == f"14 trials: 9 complete, 3 pruned, 2 failed; reasons: {tmp_path}/trials.json"
    assert lines[13] == "2 of 14 trials are missing: the same command trains others in place of the failed ones"
    assert lines[14] == "importance of the settings: not known, as all complete trials are equally good"
    lines = printed({"complete": 1, "failed": 1}, 1, tmp_path, capsys)
    assert lines[2:4] == [
        f"2 trials: 1 complete, 1 failed; reasons: {tmp_path}/trials.json",
        "importance of the settings: known after 8 complete trials, so far there are 1",
    ]
    assert lines[4] == f"table and runs: {tmp_path}"


def test_one_trial_has_no_history_to_draw(tmp_path: Path) -> None:
    one = trials.Trial(0, "complete", 0.5, 1, {"momentum": 0.5}, "", trials.run_name(0))
    trials.write(Tuning(tmp_path, RECIPE, (one,), {}))
    assert (tmp_path / "best.toml").read_text().startswith("# The best of 1 trial of the tuning")
    assert not list(tmp_path.glob("*.png"))
    trials.write(Tuning(tmp_path, RECIPE, (one, replace(one, number=1)), {}))
    assert [path.stem for path in tmp_path.glob("*.png")] == ["history"]
