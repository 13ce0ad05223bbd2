"""`cifarlab runs`: list the runs."""

from typing import Any

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, as_json, percent, table


def runs(runs: Runs = None, json: AsJson = False) -> None:
    """List the runs. Those of a study or a tuning are called STUDY/RUN."""
    from cifarlab.errors import UsageError
    from cifarlab.runs.folder import RunFolder
    from cifarlab.runs.listing import list_runs, runs_folder

    rows: list[dict[str, Any]] = []
    folder = runs_folder(runs)
    for path in list_runs(folder, nested=True):
        run = RunFolder(path)
        try:
            rows.append(
                {
                    "name": path.relative_to(folder).as_posix(),
                    "path": str(path),
                    "status": run.status,
                    "recipe": run.record.recipe.name,
                    "epochs_done": len(run.history),
                    "test_accuracy": run.results.get("test_accuracy"),
                }
            )
        except UsageError as error:
            typer.echo(f"skipped {path}: {error}", err=True)
    if json:
        as_json(rows)
    elif not rows:
        typer.echo(f"No runs in {folder} yet. Train one with: cifarlab train")
    else:
        cells = [(r["name"], r["status"], r["recipe"], r["epochs_done"], percent(r["test_accuracy"])) for r in rows]
        table(("name", "status", "recipe", "epochs", "test accuracy"), cells, ("epochs", "test accuracy"))
