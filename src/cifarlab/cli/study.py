"""`cifarlab study`: train a recipe with every combination of some values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifarlab.cli.compare import print_pairs
from cifarlab.cli.options import Data, Device, Runs, Set, Trust, complete_recipe, settings_with_data
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.experiments.study.outcome import Outcome


def study(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe, or the TOML file of a recipe or a study.",
            metavar="RECIPE|FILE.toml",
            autocompletion=complete_recipe,
        ),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of a key to try, for example seed=0:5, which is 0 to 4. May be repeated.",
            metavar="KEY=VALUE,VALUE",
        ),
    ] = None,
    set_: Set = None,
    data: Data = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the study and its folder. Default: recipe and varied keys.")
    ] = None,
    runs: Runs = None,
    trust: Trust = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of runs at the same time. Default: 1, or in a cluster as many as fit.", min=1),
    ] = None,
    retries: Annotated[int, typer.Option(help="How many times a failed run is tried again.", min=0)] = 1,
    metric: Annotated[
        str, typer.Option(help="Metric of the tables and figures, for example test_accuracy.")
    ] = "validation_accuracy",
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Where to run: local (this machine) or ray (a cluster).")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster. Default: the one that is running, or a new one.")
    ] = None,
    cpus: Annotated[float, typer.Option(help="CPU cores for each run in a cluster.", min=0)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs for each run in a cluster.", min=0)] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and stop.")] = False,
    json: AsJson = False,
) -> None:
    """Train a recipe with every combination of the given values.

    An interrupted study continues when the same command is given again.
    """
    from cifarlab.errors import CifarlabError
    from cifarlab.experiments.study.definition import define, parse_varied
    from cifarlab.experiments.study.sweep import plan, run_study
    from cifarlab.recipes import parse_settings
    from cifarlab.recipes.differences import value_text

    planned = define(recipe, parse_settings(settings_with_data(set_, data)), parse_varied(vary or []), name)
    arguments: dict[str, Any] = {"runs": runs, "engine": engine, "workers": workers, "device": device}
    arguments |= {"metric": metric, "address": address}
    if dry_run:
        planned = plan(planned, **arguments)
        rows = [{"run": run.name, **run.values} for run in planned.runs]
        if json:
            as_json({"study": planned.name, "runs": rows})
        else:
            table(("run", *planned.varied), [list(map(value_text, row.values())) for row in rows])
        return
    outcome = run_study(planned, retries=retries, cpus=cpus, gpus=gpus, **arguments)
    if json:
        as_json(outcome.to_json())
    else:
        _print_study(outcome)
    if outcome.failed:
        raise CifarlabError(
            f"{len(outcome.failed)} of {len(outcome.states)} runs failed, and the same command tries them again. "
            f"Reasons: {outcome.path / 'results.csv'}"
        )


def _print_study(outcome: Outcome) -> None:
    """Print the table of settings, failed runs and the comparison on the test images."""
    from cifarlab.experiments.study.outcome import METRICS, is_fraction

    def text(value: float | None) -> str:
        return percent(value) if value is None or is_fraction(outcome.metric) else f"{value:.4g}"

    name = outcome.metric.replace("_", " ").removesuffix(" accuracy")  # short, to leave room for the settings
    titles = ("setting", "runs", name, "deviation", "95 % interval", *([] if name == "test" else ["test"]))
    rows = []
    for setting in outcome.settings:
        mean = setting.estimate
        interval = f"{text(mean.low)} to {text(mean.high)}" if mean.low is not None else "-"
        cells = (setting.name, mean.n, text(mean.mean), text(mean.deviation), interval)
        rows.append((*cells, percent(setting.test_accuracy.mean))[: len(titles)])
    table(titles, rows, titles[1:])
    for run, reason in outcome.failed.items():
        typer.echo(f"{run}: failed: {reason}")
    if exploded := [f"{run} ({loss:.1e})" for run, loss in outcome.exploded_losses.items()]:
        rest = f" and {len(exploded) - 3} more" if len(exploded) > 3 else ""
        typer.echo(f"loss exploded: {', '.join(exploded[:3])}{rest}; a lower learning rate may help")
    if outcome.comparison is not None:
        typer.echo("\nOn the test images:")
        print_pairs(outcome.comparison)
    if (note := outcome.protocol_note) and note not in (outcome.comparison.notes if outcome.comparison else ()):
        typer.echo(note)
    typer.echo(f"\nsorted by {METRICS[outcome.metric]}, best first; column test: accuracy on test images")
    typer.echo(f"study: {outcome.path}")
    if "test images" in METRICS[outcome.metric]:
        typer.echo("The test images chose the first setting, so its accuracy on them is higher than on new images.")
