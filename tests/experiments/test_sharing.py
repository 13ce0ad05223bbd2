"""Sharing a study: four processes at once over SQLite and over a real PostgreSQL, and processes that die."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.trial import TrialState
from psycopg.sql import SQL, Identifier

from cifarlab.errors import CifarlabError, Interrupted, Pruned, UsageError
from cifarlab.experiments.tuning import sharing

REQUIRED = "CIFARLAB_TEST_ALL" in os.environ
TRIALS, PROCESSES = 24, 4
PRUNER = optuna.pruners.NopPruner()

WORKER = """
import sys, time
import optuna
from cifarlab.tuning import sharing

url, total, log, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
shared = sharing.connect(url, "study", optuna.pruners.NopPruner(), beat=0.5, grace=3)
open(log, "a").close()

def objective(trial, lease):
    x = trial.suggest_float("x", 0, 1)
    with open(log, "a") as file:
        file.write(f"{trial.number}\\n")
    time.sleep(seconds)
    return x

sampler = lambda slot: optuna.samplers.TPESampler(seed=slot, n_startup_trials=5)
sharing.work(shared, total, objective, sampler=sampler, quiet=True)
"""


def worker(url: str, total: int, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, url, str(total), str(log), str(seconds)])


Connect = Callable[..., sharing.Shared]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Gives a study of a database, and closes it after the test."""
    opened = []

    def give(url: str, grace: float = 60.0) -> sharing.Shared:
        opened.append(sharing.connect(url, "study", PRUNER, beat=0.5, grace=grace))
        return opened[-1]

    yield give
    for shared in opened:
        shared.close()


