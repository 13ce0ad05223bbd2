"""`cifarlab bench`: how fast this machine trains and predicts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.output import AsJson, as_json, table

if TYPE_CHECKING:
    pass


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Recipes; default: one for each network.", metavar="[RECIPE]...")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16; default: each recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: each recipe's.", min=2)] = None,
    seconds: Annotated[float, typer.Option(help="For each measurement.", min=0.0)] = 3.0,
    json: AsJson = False,
) -> None:
    """Measure how fast this machine is, and how near to its limits each network trains and predicts."""

    from cifarlab.device import SLOW_FP16, choose_device, environment
    from cifarlab.experiments import bench as measuring
    from cifarlab.progress import notice
    from cifarlab.recipes import load

    chosen = [load(name) for name in names] if names else measuring.one_recipe_per_network()
    changes = {"precision": precision, "batch_size": batch_size}
    chosen = [each.changed({key: value for key, value in changes.items() if value is not None}) for each in chosen]
    where = choose_device(device)
    if where.type == "cpu" and any(each.precision == "fp16" for each in chosen):
        notice(SLOW_FP16)
    peaks, speeds = measuring.measure_all(chosen, where, seconds)
    if json:
        rows = [asdict(speed) for speed in speeds]
        as_json({"environment": environment(where), "peaks": [asdict(peak) for peak in peaks], "speeds": rows})
        return
    limits = [(peak.precision, _giga(peak.convolution), _giga(peak.matmul)) for peak in peaks]
    table(("peak, GFLOP/s", "convolution", "matmul"), limits, ("convolution", "matmul"))
    titles = ("recipe", "precision", "batch", "train images/s", "GFLOP/s", "of peak", "predict images/s", "of its peak")
    cells = [
        (
            speed.recipe,
            speed.precision,
            speed.batch_size,
            f"{speed.train_images_per_second:,.0f}",
            _giga(speed.train_flops),
            f"{speed.train_share:.0%}",
            f"{speed.predict_images_per_second:,.0f}",
            f"{speed.predict_share:.0%}",
        )
        for speed in speeds
    ]
    table(titles, cells, titles[2:])


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.0f}"
