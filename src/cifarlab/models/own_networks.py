"""Networks in the user's own files, `FILE.py:NAME`: loading them, and the code that a run was trained with."""

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from cifarlab import files
from cifarlab.data.cifar10 import cache_folder
from cifarlab.errors import CifarlabError, UsageError, describe_error, unknown
from cifarlab.progress import notice

_loading: list[Path] = []  # files that are being run to load their networks


class StartedWhileLoading(UsageError):
    """A training was started by a file that is run only to load its network."""


def source_file(name: str) -> Path | None:
    """Return the file of a network in the user's own file, `FILE.py:NAME`, or None for a registered name."""
    return Path(name.rpartition(":")[0]) if ".py:" in name else None


def keep_source(name: str, copy: Path) -> None:
    """Copy the file of a user's own network to `copy`, and to the cache for `as_trained`."""
    if (file := source_file(name)) and file.is_file():
        files.write_bytes(copy, file.read_bytes())
        with contextlib.suppress(CifarlabError):  # a training does not need the copy in the cache
            files.make_folder(folder := cache_folder() / "networks")
            files.write_bytes(folder / f"{sha256_of(file)}.py", file.read_bytes())


def as_trained(name: str, sha256: str) -> str:
    """Return the name of a user's own network with this checksum: of the copy in the cache if its file has changed."""
    file, copy = source_file(name), cache_folder() / "networks" / f"{sha256}.py"
    if not file or not sha256 or sha256_of(file) == sha256:
        return name
    if sha256_of(copy) == sha256:
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))  # the copy imports what the file imported
        return f"{copy}:{name.rpartition(':')[2]}"
    if file.is_file():
        notice(f"note: {file} has changed since this network was trained, so that predictions may differ.")
    return name


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file; empty if there is no such file."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def refuse_while_loading() -> None:
    """Raise StartedWhileLoading if the caller, which would train, was called by a file that is being loaded."""
    if _loading:
        how_to_fix = 'Put what trains below `if __name__ == "__main__":`.'
        raise StartedWhileLoading(f"{_loading[-1]} trains wherever its network is loaded. {how_to_fix}")


def load_builder(name: str, file: Path) -> Callable[..., nn.Module]:
    """Run the user's file, up to its first training, and return the function or class that `FILE.py:NAME` names."""
    path, attribute = file.resolve(), name.rpartition(":")[2]
    spec = importlib.util.spec_from_file_location(f"_own_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"model {name!r}: the file {str(file)!r} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look for their module there
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    if path in _loading:
        refuse_while_loading()
    _loading.append(path)
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
        sys.path.remove(str(path.parent))
    builder: Callable[..., nn.Module] | None = getattr(module, attribute, None)
    if not callable(builder):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"network in {file}", attribute, names)
    return builder
