"""Processes that share a study, over SQLite and a real PostgreSQL: trials are done once, and survive a dead process."""

from __future__ import annotations

import contextlib
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
from cifarlab.experiments.tuning import database, sharing
from cifarlab.experiments.tuning.sharing import Attempt, SharedStudy

REQUIRED = "CIFARLAB_TEST_ALL" in os.environ
TRIALS, PROCESSES = 24, 4
GRACE = 2  # seconds

WORKER = """
import sys, time
import optuna
from cifarlab.experiments.tuning import sharing

url, total, log, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])

def objective(attempt):
    attempt.trial.study.sampler = optuna.samplers.TPESampler(seed=attempt.number, n_startup_trials=5)
    x = attempt.trial.suggest_float("x", 0, 1)
    with open(log, "a") as file:
        file.write(f"{attempt.number}\\n")
    time.sleep(seconds)
    return x

with sharing.open_study(url, "study", None, heartbeat=1, grace=3) as shared:
    open(log, "a").close()
    sharing.work(shared, total, objective, before=lambda: None, quiet=True)
"""

Open = Callable[..., SharedStudy]


def start_worker(url: str, total: int, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, url, str(total), str(log), str(seconds)])


@pytest.fixture
def open_study() -> Iterator[Open]:
    """A function that opens the study in a database; the study is closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda url, grace=60: opened.enter_context(
            sharing.open_study(url, "study", None, heartbeat=1, grace=grace)
        )


def work(shared: SharedStudy, total: int, objective: Callable[[Attempt], float], quiet: bool = True) -> None:
    sharing.work(shared, total, objective, before=lambda: None, quiet=quiet)


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.05)


def server_programs() -> Path | None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return programs[-1].parent if programs else None


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a private PostgreSQL server on a Unix socket, which does not run as root."""
    programs = server_programs()
    if programs is None:
        assert not REQUIRED, "there is no PostgreSQL under /usr/lib/postgresql"
        pytest.skip("there is no PostgreSQL")
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, because the path of a socket has at most 107 characters
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
        return database.sqlite_url(tmp_path / "study.db")
    address = str(request.getfixturevalue("postgres"))
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(tmp_path.name)))
    return address.replace("/postgres?", f"/{tmp_path.name}?")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return database.sqlite_url(tmp_path / "study.db")


def numbers(shared: SharedStudy) -> list[int]:
    return [sharing.first_number(trial) for trial in shared.trials()]


@pytest.mark.slow
def test_four_processes_do_each_trial_once(url: str, tmp_path: Path, open_study: Open) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(PROCESSES)]
    workers = [start_worker(url, TRIALS, log, 0.15) for log in logs]
    assert [worker.wait(timeout=400) for worker in workers] == [0] * PROCESSES
    done = [log.read_text().split() for log in logs]
    assert sorted(int(number) for numbers in done for number in numbers) == list(range(TRIALS))
    assert sum(map(bool, done)) > 1
    trials = open_study(url).trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.params["x"] for trial in trials}) == TRIALS  # equal seeds would draw equal values


@pytest.mark.slow
def test_a_killed_process_loses_no_trial(url: str, tmp_path: Path, open_study: Open) -> None:
    log = tmp_path / "log"
    victim = start_worker(url, 3, log, 600)
    end = time.monotonic() + 200
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < end, "the process began no trial"
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    shared = open_study(url, grace=3)
    (left,) = shared.trials()
    assert left.state == TrialState.RUNNING
    drawn = {}

    def objective(attempt: Attempt) -> float:
        drawn[attempt.number] = attempt.trial.suggest_float("x", 0, 1)
        return 1.0

    work(shared, 3, objective)
    assert sorted(drawn) == numbers(shared) == [0, 1, 2] and drawn[0] == left.params["x"]
    work(shared, 4, objective)
    assert sorted(drawn) == numbers(shared) == [0, 1, 2, 4]  # 3 was the second attempt at 0


