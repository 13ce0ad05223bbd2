"""The folder of runs: names of new runs, listing, finding and choosing runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.recipes import load
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import (
    STUDY,
    TUNING,
    choose_runs,
    create_run,
    distinct_names,
    find_run,
    list_runs,
    new_run_path,
    runs_folder,
)
from cifarlab.runs.record import DataRecord, Environment, RunRecord
from conftest import Cli

DATA = DataRecord(name="digits", classes=("a", "b"), majority=0.5, sha256="0", train=8, validation=1, test=1)


def record() -> RunRecord:
    recipe, machine = load("lenet5"), Environment(device="cpu")
    return RunRecord(recipe=recipe, data=DATA, seed=0, protocol="honest", environment=machine)


def create(path: Path) -> RunFolder:
    return RunFolder.create(path, record())


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


def test_the_folder_of_runs_is_no_file(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "table.csv").write_text("a,b\n")
    for words in (("runs",), ("train", "lenet5", "--data", "digits"), ("compare", "a", "b"), ("evaluate", "a")):
        ended = cli(*words, "--runs", tmp_path / "table.csv", status=2)
        assert "table.csv is a file. Set --runs or CIFARLAB_RUNS to a folder for runs." in ended.stderr


def test_a_run_cannot_be_named_as_a_study(tmp_path: Path) -> None:
    recipe = load("lenet5")
    (tmp_path / "rates").mkdir()
    (tmp_path / "rates" / "study.toml").write_text("")
    with pytest.raises(UsageError, match=r"'rates' is a study or tuning already. Choose another --name.$"):
        new_run_path(tmp_path, recipe, "rates")


def test_two_processes_cannot_claim_the_same_name(tmp_path: Path) -> None:
    first = create_run(RunFolder, tmp_path / "a", record())
    (first.path / "checkpoint.pt").write_text("precious")
    with pytest.raises(UsageError, match="run 'a' already exists"):
        create_run(RunFolder, tmp_path / "a", record())
    assert create_run(RunFolder, tmp_path / "a", record(), "next").path == tmp_path / "a-2"
    assert (tmp_path / ".create.lock").stat().st_mode & 0o777 == 0o666  # other users create runs there, too
    with first.lock(), pytest.raises(UsageError, match=r"is being trained by another process\. Wait for it, stop it"):
        create_run(RunFolder, tmp_path / "a", record(), "replace")
    assert (first.path / "checkpoint.pt").read_text() == "precious"
    create_run(RunFolder, tmp_path / "a", record(), "replace")
    assert not (first.path / "checkpoint.pt").exists()
    assert {path.name for path in list_runs(tmp_path)} == {"a", "a-2"}


def test_a_run_that_cannot_be_created_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "a")

    def no_space(*_: object, **__: object) -> None:
        raise CifarlabError("cannot write: No space left on device")

    monkeypatch.setattr(files, "write_bytes", no_space)
    cases: list[tuple[str, Literal["replace", "refuse"]]] = [("a", "replace"), ("b", "refuse")]
    for name, if_taken in cases:
        with pytest.raises(CifarlabError, match="No space left"):
            create_run(RunFolder, tmp_path / name, record(), if_taken)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["a"] and RunFolder(tmp_path / "a").status == "interrupted"


def test_what_a_killed_process_left_is_replaced_with_force(tmp_path: Path) -> None:
    create(tmp_path / ".replaced")  # killed while it deleted
    assert list_runs(tmp_path) == []
    for number, names in enumerate([[], [".lock"], [".lock", ".1-2.run.json"]]):
        folder = tmp_path / f"x{number}"
        (folder / "figures").mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        with pytest.raises(UsageError, match="already exists"):
            new_run_path(tmp_path, load("lenet5"), folder.name)
        path = new_run_path(tmp_path, load("lenet5"), folder.name, force=True)
        assert create_run(RunFolder, path, record(), "replace").history == []
        assert not (tmp_path / ".replaced").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "x0")
    for name in ("mine", "link"):
        with pytest.raises(UsageError, match="is not a run folder, so --force does not replace it"):
            new_run_path(tmp_path, load("lenet5"), name, force=True)


def test_files_that_a_user_put_into_a_run_are_not_deleted(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    for folder in ("thesis", "network", "tensorboard"):
        (run.path / folder).mkdir()
    (run.path / "notes.md").touch()
    with pytest.raises(UsageError, match=r"a also has notes\.md, thesis, which --force would delete\. Move it away"):
        new_run_path(tmp_path, load("lenet5"), "a", force=True)
    with pytest.raises(UsageError, match="also has"):
        create_run(RunFolder, run.path, record(), "replace")
    assert (run.path / "run.json").exists() and (run.path / "thesis").is_dir()
    (run.path / "notes.md").unlink()
    (run.path / "thesis").rmdir()
    assert new_run_path(tmp_path, load("lenet5"), "a", force=True) == run.path


def test_a_training_does_not_write_into_a_folder_that_took_its_place(tmp_path: Path) -> None:
    first = create_run(RunFolder, tmp_path / "a", record())
    with first.lock():
        (tmp_path / "a").rename(tmp_path / "b")
        with pytest.raises(CifarlabError, match="a was moved or replaced while its training ran"):
            first.update(status="failed")
        second = create_run(RunFolder, tmp_path / "a", record())
        writes: list[Callable[[], None]] = [lambda: first.update(status="failed"), lambda: first.write_checkpoint({})]
        for write in writes:
            with pytest.raises(CifarlabError, match="was moved or replaced"):
                write()
    second.update(reason="own")
    assert RunFolder(tmp_path / "a").record.reason == "own" and not second.has_checkpoint


@pytest.mark.parametrize("change", [{"created": "2026-01-01"}, {"recipe": load("lenet5").changed({"seed": 1})}])
def test_a_run_that_was_replaced_before_it_is_locked_is_not_trained(tmp_path: Path, change: dict[str, object]) -> None:
    first = create(tmp_path / "a")
    create_run(RunFolder, tmp_path / "a", record(), "replace").update(**{"created": first.record.created} | change)
    with pytest.raises(CifarlabError, match="was just replaced by another run of that name"), first.lock():
        pass


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


def test_a_run_that_is_named_twice_is_chosen_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [finished(tmp_path / name) for name in ("a", "b")]
    lists: list[list[str | Path | RunFolder]] = [["a", "a", "b"], ["a", tmp_path / "a", "b"], ["*", "a"]]
    lists.append(["a", "b", RunFolder(paths[0])])
    for names in lists:
        assert choose_runs(names, tmp_path) == paths, names
        assert capsys.readouterr().err == "left out: a (named before)\n", names


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


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("anna/first", "ben/first", "ben/second")]
    assert distinct_names(paths) == ["anna/first", "ben/first", "ben/second"]
    assert distinct_names(paths[1:]) == ["first", "second"] and distinct_names(paths[:1] * 2) == ["first", "first"]
    assert distinct_names([]) == []


def test_a_folder_of_runs_stands_for_its_runs(tmp_path: Path) -> None:
    for name, status in (("anna/first", "finished"), ("anna/second", "failed"), ("ben/first", "finished")):
        finished(tmp_path / name, status)
    for names in (["anna", "ben"], [f"{tmp_path}/anna", "ben/first"], ["anna", "ben/*"], [str(tmp_path)]):
        assert choose_runs(names, tmp_path, quiet=True) == [tmp_path / "anna" / "first", tmp_path / "ben" / "first"]
    assert len(choose_runs([str(tmp_path / "anna")], Path("nowhere"), quiet=True)) == 1
