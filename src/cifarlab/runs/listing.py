"""List, find and name runs in the folder of runs, and choose runs by pattern, study or tuning."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Literal

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, unknown
from cifarlab.progress import notice
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

    The default name has the recipe's name, seed and time. With `force`, the name of an older run is allowed.
    """
    if name is None:
        return runs / f"{recipe.name.replace('/', '-')}-s{recipe.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    path = runs / check_plain_name(name)
    if path.exists():
        if not force:
            raise _taken(path)
        if not is_run(path):
            raise UsageError(f"{path} is not a run folder, so --force does not replace it")
        _check_not_training(path)
    return path


def check_plain_name(name: str) -> str:
    """Return the name of a run or study if it is allowed as a folder's name; raise UsageError if not."""
    is_plain = name == Path(name).name and name.isprintable() and not name.startswith((".", "-"))
    if not name or len(name) > LONGEST_NAME or not is_plain or any(letter in _PATTERN for letter in name):
        raise UsageError(
            f"--name must be a plain name of 1 to {LONGEST_NAME} printable characters, without / * ? [ and without a "
            f"dot or hyphen at the start, got {name[:40]!r}"
        )
    return name


def claim_folder(path: Path, if_taken: Literal["next", "refuse", "replace"] = "refuse") -> Path:
    """Create the folder of a run, so that no other process can take the same name, and return its path.

    If the path from `new_run_path` exists by now, append a number, raise UsageError, or replace the older run.
    """
    files.make_folder(path.parent)
    try:
        if if_taken == "replace" and path.exists():
            _check_not_training(path)
            shutil.rmtree(path)
        for number in itertools.count(1) if if_taken == "next" else [1]:
            folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise CifarlabError(f"cannot create the folder {path}: {error.strerror or error}") from error
    raise _taken(path)


def _taken(path: Path) -> UsageError:
    return UsageError(f"the run {path.name!r} already exists. Choose another --name, or replace the run with --force.")


def _check_not_training(path: Path) -> None:
    if RunFolder(path).is_locked():
        raise UsageError(f"the run {path.name!r} is being trained by another process")


def find_run(run: str | Path | RunFolder, runs: Path | str | None) -> Path:
    """Return the folder of a run, given as an object, by its name under `runs` or by its path."""
    if isinstance(run, RunFolder):
        return run.path
    run, runs = str(run), runs_folder(runs)
    starts = (runs / run, Path(run))
    if path := next(filter(is_run, starts), None):
        return path
    if group := next(filter(is_group, starts), None):
        kind = "study" if is_study(group) else "tuning"
        example = "".join(f", such as {run.rstrip('/')}/{member.name}" for member in list_runs(group)[:1])
        raise UsageError(f"{run!r} is a {kind}, which has several runs. Name one of them{example}.")
    if run.startswith(PRETRAINED):
        raise UsageError(f"{run!r} is a weights file, not a run. Only evaluate, predict, export and summary take it.")
    if Path(run).exists():
        if Path(run).suffix in (".h5", ".hdf5", ".keras"):
            raise UsageError(f"{run!r} is a Keras file. Convert it to a weights file with cifarlab import.")
        raise UsageError(f"{run!r} is neither the folder of a run nor a weights file (.safetensors)")
    raise unknown("run", run, [path.name for path in list_runs(runs)])


def is_run(path: Path) -> bool:
    """Return True if the path is the folder of a run; False too if it is no possible path."""
    return os.path.isfile(path / "run.json")


def is_study(path: Path) -> bool:
    """Return True if the path is the folder of a study."""
    return os.path.isfile(path / STUDY)


def is_group(path: Path) -> bool:
    """Return True if the path is the folder of a study or tuning, whose name stands for all its runs."""
    return not is_run(path) and (is_study(path) or os.path.isfile(path / TUNING))


def list_runs(runs: Path, *, nested: bool = False) -> list[Path]:
    """Return the run folders under `runs`, oldest first; `nested` includes those of studies, tunings, reproductions."""
    parents = [runs, *((path for path in runs.glob("*/") if not is_run(path)) if nested else ())]
    return _by_age(path.parent for parent in parents for path in parent.glob("*/run.json"))


def _by_age(paths: Iterable[Path]) -> list[Path]:
    def age(path: Path) -> tuple[str, str]:
        try:
            return RunFolder(path).record.created, path.name
        except UsageError:
            return "", path.name  # damaged; whoever lists the runs reports it

    return sorted(paths, key=age)


def choose_runs(names: Sequence[str | Path | RunFolder], runs: Path | str | None, *, quiet: bool = False) -> list[Path]:
    """Return the folders of the runs that a user names, without the unfinished runs of patterns, studies and tunings.

    A line on stderr names what is left out. A run that the user names by itself is included whatever its status. A
    member of a study or tuning that is named beside other runs must be finished, because a shell expands `study/*` to
    such a list.
    """
    folder, paths, unfinished = runs_folder(runs), list[Path](), list[str]()
    for name in names:
        members, is_single = ([name.path], True) if isinstance(name, RunFolder) else _named_runs(str(name), folder)
        for path in members:
            status = _status(path)
            if status == "finished" or (is_single and (len(names) == 1 or not is_group(path.parent))):
                paths.append(path)
            else:
                shown = path.relative_to(folder) if path.is_relative_to(folder) else path
                unfinished.append(f"{shown.as_posix()} ({status})")
    if len(unfinished) > _MOST_LISTED:
        unfinished[_MOST_LISTED:] = [f"and {len(unfinished) - _MOST_LISTED} more"]
    message = f"left out: {', '.join(unfinished)}" if unfinished else ""
    if not paths:
        reason = f" ({message})" if message else ""
        raise UsageError(f"there is no finished run in {' '.join(map(str, names))}{reason}")
    notice(message, quiet=quiet or not message)
    return paths


def _named_runs(name: str, runs: Path) -> tuple[list[Path], bool]:
    """Return the runs that a name stands for, and True if the name stands for a single run.

    The name is that of a run, of a study or tuning (all its runs), or a pattern with `*`, `?` or `[...]` that matches
    such names under `runs`, or paths.
    """
    starts = (runs / name, Path(name))
    if any(letter in name for letter in _PATTERN) and not Path(name).exists():
        matches = {path.resolve(): path for start in starts for path in map(Path, glob(str(start)))}.values()
        members = [path for path in matches if is_run(path)]
        members += [member for path in matches if is_group(path) for member in list_runs(path)]
        if not members:
            raise UsageError(f"no run in {runs} matches the pattern {name!r}")
        return _by_age(members), False
    if group := next(filter(is_group, starts), None):
        return list_runs(group), False
    path = Path(name)
    if is_group(path.parent) and path.exists() and not is_run(path):
        return [], False  # another file of a study or tuning, which a shell includes in `study/*`
    return [find_run(name, runs)], True


def _status(path: Path) -> str:
    """Return the status of a run, or `damaged` if its predictions cannot be read."""
    run = RunFolder(path)
    try:
        _ = run.predictions
        return run.status
    except UsageError:
        return "damaged"
