"""The folder that runs lie in: names for new ones, and finding old ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Literal, NamedTuple

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, unknown
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder

LONGEST_NAME = 100  # characters
PRETRAINED = "pretrained:"  # before the name of weights that ship
STUDY = "study.toml"  # in a folder of runs that belong to one study
TUNING = "tuning.json"  # in one of those that belong to one tuning
_PATTERN = "*?["  # letters that make a pattern of a name
_MOST_TOLD = 5  # runs in a line; of more their number is told


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
    plain = name == Path(name).name and name.isprintable() and not name.startswith((".", "-"))
    if not name or len(name) > LONGEST_NAME or not plain or any(letter in _PATTERN for letter in name):
        raise UsageError(
            f"--name {name[:40]!r}: should be a plain name without slashes and without * ? [, not begin with a dot or "
            f"a hyphen, and have at most {LONGEST_NAME} letters"
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
    if run.startswith(PRETRAINED):
        raise UsageError(f"{run!r} are weights and no run: cifarlab evaluate and predict take them")
    if Path(run).suffix in (".h5", ".hdf5", ".keras") and Path(run).exists():
        raise UsageError(f"{run!r} is a Keras file: make weights of it with cifarlab import")
    for path in (runs / run, Path(run)):
        if is_group(path):
            which = "".join(f", such as {run.rstrip('/')}/{one.name}" for one in listing(path)[:1])
            raise UsageError(f"{run!r} holds the runs of a {'study' if is_study(path) else 'tuning'}: name one{which}")
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


def is_group(path: Path) -> bool:
    """Whether a folder is a study's or a tuning's, whose name stands for its runs."""
    try:
        return not is_run(path) and (is_study(path) or (path / TUNING).is_file())
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
        return RunFolder(path).record.created
    except UsageError:
        return ""  # damaged; the listing says so


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, sys.maxsize):
        yield path.with_name(f"{path.name}-{number}")


def path_of(run: str | Path | RunFolder, runs: Path | str | None) -> Path:
    """A run's folder, whichever way it is named; see `find`."""
    return run.path if isinstance(run, RunFolder) else find(str(run), runs_folder(runs))


class Chosen(NamedTuple):
    """The runs that names, paths, patterns, studies and tunings stand for."""

    paths: list[Path]
    left_out: list[str]
    """`NAME (status)` of those that are not finished, where the user did not name them one by one."""

    @property
    def told(self) -> str:
        """What is left out, in a line; empty where nothing is."""
        more = len(self.left_out) - _MOST_TOLD
        shown = [*self.left_out[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else [])]
        return f"left out: {', '.join(shown)}" if shown else ""


def choose(names: Sequence[str | Path | RunFolder], runs: Path | str | None) -> Chosen:
    """The folders of the runs that a user means, and what of them is left out because it is not finished.

    A run that is named by itself is there whatever its status is. One of a study or tuning that stands beside others
    is not: a shell writes `study/*` so.

    Raises:
        UsageError: there is none, or one of the names stands for nothing.
    """
    chosen = Chosen([], [])
    for name in names:
        paths, by_itself = _paths_of(name, runs)
        for path in paths:
            status = _status(path)
            if status == "finished" or (by_itself and (len(names) == 1 or not is_group(path.parent))):
                chosen.paths.append(path)
            else:
                chosen.left_out.append(f"{_shown(path, runs_folder(runs))} ({status})")
    if not chosen.paths:
        told = f"; {chosen.told}" if chosen.left_out else ""
        raise UsageError(f"there is no finished run in {' '.join(map(str, names))}{told}")
    return chosen


def _paths_of(name: str | Path | RunFolder, runs: Path | str | None) -> tuple[list[Path], bool]:
    """What a name stands for, and whether that is one run which it names by itself.

    That is a run; all runs of a study or tuning; or all of these whose names under `runs`, or paths, fit a pattern
    with `*`, `?` or `[...]`.
    """
    if isinstance(name, RunFolder):
        return [name.path], True
    parent, name = runs_folder(runs), str(name)
    if any(sign in name for sign in _PATTERN) and not Path(name).exists():
        places = {path.resolve(): path for start in (parent / name, name) for path in map(Path, glob(str(start)))}
        found = [run for path in places.values() for run in ([path] if is_run(path) else _runs_of(path))]
        if not found:
            raise UsageError(f"no run in {parent} has a name that fits {name!r}")
        return sorted(found, key=lambda path: (_created(path), path.name)), False
    for path in (parent / name, Path(name)):
        if is_group(path):
            return _runs_of(path), False
    beside = Path(name)
    if is_group(beside.parent) and beside.exists() and not is_run(beside):
        return [], False  # what a study or tuning has beside its runs, in `study/*`
    return [path_of(name, runs)], True


def _runs_of(path: Path) -> list[Path]:
    return listing(path) if is_group(path) else []


def _status(path: Path) -> str:
    """Of a run; `damaged` where what it holds cannot be compared."""
    run = RunFolder(path)
    try:
        _ = run.predictions  # there and whole, if the run is finished
        return run.status
    except UsageError:
        return "damaged"


def _shown(path: Path, runs: Path) -> str:
    """A run as the user may name it."""
    return (path.relative_to(runs) if path.is_relative_to(runs) else path).as_posix()
