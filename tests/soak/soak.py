"""Kills trainings, at random moments and at every write, and sees that none is lost.

    python tests/soak/soak.py kills --count 1000
    python tests/soak/soak.py cuts

Trains lenet5 on CIFAR-10 images. `kills` sends SIGKILL to the training process after a random time, resumes, and so
on; `cuts` has it kill itself at its first, second, third, … operation on files, and takes away what was not flushed to
the disk by then, as a power cut would. Every run must end with the bits of one that nothing disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from cifarlab import Data, Recipe, api, load_data, recipe
from cifarlab.errors import CifarlabError
from cifarlab.experiments.rerun import CLOCKS
from cifarlab.runs.folder import RunFolder

IMAGES = 1_000  # of CIFAR-10, to train on; as many to test on
SHORTEST = 0.05  # seconds that a training gets before it is killed
DIED = 9  # SIGKILL
Crash = Callable[[str, Path], None]


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["kills", "cuts"])
    parser.add_argument("--count", type=int, default=1_000, help="kills, or the most cuts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = some_images()
    with tempfile.TemporaryDirectory() as folder:
        import_what_is_used(Path(folder), data)
        work = kills if given.what == "kills" else cuts
        return work(Path(folder), data, given.count)


def some_images() -> Data:
    """A part of CIFAR-10."""
    whole = load_data("cifar10", quiet=True)
    train, test = (part.select(np.arange(IMAGES)) for part in (whole.train, whole.test))
    return Data("some", train, test, "0" * 64, "memory", "")


def import_what_is_used(folder: Path, data: Data) -> None:
    """Imports what a training imports, once for all the processes that this one forks."""
    listed = folder / "modules"

    def train() -> None:
        attempt(folder / "first", 0, 1, data)
        listed.write_text("\n".join(sys.modules))

    if ended(forked(train)) != 0:
        raise CifarlabError("an undisturbed training failed")
    for name in listed.read_text().splitlines():
        with contextlib.suppress(Exception):  # some are names that others made up
            importlib.import_module(name)


def a_recipe(seed: int, epochs: int) -> Recipe:
    """One that keeps as much state as there is."""
    changes = {"ema": 0.9, "skip_easy": 0.3, "augment.crop": 2, "batch_size": 50, "precision": "fp32"}
    return recipe("lenet5").changed({"dataset": "some", "seed": seed, "epochs": epochs, **changes})


def attempt(path: Path, seed: int, epochs: int, data: Data) -> None:
    """Begins a run or goes on with it, as a user would who finds it where it is."""
    options: dict[str, Any] = {"data": data, "runs": path.parent, "quiet": True}
    if not (path / "run.json").exists():  # killed before there was anything
        shutil.rmtree(path, ignore_errors=True)
        api.train(a_recipe(seed, epochs), name=path.name, checkpoint_every="3", **options)
    elif RunFolder(path).status != "finished" or not (path / "report.html").exists():
        api.resume(path.name, **options)


def forked(work: Callable[[], None]) -> int:
    """Runs `work` in a process of its own, whose number it gives."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> int:
    """Waits for a process; its exit status, or the signal that it died of."""
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def whole_run(path: Path, seed: int, epochs: int, data: Data) -> None:
    """A run that nothing disturbs."""
    if ended(forked(lambda: attempt(path, seed, epochs, data))) != 0:
        raise CifarlabError("an undisturbed training failed")


def same(one: RunFolder, other: RunFolder) -> bool:
    """Whether weights, figures of every epoch and predictions are the same to the bit, and the report is there."""
    for name in ("best.safetensors", "last.safetensors", "predictions.npz", "confusion.npz"):
        ours, theirs = (dict(_arrays(run.path / name)) for run in (one, other))
        if ours.keys() != theirs.keys() or not all(np.array_equal(ours[key], theirs[key]) for key in ours):
            return False
    rows = [[{**vars(row), **dict.fromkeys(CLOCKS, 0)} for row in run.history] for run in (one, other)]
    return rows[0] == rows[1] and other.status == "finished" and (other.path / "report.html").exists()


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def kills(folder: Path, data: Data, count: int) -> int:
    """SIGKILL after random times, over as many runs as it takes."""
    draw, killed, wrong, seed, where = random.Random(0), 0, 0, 0, Counter[str]()
    epochs = 30
    began = time.monotonic()
    longest = SHORTEST
    while killed < count:
        expected, run = folder / f"whole-{seed}", folder / f"killed-{seed}"
        start = time.monotonic()
        whole_run(expected, seed, epochs, data)
        longest = max(longest, (time.monotonic() - start) / 3)  # of a third, so that most are killed
        for _ in range(10_000):
            child = forked(lambda run=run, seed=seed: attempt(run, seed, epochs, data))  # type: ignore[misc]
            time.sleep(SHORTEST * (longest / SHORTEST) ** draw.random())  # as many short ones as long ones
            before = _doing(run, child)
            os.kill(child, signal.SIGKILL)
            status = ended(child)
            if status == DIED:
                longest *= 1.01  # so that it ends on a machine that has become slower, too
                killed += 1
                where[before] += 1
            elif status != 0:
                print(f"run {seed}: a resume failed", flush=True)
                wrong += 1
                break
            else:
                break
        if not same(RunFolder(expected), RunFolder(run)):
            print(f"run {seed}: not the same bits", flush=True)
            wrong += 1
        print(f"{killed} kills, {seed + 1} runs, {wrong} wrong, {time.monotonic() - began:.0f} s", flush=True)
        seed += 1
    print(f"killed while: {', '.join(f'{what} {number}' for what, number in where.most_common())}")
    print(f"{killed} SIGKILLs over {seed} runs: {wrong} lost, unreadable or not the same to the bit")
    return wrong


