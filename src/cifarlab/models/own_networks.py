"""Networks in the user's own files, `FILE.py:NAME`: loading them, keeping their source, and which of them may be run.

Weights and runs name such a file, and may come from elsewhere. `as_trained` lets them run only what this user has
trained here, or trusts: a list in the cache has the checksum and the place of each such source, beside a copy of it.
"""

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType

from torch import nn

from cifarlab import files
from cifarlab.errors import CifarlabError, UntrustedFile, UsageError, describe_error, one_line, unknown
from cifarlab.progress import notice

given_sums: dict[str, str] = {}  # SHA-256 of the code of networks that this process was given as objects, by name
_loading: list[Path] = []  # files that are being run to load their networks
_trusted: set[Path] = set()  # files that the user of this process trusts
_run_here: set[str] = set()  # entries of this process, in case the cache cannot be written
_NOT_OWN = {*sys.stdlib_module_names, "cifarlab", "numpy", "torch"}  # never imported from beside a network's file


class StartedWhileLoading(UsageError):
    """A training was started by a file that is run only to load its network."""


def trust(file: Path | str) -> None:
    """Allow weights and runs that come from elsewhere to run this Python file, and those beside it that it imports.

    This is remembered for the file's content once such weights are loaded.
    """
    path = Path(files.with_home(file))
    if path.suffix != ".py" or not path.is_file():
        missing = ", which does not exist" * (not path.exists())
        raise UsageError(f"--trust must be a Python file, got {str(file)!r}{missing}")
    _trusted.add(path.resolve())


def source_file(name: str) -> Path | None:
    """Return the file of a network in the user's own file, `FILE.py:NAME`, or None for a registered name."""
    return Path(files.with_home(name.rpartition(":")[0])) if ".py:" in name else None


def source_files(file: Path) -> list[Path]:
    """Return a network's file, and all files beside it that import statements in it and in these files name."""
    found = [file]
    for source in found:  # which grows
        for name, level in _imports(source):
            place = source.parents[level - 1] if level else file.parent
            for part in name.split("."):
                place = place / part
                for each in (place.with_name(f"{part}.py"), place / "__init__.py"):
                    if each not in found and each.is_relative_to(file.parent) and each.is_file():
                        found.append(each)
    return found


def _imports(source: Path) -> Iterator[tuple[str, int]]:
    """Yield the names that a file imports, such as `layers.Block`, and the number of dots before each."""
    with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # loading it says why
        for node in ast.walk(ast.parse(source.read_bytes())):
            level = node.level if isinstance(node, ast.ImportFrom) else 0
            start = f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                name = f"{start}{alias.name}".lstrip(".")
                if level <= len(source.parents) and (level or name.partition(".")[0] not in _NOT_OWN):
                    yield name, level


def source_sum(file: Path) -> str:
    """Return the SHA-256 of a network's file, or of a list of checksums if it imports others; empty without a file."""
    sums = sorted(f"{sha256_of(each)}  {each.relative_to(file.parent).as_posix()}\n" for each in source_files(file))
    return sha256_of(file) if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def keep_source(name: str, folder: Path | None = None) -> None:
    """Copy the files of a user's own network to a run's `folder`, and remember that this user runs them."""
    if not (file := source_file(name)) or not file.is_file():
        return
    sources, sha256, known = source_files(file), source_sum(file), _known()
    _run_here.add(_entry(sha256, file.resolve(), name))
    try:
        for place in (folder, None):
            for source in sources:
                copy = (place or _store() / sha256) / source.relative_to(file.parent)
                files.make_folder(copy.parent)
                files.write_bytes(copy, source.read_bytes())
        entries = [_entry(sha256, place, name) for place in (file.resolve(), _store() / sha256 / file.name)]
        with open(_store() / "trusted.jsonl", "a", opener=partial(os.open, mode=0o600)) as ledger:
            ledger.writelines(entry for entry in entries if entry not in known)
    except (OSError, CifarlabError) as error:  # a training does not need the copies
        notice(f"note: no copy of {file} can be kept ({one_line(error)}); later commands need --trust")


