"""List, find and name runs in the folder of runs, and choose runs by pattern, study or tuning."""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Literal

import filelock

from cifarlab import files, recipes
from cifarlab.errors import CifarlabError, UsageError, one_line, unknown
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import WAIT, Folder, RunFolder
from cifarlab.runs.record import RunRecord

LONGEST_NAME = 100  # characters
CREATION_TIMEOUT = 10.0  # seconds; another process creates a run in much less
PRETRAINED = "pretrained:"  # prefix of the name of shipped weights
STUDY = "study.toml"  # file that makes a folder of runs a study
TUNING = "tuning.json"  # file that makes a folder of runs a tuning
_PATTERN = "*?["  # characters that make a name a pattern
_MOST_LISTED = 5  # runs named in a message; the rest is only counted


@dataclass(frozen=True)
class RunRow:
    """One run in the table of runs. Accuracies are fractions of 1. A damaged run has only the first four values."""

    name: str
    path: str
    status: str  # `damaged` if the files cannot be read
    reason: str  # why the run ended before it finished, or cannot be read
    recipe: str | None = None
    model: str | None = None
    dataset: str | None = None
    seed: int | None = None
    epochs: int | None = None
    epochs_done: int | None = None
    validation_accuracy: float | None = None  # the best of all epochs so far
    test_accuracy: float | None = None
    train_seconds: float | None = None
    created: str | None = None  # UTC time in ISO 8601


def runs_folder(folder: Path | str | None = None) -> Path:
    """Return the folder of runs: `folder` if given, else `CIFARLAB_RUNS`, else `./runs`; it need not exist."""
    path = Path(files.with_home(folder or os.environ.get("CIFARLAB_RUNS") or "runs"))
    if path.is_file():
        raise UsageError(f"{path} is a file. Set --runs or CIFARLAB_RUNS to a folder for runs.")
    return path


def new_run_path(runs: Path, recipe: Recipe, name: str | None, *, force: bool = False) -> Path:
    """Check the name of a new run and return the path of its folder, which is not created yet.

    The default name has the recipe's name, seed and time. With `force`, the name of an older run is allowed.
    """
    files.check_encoding(runs.absolute())
    if name is None:
        return runs / f"{recipe.name.replace('/', '-')}-s{recipe.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    path = runs / check_plain_name(name)
    _check_free(path, force=force)
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


