"""`cifarlab tune`: search for better settings of a recipe."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli import options
from cifarlab.cli.options import Data, Device, RecipeName, Runs, Set, changed_recipe, command_line, settings_with_data
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.experiments.tuning.trials import Tuning

MOST_SHOWN = 10  # trials in a tuning's table


def tune(
    recipe: RecipeName,
    space: Annotated[Path, typer.Option(help="TOML file with the values to try for each key.", metavar="FILE")],
    trials: Annotated[int, typer.Option(help="Trials of all processes together, without failed ones.", min=1)] = 30,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database that several processes share. Default: a file in its folder.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the tuning and its folder. Default: the recipe's.")] = None,
    set_: Set = None,
    data: Data = None,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Train every trial to its end, even poor ones.")] = False,
    device: Device = "auto",
    runs: Runs = None,
    trust: options.Trust = None,
    json: AsJson = False,
) -> None:
    """Search for better settings of a recipe, judged on validation images. The best become a new recipe."""
    from cifarlab.errors import CifarlabError
    from cifarlab.experiments.tuning import search

    chosen, prune, command = changed_recipe(recipe, settings_with_data(set_, data)), not no_prune, command_line.get()
    tuning = search.tune(
        chosen, space, trials, storage=storage, name=name, prune=prune, device=device, runs=runs, command=command
    )
    if json:
        best = asdict(tuning.best) if tuning.best else None
        as_json(
            {
                "folder": str(tuning.folder),
                "recipe": tuning.recipe.name,
                "trials": [asdict(trial) for trial in tuning.trials],
                "best": best,
                "best_recipe": str(tuning.best_file) if best else None,
                "optimism": tuning.optimism,
                "importance": dict(tuning.importance),
            }
        )
    else:
        print_tuning(tuning, trials)
    if tuning.best is None:
        raise CifarlabError(
            f"no trial is complete; {tuning.count('failed')} of {len(tuning.trials)} failed. Reasons: "
            f"{tuning.folder / 'trials.json'}. The same command trains others in their place."
        )


def print_tuning(tuning: Tuning, asked: int) -> None:
    """Print the result of a tuning: the best trials, how many ended how, and the next command."""
    from cifarlab.experiments.tuning.trials import TRIALS_FOR_IMPORTANCE, counted

    _print_best(tuning)
    counts = [f"{count} {state}" for state in ("complete", "pruned", "failed") if (count := tuning.count(state))]
    reasons = f"; reasons: {tuning.folder / 'trials.json'}" if tuning.count("failed") else ""
    typer.echo(f"{counted(len(tuning.trials))}: {', '.join(counts)}{reasons}")
    missing = asked - tuning.count("complete") - tuning.count("pruned")
    if tuning.best is not None:  # else an error says what to do
        if optimism := tuning.optimism:
            chosen = f"chosen as the best of {counted(tuning.count('complete'))}, trial {tuning.best.number} was lucky"
            typer.echo(f"{chosen} too: its validation accuracy may be about {100 * optimism:.1f} points too high")
        if missing > 0:
            replaced = "the same command trains others in place of the failed ones"
            typer.echo(f"{missing} of {asked} trials are missing: {replaced}")
        matters = ", ".join(f"{key} {share:.0%}" for key, share in tuning.importance.items())
        if not matters and (complete := tuning.count("complete")) < TRIALS_FOR_IMPORTANCE:
            matters = f"known after {TRIALS_FOR_IMPORTANCE} complete trials, so far there are {complete}"
        typer.echo(f"importance of the settings: {matters or 'not known, as all complete trials are equally good'}")
    pictures = ", pictures" if any(tuning.folder.glob("*.png")) else ""
    typer.echo(f"table{pictures} and runs: {tuning.folder}")
    if tuning.best is not None:
        typer.echo(f"next: cifarlab train {shlex.quote(str(tuning.best_file))}")


def _print_best(tuning: Tuning) -> None:
    """Print the table of the best trials and how many are left out."""
    from cifarlab.experiments.tuning.searchspace import rounded_text
    from cifarlab.experiments.tuning.trials import counted

    judged = [trial for trial in tuning.trials if trial.state in ("complete", "pruned")]
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
        typer.echo(f"the best {MOST_SHOWN} of {counted(len(judged))}; all are in {tuning.folder / 'trials.json'}")
