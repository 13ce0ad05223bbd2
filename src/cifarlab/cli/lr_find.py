"""`cifarlab lr-find`: suggest a learning rate."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Chosen, Data, Device, Set, chosen_recipe, with_data
from cifarlab.cli.output import AsJson, as_json

if TYPE_CHECKING:
    pass


def lr_find(
    recipe: Chosen,
    set_: Set = None,
    data: Data = None,
    steps: Annotated[int, typer.Option(help="Of the test, each at a higher rate.", min=50, max=2_000)] = 300,
    lowest: Annotated[float, typer.Option(help="The rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="The rate of the last step, if it comes so far.")] = 10.0,
    out: Annotated[Path, typer.Option(help="Where the picture goes; .png or .svg.")] = Path("lr-find.png"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Suggest a learning rate: train with rates that rise from step to step, and look where the loss falls fastest."""
    from cifarlab import figures, files
    from cifarlab.errors import UsageError

    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {str(out)!r}: should end in .png or .svg")
    files.check_new(out, force=force)
    changes = with_data(set_, data)
    chosen = chosen_recipe(recipe, changes)
    from cifarlab.experiments.lr_find import find_learning_rate

    found = find_learning_rate(chosen, steps=steps, lowest=lowest, highest=highest, device=device)
    title = f"{chosen.name}: learning-rate range test with {chosen.optimizer}, batches of {chosen.batch_size}"
    drawn = figures.range_test(found.rates, found.losses, found.smoothed, found.suggestion, title)
    files.write_bytes(out, figures.to_bytes(drawn, out.suffix[1:]))
    if json:
        as_json({"recipe": chosen.name, "picture": str(out), **asdict(found)})
        return
    ended = f"the loss diverged at {found.rates[-1]:.3g}" if found.diverged else f"it ended at {found.rates[-1]:.3g}"
    typer.echo(f"{len(found.rates)} steps; {ended}")
    if found.suggestion is None:
        typer.echo("no suggestion: the loss does not clearly fall in this range")
    else:
        typer.echo(f"suggested learning rate: {found.suggestion:.3g}, where the smoothed loss falls fastest")
    typer.echo(f"picture: {out}")
    if found.suggestion is not None:
        settings = [f"--set {shlex.quote(each)}" for each in [*changes, f"learning_rate={found.suggestion:.3g}"]]
        typer.echo(f"next: cifarlab train {shlex.quote(recipe)} {' '.join(settings)}")
