"""`cifarlab board`: the web page."""

from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import Runs


def board(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Visitors from other machines need a token that is printed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 means any free port.", min=0, max=65535)] = 8642,
    held_out: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Evaluate what students hand in on these images: a folder of images per class, or a data set.",
            metavar="FOLDER",
        ),
    ] = None,
    tries: Annotated[int, typer.Option(help="Weights that each student of --class may hand in.", min=1, max=100)] = 10,
    runs: Runs = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data sets made on the page /pictures. Default: own-pictures beside the folder of runs.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Show runs in the browser: live curves and confusion matrices, comparisons, predictions."""
    import secrets

    from cifarlab.errors import UsageError
    from cifarlab.runs.listing import runs_folder

    try:
        from cifarlab.board import server
        from cifarlab.board.access import is_local
        from cifarlab.board.app import create_app
        from cifarlab.board.classroom.scoreboard import Classroom
    except ModuleNotFoundError as error:
        raise UsageError(f"the board needs the package {error.name}: pip install 'cifarlab[board]'") from error
    token, reading_token = ("", "") if is_local(host) else (secrets.token_urlsafe(24), secrets.token_urlsafe(24))
    classroom = Classroom(held_out, tries) if held_out else None
    listening, address = server.listen(host, port)
    typer.echo(f"board: {address}{f'?token={token}' if token else ''}  (stop it with Ctrl-C)", err=True)
    if reading_token:
        typer.echo(f"to read and predict only: {address}?token={reading_token}", err=True)
    if classroom:
        students = f"?token={reading_token}" if reading_token else ""
        typer.echo(f"for students: {address}class/hand-in{students}; for the projector: {address}class", err=True)
    server.serve(create_app(runs_folder(runs), token, reading_token, classroom, pictures), listening)
