"""`cifarlab train`: train a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifarlab.cli.data import parse_merge
from cifarlab.cli.options import Data, Device, Runs, Set, command_line
from cifarlab.cli.output import AsJson, as_json, print_run

if TYPE_CHECKING:
    pass

Chosen = Annotated[
    str | None,
    typer.Argument(help="A recipe's name, or a TOML file; default: fast90, with --model or --start-from lenet5."),
]
Track = Annotated[list[str] | None, typer.Option(help="Log to tensorboard or mlflow too; repeatable.", metavar="NAME")]
Every = Annotated[str, typer.Option(help="Steps (500) or time (30s, 5m, 2h) between checkpoints within an epoch.")]
Precision = Annotated[str | None, typer.Option(help="auto (bf16 where the device has it), fp32, bf16 or fp16.")]


def train(
    recipe: Chosen = None,
    set_: Set = None,
    data: Data = None,
    model: Annotated[str | None, typer.Option(help="A network's name, or FILE.py:NAME for your own.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A class to leave out; repeatable.", metavar="CLASS")] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="Relabel a class as another; repeatable.", metavar="FROM=INTO")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images in pixels; others are resized.")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Fine-tune: begin with the weights of a target.", metavar="TARGET")
    ] = None,
    freeze: Annotated[int | None, typer.Option(help="So many first layers with weights stay as they begin.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random choice.")] = None,
    device: Device = "auto",
    precision: Precision = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits every time, on a GPU too; slower there.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the run; default: recipe, seed and time.")] = None,
    runs: Runs = None,
    track: Track = None,
    checkpoint_every: Every = "5m",
    force: Annotated[bool, typer.Option("--force", help="Replace an older run of that name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and end.")] = False,
    json: AsJson = False,
) -> None:
    """Train a network; leaves a run folder with weights, figures and a report."""
    from cifarlab.recipes import DEFAULT, MILD, load, parse_settings

    base = load(recipe or (MILD if model or start_from else DEFAULT))
    changes = parse_settings(set_ or [])
    given = {"dataset": data, "model": model, "size": size, "seed": seed, "precision": precision}
    given |= {"start_from": start_from, "freeze": freeze}
    given["deterministic"] = deterministic or None
    changes |= {key: value for key, value in given.items() if value is not None}
    _check_start(changes)
    chosen = base.changed(changes)
    if drop or merge:
        chosen = chosen.changed(
            {"drop": (*chosen.drop, *(drop or [])), "merge": {**chosen.merge, **parse_merge(merge or [])}}
        )

    from cifarlab import api

    where: dict[str, Any] = {"device": device, "name": name, "runs": runs, "force": force}
    where |= {"track": track or (), "checkpoint_every": checkpoint_every}
    if dry_run:
        _print_plan(api.plan(chosen, **where), json)
        return
    run = api.train(chosen, **where, command=command_line.get())
    print_run(run, json)


def _check_start(changes: dict[str, Any]) -> None:
    """Refuses keys that say something else than the weights that a training starts from."""
    from cifarlab.errors import UsageError

    said = [key for key in ("model", "size", "normalize") if key in changes]
    if changes.get("start_from") and said:
        raise UsageError(f"{said[0]} and start_from: network, size and normalisation are those of the weights")
    if changes.get("freeze") and not changes.get("start_from"):
        raise UsageError("--freeze keeps weights of --start-from: without it they would be random")


def _print_plan(plan: dict[str, Any], json: bool) -> None:
    if json:
        as_json(plan)
        return
    shown = plan | {"classes": ", ".join(plan["classes"]), "time_budget": f"{plan['time_budget']:g} minutes"}
    if not plan["time_budget"]:
        del shown["time_budget"]
    for key, value in shown.items():
        typer.echo(f"{key:20} {value}")
