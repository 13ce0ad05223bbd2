"""Malicious files are refused with one line, in bounded time and memory, and no code in them is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FEWEST = 100  # cases
MOST_SECONDS = 2.0  # processor time per file
MOST_MEMORY = 1e9  # bytes of the whole process
TRACE = Path("/tmp/cifarlab-was-here")  # the file that malicious code would create

Outcome = tuple[str, str | None, str | None, float, float]
"""File name, text of the `CifarlabError`, traceback of another error, processor seconds, peak memory in bytes."""

SCRIPT = """
import json, os, re, sys, traceback
from pathlib import Path
sys.path.insert(0, {tests!r})
import hostile, pyarrow.parquet
from cifarlab import load_data
from cifarlab.errors import CifarlabError

def peak():  # ru_maxrss would include the process that this one was forked from
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def spent():  # processor time of this process and its children; other work on the machine does not count
    return sum(os.times()[:4])

load_data("digits")
for number, (name, content, read) in enumerate(hostile.cases()):
    folder = Path(str(number))
    folder.mkdir()
    path = folder / name
    path.write_bytes(content)
    del content
    began, message, crash = spent(), None, None
    try:
        read(path)
    except CifarlabError as error:
        message = str(error)
    except BaseException:
        crash = traceback.format_exc()
    print(json.dumps([name, message, crash, spent() - began, peak()]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    TRACE.unlink(missing_ok=True)
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path_factory.mktemp("hostile"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


def test_there_are_enough_cases(outcomes: list[Outcome]) -> None:
    assert len({name for name, *_ in outcomes}) >= FEWEST


def test_every_file_is_refused_with_one_line(outcomes: list[Outcome]) -> None:
    accepted = [(name, crash) for name, message, crash, *_ in outcomes if message is None]
    assert not accepted, accepted[:3]
    for name, message, *_ in outcomes:
        assert message is not None and message.isprintable() and len(message) < 1_000, name


def test_every_file_is_refused_quickly_and_with_little_memory(
    outcomes: list[Outcome],
) -> None:
    slow = [(name, round(seconds, 1)) for name, _, _, seconds, _ in outcomes if seconds > MOST_SECONDS]
    assert not slow, slow
    first = next(((name, peak) for name, _, _, _, peak in outcomes if peak > MOST_MEMORY), None)
    assert first is None, first


def test_no_code_in_a_file_was_run(outcomes: list[Outcome]) -> None:
    assert outcomes and not TRACE.exists()