def _doing(run: Path, child: int) -> str:
    """What a training seems to be at, by the files that are there."""
    if not (run / "checkpoint.pt").exists():
        return "starting"
    if list(run.rglob(f".{child}-*.checkpoint.pt")):
        return "writing a checkpoint"
    if list(run.rglob(f".{child}-*")):
        return "writing another file"
    if (run / "predictions.npz").exists():
        return "reporting"
    return "training or evaluating"


class Disk:
    """Counts a process's operations on files, and kills it at one of them.

    What was written and not flushed by then is cut off, as a power cut may do.
    """

    def __init__(self, last: int) -> None:
        self.last, self.done = last, 0
        self.unflushed: dict[Path, int] = {}
        """Files by what of them is safe, in bytes."""

    def __call__(self, what: str, path: Path) -> None:
        self.done += 1
        if self.done == self.last:
            for lost, length in self.unflushed.items():
                if lost.exists():
                    os.truncate(lost, length)
            sys.stdout.write(f"{what} {path.name}\n")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Puts itself between this process and the functions that write."""
        opened, synced, replaced, removed, made = io.open, os.fsync, os.replace, os.unlink, os.mkdir
        numbers: dict[int, Path] = {}

        def opening(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if not {*mode} & {*"wax+"} or isinstance(file, int):
                return opened(file, mode, *more, **named)
            path = Path(file)
            self("opening", path)
            self.unflushed[path] = path.stat().st_size if "a" in mode and path.exists() else 0
            stream = opened(file, mode, *more, **named)
            numbers[stream.fileno()] = path
            return _Watched(stream, path, self)

        def flushing(number: int) -> None:
            path = numbers.get(number)
            self("flushing", path or Path("folder"))
            synced(number)
            if path is not None:
                self.unflushed.pop(path, None)

        def replacing(source: Any, target: Any, **more: Any) -> None:
            self("renaming", Path(target))
            replaced(source, target, **more)
            if Path(source) in self.unflushed:
                self.unflushed[Path(target)] = self.unflushed.pop(Path(source))

        def removing(path: Any, **more: Any) -> None:
            self("removing", Path(path))
            removed(path, **more)

        def making(path: Any, *more: Any, **named: Any) -> None:
            self("making", Path(path))
            made(path, *more, **named)

        for name, function in (("fsync", flushing), ("replace", replacing), ("unlink", removing), ("mkdir", making)):
            setattr(os, name, function)
        io.open = opening  # what pathlib opens files with


class _Watched:
    """A file whose writing can be cut in the middle."""

    def __init__(self, stream: Any, path: Path, disk: Disk) -> None:
        self._stream, self._path, self._disk = stream, path, disk

    def write(self, content: Any) -> int:
        half = len(content) // 2
        self._stream.write(content[:half])
        self._stream.flush()
        self._disk("writing", self._path)
        self._stream.write(content[half:])
        return len(content)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def cuts(folder: Path, data: Data, most: int) -> int:
    """A kill at each operation on files in turn, until a training comes through."""
    expected, wrong, where = folder / "whole", 0, Counter[str]()
    whole_run(expected, 0, 2, data)
    for number in range(1, most + 1):
        run = folder / f"cut-{number}"

        def cut(number: int = number, run: Path = run) -> None:
            Disk(number).watch()
            attempt(run, 0, 2, data)

        reading, writing = os.pipe()
        child = forked(lambda cut=cut, to=writing: (os.dup2(to, 1), cut())[1])  # type: ignore[misc]
        os.close(writing)
        with os.fdopen(reading) as said:
            place = said.read().strip()
        status = ended(child)
        if status == 0:
            print(f"the training has {number - 1} operations on files")
            break
        if status != DIED:
            raise CifarlabError(f"cut {number}: the training failed")
        where[place.partition(" ")[0]] += 1
        if ended(forked(lambda run=run: attempt(run, 0, 2, data))) != 0 or not same(  # type: ignore[misc]
            RunFolder(expected), RunFolder(run)
        ):
            print(f"cut {number}, {place}: lost, or not the same bits", flush=True)
            wrong += 1
        shutil.rmtree(run)
        if number % 20 == 0:
            print(f"{number} cuts, {wrong} wrong", flush=True)
    print(f"cut while: {', '.join(f'{what} {count}' for what, count in where.most_common())}")
    print(f"{sum(where.values())} cuts: {wrong} lost, unreadable or not the same to the bit")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
