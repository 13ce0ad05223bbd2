"""What a process learns from torchrun's environment."""

from __future__ import annotations

import pytest

from cifarlab.errors import UsageError
from cifarlab.parallel import torchrun
from cifarlab.parallel.world import open_world

TOGETHER = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"MASTER_ADDR": None}, "RANK and WORLD_SIZE are set but MASTER_ADDR is not: start several processes with"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK is not"),
        ({"RANK": "first"}, "RANK must be a whole number, as torchrun sets it, got 'first'"),
        ({"RANK": "2"}, "RANK must be less than WORLD_SIZE, which is 2, got 2"),
        ({"TORCHELASTIC_RESTART_COUNT": "-1"}, "TORCHELASTIC_RESTART_COUNT must be a whole number"),
    ],
)
def test_an_environment_that_is_not_whole_is_refused(
    changed: dict[str, str | None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (TOGETHER | changed).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told), open_world():
        pass


def test_a_restart_is_expected_while_some_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    for attempt in (0, 1, 2):
        environment = {"TORCHELASTIC_RESTART_COUNT": str(attempt), "TORCHELASTIC_MAX_RESTARTS": "2"}
        for name, value in (TOGETHER | environment).items():
            monkeypatch.setenv(name, value)
        expected.append(torchrun.has_restarts_left())
    assert expected == [True, True, False]


def test_a_process_alone_has_no_place_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert torchrun.read_place() == torchrun.Place() and not torchrun.is_launched() and not torchrun.has_restarts_left()
