"""The run folder: its files, its lock, damaged files, and writes that fail."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifarlab import Recipe, Run, files
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.recipes import load
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import read_row
from cifarlab.runs.record import DataRecord, Environment, EpochRow, Progress, RunRecord
from conftest import Cli

DATA = DataRecord(name="digits", classes=("a", "b"), majority=0.5, sha256="0", train=8, validation=1, test=1)


def create(path: Path, recipe: Recipe | None = None) -> RunFolder:
    recipe, machine = recipe or load("lenet5"), Environment(device="cpu")
    return RunFolder.create(path, RunRecord(recipe=recipe, data=DATA, seed=0, protocol="honest", environment=machine))


def row(epoch: int) -> EpochRow:
    return EpochRow(epoch, 0.1, 1.5, 0.4, 1.25, 1 / 3, 2.0, 0.5, 1000.0)


def test_temporary_files_of_a_killed_process_are_removed_when_the_run_is_resumed(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    names = (".123-456.checkpoint.pt", "figures/.123-456.curves.svg", ".124-456.run.json", ".mine.txt", "kept.txt")
    for name in names:
        (run.path / name).write_text("half")
    for name in names[:2]:
        os.utime(run.path / name, (0, 0))
    with run.lock():
        assert [(run.path / name).exists() for name in names] == [False, False, True, True, True]


def test_written_files_are_read_back_unchanged(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    rows, labels = [row(1), row(2)], np.array([0, 1])
    run.write_history(rows, labels, [np.array([0, 1]), np.array([1, 1])])
    run.write_predictions(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))
    again = RunFolder(tmp_path / "a")
    assert again.history == rows  # to the last digit
    assert again.confusion.tolist() == [[[1, 0], [0, 1]], [[0, 1], [0, 1]]]
    assert again.confusion_after(2).tolist() == [[0, 1], [0, 1]]
    with np.load(run.path / "confusion.npz") as file:
        assert np.array_equal(file["confusion"], again.confusion)
    assert again.predicted.tolist() == [[0, 1], [1, 1]]
    assert again.predictions is not None and again.predictions[0].shape == (3, 2)
    assert again.recipe == load("lenet5")
    assert (tmp_path / "a" / "metrics.csv").read_text().startswith("epoch,learning_rate,train_loss,train_accuracy,")


def test_progress_log_and_stop_request_are_files(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    assert run.progress == Progress() and run.log == "" and not run.is_asked_to_stop
    run.write_progress(Progress(epoch=2))
    for line in ("one", "zwei ü"):
        run.write_log(line)
    run.ask_to_stop()
    again = RunFolder(tmp_path / "a")
    assert again.progress == Progress(epoch=2, seconds_left=None) and again.is_asked_to_stop
    assert [line.split("  ")[1] for line in again.log.splitlines()] == ["one", "zwei ü"]
    again.ask_to_stop(False)
    assert not run.is_asked_to_stop


@pytest.mark.parametrize("content", [b"", b"epoch,train_loss\n", b"epoch,train_loss\n1,high\n", b"\xff\xfe\n1,2\n"])
def test_a_damaged_history_is_named_in_the_error(tmp_path: Path, content: bytes) -> None:
    run = create(tmp_path / "a")
    (run.path / "metrics.csv").write_bytes(content)
    with pytest.raises(UsageError, match=r"a/metrics\.csv is damaged"):
        _ = run.history


@pytest.mark.parametrize("keep", [0, 1, 100, -20])
def test_damaged_arrays_are_named_in_the_error(tmp_path: Path, keep: int) -> None:
    run = create(tmp_path / "a")
    run.write_history([row(1)], np.array([0, 1]), [np.array([0, 1])])
    run.write_predictions(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))
    for name, read in (("confusion", "confusion"), ("confusion", "predicted"), ("predictions", "predictions")):
        path = run.path / f"{name}.npz"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(UsageError, match=rf"a/{name}\.npz is damaged \("):
            getattr(run, read)


def test_missing_files_of_a_finished_run_are_named_in_the_error(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    run.update(status="finished")
    names = {"history": "metrics.csv", "confusion": "confusion.npz", "predictions": "predictions.npz"}
    for read, name in names.items():
        with pytest.raises(UsageError, match=f"a/{name} is missing"):
            getattr(run, read)


def test_a_run_names_its_held_out_set(tmp_path: Path) -> None:
    assert create(tmp_path / "a", load("keras4")).held_out == "test"
    assert create(tmp_path / "b", load("fast90")).held_out == "validation"


def test_a_new_run_is_empty_but_readable(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    assert run.history == [] and run.predictions is None  # the board may look before the folder exists
    create(tmp_path / "a")
    assert run.history == [] and run.confusion.shape == (0, 2, 2) and run.predictions is None
    assert run.read_checkpoint() is None


def test_a_running_run_without_a_process_is_interrupted(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    assert run.status == "interrupted"
    code = (
        "import sys, pathlib, cifarlab.runs.folder as folder; print(folder.RunFolder(pathlib.Path(sys.argv[1])).status)"
    )
    with run.lock():
        ended = subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True, check=True)
    assert ended.stdout == "running\n"


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


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CifarlabError, match="cannot make the folder"):
        files.make_folder(tmp_path / "file" / "inner")


SPECIAL: dict[str, Callable[[Path], None]] = {  # content of a file that a run folder from elsewhere may have
    "a FIFO": os.mkfifo,
    "a folder": os.mkdir,
    "a link to another file": lambda path: path.symlink_to("/etc/hostname"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "predictions.npz", "confusion.npz", "log.txt"])
def test_links_and_special_files_are_not_read(tmp_path: Path, name: str, kind: str) -> None:
    run = create(tmp_path / "a")
    run.write_history([row(1)], np.array([0, 1]), [np.array([0, 1])])
    run.write_predictions(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))
    run.update(status="finished")
    (run.path / name).unlink(missing_ok=True)
    SPECIAL[kind](run.path / name)
    read = {"run.json": "record", "metrics.csv": "history", "log.txt": "log"}.get(name, name.partition(".")[0])
    if (name, kind) == ("log.txt", "a link to itself"):
        assert run.log == ""
        return
    with pytest.raises(UsageError, match=rf"{name}( is missing|.*a symbolic link|.*not a regular file)"):
        getattr(RunFolder(run.path), read)


@pytest.mark.parametrize("name", ["best.safetensors", "log.txt", "report.html", "stop"])
def test_a_run_with_links_or_special_files_is_listed_as_damaged(tmp_path: Path, name: str) -> None:
    run = create(tmp_path / "a")
    assert read_row(run).status == "interrupted"
    for special in SPECIAL.values():
        special(run.path / name)
        assert read_row(run).status == "damaged" and f"{name} is damaged" in read_row(run).reason
        (run.path / name).rmdir() if (run.path / name).is_dir() else (run.path / name).unlink()


def test_the_files_of_a_run_are_not_replaced(copied_run: Run, cli: Cli) -> None:
    before = {path: path.read_bytes() for path in copied_run.path.rglob("*") if path.is_file()}
    run, copy = copied_run.path, f"{copied_run.path}/last.safetensors"
    for command in (
        ["export", run, "--format", "safetensors", "--out", run / "best.safetensors"],
        ["export", run, "--format", "safetensors", "--out", run / "checkpoint.pt"],
        ["report", run, "--out", run / "run.json"],
        ["report", run, "--out", run / "report.html"],
        ["predict", copy, "none.png", "--out", run / "metrics.csv"],
        ["import", "a.h5", "--out", copy],
    ):
        text = cli(*command, "--force", status=2).stderr
        assert "is a file of a run, which stays" in text or "should end in" in text
    assert before == {path: path.read_bytes() for path in copied_run.path.rglob("*") if path.is_file()}
    cli("export", run, "--out", run / "own.onnx")


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    run, other = create(tmp_path / "a"), tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    for name in ("log.txt", "run.json", "checkpoint.pt", "progress.json", "stop"):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(other / "file")
    (run.path / "figures").rmdir()
    (run.path / "figures").symlink_to(other)
    run.write_log("line")
    run.write_progress(Progress(epoch=2))
    run.ask_to_stop()
    run.update(status="failed")
    run.write_checkpoint({})
    with pytest.raises(CifarlabError, match="figures is a symbolic link, and the files of a run stay in its folder"):
        run.write_figure("curves.svg", b"<svg/>")
    assert [(path.name, path.read_text()) for path in other.iterdir()] == [("file", "mine")]


def test_a_special_log_does_not_stop_a_training(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    os.mkfifo(run.path / "log.txt")
    run.write_log("line")


def test_a_message_is_one_line_of_the_log(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    run.write_log("mine\nalias ls=evil\r\x1b[2J  loss 2")
    assert run.log.count("\n") == 1 and run.log.endswith("  mine alias ls=evil [2J  loss 2\n")


@pytest.mark.parametrize("value", ["inf", "nan", "1e308", "-2"])
def test_a_history_of_impossible_numbers_is_damaged(tmp_path: Path, value: str) -> None:
    run = create(tmp_path / "a")
    run.write_history([row(1)], np.array([0, 1]), [np.array([0, 1])])
    path = run.path / "metrics.csv"
    for old in ("\n1,", ",2.0,"):
        whole = path.read_text()
        path.write_text(whole.replace(old, f"{old[0]}{value}{',' if old[0] != ',' else ''}"))
        with pytest.raises(UsageError, match=r"metrics\.csv is damaged: epochs\.0\.\w+ should be .*, got '"):
            _ = run.history
        path.write_text(whole)


def test_predictions_that_do_not_fit_the_classes_are_damaged(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    logits, labels = np.zeros((3, 2), np.float32), np.array([0, 1, 1])
    forged = [(logits, labels - 5), (logits, labels + 10**9), (logits, labels.astype(float)), (logits, labels[:2])]
    forged += [
        (logits[:, :1], labels),
        (logits * np.nan, labels),
        (logits.astype(str), labels),
        (logits[0], labels[:1].reshape(())),
    ]
    for forged_logits, forged_labels in forged:
        run._write_arrays("predictions.npz", logits=forged_logits, labels=forged_labels)
        with pytest.raises(UsageError, match=r"predictions\.npz is damaged \("):
            _ = run.predictions
    for arrays in (
        {"labels": labels + 10**9, "predicted": labels[None]},
        {"labels": labels, "predicted": labels[None] - 5},
        {"labels": labels, "predicted": labels},
        {"predicted": labels[None]},
        {"predicted": labels[None], "confusion": -np.ones((1, 2, 2), int)},
        {"predicted": labels[None], "confusion": np.zeros((0, 2, 2), int)},
    ):
        run._write_arrays("confusion.npz", **arrays)
        for epoch in (0, 1):  # all, or one
            with pytest.raises(UsageError, match=r"confusion\.npz is damaged \("):
                _ = run.confusion_after(epoch) if epoch else run.confusion


@pytest.mark.parametrize("change", [{"test_accuracy": 55}, {"temperature": 1e-300}, {"train_seconds": 1e308}])
def test_impossible_results_are_damaged(copied_run: Run, change: dict[str, float]) -> None:
    record = json.loads((path := copied_run.path / "run.json").read_text())
    path.write_text(json.dumps(record | {"results": record["results"] | change}))
    with pytest.raises(UsageError, match=r"run\.json is damaged.* results\.\w+ should be"):
        _ = Run(copied_run.path).results


def test_matrices_of_many_classes_are_small_and_read_one_by_one(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    names = tuple(map(str, range(2_000)))
    run.update(data=run.record.data.model_copy(update={"classes": names}))
    labels = np.arange(2_000)
    run.write_history([row(epoch + 1) for epoch in range(40)], labels, [labels[::-1]] * 40)
    assert (run.path / "confusion.npz").stat().st_size < 10**6
    assert np.array_equal(run.confusion_after(40), np.eye(2_000, dtype=np.int64)[::-1])
    with pytest.raises(UsageError, match=r"40 matrices of 2,000 classes are too large\. Read one by confusion_after\."):
        _ = run.confusion
    with pytest.raises(UsageError, match="epoch must be 1 to 40, got 41"):
        run.confusion_after(41)


@pytest.mark.skipif(os.name != "posix", reason="needs several users")
def test_a_user_who_may_not_write_sees_that_a_run_is_trained() -> None:
    with tempfile.TemporaryDirectory() as folder:  # other users cannot look into pytest's own
        Path(folder).chmod(0o755)
        _look_as_another_user(create(Path(folder) / "a"))


def _look_as_another_user(run: RunFolder) -> None:
    code = f"""
import os, pathlib
from cifarlab.errors import CifarlabError
from cifarlab.runs.folder import RunFolder
if os.geteuid() == 0:
    os.seteuid(65534)
run = RunFolder(pathlib.Path({str(run.path)!r}))
print(run.is_locked())
try:
    with run.lock():
        pass
except CifarlabError as error:
    print(error)
"""
    with run.lock():
        run.path.chmod(0o555)
        (run.path / ".lock").chmod(0o444)
        try:
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        finally:
            run.path.chmod(0o755)
    locked, error = ended.stdout.splitlines() or [ended.stderr, ""]
    assert locked == "True" and "Ask its owner for leave" in error