def test_a_trial_of_a_dead_process_is_taken_over_with_its_parameters_and_number(
    url: str, open_study: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dead process began a trial, reported an epoch, and recorded no further heartbeat."""
    shared = open_study(url, grace=GRACE)
    dead = shared.study.ask()
    drawn = dead.suggest_float("x", 0, 1)
    dead.report(0.25, 1)
    shared.storage.record_heartbeat(shared.key(dead.number))
    dead.set_user_attr(sharing.HEARTBEAT, dead.number)
    attempts = []

    def objective(attempt: Attempt) -> float:
        attempts.append((attempt.number, attempt.position, attempt.trial.suggest_float("x", 0, 1)))
        assert shared.study.get_trials()[attempt.trial.number].intermediate_values == {1: 0.25}
        return 1.0

    begun = time.monotonic()
    work(shared, 1, objective, quiet=False)
    assert attempts == [(0, 0, drawn)] and numbers(shared) == [0]
    assert GRACE - 1 < time.monotonic() - begun < GRACE + 10
    assert capsys.readouterr().err == (
        "waiting for other processes to finish trial 0; a trial is taken over if its process gives no sign of life for "
        f"{GRACE} s\n"
    )


def test_a_trial_without_any_heartbeat_is_taken_over(sqlite: str, open_study: Open) -> None:
    """Optuna alone would wait forever for a process that died right after it took a trial."""
    shared = open_study(sqlite, grace=1)
    shared.study.ask()
    time.sleep(2.1)
    optuna.storages.fail_stale_trials(shared.study)
    assert shared.trials()[0].state == TrialState.RUNNING
    work(shared, 1, lambda attempt: 1.0)
    assert [trial.state for trial in shared.trials()] == [TrialState.COMPLETE]


def take_over(heir: SharedStudy, attempt: Attempt) -> None:
    """Do as `fail_stale_trials` does with a trial whose process gives no sign of life."""
    queue_again = heir.storage.get_heartbeat_stale_trial_callback()
    assert queue_again is not None
    queue_again(heir.study, heir.study.tell(attempt.trial.number, state=TrialState.FAIL))


def test_a_process_that_counted_as_dead_notices_and_its_result_does_not_count(
    sqlite: str, open_study: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", lambda *_: None)  # as if the computer slept
    asleep, heir = open_study(sqlite, grace=60), open_study(sqlite, grace=60)

    def slow(attempt: Attempt) -> float:
        if attempt.trial.number > 0:
            return 0.5
        take_over(heir, attempt)
        work(heir, 1, lambda attempt: 0.75)
        return 0.25

    work(asleep, 1, slow, quiet=False)
    assert [trial.value for trial in asleep.trials()] == [0.75]

    def pruned(attempt: Attempt) -> float:
        take_over(heir, attempt)
        work(heir, 2, lambda attempt: 0.5)
        raise Pruned("the others are better")

    work(asleep, 2, pruned, quiet=False)
    assert [trial.value for trial in asleep.trials()] == [0.75, 0.5]
    assert capsys.readouterr().err == "trial 2 was taken over by another process\n"


def test_a_queued_trial_is_taken_by_one_process_only(url: str, open_study: Open) -> None:
    """Optuna alone gives an SQLite database's queued trial to two processes now and then."""
    shared = open_study(url)
    for _ in range(20):
        shared.study.enqueue_trial({})
    studies = [open_study(url) for _ in range(PROCESSES)]
    barrier, taken = threading.Barrier(PROCESSES), list[int]()

    def take(own: SharedStudy) -> None:
        barrier.wait()
        while any(trial.state == TrialState.WAITING for trial in own.trials()):
            taken.append(own.study.ask().number)

    threads = [threading.Thread(target=take, args=[own]) for own in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) and set(range(20)) <= set(taken)


def test_a_surplus_trial_does_not_count(sqlite: str, open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes see that the last trial is missing, and both begin it."""
    shared, other = open_study(sqlite), open_study(sqlite)
    trained = []

    def objective(attempt: Attempt) -> float:
        trained.append(attempt.number)
        return 1.0

    def begin_late() -> optuna.Trial:
        monkeypatch.undo()
        work(other, 1, objective)
        return shared.study.ask()

    monkeypatch.setattr(shared.study, "ask", begin_late)
    work(shared, 1, objective)
    assert trained == [0] and numbers(shared) == [0] and len(shared.study.get_trials()) == 2
    work(shared, 2, objective)
    assert trained == [0, 2] and numbers(shared) == [0, 2]


def test_the_end_of_a_trial_is_recorded(sqlite: str, open_study: Open) -> None:
    shared = open_study(sqlite)
    errors = [Pruned("others do better"), CifarlabError("the loss is not a number"), ValueError("odd\nlines"), None]

    def objective(attempt: Attempt) -> float:
        attempt.trial.report(0.25, 1)
        error = errors[attempt.number]
        if error is not None:
            raise error
        return 0.5

    work(shared, 4, objective)
    trials = shared.trials()
    assert [trial.state.name for trial in trials] == ["PRUNED", "FAIL", "FAIL", "COMPLETE"]
    assert [trial.user_attrs.get(sharing.REASON) for trial in trials] == [
        "others do better",
        "the loss is not a number",
        "ValueError: odd lines",
        None,
    ]
    assert trials[0].value == 0.25 and trials[3].value == 0.5


def test_a_failure_is_shown_at_once_and_another_trial_replaces_it_in_the_next_call(
    sqlite: str, open_study: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = open_study(sqlite)
    positions: dict[int, int] = {}
    messages = []
    broken = {0, 2}

    def objective(attempt: Attempt) -> float:
        messages.append(capsys.readouterr().err)
        positions[attempt.number] = attempt.position
        if attempt.number in broken:
            raise CifarlabError("the disk is full")
        return 1.0

    work(shared, 3, objective, quiet=False)
    assert messages == ["", "trial 0 failed: the disk is full\n", ""]
    assert capsys.readouterr().err == "trial 2 failed: the disk is full\n"
    assert [trial.state.name for trial in shared.trials()] == ["FAIL", "COMPLETE", "FAIL"]
    broken.add(4)
    work(shared, 3, objective)
    assert list(positions) == [0, 1, 2, 3, 4]  # a failure is replaced once per call
    work(shared, 3, objective)
    work(shared, 3, objective)
    assert list(positions) == [0, 1, 2, 3, 4, 5]
    failed = {trial.number for trial in shared.trials() if trial.state == TrialState.FAIL}
    assert failed == {0, 2, 4}


def test_an_interrupted_trial_continues_under_its_number(sqlite: str, open_study: Open) -> None:
    shared = open_study(sqlite)
    drawn = []

    def objective(attempt: Attempt) -> float:
        drawn.append((attempt.number, attempt.trial.suggest_float("x", 0, 1)))
        if len(drawn) == 1:
            raise Interrupted("stopped", 2)
        return 1.0

    with pytest.raises(Interrupted):
        work(shared, 2, objective)
    work(shared, 2, objective)  # at once: the trial is queued again
    assert drawn[0] == drawn[1] and len(drawn) == 3
    assert numbers(shared) == [0, 1] == [trial.number for trial in shared.study.get_trials()]


def test_a_call_for_fewer_trials_leaves_the_interrupted_ones_alone(sqlite: str, open_study: Open) -> None:
    shared = open_study(sqlite)

    def stop_at_the_third(attempt: Attempt) -> float:
        if attempt.number == 2:
            raise Interrupted("stopped", 2)
        return 1.0

    with pytest.raises(Interrupted):
        work(shared, 5, stop_at_the_third)
    work(shared, 2, stop_at_the_third)
    assert [trial.state.name for trial in shared.trials()] == ["COMPLETE", "COMPLETE", "WAITING"]


def test_errors_of_a_database_are_shown_without_its_password(
    tmp_path: Path, open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--storage must be a database URL"):
        open_study("nonsense")
    with pytest.raises(UsageError, match="the database's driver is missing"):
        open_study("oddbase://host/name")
    for address in (f"sqlite:///{tmp_path}/none/study.db", f"postgresql://me:secret@/name?host={tmp_path}"):
        with pytest.raises(CifarlabError, match=r"the database of the tuning \(.*\) failed: ") as caught:
            open_study(address)
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "text.toml").write_text("[learning_rate]\n" * 100)
    for file, reason in (
        ("none/study.db", f"the folder {tmp_path}/none does not exist"),
        ("text.toml", "not a database"),
    ):
        with pytest.raises(UsageError, match=reason):  # a wrong path is wrong usage
            open_study(f"sqlite:///{tmp_path}/{file}")
    assert database.without_password("postgresql://me:secret@host/name") == "postgresql+psycopg://me:***@host/name"
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"missing \(.*psycopg.*\): pip install 'cifarlab\[postgres\]'"):
        open_study("postgresql://me@host/name")
