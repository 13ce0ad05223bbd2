"""`cifarlab lr-find`: suggest a learning rate."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import Data, Device, RecipeName, Set, Trust, changed_recipe, check_picture, settings_with_data
from cifarlab.cli.output import AsJson, as_json


def lr_find(
    recipe: RecipeName,
    set_: Set = None,
    data: Data = None,
    steps: Annotated[int, typer.Option(help="Number of steps, each at a higher rate.", min=50, max=2_000)] = 300,
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step, if the loss stays finite.")] = 10.0,
    out: Annotated[Path, typer.Option(help="Figure to write, a .png or .svg file.")] = Path("lr-find.png"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    device: Device = "auto",
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Suggest a learning rate by a range test.

    The learning rate rises from step to step; the suggestion is where the loss falls fastest.
    """
    from cifarlab import figures, files

    check_picture(out, force=force)
    changes = settings_with_data(set_, data)
    chosen = changed_recipe(recipe, changes)
    from cifarlab.experiments.lr_find import find_learning_rate

    result = find_learning_rate(chosen, steps=steps, lowest=lowest, highest=highest, device=device)
    title = f"{chosen.name}: learning-rate range test with {chosen.optimizer}, batches of {chosen.batch_size}"
    drawn = figures.range_test(result.rates, result.losses, result.smoothed, result.suggestion, title)
    files.write_bytes(out, figures.to_bytes(drawn, out.suffix[1:]))
    if json:
        as_json({"recipe": chosen.name, "picture": str(out), **asdict(result)})
        return
    ended = "the loss diverged" if result.diverged else "it ended"
    typer.echo(f"{len(result.rates)} steps; {ended} at learning rate {result.rates[-1]:.3g}")
    if result.suggestion is None:
        typer.echo("no suggestion: the loss does not clearly fall in this range")
    else:
        typer.echo(f"suggested learning rate: {result.suggestion:.3g}, where the smoothed loss falls fastest")
    typer.echo(f"picture: {out}")
    if result.suggestion is not None:
        settings = [f"--set {shlex.quote(setting)}" for setting in [*changes, f"learning_rate={result.suggestion:.3g}"]]
        typer.echo(f"next: cifarlab train {shlex.quote(recipe)} {' '.join(settings)}")