def server_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a private PostgreSQL server on a Unix socket; it refuses to run as root."""
    programs = server_programs()
    if programs is None:
        assert not REQUIRED, "there is no PostgreSQL under /usr/lib/postgresql"
        pytest.skip("there is no PostgreSQL")
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, because a socket's path may have 107 letters
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "tuner", "--auth=trust", "--no-sync", "--no-locale", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://tuner@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sharing.sqlite_url(tmp_path / "study.db")
    address = str(request.getfixturevalue("postgres"))
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(tmp_path.name)))
    return address.replace("/postgres?", f"/{tmp_path.name}?")


def test_four_processes_do_exactly_so_many_trials(url: str, tmp_path: Path, connect: Connect) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(PROCESSES)]
    workers = [worker(url, TRIALS, log, 0.15) for log in logs]
    assert [each.wait(timeout=400) for each in workers] == [0] * PROCESSES
    done = [log.read_text().split() for log in logs]
    assert sorted(int(number) for numbers in done for number in numbers) == list(range(TRIALS))  # each once
    assert sum(map(bool, done)) > 1
    trials = connect(url).study.get_trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert {trial.user_attrs[sharing.SLOT] for trial in trials} == set(range(TRIALS))
    assert len({trial.params["x"] for trial in trials}) == TRIALS  # equal seeds would draw the same


def test_a_dead_process_loses_no_trial(url: str, tmp_path: Path, connect: Connect) -> None:
    log = tmp_path / "log"
    victim = worker(url, 3, log, 600)
    wait_for(lambda: log.exists() and bool(log.read_text()), 200)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    shared = connect(url, grace=3)
    (left,) = shared.study.get_trials()
    assert left.state == TrialState.RUNNING
    assert set(shared.leases.held_by_others()) <= {0}
    seen = []

    def objective(trial: optuna.Trial, lease: sharing.Lease) -> float:
        seen.append((trial.number, trial.suggest_float("x", 0, 1)))
        return 1.0

    sharing.work(shared, 3, objective, quiet=True)
    assert dict(seen)[0] == left.params["x"]  # the same parameters
    assert sorted(number for number, _ in seen) == [0, 1, 2] and len(shared.study.get_trials()) == 3
    sharing.work(shared, 3, objective, quiet=True)
    assert len(seen) == 3
    sharing.work(shared, 4, objective, quiet=True)
    assert len(seen) == 4


def test_a_lease_is_one_processs_until_it_is_stale(url: str, connect: Connect) -> None:
    shared = connect(url)
    ours, theirs, heir = (sharing.Leases(shared.storage.engine, "a", 60, grace) for grace in (60, 60, 0))
    assert ours.take(5) and not theirs.take(5) and theirs.take(6)
    assert list(ours.held_by_others()) == [6] and list(theirs.held_by_others()) == [5]
    assert sharing.Leases(shared.storage.engine, "b").take(5)  # of another study
    time.sleep(2.1)
    with ours.hold(5) as lease:
        assert heir.held_by_others() == {}
        assert heir.take(5)
        assert not lease.renew()
    assert not theirs.take(5)  # ending a lease that was lost takes nothing from who has it
    with heir.hold(5) as lease:
        assert lease.renew()
    assert theirs.take(5)


def test_many_that_want_one_slot_do_not_share_it(url: str, connect: Connect) -> None:
    shared = connect(url)
    won = []
    for slot in range(10):
        barrier = threading.Barrier(PROCESSES)

        def take(slot: int = slot, barrier: threading.Barrier = barrier) -> None:
            leases = sharing.Leases(shared.storage.engine, "study")
            barrier.wait()
            if leases.take(slot):
                won.append(slot)

        threads = [threading.Thread(target=take) for _ in range(PROCESSES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert won == list(range(10))


def test_how_a_trial_ended_is_recorded(tmp_path: Path, connect: Connect) -> None:
    shared = connect(sharing.sqlite_url(tmp_path / "study.db"))
    ends = [Pruned("others do better"), CifarlabError("the loss is no number"), ValueError("odd\nlines"), None]

    def objective(trial: optuna.Trial, lease: sharing.Lease) -> float:
        trial.report(0.25, 1)
        error = ends[trial.number]
        if error is not None:
            raise error
        return 0.5

    sharing.work(shared, 4, objective, first={}, quiet=True)
    trials = shared.study.get_trials()
    assert [trial.state.name for trial in trials] == ["PRUNED", "FAIL", "FAIL", "COMPLETE"]
    assert [trial.user_attrs.get(sharing.REASON) for trial in trials] == [
        "others do better",
        "the loss is no number",
        "ValueError: odd lines",
        None,
    ]
    assert trials[0].value == 0.25 and trials[3].value == 0.5


def test_a_failure_is_said_at_once_and_another_trial_stands_in_for_it_later(
    tmp_path: Path, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = connect(sharing.sqlite_url(tmp_path / "study.db"))
    drawn: dict[int, float] = {}
    said = []
    broken = [0, 2]

    def objective(trial: optuna.Trial, lease: sharing.Lease) -> float:
        said.append(capsys.readouterr().err)
        drawn[trial.number] = trial.suggest_float("x", 0, 1)
        if trial.number in broken:
            raise CifarlabError("the disk is full")
        return 1.0

    def sampler(number: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=number)

    sharing.work(shared, 3, objective, sampler=sampler, first={"x": 0.5})
    assert said == ["", "trial 0 failed: the disk is full\n", ""]
    assert capsys.readouterr().err == "trial 2 failed: the disk is full\n"
    assert [trial.state.name for trial in shared.study.get_trials()] == ["FAIL", "COMPLETE", "FAIL"]
    broken.append(4)
    sharing.work(shared, 3, objective, sampler=sampler, first={"x": 0.5}, quiet=True)
    assert list(drawn) == [0, 1, 2, 3, 4]  # each failure but once in a call
    assert drawn[3] == drawn[0] == 0.5 and drawn[4] != drawn[2]  # the first has given values
    assert {slot: trial.number for slot, trial in shared.trials().items()} == {0: 3, 1: 1, 2: 4}
    sharing.work(shared, 3, objective, sampler=sampler, quiet=True)
    sharing.work(shared, 3, objective, sampler=sampler, quiet=True)
    assert list(drawn) == [0, 1, 2, 3, 4, 5] and [trial.number for trial in shared.failed()] == [0, 2, 4]


def test_who_waits_for_a_dead_process_says_for_which_trial_and_how_long(
    tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.1)
    dead, shared = (connect(sharing.sqlite_url(tmp_path / "study.db"), grace=2) for _ in range(2))
    assert dead.leases.take(0) and sharing._begin(dead, 0, {}, (), None) is not None
    sharing.work(shared, 1, lambda trial, lease: 1.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("waiting for other processes: trial 0 (last sign of life ")
    assert line.endswith(" s ago); after 2 s without one a trial is taken over")


def test_an_interrupted_trial_goes_on(tmp_path: Path, connect: Connect) -> None:
    shared = connect(sharing.sqlite_url(tmp_path / "study.db"))
    drawn = []

    def objective(trial: optuna.Trial, lease: sharing.Lease) -> float:
        drawn.append(trial.suggest_float("x", 0, 1))
        if len(drawn) == 1:
            raise Interrupted("stopped", 2)
        return 1.0

    first = {"x": 0.125}
    with pytest.raises(Interrupted):
        sharing.work(shared, 2, objective, first=first, quiet=True)
    sharing.work(shared, 2, objective, first=first, quiet=True)  # at once: the lease was given back
    assert drawn[:2] == [0.125, 0.125] and len(drawn) == 3
    assert len(shared.study.get_trials()) == 2


def test_a_trial_that_is_left_to_others_is_tried_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.01)
    shared = connect(sharing.sqlite_url(tmp_path / "study.db"))
    order = []

    def objective(trial: optuna.Trial, lease: sharing.Lease) -> float:
        order.append(trial.number)
        if order == [0]:
            raise sharing.NotOurs("somebody trains in its folder")
        return 1.0

    sharing.work(shared, 3, objective, quiet=True)
    assert order == [0, 1, 2, 0] and len(shared.study.get_trials()) == 3


def test_what_is_wrong_with_a_database_is_told_without_its_password(tmp_path: Path, connect: Connect) -> None:
    with pytest.raises(UsageError, match="--storage: should be a database's URL"):
        connect("nonsense")
    with pytest.raises(UsageError, match="its driver is missing"):
        connect("oddbase://host/name")
    for address in (f"sqlite:///{tmp_path}/none/study.db", f"postgresql://me:secret@/name?host={tmp_path}"):
        with pytest.raises(CifarlabError, match=r"the database of the tuning \(.*\) failed: ") as caught:
            connect(address)
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "text.toml").write_text("[learning_rate]\n" * 100)
    for place, told in (("none/study.db", f"there is no folder {tmp_path}/none"), ("text.toml", "not a database")):
        with pytest.raises(UsageError, match=told):  # a wrong path is wrong input
            connect(f"sqlite:///{tmp_path}/{place}")
    assert sharing.without_password("postgresql://me:secret@host/name") == "postgresql+psycopg://me:***@host/name"


def wait_for(happened: object, seconds: float) -> None:
    assert callable(happened)
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
