"""`cifarlab serve`: predictions over HTTP."""

from typing import Annotated

import typer

from cifarlab.cli.options import Runs, Target, Trust

SECONDS_TO_FINISH = 5  # for requests that are being answered when a signal comes


def serve(
    target: Target,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Clients on other machines need a token: that of the environment variable "
            "CIFARLAB_TOKEN, or else one that is printed."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 means any free port.", min=0, max=65535)] = 8643,
    runs: Runs = None,
    trust: Trust = None,
) -> None:
    """Classify images that other programs send over HTTP."""
    import os
    import secrets

    from cifarlab.errors import UsageError

    try:
        from cifarlab.board import server
        from cifarlab.board.access import check_token, is_local
        from cifarlab.board.service import create_service
    except ModuleNotFoundError as error:
        raise UsageError(f"serve needs the package {error.name}: pip install 'cifarlab[board]'") from error
    own_token = os.environ.get("CIFARLAB_TOKEN", "")
    check_token(own_token)
    token = own_token or ("" if is_local(host) else secrets.token_urlsafe(24))
    service = create_service(target, runs=runs, token=token)
    listening, address = server.listen(host, port)
    typer.echo(f"serve: {address}api/predict  (stop it with Ctrl-C)", err=True)
    if token and not own_token:
        typer.echo(f"clients send the header Authorization: Bearer {token}", err=True)
    server.serve(service, listening, SECONDS_TO_FINISH)
