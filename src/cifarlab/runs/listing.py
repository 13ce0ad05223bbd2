"""List, find and name runs in the folder of runs, and choose runs by pattern, study or tuning."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Literal

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, unknown
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder

LONGEST_NAME = 100  # characters
PRETRAINED = "pretrained:"  # prefix of the name of shipped weights
STUDY = "study.toml"  # file that makes a folder of runs a study
TUNING = "tuning.json"  # file that makes a folder of runs a tuning
_PATTERN = "*?["  # characters that make a name a pattern
_MOST_LISTED = 5  # runs named in a message; the rest is only counted


def runs_folder(folder: Path | str | None = None) -> Path:
    """Return the folder of runs: `folder` if given, else `CIFARLAB_RUNS`, else `./runs`."""
    return Path(folder or os.environ.get("CIFARLAB_RUNS") or "runs")


def new_run_path(runs: Path, recipe: Recipe, name: str | None, *, force: bool = False) -> Path:
    """Check the name of a new run and return the path of its folder, which is not created yet.

    Args:
        runs: the folder of runs.
        recipe: recipe whose name, with seed and time, is the default name.
        name: name of the run.
        force: True if an older run of that name may be replaced.

    Raises:
        UsageError: the name is not allowed, or taken.
    """
    if name is None:
        stem = f"{recipe.name.replace('/', '-')}-s{recipe.seed}-{datetime.now():%Y%m%d-%H%M%S}"
        return next(path for path in _numbered(runs / stem) if not path.exists())
    path = runs / check_plain_name(name)
    if path.exists():
        if not force:
            raise _taken(path)
        if not (path / "run.json").is_file():
            raise UsageError(f"{path} is not a run folder, so --force does not replace it")
        _check_not_training(path)
    return path


def check_plain_name(name: str) -> str:
    """Return the name of a run or study if it is allowed as a folder's name.

    Raises:
        UsageError: the name is not allowed.
    """
    is_plain = name == Path(name).name and name.isprintable() and not name.startswith((".", "-"))
    if not name or len(name) > LONGEST_NAME or not is_plain or any(letter in _PATTERN for letter in name):
        raise UsageError(
            f"--name must be a plain name of 1 to {LONGEST_NAME} printable characters, without / * ? [ and without a "
            f"dot or hyphen at the start, got {name[:40]!r}"
        )
    return name


def claim_folder(path: Path, if_taken: Literal["next", "refuse", "replace"] = "refuse") -> Path:
    """Create the folder of a run, so that no other process can take the same name, and return its path.

    Args:
        path: path from `new_run_path`.
        if_taken: what to do if the folder exists by now: append a number, raise an error, or replace the older run.

    Raises:
        UsageError: the name is taken, or its run is being trained.
        CifarlabError: the folder cannot be created.
    """
    files.make_folder(path.parent)
    try:
        if if_taken == "replace" and path.exists():
            _check_not_training(path)
            shutil.rmtree(path)
        for candidate in _numbered(path) if if_taken == "next" else [path]:
            with contextlib.suppress(FileExistsError):
                candidate.mkdir()
                return candidate
    except OSError as error:
        raise CifarlabError(f"cannot create the folder {path}: {error.strerror or error}") from error
    raise _taken(path)


def _taken(path: Path) -> UsageError:
    return UsageError(f"the run {path.name!r} already exists. Choose another --name, or replace the run with --force.")


def _check_not_training(path: Path) -> None:
    if RunFolder(path).is_locked():
        raise UsageError(f"the run {path.name!r} is being trained by another process")


def _numbered(path: Path) -> Iterator[Path]:
    """Yield the path, then the path with -2, -3, … after its name."""
    yield path
    for number in range(2, sys.maxsize):
        yield path.with_name(f"{path.name}-{number}")


def find_run(run: str, runs: Path) -> Path:
    """Return the folder of a run, given by its name under `runs` or by its path.

    Raises:
        UsageError: there is no such run.
    """
    for path in (runs / run, Path(run)):
        if is_run(path):
            return path
    if run.startswith(PRETRAINED):
        raise UsageError(f"{run!r} is a weights file, not a run. Only evaluate, predict, export and summary take it.")
    if Path(run).suffix in (".h5", ".hdf5", ".keras") and Path(run).exists():
        raise UsageError(f"{run!r} is a Keras file. Convert it to a weights file with cifarlab import.")
    for path in (runs / run, Path(run)):
        if is_group(path):
            kind = "study" if is_study(path) else "tuning"
            example = "".join(f", such as {run.rstrip('/')}/{member.name}" for member in list_runs(path)[:1])
            raise UsageError(f"{run!r} is a {kind}, which has several runs. Name one of them{example}.")
    if Path(run).exists():
        raise UsageError(f"{run!r} is neither the folder of a run nor a weights file (.safetensors)")
    raise unknown("run", run, [path.name for path in list_runs(runs)])


def run_path(run: str | Path | RunFolder, runs: Path | str | None) -> Path:
    """Return the folder of a run, given as an object, a name or a path; raises as `find_run` does."""
    return run.path if isinstance(run, RunFolder) else find_run(str(run), runs_folder(runs))


def is_run(path: Path) -> bool:
    """Return True if the path is the folder of a run."""
    return _has_file(path, "run.json")


def is_study(path: Path) -> bool:
    """Return True if the path is the folder of a study."""
    return _has_file(path, STUDY)


def is_group(path: Path) -> bool:
    """Return True if the path is the folder of a study or tuning, whose name stands for all its runs."""
    return not is_run(path) and (is_study(path) or _has_file(path, TUNING))


def _has_file(path: Path, name: str) -> bool:
    try:
        return (path / name).is_file()
    except OSError:  # not a path, such as a name of a thousand characters
        return False


def list_runs(runs: Path, *, nested: bool = False) -> list[Path]:
    """Return the run folders under `runs`, oldest first.

    Args:
        runs: the folder of runs.
        nested: include the runs in the folders of studies, tunings and reproductions.
    """
    parents = [runs, *((path for path in runs.glob("*/") if not is_run(path)) if nested else ())]
    return _by_age(path.parent for parent in parents for path in parent.glob("*/run.json"))


def _by_age(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (_created(path), path.name))


def _created(path: Path) -> str:
    try:
        return RunFolder(path).record.created
    except UsageError:
        return ""  # damaged; whoever lists the runs reports it


@dataclass(frozen=True)
class ChosenRuns:
    """Runs that names, paths, patterns, studies and tunings stand for."""

    paths: list[Path]
    skipped: list[str]
    """`NAME (status)` of each run of a pattern, study or tuning that is left out because it is not finished."""

    @property
    def skipped_message(self) -> str:
        """One line that names the skipped runs; empty if there are none."""
        names, rest = self.skipped[:_MOST_LISTED], len(self.skipped) - _MOST_LISTED
        return f"left out: {', '.join([*names, *([f'and {rest} more'] if rest > 0 else [])])}" if names else ""


def choose_runs(names: Sequence[str | Path | RunFolder], runs: Path | str | None) -> ChosenRuns:
    """Return the folders of the runs that a user names, without the unfinished runs of patterns, studies and tunings.

    A run that the user names by itself is included whatever its status. A member of a study or tuning that is named
    beside other runs must be finished, because a shell expands `study/*` to such a list.

    Raises:
        UsageError: there are no such runs, or a name stands for nothing.
    """
    paths, skipped = list[Path](), list[str]()
    for name in names:
        members, is_single = _named_runs(name, runs)
        for path in members:
            status = _status(path)
            if status == "finished" or (is_single and (len(names) == 1 or not is_group(path.parent))):
                paths.append(path)
            else:
                skipped.append(f"{_display_name(path, runs_folder(runs))} ({status})")
    chosen = ChosenRuns(paths, skipped)
    if not paths:
        message = f" ({chosen.skipped_message})" if skipped else ""
        raise UsageError(f"there is no finished run in {' '.join(map(str, names))}{message}")
    return chosen


def _named_runs(name: str | Path | RunFolder, runs: Path | str | None) -> tuple[list[Path], bool]:
    """Return the runs that a name stands for, and True if the name stands for a single run.

    The name is that of a run, of a study or tuning (all its runs), or a pattern with `*`, `?` or `[...]` that matches
    such names under `runs`, or paths.
    """
    if isinstance(name, RunFolder):
        return [name.path], True
    parent, name = runs_folder(runs), str(name)
    if any(letter in name for letter in _PATTERN) and not Path(name).exists():
        matches = {path.resolve(): path for start in (parent / name, name) for path in map(Path, glob(str(start)))}
        members = [run for path in matches.values() for run in ([path] if is_run(path) else _members(path))]
        if not members:
            raise UsageError(f"no run in {parent} matches the pattern {name!r}")
        return _by_age(iter(members)), False
    for path in (parent / name, Path(name)):
        if is_group(path):
            return _members(path), False
    path = Path(name)
    if is_group(path.parent) and path.exists() and not is_run(path):
        return [], False  # another file of a study or tuning, which a shell includes in `study/*`
    return [run_path(name, runs)], True


def _members(path: Path) -> list[Path]:
    return list_runs(path) if is_group(path) else []


def _status(path: Path) -> str:
    """Return the status of a run, or `damaged` if its predictions cannot be read."""
    run = RunFolder(path)
    try:
        _ = run.predictions
        return run.status
    except UsageError:
        return "damaged"


def _display_name(path: Path, runs: Path) -> str:
    return (path.relative_to(runs) if path.is_relative_to(runs) else path).as_posix()
