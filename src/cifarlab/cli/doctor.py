"""`cifarlab doctor`: print the machine, the versions and what is missing."""

from typing import Any

import typer

from cifarlab.cli.output import AsJson, as_json


def doctor(json: AsJson = False) -> None:
    """Print machine, versions and what is missing, for a bug report."""
    import shutil
    from pathlib import Path

    from cifarlab.data.published.cache import find_cached
    from cifarlab.data.published.data_sets import CIFAR10
    from cifarlab.device import choose_device, environment, has_fast_bf16
    from cifarlab.errors import UsageError
    from cifarlab.files import cache_folder
    from cifarlab.runs.listing import runs_folder

    device, missing = choose_device(), "CIFAR-10 is not in the cache yet. Get it with: cifarlab data get"
    try:
        cache, is_cached = cache_folder(), find_cached(CIFAR10) is not None
    except UsageError as error:
        cache, is_cached, missing = Path(), False, str(error)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    facts: dict[str, Any] = {
        **environment(device),
        "fast_bf16": has_fast_bf16(device),
        "cache": str(cache),
        "cifar10_cached": is_cached,
        "npm": shutil.which("npm") is not None,
        "runs": str(runs_folder()),
        "cache_free_gb": round(shutil.disk_usage(existing).free / 1e9, 1),
    }
    if json:
        as_json(facts)
        return
    words = {True: "yes", False: "no", None: "none"}
    for key, value in facts.items():
        typer.echo(f"{key:15} {words[value] if value is None or isinstance(value, bool) else value}")
    if not facts["cifar10_cached"]:
        typer.echo(missing)
