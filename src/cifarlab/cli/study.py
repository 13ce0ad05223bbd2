"""`cifarlab study`: train a recipe with every combination of some values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifarlab.cli.compare import print_pairs
from cifarlab.cli.options import Data, Device, Runs, with_data
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.experiments.study.grid import Study
    from cifarlab.experiments.study.outcome import Outcome


def study(
    chosen: Annotated[
        str, typer.Argument(help="A recipe's name or file, or a study's TOML file.", metavar="RECIPE|FILE.toml")
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(help="Values of a key; repeatable. A range 0:5 is 0 to 4.", metavar="KEY=VALUE,VALUE"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key in all runs; repeatable.", metavar="KEY=VALUE")
    ] = None,
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Of the study's folder; default: recipe and varied keys.")] = None,
    runs: Runs = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at once; default: 1, in a cluster as many as fit.", min=1)
    ] = None,
    retries: Annotated[int, typer.Option(help="How often a failed run is tried again.", min=0)] = 1,
    metric: Annotated[
        str, typer.Option(help="What tables and pictures are about, such as test_accuracy.")
    ] = "validation_accuracy",
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="local: this machine; ray: a cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: the one that is there.")] = None,
    cpus: Annotated[float, typer.Option(help="Cores of a run in a cluster.", min=0)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of a run in a cluster.", min=0)] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs, and end.")] = False,
    json: AsJson = False,
) -> None:
    """Train a recipe with every combination of some values; the same command goes on with what is not finished."""
    from cifarlab.errors import CifarlabError
    from cifarlab.experiments.study.definition import parse_varied
    from cifarlab.experiments.study.grid import define
    from cifarlab.experiments.study.sweep import plan, run_study
    from cifarlab.recipes import parse_settings

    planned = define(chosen, parse_settings(with_data(set_, data)), parse_varied(vary or []), name)
    asked: dict[str, Any] = {"runs": runs, "engine": engine, "workers": workers, "device": device}
    asked |= {"metric": metric, "address": address}
    if dry_run:
        _print_planned(plan(planned, **asked), json)
        return
    found = run_study(planned, retries=retries, cpus=cpus, gpus=gpus, **asked)
    if json:
        as_json(found.to_json())
    else:
        _print_study(found)
    if found.failed:
        raise CifarlabError(
            f"{len(found.failed)} of {len(found.rows)} runs failed, which the same command tries again; reasons are in "
            f"{found.path / 'results.csv'}"
        )


def _print_planned(planned: Study, json: bool) -> None:

    if json:
        runs = [{"run": run.name, **run.values} for run in planned.runs]
        as_json({"study": planned.name, "runs": runs})
        return
    from cifarlab.recipes.differences import value_text

    rows = [(run.name, *map(value_text, run.values.values())) for run in planned.runs]
    table(("run", *planned.varied), rows)


def _print_study(found: Outcome) -> None:
    from cifarlab.experiments.study.outcome import METRICS, is_fraction

    def shown(value: float | None) -> str:
        return percent(value) if value is None or is_fraction(found.metric) else f"{value:.4g}"

    name = found.metric.replace("_", " ").removesuffix(" accuracy")  # short, so that names of settings have room
    titles = ("setting", "runs", name, "deviation", "95 % interval", *([] if name == "test" else ["test"]))
    rows = [
        (
            setting.name,
            str(len(setting.runs)),
            shown(setting.estimate.mean),
            shown(setting.estimate.deviation),
            " to ".join(map(shown, (setting.estimate.low, setting.estimate.high))) if setting.estimate.n > 1 else "-",
            percent(setting.test_accuracy.mean),
        )
        for setting in found.settings
    ]
    table(titles, [row[: len(titles)] for row in rows], titles[1:])
    for row in found.failed:
        typer.echo(f"{row.name}: failed: {row.state.reason}")
    if exploded := [f"{run} ({loss:.1e})" for run, loss in found.exploded_losses.items()]:
        more = f" and {len(exploded) - 3} more" if len(exploded) > 3 else ""
        typer.echo(f"loss exploded: {', '.join(exploded[:3])}{more}; a lower learning rate may help")
    if found.comparison is not None:
        typer.echo("\nOn the test images:")
        print_pairs(found.comparison)
    typer.echo(f"\nbest by {METRICS[found.metric]} first; test: accuracy on test images; folder: {found.path}")
    if "test images" in METRICS[found.metric]:
        typer.echo("The test images chose the first, whose figure on them is then higher than new images would give.")