def _store() -> Path:
    """Return this user's folder of sources in the cache, which users may share; OSError if others can write to it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    store = files.cache_folder().resolve() / f"networks-{user}"
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (status := store.lstat()).st_uid != user or (os.name != "nt" and status.st_mode & 0o022):
        raise PermissionError(f"others can write to {store}")
    return store


def _known() -> set[str]:
    """Return the entries of the sources that this user runs."""
    with contextlib.suppress(OSError, ValueError):
        return _run_here | set((_store() / "trusted.jsonl").read_text().splitlines(keepends=True))
    return set(_run_here)


def _entry(sha256: str, place: Path, name: str) -> str:
    return json.dumps([sha256, f"{place}:{name.rpartition(':')[2]}"]) + "\n"


def as_trained(name: str, sha256: str, folder: Path) -> str:
    """Return the name by which to load the network that weights or a run in `folder` name: of a source as trained.

    The source has the checksum `sha256`: it is the named file, the user's copy in the cache, or the run's own copy.

    Raises:
        UntrustedFile: this user has neither trained that source nor trusts it.
        UsageError: there is none, or a notebook has defined the network anew.
    """
    if (file := source_file(name)) is None:
        if "" not in (now := given_sums.get(name, ""), sha256) and now != sha256:
            how_to_fix = "Define it as it was, or put networks into files, of which runs keep copies"
            raise UsageError(f"the network {name} had another definition when this was trained. {how_to_fix}")
        return name
    places = [file.resolve()]
    if re.fullmatch("[0-9a-f]{64}", sha256):
        with contextlib.suppress(OSError):
            places.append(_store() / sha256 / file.name)
        places.append(folder.resolve() / "network" / file.name)
    sums = {place: source_sum(place) for place in places if place.is_file()}
    same = [place for place, each in sums.items() if sha256 in ("", each, sha256_of(place))]
    usable, known = [*same, *(place for place in sums if place == places[0])], _known()
    if not usable:
        raise UsageError(f"the network's file {file} does not exist, nor a copy of it")
    place = next((each for each in usable if each in _trusted or _entry(sums[each], each, name) in known), None)
    if place is None:
        place, *imported = source_files(usable[0])
        files_run = f"{place} (SHA-256 {sha256_of(place)})" + "".join(f", {each.name}" for each in imported)
        how_to_fix = f"If you trust it, add --trust {place}, or in Python cifarlab.trust({str(place)!r})"
        raise UntrustedFile(f"{files_run} would be run, but was not trained here. {how_to_fix}", place)
    chosen = f"{place}:{name.rpartition(':')[2]}"
    if place in _trusted:
        keep_source(chosen)
    if place not in same:
        notice(f"note: {file} has changed since this network was trained, so that predictions may differ.")
    return chosen


def repetition_note(name: str) -> str:
    """Return a note if loading a network needs its definition again, or calls functions that its file calls."""
    if (file := source_file(name)) is None and name in given_sums:
        return f"{name} stands in no file: define it again before a later process loads these weights"
    lines = ast.parse(file.read_bytes()).body if file and file.is_file() else []
    calls = any(isinstance(line, ast.Expr | ast.Assign) and isinstance(line.value, ast.Call) for line in lines)
    return f'{file} is run again to load this network: put what trains below `if __name__ == "__main__":`' * calls


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file; empty if there is no such file."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def refuse_while_loading() -> None:
    """Raise StartedWhileLoading if the caller, which would train, was called by a file that is being loaded."""
    if _loading:
        how_to_fix = 'Put what trains below `if __name__ == "__main__":`.'
        raise StartedWhileLoading(f"{_loading[-1]} trains wherever its network is loaded. {how_to_fix}")


class _SourceLoader(SourceFileLoader):
    """Run the source itself, which has a checksum, and not the bytecode that `__pycache__` holds for it."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Sources:
    """Find a network's file and the modules beside it that its checksum covers, and no others, for `sys.meta_path`."""

    def __init__(self, name: str, file: Path) -> None:
        self.files: dict[str, Path | None] = {name: file}  # by module; None for a folder without `__init__.py`
        for source in source_files(file)[1:]:
            parts = source.relative_to(file.parent).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            for length in range(1, len(parts)):
                self.files.setdefault(".".join(parts[:length]), None)
            self.files[".".join(parts)] = source

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self.files:
            return None
        if (source := self.files[name]) is None:
            return ModuleSpec(name, None, is_package=True)
        loader = _SourceLoader(name, str(source))
        spec = ModuleSpec(name, loader, origin=str(source), is_package=source.name == "__init__.py")
        spec.has_location = True  # sets `__file__`
        return spec


def load_builder(name: str, file: Path) -> Callable[..., nn.Module]:
    """Run the user's file, up to its first training, and return the function or class that `FILE.py:NAME` names."""
    path, attribute = file.resolve(), name.rpartition(":")[2]
    if not path.is_file():
        raise UsageError(f"model {name!r}: the file {str(file)!r} does not exist")
    sources = _Sources(own_name := f"_own_{path.stem}", path)
    spec = sources.find_spec(own_name)
    assert spec is not None and spec.loader is not None
    # Modules of these names may come from beside another network's file.
    others = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] in sources.files}
    others.pop(own_name, None)
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module  # dataclasses and pickles look for their module there
    if path in _loading:
        refuse_while_loading()
    _loading.append(path)
    sys.meta_path.insert(0, sources)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            spec.loader.exec_module(module)
    except StartedWhileLoading as error:
        if attribute not in vars(module):
            raise
        notice(f"note: {error}")
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise UsageError(f"{file} does not load: {describe_error(error)}") from error
    finally:
        _loading.remove(path)
        sys.meta_path.remove(sources)
        sys.modules.update(others)
    builder: Callable[..., nn.Module] | None = getattr(module, attribute, None)
    if not callable(builder):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"network in {file}", attribute, names)
    return builder
