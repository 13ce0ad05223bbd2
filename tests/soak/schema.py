"""Thousands of requests drawn from what board and `serve` say of themselves (schemathesis): none may make them fail.

    pip install -r tests/soak/requirements.txt
    python tests/soak/schema.py

Half of them ask for a run that is there, so that they come past the first check. The stream of a run's events never
ends, and is left out. With a known recipe and run, what would train or search for hours is left out too.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import requests

import cifarlab

EXAMPLES = 200  # of each operation, at most
KNOWN = '[parameters]\nname = "whole"\nrun = "whole"\ntarget = "whole"\nrecipe = "lenet5"\n'


def main() -> int:
    """Ask a board and a server of their own, and return how many of the three tests failed."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=2, batch_size=64)
        cifarlab.train(recipe, runs=folder, name="whole", quiet=True)
        with started("board", "--runs", folder, "--class", "digits") as address:
            failed = ask(address, "") + ask(address, KNOWN)
            stop_trainings(address)
        with started("serve", f"{folder}/whole") as address:
            failed += ask(address, "")
    return failed


@contextlib.contextmanager
def started(*words: str) -> Iterator[str]:
    """Start a command that serves, and yield its address once it predicts."""
    command = [sys.executable, "-m", "cifarlab", *words, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split()[1].partition("api/")[0]
            while requests.get(f"{address}health").status_code == 503:
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def stop_trainings(address: str) -> None:
    """Stop what the requests have started, and wait for its end."""
    while active := [
        training
        for training in requests.get(f"{address}api/trainings").json()["trainings"]
        if training["status"] in ("waiting", "starting", "running")
    ]:
        for training in active:
            requests.post(f"{address}api/trainings/{training['id']}/cancel")
        time.sleep(1)


def ask(address: str, settings: str) -> int:
    """Return 1 if there was an answer that says that the server failed, else 0."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schemathesis.toml"
        path.write_text(settings)
        command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(path), "run"]
        command += [f"{address}api/openapi.json", "--checks", "not_a_server_error", "--request-timeout", "60"]
        command += ["--seed", "0", "--max-examples", str(EXAMPLES), "--exclude-path-regex"]
        command += ["(events|trainings|estimate|train|search)$" if settings else "events$"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    cases = re.search(r"([\d,]+) generated.*", ended.stdout)
    print(cases[0] if cases and not ended.returncode else ended.stdout, flush=True)
    return int(ended.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
