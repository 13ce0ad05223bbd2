"""What a process learns from torchrun's environment, and what it leaves in its store for the others."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cifarlab.errors import UsageError
from cifarlab.parallel import torchrun, world

TOGETHER = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes this process one that torchrun started, with a store that it shares with the others."""
    monkeypatch.setattr(torchrun, "_store", torch.distributed.HashStore())  # type: ignore[attr-defined]
    before = signal.getsignal(signal.SIGTERM)

    def become(rank: int, attempt: int = 0, restarts: int = 0) -> None:
        told = {"RANK": rank, "TORCHELASTIC_RESTART_COUNT": attempt, "TORCHELASTIC_MAX_RESTARTS": restarts}
        for name, value in (TOGETHER | told).items():
            monkeypatch.setenv(name, str(value))

    yield become
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"MASTER_ADDR": None}, "RANK and WORLD_SIZE are set and MASTER_ADDR is not: start several processes with"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK is not"),
        ({"RANK": "first"}, "RANK should be a whole number, got 'first'"),
        ({"RANK": "2"}, "RANK should be less than WORLD_SIZE, which is 2, got 2"),
        ({"TORCHELASTIC_RESTART_COUNT": "-1"}, "TORCHELASTIC_RESTART_COUNT should be a whole number"),
    ],
)
def test_an_environment_that_is_not_whole_is_refused(
    changed: dict[str, str | None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (TOGETHER | changed).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told), world.joined():
        pass


def test_one_process_says_what_all_come_upon_and_lives_until_it_has(process: Any) -> None:
    process(1)
    assert torchrun.says(everywhere=True)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    torchrun.has_said(for_good=False)
    process(0)
    assert not torchrun.says(everywhere=True) and torchrun.says(everywhere=False)
    process(0, attempt=1)
    assert torchrun.says(everywhere=True)  # started again, it is another error


def test_what_no_restart_mends_is_not_tried_again(process: Any) -> None:
    process(0)
    assert torchrun.says(everywhere=True) and not torchrun.is_over()
    torchrun.has_said(for_good=True)
    process(1, attempt=1)
    assert torchrun.is_over()


def test_it_is_known_whether_torchrun_starts_again(process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for attempt in (0, 1, 2):
        process(0, attempt, restarts=2)
        found.append(torchrun.starts_again())
    assert found == [True, True, False]
    monkeypatch.delenv("RANK")
    assert not torchrun.starts_again() and torchrun.place() is None
