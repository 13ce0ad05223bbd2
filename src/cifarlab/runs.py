"""The folder that runs lie in: names for new ones, and finding old ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, unknown
from cifarlab.recipes import Recipe
from cifarlab.run import RunFolder

LONGEST_NAME = 100  # characters
STUDY = "study.toml"  # in a folder of runs that belong to one study


def runs_folder(given: Path | str | None = None) -> Path:
    """The folder that runs are made in: as given, else `CIFARLAB_RUNS`, else `./runs`."""
    return Path(given or os.environ.get("CIFARLAB_RUNS") or "runs")


def check_name(runs: Path, recipe: Recipe, name: str | None, *, force: bool = False) -> Path:
    """Where a new run will be; nothing is created.

    Args:
        runs: the folder of runs.
        recipe: gives the name where none is given.
        name: of the run.
        force: whether an older run of that name may be replaced.

    Raises:
        UsageError: the name is not one, or taken.
    """
    if name is None:
        stem = f"{recipe.name.replace('/', '-')}-s{recipe.seed}-{datetime.now():%Y%m%d-%H%M%S}"
        return next(path for path in _numbered(runs / stem) if not path.exists())
    path = runs / check_plain(name)
    if path.exists():
        if not force:
            raise UsageError(f"there is already a run {name!r}: choose another --name, or replace it with --force")
        if not (path / "run.json").is_file():
            raise UsageError(f"{path} is not a run folder, so --force does not replace it")
        if RunFolder(path).is_locked():
            raise UsageError(f"the run {name!r} is being trained by another process")
    return path


def check_plain(name: str) -> str:
    """The name of a run or a study as it was given.

    Raises:
        UsageError: a folder cannot or should not be called so.
    """
    plain = name == Path(name).name and name.isprintable() and not name.startswith(".")
    if not name or len(name) > LONGEST_NAME or not plain:
        raise UsageError(
            f"--name {name[:40]!r}: should be a plain name without slashes, of at most {LONGEST_NAME} letters"
        )
    return name


def claim(path: Path, taken: Literal["next", "refuse", "replace"] = "refuse") -> Path:
    """Makes a run's folder, so that no two processes can take it for theirs, and gives its path.

    Args:
        path: from `check_name`.
        taken: what to do where there is a run of that name, made perhaps since `check_name`.

    Raises:
        UsageError: the name is taken, or its run is being trained.
        CifarlabError: the folder cannot be made.
    """
    files.make_folder(path.parent)
    try:
        if taken == "replace" and path.exists():
            if RunFolder(path).is_locked():
                raise UsageError(f"the run {path.name!r} is being trained by another process")
            shutil.rmtree(path)
        for candidate in _numbered(path) if taken == "next" else [path]:
            with contextlib.suppress(FileExistsError):
                candidate.mkdir()
                return candidate
    except OSError as error:
        raise CifarlabError(f"cannot make the folder {path}: {error.strerror or error}") from error
    raise UsageError(f"there is already a run {path.name!r}: choose another --name, or replace it with --force")


def find(run: str, runs: Path) -> Path:
    """The folder of a run by its name under `runs`, or by its path.

    Raises:
        UsageError: there is none.
    """
    for path in (runs / run, Path(run)):
        if is_run(path):
            return path
    if Path(run).suffix in (".h5", ".hdf5", ".keras") and Path(run).exists():
        raise UsageError(f"{run!r} is a Keras file: make weights of it with cifarlab import")
    if Path(run).exists():
        raise UsageError(f"{run!r} is neither a run's folder nor a weights file (.safetensors)")
    raise unknown("run", run, [path.name for path in listing(runs)])


def is_run(path: Path) -> bool:
    """Whether a folder is a run's; False for what cannot be a path."""
    try:
        return (path / "run.json").is_file()
    except OSError:  # a name of a thousand letters
        return False


def is_study(path: Path) -> bool:
    """Whether a folder is a study's."""
    try:
        return (path / STUDY).is_file()
    except OSError:
        return False


def listing(runs: Path, *, nested: bool = False) -> list[Path]:
    """The run folders under `runs`, the oldest first.

    Args:
        runs: the folder of runs.
        nested: take those in the folders of studies, tunings and reproductions, too.
    """
    parents = [runs, *((path for path in runs.glob("*/") if not is_run(path)) if nested else ())]
    found = [path.parent for parent in parents for path in parent.glob("*/run.json")]
    return sorted(found, key=lambda path: (_created(path), path.name))


def _created(path: Path) -> str:
    try:
        return str(RunFolder(path).record.get("created", ""))
    except UsageError:
        return ""  # damaged; the listing says so


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, sys.maxsize):
        yield path.with_name(f"{path.name}-{number}")


def path_of(run: str | Path | RunFolder, runs: Path | str | None) -> Path:
    """A run's folder, whichever way it is named; see `find`."""
    return run.path if isinstance(run, RunFolder) else find(str(run), runs_folder(runs))
