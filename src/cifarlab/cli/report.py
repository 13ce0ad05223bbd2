"""`cifarlab report`: draw the page of a run, or of several."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cifarlab.cli.options import RunNames, Runs, Trust
from cifarlab.cli.output import AsJson, as_json


def report(
    names: RunNames,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; needed for several runs. Default: report.html of the run.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    purpose: Annotated[
        Literal["reading", "submission"],
        typer.Option("--for", help="Purpose: reading, or submission for one page to hand in, with checksums."),
    ] = "reading",
    student: Annotated[str | None, typer.Option(help="Your name, on a page to hand in.", metavar="NAME")] = None,
    question: Annotated[
        str | None, typer.Option(help="Question that a page to hand in answers.", metavar="TEXT")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="Figure of a page to hand in: curves, confusion or per-class. May be repeated."),
    ] = None,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Draw the figures of a run again and write its report; or one report about several runs."""
    from cifarlab import api
    from cifarlab.errors import UsageError

    if purpose == "submission":
        given = {"--student": student, "--question": question, "--out": out}
        if missing := [option for option, value in given.items() if not value]:
            raise UsageError(f"a report to hand in needs {' and '.join(missing)}")
        assert student is not None and question is not None and out is not None
        chosen = figure or ["curves", "confusion"]
        page = api.write_submission(
            names, out, student=student, question=question, chosen=chosen, force=force, runs=runs
        )
    elif student or question or figure:
        raise UsageError("--student, --question and --figure are for a report to hand in: add --for submission")
    else:
        page = api.write_report(names, out, force=force, runs=runs)
    if json:
        as_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")


def verify(
    file: Annotated[Path, typer.Argument(help="Report that was handed in.", metavar="FILE")],
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Its runs, if their names or folders differ from those on the page.", metavar="[RUN]..."),
    ] = None,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Check that the numbers and figures of a report that was handed in are those of its runs."""
    from cifarlab import api
    from cifarlab.errors import CifarlabError

    wrong = api.verify(file, names or (), runs=runs)
    if json:
        as_json({"file": str(file), "matches": not wrong, "differences": wrong})
    elif not wrong:
        typer.echo(f"{file}: all numbers and figures are those of its runs; its name and question may be anybody's")
    if wrong:
        raise CifarlabError(f"{file} does not match its runs: {'; '.join(wrong)}")
