"""`cifarlab train`: train a network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.cli import options
from cifarlab.cli.output import AsJson, as_json, print_run


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a recipe, or its TOML file. Default: finetune with --start-from, lenet5 with --model, small "
            "for at most 500 training images of your own, else fast90.",
            metavar="RECIPE",
            autocompletion=options.complete_recipe,
        ),
    ] = None,
    set_: options.Set = None,
    data: options.Data = None,
    model: Annotated[
        str | None, typer.Option(help="Network: a name of `cifarlab models`, or FILE.py:NAME for your own.")
    ] = None,
    drop: options.Drop = None,
    merge: options.Merge = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table (CSV) of corrected labels: image,label. An empty label leaves the image out. The page /relabel "
            "of the board writes such a table.",
            metavar="FILE",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; images of another size are resized.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Fine-tune: begin with the weights of a run, a weights file or pretrained:NAME.",
            metavar="TARGET",
            autocompletion=options.complete_run,
        ),
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(help="With --start-from: number of layers from the input whose weights stay fixed.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of every random choice: initial weights, order of images, augmentation.")
    ] = None,
    device: options.Device = "auto",
    precision: Annotated[
        str | None, typer.Option(help=f"Number format: {options.PRECISIONS}. Default: the recipe's.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that compute. Default: the recipe's, which measures what is fastest.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Train as many epochs as fit into this time on this machine.")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Compute the same bits in every run on a GPU too, which is slower.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: recipe, seed and time.")] = None,
    runs: options.Runs = None,
    trust: options.Trust = None,
    track: Annotated[
        list[str] | None, typer.Option(help="Also log to tensorboard or mlflow. May be repeated.", metavar="TRACKER")
    ] = None,
    checkpoint_every: Annotated[
        str, typer.Option(help="Steps (500) or time (30s, 5m, 2h) between checkpoints within an epoch.")
    ] = "5m",
    force: Annotated[bool, typer.Option("--force", help="Replace an older run of the same name.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what would be trained, and stop.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train a network and write a run folder with weights, figures and a report."""
    from cifarlab.errors import UsageError
    from cifarlab.recipes import MILD, PREPROCESSING, load, parse_settings

    keys = {"dataset": data, "model": model, "size": size, "start_from": start_from, "freeze": freeze, "seed": seed}
    keys |= {"precision": precision, "threads": threads, "deterministic": deterministic or None}
    changes = parse_settings(set_ or []) | {key: value for key, value in keys.items() if value is not None}
    if recipe or (model and not start_from):
        base = load(recipe or MILD)
    else:
        from cifarlab.training.preparation import choose_recipe

        base = choose_recipe(changes)
    changed = base.changed(changes)
    fixed = [key for key in ("model", "size", *PREPROCESSING) if key in changes]
    if changed.start_from and fixed:
        raise UsageError(f"{fixed[0]} cannot be set together with start_from: the weights decide it")
    if changes.get("freeze") and not changed.start_from:
        raise UsageError("--freeze needs --start-from: without it the frozen weights would be random")
    if drop or merge:
        merged = {**changed.merge, **options.parse_merge(merge)}
        changed = changed.changed({"drop": (*changed.drop, *(drop or [])), "merge": merged})

    if labels:
        from cifarlab.data.corrections import read_labels

        changed = changed.changed({"labels": {**changed.labels, **read_labels(labels)}})

    from cifarlab import api
    from cifarlab.recipes.differences import differing_settings

    arguments: dict[str, Any] = {"device": device, "name": name, "runs": runs, "force": force}
    arguments |= {"track": track or (), "checkpoint_every": checkpoint_every, "minutes": minutes or 0.0}
    if dry_run:
        differing = {key: after for key, (_, after) in differing_settings(base, changed).items()}
        _print_plan(api.plan(changed, **arguments, timed=True) | {"changed": differing}, json)
    else:
        print_run(api.train(changed, **arguments, command=options.command_line.get()), json)


def _print_plan(plan: dict[str, Any], json: bool) -> None:
    """Print what a training would do, a line for each property."""
    from cifarlab.progress import duration
    from cifarlab.recipes.differences import value_text

    if json:
        as_json(plan)
        return
    changes = "; ".join(f"{key} = {value_text(value)}" for key, value in plan["changed"].items())
    texts = {"classes": ", ".join(plan["classes"]), "changed": changes or "nothing, as the recipe is"}
    texts["time_budget"] = f"{plan['time_budget']:g} minutes"
    if plan["seconds"]:
        texts["seconds"] = f"about {duration(plan['seconds'])}, by a few steps measured on this machine now"
    for key, value in (plan | texts).items():
        if value is not None and (key != "time_budget" or plan[key]):
            typer.echo(f"{key:20} {value}")
