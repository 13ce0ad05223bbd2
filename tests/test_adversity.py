"""Trainings on a difficult machine: full or read-only disk, no permission, wrong clock, too little memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import cifarlab
from cifarlab import Recipe, Run
from cifarlab.errors import CifarlabError, Interrupted
from cifarlab.experiments.rerun import differences
from cifarlab.files import write_bytes
from cifarlab.runs.folder import RunFolder
from conftest import Cli

Disk = Callable[[str], None]
REQUIRED = "CIFARLAB_TEST_ALL" in os.environ  # a missing tool fails instead of skipping

STOPPED = """import cifarlab
class Stop:
    def on_epoch_end(self, run, row): run.ask_to_stop()
cifarlab.train(cifarlab.recipe("lenet5", **{changes}), name="late", quiet=True, callbacks=[Stop()])
"""
HUNGRY_NETWORK = """import os, torch
from torch import nn
class Hungry(nn.Sequential):
    def forward(self, images):
        if self.training and torch.is_grad_enabled() and "HUNGRY" in os.environ:
            torch.empty(2**38)  # floats: a terabyte
        return super().forward(images)
def Net(classes): return Hungry(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, classes))
"""
MOST_MEMORY = 2**36  # bytes


class Stop:
    """Callback that stops a training after its first epoch."""

    def on_epoch_end(self, run: Run, row: object) -> None:
        run.ask_to_stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Disk]]:
    """A small disk of its own, and a function that changes its mount options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True, capture_output=True)

    try:
        mount("size=64m")
    except (OSError, subprocess.CalledProcessError):
        if REQUIRED and os.geteuid() == 0:
            raise
        pytest.skip("only the system's manager can make a disk")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def recipe(small: Recipe) -> Recipe:
    return small.changed({"epochs": 3, "ema": 0.9})


@pytest.fixture
def whole(recipe: Recipe, tmp_path: Path) -> Run:
    return cifarlab.train(recipe, runs=tmp_path, name="whole", quiet=True)


@pytest.mark.slow
def test_a_full_disk_costs_nothing_but_time(disk: tuple[Path, Disk], recipe: Recipe, whole: Run) -> None:
    folder, change = disk
    size = sum(file.stat().st_size for file in whole.path.rglob("*") if file.is_file())
    stopped = 0
    for number, share in enumerate((0.02, 0.3, 0.6, 0.9, 1.2, 1.6)):
        change(f"size={int(size * share)}")
        try:
            cifarlab.train(recipe, runs=folder, name=f"{number}", quiet=True)
        except CifarlabError as error:
            assert str(error).endswith("No space left on device"), error
            stopped += 1
        change("size=64m")
        path = folder / str(number)
        assert {file.name for file in path.rglob(".*")} <= {".lock"}  # no half-written file
        if not (path / "run.json").exists():  # it was refused before it began
            shutil.rmtree(path, ignore_errors=True)
            cifarlab.train(recipe, runs=folder, name=f"{number}", quiet=True)
        elif RunFolder(path).status != "finished":
            cifarlab.resume(path.name, runs=folder, quiet=True)
        assert not list(differences(whole, Run(path)))
        shutil.rmtree(path)
    assert 4 <= stopped < 6


def test_a_disk_that_cannot_be_written_is_said_and_can_be_read(
    disk: tuple[Path, Disk], recipe: Recipe, whole: Run, cli: Cli
) -> None:
    folder, change = disk
    shutil.copytree(whole.path, folder / "whole")
    change("ro")
    told = cli("train", "lenet5", "--data", "digits", "--runs", folder, status=1).stderr
    assert "Read-only file system" in told
    cli("evaluate", "whole", "--runs", folder)
    cli("runs", "--runs", folder)
    assert "finished" in cli("resume", "whole", "--runs", folder, status=2).stderr
    change("rw")


def test_a_folder_without_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CifarlabError, match=r"cannot write .*: Permission denied"):
        write_bytes(tmp_path / "file", b"x")


@pytest.mark.slow
def test_a_clock_that_goes_back_changes_nothing(recipe: Recipe, whole: Run, tmp_path: Path, cli: Cli) -> None:
    if shutil.which("faketime") is None:
        assert not REQUIRED
        pytest.skip("there is no faketime")
    code = STOPPED.format(changes={"dataset": "digits", "epochs": 3, "batch_size": 64, "ema": 0.9})
    environment = {**os.environ, "CIFARLAB_RUNS": str(tmp_path), "FAKETIME": "+400d"}
    environment["LD_PRELOAD"] = "/usr/$LIB/faketime/libfaketime.so.1"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "Interrupted" in ended.stderr, ended.stderr
    late = Run(tmp_path / "late")
    ahead = datetime.fromisoformat(late.record.created) - datetime.fromisoformat(whole.record.created)
    assert ahead > timedelta(days=399)
    cifarlab.resume("late", runs=tmp_path, quiet=True)
    assert not list(differences(whole, late))
    assert all(row.train_seconds >= 0 for row in late.history)
    cli("runs", "--runs", tmp_path)


@pytest.mark.slow
def test_too_little_memory_is_an_error_and_nothing_is_lost(recipe: Recipe, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "net.py").write_text(HUNGRY_NETWORK)
    recipe = recipe.changed({"model": f"{tmp_path / 'net.py'}:Net", "model_options": {}})
    with pytest.raises(Interrupted):
        cifarlab.train(recipe, runs=tmp_path, name="a", quiet=True, callbacks=[Stop()])
    before = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    ended = subprocess.run(
        [sys.executable, "-m", "cifarlab", "resume", "a", "--runs", tmp_path],
        env={**os.environ, "HUNGRY": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: not enough memory: a smaller batch_size needs less"
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == before
    assert RunFolder(tmp_path / "a").status == "failed"
    cifarlab.resume("a", runs=tmp_path, quiet=True)
    assert RunFolder(tmp_path / "a").status == "finished"
