"""`cifarlab compare|reproduce|tune|lr-find`: what several trainings say together."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Device, Runs
from cifarlab.cli.show import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.comparison import Group, Pair
    from cifarlab.recipes import Recipe
    from cifarlab.tuning import Tuning

MOST_SHOWN = 10  # trials in a tuning's table

Chosen = Annotated[str, typer.Argument(help="A recipe's name, or a TOML file.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a key; repeatable.", metavar="KEY=VALUE")]


def compare(
    names: Annotated[
        list[str], typer.Argument(help="Runs by name or path; quote a pattern such as 'a-*'.", metavar="RUN...")
    ],
    metric: Annotated[
        str, typer.Option(help="accuracy or balanced_accuracy, the mean recall of the classes.")
    ] = "accuracy",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Say which differences between recipes are real: over seeds, or over test images for single runs."""
    from cifarlab import api

    found = api.compare(names, metric, runs=runs)
    if json:
        as_json(asdict(found))
        return
    figures = ("accuracy", "balanced") if metric == "accuracy" else ("balanced", "accuracy")
    titles = ("recipe", "runs", figures[0], "deviation", "95 % interval", figures[1], "majority")
    table(titles, [_cells(group, metric) for group in found.groups], titles[1:])
    if found.pairs:
        titles = ("difference", "b - a", "95 % interval", "p", "p, corrected", "real?", "could have seen")
        table(titles, [_judged(pair) for pair in found.pairs], titles[1:])
    for pair in found.pairs:
        if pair.note:
            typer.echo(f"{pair.b} against {pair.a}: {pair.note}")
    over_images = {pair.test for pair in found.pairs} == {"mcnemar"}
    if over_images:
        typer.echo("Single runs: the tests know nothing of other seeds. Train each recipe with some five --seed.")


def _cells(group: Group, metric: str) -> tuple[str, ...]:
    estimate, other = group.accuracy, group.balanced_accuracy
    if metric != "accuracy":
        estimate, other = other, estimate
    deviation, interval = percent(estimate.deviation), _interval(estimate.low, estimate.high)
    if estimate.n == 1:
        interval = f"{_interval(*group.test_interval)} over images"
    majority = percent(group.majority)
    return group.name, str(estimate.n), percent(estimate.mean), deviation, interval, percent(other.mean), majority


def _judged(pair: Pair) -> tuple[str, ...]:
    name, found = f"{pair.b} - {pair.a}", pair.found
    if found is None or pair.corrected is None:
        return name, "-", "-", "-", "-", "not compared", "-"
    verdict = "yes" if pair.real else "may be chance"
    interval = _interval(found.low, found.high, signed=True)
    return (
        name,
        f"{found.difference:+.2%}",
        interval,
        f"{found.p:.3g}",
        f"{pair.corrected:.3g}",
        verdict,
        percent(found.detectable),
    )


