"""The run folder on the disk: names, listing, locks, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifarlab import Recipe, files
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.recipes import load
from cifarlab.run import EpochRow, RunFolder, check_name, find, listing, runs_folder

DATA = {"name": "digits", "classes": ["a", "b"], "majority": 0.5, "sha256": "0", "skipped": []}


def create(path: Path, recipe: Recipe | None = None) -> RunFolder:
    return RunFolder.create(
        path, recipe or load("lenet5"), DATA, "honest protocol", {"device": "cpu"}, "cifarlab train"
    )


def row(epoch: int) -> EpochRow:
    return EpochRow(epoch, 0.1, 1.5, 0.4, 1.25, 1 / 3, 2.0, 0.5, 1000.0)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    rows, matrices = [row(1), row(2)], [np.eye(2, dtype=np.int64), np.ones((2, 2), np.int64)]
    run.write_history(rows, matrices)
    run.write_predictions(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))
    again = RunFolder(tmp_path / "a")
    assert again.history == rows  # to the last digit
    assert np.array_equal(again.confusion, matrices)
    assert again.predictions is not None and again.predictions[0].shape == (3, 2)
    assert again.recipe == load("lenet5")
    assert (tmp_path / "a" / "metrics.csv").read_text().startswith("epoch,learning_rate,train_loss,train_accuracy,")


def test_a_new_run_is_empty_but_readable(tmp_path: Path) -> None:
    run = RunFolder(create(tmp_path / "a").path)
    assert run.history == [] and run.confusion.shape == (0, 2, 2) and run.predictions is None
    assert run.read_checkpoint() is None


def test_a_run_that_nobody_trains_any_more_counts_as_interrupted(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    assert run.status == "interrupted"
    code = "import sys, pathlib, cifarlab.run as run; print(run.RunFolder(pathlib.Path(sys.argv[1])).status)"
    with run.lock():
        ended = subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True, check=True)
    assert ended.stdout == "running\n"


def test_names_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    recipe = load("relabel/drop-truck")
    made = check_name(tmp_path, recipe, None)
    assert made.parent == tmp_path and made.name.startswith("relabel-drop-truck-s0-")
    made.mkdir()
    assert check_name(tmp_path, recipe, None) != made
    for name in ("", "a/b", "..", ".hidden", "x" * 101, "a\nb", "a\x1b[31m"):
        with pytest.raises(UsageError, match="should be a plain name"):
            check_name(tmp_path, recipe, name)
    create(tmp_path / "taken")
    with pytest.raises(UsageError, match="already a run 'taken'"):
        check_name(tmp_path, recipe, "taken")
    assert check_name(tmp_path, recipe, "taken", force=True) == tmp_path / "taken"


def test_two_processes_that_want_one_name_do_not_share_it(tmp_path: Path) -> None:
    first = create(tmp_path / "a")
    (first.path / "checkpoint.pt").write_text("precious")
    with pytest.raises(UsageError, match="already a run 'a'"):
        create(tmp_path / "a")
    recipe, environment = load("lenet5"), {"device": "cpu"}
    second = RunFolder.create(tmp_path / "a", recipe, DATA, "honest", environment, "", "next")
    assert second.path == tmp_path / "a-2"
    with first.lock(), pytest.raises(UsageError, match="is being trained by another process"):
        RunFolder.create(tmp_path / "a", recipe, DATA, "honest", environment, "", "replace")
    assert (first.path / "checkpoint.pt").read_text() == "precious"
    RunFolder.create(tmp_path / "a", recipe, DATA, "honest", environment, "", "replace")
    assert not (first.path / "checkpoint.pt").exists()


def test_runs_are_listed_in_the_order_of_their_making(tmp_path: Path) -> None:
    for name, created in (("b", "2026-01-01"), ("a", "2026-01-02"), ("c", "2025-12-31")):
        create(tmp_path / name).update(created=created)
    assert [path.name for path in listing(tmp_path)] == ["c", "b", "a"]


def test_runs_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "keras6-one")
    assert find("keras6-one", tmp_path) == find(str(tmp_path / "keras6-one"), Path("nowhere"))
    assert listing(tmp_path) == [tmp_path / "keras6-one"] and listing(tmp_path / "none") == []
    with pytest.raises(UsageError, match="did you mean 'keras6-one'"):
        find("keras6-on", tmp_path)
    monkeypatch.setenv("CIFARLAB_RUNS", "elsewhere")
    assert runs_folder() == Path("elsewhere") and runs_folder(tmp_path) == tmp_path


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def broken() -> Any:
        yield b"half"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CifarlabError, match=r"cannot write .*a\.txt: No space left on device"):
        files.write_bytes(path, broken())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(CifarlabError, match="cannot write"):
        files.write_text(tmp_path / "none" / "a.txt", "x")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CifarlabError, match="cannot make the folder"):
        files.make_folder(tmp_path / "file" / "inner")
