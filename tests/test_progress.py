"""Progress without a terminal; tests/cli tests the bar on a terminal."""

from __future__ import annotations

import pytest

from cifarlab.progress import duration, task


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
