"""What the tests share: real CIFAR-10, small recipes, and the command line as its users call it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from cifarlab import Data, Recipe, Run, load_data, train
from cifarlab import recipe as load_recipe
from cifarlab.cli import run

SLOWEST = (
    "test_loop.py",
    "test_resuming.py",
    "test_sweep.py",
    "test_cli.py",
    "test_world.py",
    "test_weights.py",
    "test_notebook.py",
)


FULL = {  # of the recipe `full`: dropout, augmentation, momentum, averages, schedule
    "dataset": "digits",
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 0.02,
    "input_dropout": 0.1,
    "augment.flip": True,
    "augment.shift": 0.1,
    "augment.rotation": 5,
    "augment.crop": 2,
    "augment.cutout": 4,
    "ema": 0.9,
    "schedule": "one-cycle",
    "gradient_clip": 1.0,
    "label_smoothing": 0.1,
    "model_options": {},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the processes which share the files out end together."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    import chromium

    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    import chromium

    with chromium.opened(browser) as page:
        yield page


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    import chromium

    return chromium.axe_source(tmp_path_factory.mktemp("axe"))


@pytest.fixture(scope="session")
def cifar10() -> Data:
    """The real data set; it is fetched where it is not cached yet."""
    return load_data("cifar10", quiet=True)


@pytest.fixture(scope="session")
def digits() -> Data:
    return load_data("digits")


@pytest.fixture
def small() -> Recipe:
    """A recipe that trains in a second or two."""
    return load_recipe("lenet5", dataset="digits", epochs=2, batch_size=64)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on digits, for tests that only read it; others take `copied_run`."""
    recipe = load_recipe("lenet5", dataset="digits", epochs=2, batch_size=64)
    return train(recipe, runs=tmp_path_factory.mktemp("runs"), name="a", quiet=True)


@pytest.fixture
def copied_run(trained_run: Run, tmp_path: Path) -> Run:
    """A copy of `trained_run` that a test may change."""
    return Run(shutil.copytree(trained_run.path, tmp_path / "copied"))


@pytest.fixture(scope="session")
def full() -> Recipe:
    """A recipe with everything random and everything that has a state at once."""
    return load_recipe("lenet5").changed({**FULL, "model": "lenet5-wide"})  # its own dropout too


@pytest.fixture(scope="session")
def whole(full: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of `full` that nothing disturbed."""
    return train(full, runs=tmp_path_factory.mktemp("whole"), name="whole", quiet=True)


Cli = Callable[..., subprocess.CompletedProcess[str]]


def run_cifarlab(
    folder: Path, *arguments: str | Path, status: int = 0, own_process: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `cifarlab` with `folder` as the current folder and check its exit status.

    Args:
        folder: the current folder of the command.
        arguments: the words after `cifarlab`.
        status: the exit status to expect; 1 and 2 must come with exactly one line that begins with "error: ".
        own_process: start a process of its own. Otherwise the command runs in this one, which spares it the imports.
        environment: variables that are set for this command alone.
    """
    words = [str(argument) for argument in arguments]
    call = _in_a_process if own_process else _in_this_process
    ended = call(folder, words, environment)
    assert ended.returncode == status, f"status {ended.returncode}, not {status}:\n{ended.stdout}\n{ended.stderr}"
    if status in (1, 2):
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, ended.stderr
        assert "Traceback" not in ended.stderr
    return ended


def _in_a_process(folder: Path, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cifarlab", *words]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables, timeout=600)


def _in_this_process(folder: Path, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        status = run(words)
    return subprocess.CompletedProcess(["cifarlab", *words], status, stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return `run_cifarlab` for an empty folder."""
    return functools.partial(run_cifarlab, tmp_path)


def answer(ended: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON document on stdout."""
    return json.loads(ended.stdout)


def make_images(folder: Path, classes: dict[str, int], size: tuple[int, int] = (40, 30)) -> None:
    """A folder of random pictures per class, each class in a colour of its own."""
    generator = np.random.default_rng(0)
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
            pixels[..., number % 3] += 60 * (1 + number // 3)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
