"""`cifarlab tune`: search for better settings of a recipe."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Chosen, Data, Device, Runs, Set, chosen_recipe, command_line, with_data
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.experiments.tuning.trials import Tuning

MOST_SHOWN = 10  # trials in a tuning's table


def tune(
    recipe: Chosen,
    space: Annotated[Path, typer.Option(help="A TOML file that says what may be tried.", metavar="FILE")],
    trials: Annotated[int, typer.Option(help="In all, over all processes, without failed ones.", min=1)] = 30,
    storage: Annotated[
        str | None, typer.Option(help="A database that processes share; default: a file in the tuning's folder.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the tuning and its folder; default: the recipe's.")] = None,
    set_: Set = None,
    data: Data = None,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Train hopeless trials to their end, too.")] = False,
    device: Device = "auto",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Search for better settings of a recipe, judged on validation images; the best becomes a recipe of its own."""
    from cifarlab.errors import CifarlabError
    from cifarlab.experiments.tuning import search

    found = search.tune(
        chosen_recipe(recipe, with_data(set_, data)),
        space,
        trials,
        storage=storage,
        name=name,
        prune=not no_prune,
        device=device,
        runs=runs,
        command=command_line.get(),
    )
    if json:
        as_json(_document(found))
    else:
        print_tuning(found, trials)
    if found.best is None:
        raise CifarlabError(
            f"no trial is complete, {found.count('failed')} of {len(found.trials)} failed: reasons are in "
            f"{found.folder / 'trials.json'}, and the same command trains others in their place"
        )


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


def print_tuning(found: Tuning, asked: int) -> None:
    """Print the result of a tuning: the best trials, how many ended how, and the next command."""
    from cifarlab.experiments.tuning.trials import counted

    _print_best(found)
    counts = [f"{count} {state}" for state in ("complete", "pruned", "failed") if (count := found.count(state))]
    reasons = f"; reasons: {found.folder / 'trials.json'}" if found.count("failed") else ""
    typer.echo(f"{counted(len(found.trials))}: {', '.join(counts)}{reasons}")
    missing = asked - found.count("complete") - found.count("pruned")
    if missing > 0 and found.best is not None:  # where none is complete the error says so
        typer.echo(f"{missing} of {asked} are missing: the same command trains others in place of the failed")
    if found.best is not None:
        typer.echo(f"what matters: {_importance(found)}")
    typer.echo(f"{'table, pictures and runs' if found.pictures else 'table and runs'}: {found.folder}")
    if found.best is not None:
        typer.echo(f"next: cifarlab train {shlex.quote(str(found.best_file))}")


def _print_best(found: Tuning) -> None:
    """The table of the best trials, and how many are not in it."""
    from cifarlab.experiments.tuning.searchspace import rounded_text
    from cifarlab.experiments.tuning.trials import counted

    judged = [trial for trial in found.trials if trial.state in ("complete", "pruned")]
    judged.sort(key=lambda trial: (trial.state != "complete", -(trial.validation_accuracy or 0), trial.number))
    keys = list(dict.fromkeys(key for trial in judged for key in trial.parameters))
    cells = [
        (
            str(trial.number),
            percent(trial.validation_accuracy),
            f"{trial.epochs} epoch{'' if trial.epochs == 1 else 's'}, {trial.state}",
            *(rounded_text(trial.parameters[key]) if key in trial.parameters else "-" for key in keys),
        )
        for trial in judged[:MOST_SHOWN]
    ]
    titles = ("trial", "validation accuracy", "trained", *keys)
    if cells:
        table(titles, cells, titles[1:2])
    if len(judged) > MOST_SHOWN:
        typer.echo(f"the best {MOST_SHOWN} of {counted(len(judged))}; all are in {found.folder / 'trials.json'}")


def _importance(found: Tuning) -> str:
    """How much each key matters, or why that is not known."""
    from cifarlab.experiments.tuning.trials import TRIALS_FOR_IMPORTANCE

    if found.importance:
        return ", ".join(f"{key} {share:.0%}" for key, share in found.importance.items())
    if (complete := found.count("complete")) < TRIALS_FOR_IMPORTANCE:
        return f"said from {TRIALS_FOR_IMPORTANCE} complete trials on, so far {complete}"
    return "not known, as all complete trials are equally good"
