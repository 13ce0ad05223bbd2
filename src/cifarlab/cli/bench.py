"""`cifarlab bench`: how fast this machine trains and predicts."""

from dataclasses import asdict
from typing import Annotated

import typer

from cifarlab.cli.options import PRECISIONS, Device, complete_recipe
from cifarlab.cli.output import AsJson, as_json, table


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of recipes, or their TOML files. Default: one for each network that is not very large.",
            metavar="RECIPE...",
            autocompletion=complete_recipe,
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help=f"Number format: {PRECISIONS}. Default: each recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch. Default: each recipe's.", min=2)] = None,
    seconds: Annotated[float, typer.Option(help="Seconds for each measurement.", min=0.0)] = 3.0,
    json: AsJson = False,
) -> None:
    """Measure how fast this machine trains and predicts, compared with the peak of its arithmetic."""
    from cifarlab.device import SLOW_FP16, choose_device, environment
    from cifarlab.experiments.bench import measure_all, one_recipe_per_network
    from cifarlab.progress import notice
    from cifarlab.recipes import load

    recipes = list(map(load, names)) if names else one_recipe_per_network()
    changes = {"precision": precision, "batch_size": batch_size}
    changes = {key: value for key, value in changes.items() if value is not None}
    recipes = [recipe.changed(changes) for recipe in recipes]
    chosen_device = choose_device(device)
    if chosen_device.type == "cpu" and any(recipe.precision == "fp16" for recipe in recipes):
        notice(SLOW_FP16)
    peaks, speeds = measure_all(recipes, chosen_device, seconds)
    if json:
        rows = [asdict(speed) for speed in speeds]
        as_json({"environment": environment(chosen_device), "peaks": [asdict(peak) for peak in peaks], "speeds": rows})
        return
    limits = [(peak.precision, f"{peak.convolution / 1e9:,.0f}", f"{peak.matmul / 1e9:,.0f}") for peak in peaks]
    table(("peak, GFLOP/s", "convolution", "matmul"), limits, ("convolution", "matmul"))
    titles = ("recipe", "precision", "batch", "train images/s", "GFLOP/s", "of peak", "predict images/s", "of its peak")
    cells = [
        (
            speed.recipe,
            speed.precision,
            speed.batch_size,
            f"{speed.train_images_per_second:,.0f}",
            f"{speed.train_flops / 1e9:,.0f}",
            f"{speed.train_share:.0%}",
            f"{speed.predict_images_per_second:,.0f}",
            f"{speed.predict_share:.0%}",
        )
        for speed in speeds
    ]
    table(titles, cells, titles[2:])
