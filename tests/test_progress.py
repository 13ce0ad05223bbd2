"""Progress without a terminal; tests/cli tests the bar on a terminal."""

from __future__ import annotations

import io
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from cifarlab.progress import duration, notice, task


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.progress.SECONDS_BETWEEN_LINES", 0.0)
    with task("working", 4) as progress:
        progress.advance(1, lambda: "loss 1.0")
        progress.advance(3)
        progress.say("done")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith("working: 25%  loss 1.0, ") and lines[0].endswith(" left")
    assert lines[1].startswith("working: 100%") and lines[2] == "done"


def test_a_notebook_gets_lines_on_stdout_one_over_the_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarlab.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("cifarlab.progress.in_notebook", lambda: True)
    with task("working", 4) as progress:
        progress.advance(2, lambda: "a long note")
        progress.say("done")
    captured = capsys.readouterr()
    covered, said = captured.out.split("\r")
    assert captured.err == "" and covered.startswith("working: 50%  a long note")
    assert said.rstrip() == "done" and said.endswith("\n") and len(said) > len(covered)


def test_colours_that_are_forced_draw_no_bar_into_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with task("working", 4) as progress:
        progress.advance(1)
        progress.say("done")
    assert capsys.readouterr().err == "done\n"


def test_lines_are_rare_and_notes_are_computed_only_for_lines(capsys: pytest.CaptureFixture[str]) -> None:
    made: list[int] = []

    def note() -> str:
        made.append(1)
        return ""

    with task("working", 1000) as progress:
        for _ in range(1000):
            progress.advance(1, note)
    assert capsys.readouterr().err == "" and made == []


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with task("working", 2, quiet=True) as progress:
        progress.advance(1)
        progress.say("line")
    assert capsys.readouterr().err == ""


def test_earlier_work_does_not_count_for_the_estimate() -> None:
    with task("working", 100, quiet=True, already_done=90) as progress:
        assert progress.seconds_left() is None
        progress.advance(5)
        left = progress.seconds_left()
        assert left is not None and left < 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (59.6, "1:00"), (187, "3:07"), (3729, "1:02:09")]
)
def test_durations_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_work_of_unknown_size_is_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.progress.SECONDS_BETWEEN_LINES", 0.0)
    with task("fetching", None) as progress:
        progress.advance(5000, lambda: "1.0 MB/s")
    assert capsys.readouterr().err == "fetching: 5,000  1.0 MB/s\n"


def test_work_that_ends_before_it_is_done_has_less_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 0.0
    monkeypatch.setattr("cifarlab.progress.time.monotonic", lambda: moment)
    with task("working", 1000, quiet=True) as progress:
        progress.at_most = 10.0
        moment = 4.0
        progress.advance(100)
        assert progress.share() == pytest.approx(0.4) and progress.seconds_left() == pytest.approx(6.0)


def training(stderr: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that shows a task on a stderr and then writes a file `done`."""
    code = """
import os, pathlib, sys, time
from cifarlab import progress
progress.SECONDS_BETWEEN_LINES = progress.SECONDS_BETWEEN_REFRESHES = 0
with progress.task("working", 100) as shown:
    for number in range(100):
        shown.advance(1)
        shown.say("line")
        print("own", file=progress.Stderr())
        if number == 50:
            pathlib.Path(sys.argv[1], "half").touch()
            time.sleep(0.5)
pathlib.Path(sys.argv[1], "done").touch()
"""
    environment = {**os.environ, "TERM": "xterm"}
    return subprocess.Popen([sys.executable, "-c", code, folder], stderr=stderr, env=environment)


def test_a_full_disk_behind_stderr_ends_nothing(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        assert training(full.fileno(), tmp_path).wait(timeout=60) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_of_stderr_that_goes_away_ends_nothing(kind: str, tmp_path: Path) -> None:
    reader, writer = os.pipe() if kind == "pipe" else os.openpty()
    process = training(writer, tmp_path)
    os.close(writer)
    while not (tmp_path / "half").exists():
        if select.select([reader], [], [], 0.1)[0]:
            os.read(reader, 10_000)
    os.close(reader)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "done").exists()


def test_a_closed_stderr_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    notice("line")