def create_run(
    kind: type[Folder], path: Path, record: RunRecord, if_taken: Literal["next", "refuse", "replace"] = "refuse"
) -> Folder:
    """Create a run, one process at a time.

    If the path from `new_run_path` exists by now, append a number, raise UsageError, or replace the older run, which
    stays if the new run cannot be created.
    """
    files.make_folder(path.parent)
    replaced = path.with_name(".replaced")
    try:
        # Any user may take the lock, because a class may share the folder of runs.
        with filelock.FileLock(path.parent / ".create.lock", timeout=CREATION_TIMEOUT, mode=0o666):
            shutil.rmtree(replaced, ignore_errors=True)  # a process was killed while it deleted
            if if_taken == "next":
                names = itertools.chain([path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
                path = next(free for free in map(path.with_name, names) if not free.exists())
            _check_free(path, force=if_taken == "replace")
            if path.exists():
                path.rename(replaced)
            try:
                run = kind.create(path, record)
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                if replaced.exists():
                    replaced.rename(path)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
            return run
    except OSError as error:
        raise CifarlabError(f"cannot create the folder {path}: {error.strerror or error}") from error


def _check_free(path: Path, *, force: bool) -> None:
    """Raise UsageError if the folder of a new run exists; with `force`, only if it is no run or is being trained."""
    if not path.exists():
        return
    if not force and is_group(path):
        raise UsageError(f"{path.name!r} is a study or tuning already. Choose another --name.")
    if not force:
        raise UsageError(f"the run {path.name!r} already exists. Choose another --name, or replace it with --force.")
    contents = (name for _, _, names in os.walk(path) for name in names if not name.startswith("."))
    if path.is_symlink() or not path.is_dir() or (any(contents) and not is_run(path)):  # empty: killed at its creation
        raise UsageError(f"{path} is not a run folder, so --force does not replace it. Move it away.")
    if added := RunFolder(path).added_entries():
        raise UsageError(
            f"{path} also has {', '.join(added[:_MOST_LISTED])}, which --force would delete. Move it away."
        )
    if RunFolder(path).is_locked():
        raise UsageError(f"the run {path.name!r} is being trained by another process. {WAIT}")


def find_run(run: str | Path | RunFolder, runs: Path | str | None, weights: Iterable[str] = ()) -> Path:
    """Return the folder of a run, given as an object, by its name under `runs` or by its path.

    An error also offers the names of shipped `weights`, or the training of a recipe of that name.
    """
    if isinstance(run, RunFolder):
        return run.path
    run, runs = files.with_home(run), runs_folder(runs)
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
        no_target = "neither the folder of a run nor a weights file (.safetensors)"
        raise UsageError(f"{run!r} is {files.other_format(Path(run)) or no_target}")
    error = unknown("run", run, [*(path.name for path in list_runs(runs)), *(PRETRAINED + name for name in weights)])
    hint = (
        f". Train the recipe of this name with: cifarlab train {run}" if run in recipes.names() and not weights else ""
    )
    raise UsageError(f"{error}{hint}")


def absolute_start(name: str, runs: Path | str | None) -> str:
    """Return the absolute path of a run that is given by its name or path; another `start_from` as it is."""
    path = next(filter(is_run, (runs_folder(runs) / name, Path(files.with_home(name)))), None) if name else None
    return str(path.resolve()) if path else name


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
    """Return the run folders under `runs`, oldest first; see `run_paths`."""
    return _by_age(run_paths(runs, nested=nested))


def run_paths(runs: Path, *, nested: bool = False) -> Iterator[Path]:
    """Return the run folders under `runs`; `nested` includes those one level down, such as the runs of studies."""
    parents = [runs, *((path for path in runs.glob("[!.]*/") if not is_run(path)) if nested else ())]
    return (path.parent for parent in parents for path in parent.glob("[!.]*/run.json"))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of runs, with as many parent folders as tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def read_row(run: RunFolder) -> RunRow:
    """Return the row of a run, also if its files are damaged."""
    try:
        run.check_regular()
        record, history = run.record, run.history
        return RunRow(
            name=run.name,
            path=str(run.path),
            status=run.status,
            reason=record.reason,
            recipe=record.recipe.name,
            model=record.recipe.model,
            dataset=record.data.name,
            seed=record.seed,
            epochs=record.recipe.epoch_count,
            epochs_done=len(history),
            validation_accuracy=max((row.validation_accuracy for row in history), default=None),
            test_accuracy=run.results.get("test_accuracy"),
            train_seconds=sum(row.train_seconds for row in history),
            created=record.created,
        )
    except (UsageError, OSError) as error:  # damaged, or deleted at this moment
        return RunRow(run.name, str(run.path), "damaged", one_line(error))


def _by_age(paths: Iterable[Path]) -> list[Path]:
    def age(path: Path) -> tuple[str, str]:
        try:
            return RunFolder(path).record.created, str(path)
        except UsageError:
            return "", str(path)  # damaged; whoever lists the runs reports it

    return sorted(paths, key=age)


def choose_runs(
    names: Sequence[str | Path | RunFolder] | str | Path | RunFolder, runs: Path | str | None, *, quiet: bool = False
) -> list[Path]:
    """Return the folders of the runs that a user names, without the unfinished runs of patterns, studies and tunings.

    A line on stderr names what is left out, also runs that are named again. A run that the user names by itself is
    included whatever its status. A member of a study or tuning that is named beside other runs must be finished,
    because a shell expands `study/*` to such a list.
    """
    names = [names] if isinstance(names, str | Path | RunFolder) else names
    if not names:
        raise UsageError("runs should be named by names, paths or patterns, got none")
    folder, paths, unfinished, chosen = runs_folder(runs), list[Path](), list[str](), set[Path]()
    for name in names:
        members, is_single = ([name.path], True) if isinstance(name, RunFolder) else _named_runs(str(name), folder)
        for path in members:
            status = "named before" if path.resolve() in chosen else _status(path)
            is_named = is_single and status != "named before" and (len(names) == 1 or not is_group(path.parent))
            if status == "finished" or is_named:
                paths.append(path)
                chosen.add(path.resolve())
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

    The name is that of a run, of a folder of runs, such as a study (all its runs), or a pattern with `*`, `?` or
    `[...]` that matches such names under `runs`, or paths.
    """
    name = files.with_home(name)
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
    if members := next(filter(None, (list_runs(start, nested=True) for start in starts)), []):
        return members, False  # a folder of runs, such as those of one student
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
