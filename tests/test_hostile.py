"""Files made to harm: one line that says what is wrong, in bounded time and memory, and nothing is run or left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FEWEST = 100
MOST_SECONDS = 2.0  # of a processor
MOST_MEMORY = 1e9  # bytes, of the whole process
TRACE = Path("/tmp/cifarlab-was-here")  # what code in a file would leave

SCRIPT = """
import json, os, re, sys, traceback
from pathlib import Path
sys.path.insert(0, {tests!r})
import hostile, pyarrow.parquet
from cifarlab import load_data
from cifarlab.errors import CifarlabError

def peak():  # ru_maxrss would begin with that of the process that this one was forked from
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def spent():  # by this process and by those that it waited for; other work on the machine does not count
    return sum(os.times()[:4])

load_data("digits")
for number, (name, content, read) in enumerate(hostile.cases()):
    folder = Path(str(number))
    folder.mkdir()
    path = folder / name
    path.write_bytes(content)
    del content
    began, told, said = spent(), None, None
    try:
        read(path)
    except CifarlabError as error:
        told = str(error)
    except BaseException:
        said = traceback.format_exc()
    print(json.dumps([name, told, said, spent() - began, peak()]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str | None, str | None, float, float]]:
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


def test_there_are_many(outcomes: list[tuple[str, str | None, str | None, float, float]]) -> None:
    assert len({name for name, *_ in outcomes}) >= FEWEST


def test_each_is_refused_in_one_line(outcomes: list[tuple[str, str | None, str | None, float, float]]) -> None:
    wrong = [(name, said) for name, told, said, *_ in outcomes if told is None]
    assert not wrong, wrong[:3]
    for name, told, *_ in outcomes:
        assert told is not None and "\n" not in told and len(told) < 1_000, name
        assert all(letter.isprintable() for letter in told), name


def test_each_is_refused_soon_and_in_little_memory(
    outcomes: list[tuple[str, str | None, str | None, float, float]],
) -> None:
    slow = [(name, round(seconds, 1)) for name, _, _, seconds, _ in outcomes if seconds > MOST_SECONDS]
    assert not slow, slow
    first = next(((name, peak) for name, _, _, _, peak in outcomes if peak > MOST_MEMORY), None)
    assert first is None, first


def test_no_code_in_them_was_run(outcomes: list[tuple[str, str | None, str | None, float, float]]) -> None:
    assert outcomes and not TRACE.exists()
