"""Thousands of requests drawn from what the board says of itself (schemathesis): none may make it fail.

    pip install -r tests/soak/requirements.txt
    python tests/soak/schema.py

Half of them ask for a run that is there, so that they come past the first check. The stream of a run's events never
ends, and is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cifarlab

EXAMPLES = 200  # of each operation, at most
KNOWN = '[parameters]\nname = "whole"\nrun = "whole"\ntarget = "whole"\n'


def main() -> int:
    """Asks a board of its own."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=2, batch_size=64)
        cifarlab.train(recipe, runs=folder, name="whole", quiet=True)
        command = [sys.executable, "-m", "cifarlab", "board", "--port", "0", "--runs", folder]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as board:
            assert board.stderr is not None
            address = board.stderr.readline().split()[1]
            failed = ask(address, "") + ask(address, KNOWN)
            board.terminate()
    return failed


def ask(address: str, settings: str) -> int:
    """Whether there was an answer that says that the board failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schemathesis.toml"
        path.write_text(settings)
        command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(path), "run"]
        command += [f"{address}api/openapi.json", "--checks", "not_a_server_error", "--request-timeout", "60"]
        command += ["--seed", "0", "--max-examples", str(EXAMPLES), "--exclude-path-regex", "events$"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    cases = re.search(r"([\d,]+) generated.*", ended.stdout)
    print(cases[0] if cases and not ended.returncode else ended.stdout, flush=True)
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
