"""`cifarlab board`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer

from cifarlab.cli.options import Runs


def board(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine need the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8642,
    runs: Runs = None,
) -> None:
    """Watch runs in the browser: curves and confusion matrix while they train, comparison, predictions."""
    import errno
    import secrets
    import socket

    from cifarlab.errors import CifarlabError, UsageError
    from cifarlab.runs.listing import runs_folder

    try:
        from cifarlab.board.access import is_local
        from cifarlab.board.app import create_app
        from cifarlab.board.server import MOST_CONNECTIONS, serve
    except ModuleNotFoundError as error:
        raise UsageError(f"the board needs {error.name}: pip install 'cifarlab[board]'") from error
    token = "" if is_local(host) else secrets.token_urlsafe(24)
    app = create_app(runs_folder(runs), token)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]  # the rest names the place again
        other = "; take another --port, or 0 for a free one" if error.errno == errno.EADDRINUSE else ""
        raise CifarlabError(f"cannot listen on {host}:{port}: {why}{other}") from error
    place = f"[{host}]" if ":" in host else host
    address = f"http://{place}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    typer.echo(f"board: {address}  (Ctrl-C ends it)", err=True)
    serve(app, listening)
