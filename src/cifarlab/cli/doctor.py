"""`cifarlab doctor`: print the machine, the versions and what is missing."""

from pathlib import Path
from typing import Any

import typer

from cifarlab.cli.output import AsJson, as_json


def doctor(json: AsJson = False) -> None:
    """Print machine, versions and what is missing, for a bug report."""
    import shutil

    from cifarlab.data.cifar10 import cache_folder, find_cached
    from cifarlab.device import choose_device, environment, has_fast_bf16
    from cifarlab.runs.listing import runs_folder

    device = choose_device()
    facts: dict[str, Any] = {
        **environment(device),
        "fast_bf16": has_fast_bf16(device),
        "cache": str(cache_folder()),
        "cifar10_cached": find_cached() is not None,
        "npm": shutil.which("npm") is not None,
        "runs": str(runs_folder()),
        "cache_free_gb": round(shutil.disk_usage(_existing_parent(cache_folder())).free / 1e9, 1),
    }
    if json:
        as_json(facts)
        return
    for key, value in facts.items():
        typer.echo(f"{key:15} {_text(value)}")
    if not facts["cifar10_cached"]:
        typer.echo("CIFAR-10 is not in the cache yet. Get it with: cifarlab data get")


def _text(value: Any) -> str:
    """Return a fact as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _existing_parent(path: Path) -> Path:
    """Return the nearest folder above `path` that exists."""
    return path if path.exists() else _existing_parent(path.parent)
