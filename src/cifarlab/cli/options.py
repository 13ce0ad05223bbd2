"""Arguments and options that several commands share, and what the Tab key completes."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cifarlab.errors import UsageError

if TYPE_CHECKING:
    from cifarlab.recipes import Recipe

command_line: ContextVar[str] = ContextVar("command_line", default="")  # as typed; run.json keeps it


def complete_recipe(incomplete: str) -> Iterator[str]:
    """Yield the names of recipes, and of TOML files in the current folder, that begin with `incomplete`."""
    from cifarlab.recipes import names

    yield from (name for name in [*names(), *map(str, Path().glob("*.toml"))] if name.startswith(incomplete))


def complete_data(incomplete: str) -> Iterator[str]:
    """Yield the names of published data sets that begin with `incomplete`."""
    from cifarlab.data.published.data_sets import PUBLISHED

    yield from (name for name in PUBLISHED if name.startswith(incomplete))


def complete_run(incomplete: str) -> Iterator[str]:
    """Yield the names of runs that begin with `incomplete`."""
    from cifarlab.runs.listing import list_runs, runs_folder

    runs = (path.relative_to(runs_folder()).as_posix() for path in list_runs(runs_folder(), nested=True))
    yield from (name for name in runs if name.startswith(incomplete))


def _trust_files(paths: list[Path] | None) -> list[Path] | None:
    for path in paths or ():
        from cifarlab.models.own_networks import trust  # here, because `cifarlab --help` does without

        trust(path)
    return paths


DATA_SETS = "a name of cifarlab data list, or your own images as folder:DIR, csv:FILE, hf:DIR or npz:FILE"

Runs = Annotated[Path | None, typer.Option(help="Folder of the runs. Default: ./runs.", envvar="CIFARLAB_RUNS")]
Data = Annotated[str | None, typer.Option(help=f"Data set: {DATA_SETS}. Default: the recipe's.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe, such as epochs=5. May be repeated.", metavar="KEY=VALUE"),
]
Resize = Annotated[
    Literal["crop", "stretch", "pad"],
    typer.Option(help="How other images become square: crop to the centre, stretch, or pad with black bars."),
]
Drop = Annotated[
    list[str] | None, typer.Option(help="Leave out the images of a class. May be repeated.", metavar="CLASS")
]
Merge = Annotated[
    list[str] | None,
    typer.Option(help="Give one class the label of another: truck=automobile. May be repeated.", metavar="FROM=INTO"),
]
RecipeName = Annotated[
    str, typer.Argument(help="Name of a recipe, or its TOML file.", metavar="RECIPE", autocompletion=complete_recipe)
]
RunName = Annotated[
    str, typer.Argument(help="Name of a run, or its folder.", metavar="RUN", autocompletion=complete_run)
]
RunNames = Annotated[
    list[str],
    typer.Argument(
        help="Names or folders of runs or studies. A pattern such as 'a-*' should be quoted.",
        metavar="RUN...",
        autocompletion=complete_run,
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        help="Trained network: the name or folder of a run, a weights file, or pretrained:NAME.",
        metavar="TARGET",
        autocompletion=complete_run,
    ),
]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta",
        help="Test-time augmentation: average the predictions for six views of each image, shifted by a pixel and "
        "mirrored. Default: as when the network was tested after training.",
    ),
]
Trust = Annotated[
    list[Path] | None,
    typer.Option(
        help="Python file that the run or weights file may run, if it was trained elsewhere. May be repeated.",
        metavar="FILE",
        callback=_trust_files,
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: auto (a GPU if there is one), cpu or cuda.")]
PRECISIONS = "fp32, bf16, fp16 or auto (the fastest that the device has)"


def parse_merge(merge: list[str] | None) -> dict[str, str]:
    """Return a dictionary from each FROM class to its INTO class."""
    pairs: dict[str, str] = {}
    for text in merge or []:
        origin, _, into = text.partition("=")
        if not origin or not into:
            raise UsageError(f"--merge must be FROM=INTO, such as truck=automobile, got {text!r}")
        if origin in pairs:
            raise UsageError(f"--merge names {origin!r} more than once before the =, but a class merges into one other")
        pairs[origin] = into
    return pairs


def settings_with_data(settings: list[str] | None, data: str | None) -> list[str]:
    """Return the texts of `--set`, with `--data` as one more of them."""
    from cifarlab.recipes import setting_text

    return [*(settings or []), *([setting_text("dataset", data)] if data else [])]


def changed_recipe(name: str, settings: list[str]) -> Recipe:
    """Load a recipe and apply the texts of `--set` to it."""
    from cifarlab.recipes import load, parse_settings

    return load(name).changed(parse_settings(settings))


def check_picture(out: Path, *, force: bool) -> None:
    """Check that `--out` names a picture that may be written."""
    from cifarlab import files

    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out should end in .png or .svg, got {str(out)!r}")
    files.check_new(out, force=force)
