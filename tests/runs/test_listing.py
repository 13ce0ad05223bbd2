"""The folder of runs: names of new runs, listing, finding and choosing runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cifarlab.errors import UsageError
from cifarlab.recipes import load
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import (
    STUDY,
    TUNING,
    choose_runs,
    claim_folder,
    find_run,
    list_runs,
    new_run_path,
    runs_folder,
)
from cifarlab.runs.record import DataRecord, Environment, RunRecord

DATA = DataRecord(name="digits", classes=("a", "b"), majority=0.5, sha256="0", train=8, validation=1, test=1)


def create(path: Path) -> RunFolder:
    recipe, machine = load("lenet5"), Environment(device="cpu")
    return RunFolder.create(path, RunRecord(recipe=recipe, data=DATA, seed=0, protocol="honest", environment=machine))


def test_names_are_checked_before_anything_is_created(tmp_path: Path) -> None:
    recipe = load("relabel/drop-truck")
    made = new_run_path(tmp_path, recipe, None)
    assert made.parent == tmp_path and made.name.startswith("relabel-drop-truck-s0-")
    for name in ("", "a/b", "..", ".hidden", "x" * 101, "a\nb", "a\x1b[31m", "a*b", "a?", "[a]", "-x"):
        with pytest.raises(UsageError, match="must be a plain name"):
            new_run_path(tmp_path, recipe, name)
    create(tmp_path / "taken")
    with pytest.raises(UsageError, match="run 'taken' already exists"):
        new_run_path(tmp_path, recipe, "taken")
    assert new_run_path(tmp_path, recipe, "taken", force=True) == tmp_path / "taken"


def test_two_processes_cannot_claim_the_same_name(tmp_path: Path) -> None:
    first = create(claim_folder(tmp_path / "a"))
    (first.path / "checkpoint.pt").write_text("precious")
    with pytest.raises(UsageError, match="run 'a' already exists"):
        claim_folder(tmp_path / "a")
    assert claim_folder(tmp_path / "a", "next") == tmp_path / "a-2"
    with first.lock(), pytest.raises(UsageError, match="is being trained by another process"):
        claim_folder(tmp_path / "a", "replace")
    assert (first.path / "checkpoint.pt").read_text() == "precious"
    claim_folder(tmp_path / "a", "replace")
    assert not (first.path / "checkpoint.pt").exists()


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    for name, created in (("b", "2026-01-01"), ("a", "2026-01-02"), ("c", "2025-12-31")):
        create(tmp_path / name).update(created=created)
    assert [path.name for path in list_runs(tmp_path)] == ["c", "b", "a"]
    create(tmp_path / "tuning" / "trial").update(created="2026-01-03")
    assert [path.name for path in list_runs(tmp_path, nested=True)] == ["c", "b", "a", "trial"]
    assert len(list_runs(tmp_path)) == 3


def test_runs_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "keras6-one")
    assert find_run("keras6-one", tmp_path) == find_run(str(tmp_path / "keras6-one"), Path("nowhere"))
    assert list_runs(tmp_path) == [tmp_path / "keras6-one"] and list_runs(tmp_path / "none") == []
    with pytest.raises(UsageError, match="did you mean 'keras6-one'"):
        find_run("keras6-on", tmp_path)
    monkeypatch.setenv("CIFARLAB_RUNS", "elsewhere")
    assert runs_folder() == Path("elsewhere") and runs_folder(tmp_path) == tmp_path


def finished(path: Path, status: str = "finished") -> Path:
    """Create a run of a status with predictions for two test images."""
    run = create(path)
    run.update(status=status)
    run.write_predictions(np.zeros((2, 2), np.float32), np.array([0, 1]))
    return path


def grouped(folder: Path, kind: str, **statuses: str) -> Path:
    """Create the folder of a study or tuning with runs of these statuses; a `damaged` run has a truncated run.json."""
    for name, status in statuses.items():
        finished(folder / name, status)
        if status == "damaged":
            (folder / name / "run.json").write_text('{"schema": 1, "rec')
    (folder / kind).touch()
    return folder


@pytest.mark.parametrize("kind", [STUDY, TUNING])
def test_a_study_or_tuning_stands_for_its_finished_runs(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = {"a": "finished", "b": "pruned", "c": "failed", "d": "damaged", "e": "interrupted"}
    folder = grouped(tmp_path / "lenet5-rates", kind, **statuses)
    every = sorted(map(str, folder.iterdir()))  # as a shell expands lenet5-rates/*
    left_out = [f"lenet5-rates/{name} ({status})" for name, status in statuses.items() if name != "a"]
    for names in (["lenet5-rates"], ["lenet5-ra*"], ["lenet5-rates/*"], [f"{folder}/*"], every):
        assert [path.name for path in choose_runs(names, tmp_path)] == ["a"], names
        said = capsys.readouterr().err
        assert said.startswith("left out: ") and sorted(said[10:-1].split(", ")) == left_out, names
    assert choose_runs(["lenet5-rates"], tmp_path, quiet=True) and not capsys.readouterr().err
    with pytest.raises(UsageError, match=r"has several runs\. Name one of them, such as lenet5-rates/"):
        find_run("lenet5-rates", tmp_path)


def test_a_run_named_by_itself_is_chosen_whatever_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grouped(tmp_path / "s", STUDY, a="failed", b="pruned")
    assert choose_runs(["s/a"], tmp_path) == [tmp_path / "s" / "a"]
    with pytest.raises(UsageError, match=r"no finished run in s \(left out: s/a \(failed\), s/b \(pruned\)\)"):
        choose_runs(["s"], tmp_path)
    for number in range(9):
        finished(tmp_path / f"x{number}", "failed" if number else "finished")
    assert choose_runs(["x0"], tmp_path) == [tmp_path / "x0"] and not capsys.readouterr().err
    assert choose_runs(["x*"], tmp_path) == [tmp_path / "x0"]
    assert capsys.readouterr().err.endswith("x5 (failed), and 3 more\n")
    with pytest.raises(UsageError, match="matches the pattern 'y"):
        choose_runs(["y*"], tmp_path)


def test_a_finished_run_with_damaged_or_missing_predictions_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut, gone = (finished(tmp_path / name) for name in ("x-whole", "x-cut", "x-gone"))
    answers = cut / "predictions.npz"
    answers.write_bytes(answers.read_bytes()[:-20])
    (gone / "predictions.npz").unlink()
    assert choose_runs(["x-*"], tmp_path) == [whole]
    assert {"x-cut (damaged)", "x-gone (damaged)"} == set(capsys.readouterr().err[10:-1].split(", "))
    assert choose_runs(["x-cut"], tmp_path) == [cut]  # named by itself: whoever reads it reports the damage
    with pytest.raises(UsageError, match="'pretrained:lenet5' is a weights file, not a run"):
        choose_runs(["pretrained:lenet5"], tmp_path)