def _interval(low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None:
        return "-"
    return f"{low:+.2%} to {high:+.2%}" if signed else f"{low:.2%} to {high:.2%}"


def reproduce(
    name: Annotated[str, typer.Argument(help="A recipe with published figures, a folder such as relabel, or all.")],
    seeds: Annotated[int | None, typer.Option(help="Runs of each; default 5, or 2 with --quick.", min=1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs only, and the table says so.")] = False,
    minutes: Annotated[float, typer.Option(help="End each training after so many; 0: never.", min=0)] = 0.0,
    device: Device = "auto",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Train published experiments over seeds, as published and honestly, and set the figures side by side."""
    from cifarlab import reproduction, results

    records = reproduction.reproduce(name, seeds, quick=quick, minutes=minutes, device=device, runs=runs)
    folder = reproduction.write(records, name, quick=quick, runs=runs)
    if json:
        rows, tested = results.rows(records), results.tested(records)
        as_json({"folder": str(folder), "rows": list(map(asdict, rows)), "tested": list(map(asdict, tested))})
        return
    for found in results.tables(records):
        table(found.titles, found.cells, found.titles[1:])
        if found.caption:
            typer.echo(found.caption)
    if quick:
        typer.echo("Few epochs: the published figures are after more. Without --quick the runs go all the way.")
    typer.echo(f"table, pictures and records: {folder}")


def tune(
    recipe: Chosen,
    space: Annotated[Path, typer.Option(help="A TOML file that says what may be tried.", metavar="FILE")],
    trials: Annotated[int, typer.Option(help="In all, over all processes.", min=1)] = 30,
    storage: Annotated[
        str | None, typer.Option(help="A database that processes share; default: a file in the tuning's folder.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the tuning and its folder; default: the recipe's.")] = None,
    set_: Set = None,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Train hopeless trials to their end, too.")] = False,
    device: Device = "auto",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Search for better settings of a recipe, judged on validation images; the best becomes a recipe of its own."""
    from cifarlab import tuning

    found = tuning.tune(
        _recipe(recipe, set_),
        space,
        trials,
        storage=storage,
        name=name,
        prune=not no_prune,
        device=device,
        runs=runs,
        command=shlex.join(["cifarlab", *sys.argv[1:]]),
    )
    if json:
        as_json(_document(found))
    else:
        _print_tuning(found)


def _recipe(name: str, settings: list[str] | None) -> Recipe:
    from cifarlab.recipes import load, parse_settings

    return load(name).changed(parse_settings(settings or []))


def _document(found: Tuning) -> dict[str, object]:
    best = found.best
    return {
        "folder": str(found.folder),
        "recipe": found.recipe.name,
        "trials": [asdict(trial) for trial in found.trials],
        "best": asdict(best) if best else None,
        "best_recipe": str(found.best_file) if best else None,
        "importance": dict(found.importance),
    }


def _print_tuning(found: Tuning) -> None:
    from cifarlab.searchspace import text

    judged = [trial for trial in found.trials if trial.state in ("complete", "pruned")]
    judged.sort(key=lambda trial: (trial.state != "complete", -(trial.validation_accuracy or 0), trial.number))
    keys = list(dict.fromkeys(key for trial in judged for key in trial.parameters))
    cells = [
        (
            str(trial.number),
            percent(trial.validation_accuracy),
            f"{trial.epochs}, {trial.state}",
            *(text(trial.parameters[key]) if key in trial.parameters else "-" for key in keys),
        )
        for trial in judged[:MOST_SHOWN]
    ]
    titles = ("trial", "validation accuracy", "epochs", *keys)
    if cells:
        table(titles, cells, titles[1:2])
    counts = [f"{count} {state}" for state in ("complete", "pruned", "failed") if (count := found.count(state))]
    typer.echo(f"{len(found.trials)} trials: {', '.join(counts)}")
    for trial in [trial for trial in found.trials if trial.state == "failed"][:MOST_SHOWN]:
        typer.echo(f"trial {trial.number} failed: {trial.reason}")
    if found.importance:
        shares = (f"{key} {share:.0%}" for key, share in found.importance.items())
        typer.echo(f"what matters: {', '.join(shares)}")
    typer.echo(f"table, pictures and runs: {found.folder}")
    if found.best is not None:
        typer.echo(f"next: cifarlab train {shlex.quote(str(found.best_file))}")


def lr_find(
    recipe: Chosen,
    set_: Set = None,
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
    chosen = _recipe(recipe, set_)
    from cifarlab.ratefinder import find_learning_rate

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
        typer.echo("no suggestion: the loss falls at none of these rates")
    else:
        typer.echo(f"suggested learning rate: {found.suggestion:.3g}, where the smoothed loss falls fastest")
    typer.echo(f"picture: {out}")
    if found.suggestion is not None:
        settings = [f"--set {shlex.quote(each)}" for each in [*(set_ or []), f"learning_rate={found.suggestion:.3g}"]]
        typer.echo(f"next: cifarlab train {shlex.quote(recipe)} {' '.join(settings)}")


COMMANDS = (compare, reproduce, tune, lr_find)
