"""`cifarlab runs`: list the runs."""

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, as_json, percent, table

KEYS = ("name", "path", "status", "recipe", "epochs_done", "test_accuracy")  # of `--json`


def runs(runs: Runs = None, json: AsJson = False) -> None:
    """List the runs. Those of a study or a tuning are called STUDY/RUN."""
    from cifarlab.runs.folder import RunFolder
    from cifarlab.runs.listing import read_row, run_paths, runs_folder

    folder = runs_folder(runs)
    paths = run_paths(folder, nested=True)
    rows = [read_row(RunFolder(path, path.relative_to(folder).as_posix())) for path in paths]
    rows.sort(key=lambda row: (row.created or "", row.path))
    for row in rows:
        if row.status == "damaged":
            typer.echo(f"{row.name} is damaged: {row.reason}", err=True)
    if json:
        as_json([{key: getattr(row, key) for key in KEYS} for row in rows])
    elif not rows:
        typer.echo(f"No runs in {folder} yet. Train one with: cifarlab train")
    else:
        cells = [(r.name, r.status, r.recipe or "-", r.epochs_done or 0, percent(r.test_accuracy)) for r in rows]
        table(("name", "status", "recipe", "epochs", "test accuracy"), cells, ("epochs", "test accuracy"))
