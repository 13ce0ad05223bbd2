"""`cifarlab board`: the web page."""

from typing import Annotated

import typer

from cifarlab.cli.options import Runs


def board(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Visitors from other machines need a token that is printed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 means any free port.", min=0, max=65535)] = 8642,
    runs: Runs = None,
) -> None:
    """Show runs in the browser: live curves and confusion matrices, comparisons, predictions."""
    import contextlib
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
        raise UsageError(f"the board needs the package {error.name}: pip install 'cifarlab[board]'") from error
    token, reading_token = ("", "") if is_local(host) else (secrets.token_urlsafe(24), secrets.token_urlsafe(24))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # the rest repeats the address
        hint = "; choose another --port, or 0 for any free one" if error.errno == errno.EADDRINUSE else ""
        raise CifarlabError(f"cannot listen on {host}:{port}: {reason}{hint}") from error
    if host in ("0.0.0.0", "::"):  # all addresses of this machine; show the one that other machines use
        host = socket.gethostname()
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))  # sends nothing
            host = probe.getsockname()[0]
    place = f"[{host}]" if ":" in host else host
    address = f"http://{place}:{listening.getsockname()[1]}/"
    typer.echo(f"board: {address}{f'?token={token}' if token else ''}  (stop it with Ctrl-C)", err=True)
    if reading_token:
        typer.echo(f"to read and predict only: {address}?token={reading_token}", err=True)
    serve(create_app(runs_folder(runs), token, reading_token), listening)
