"""One study that any number of processes and machines work on through a database: exactly so many trials, none twice.

The trials of a study have slots from 0 on. Who works on a slot holds a lease on it: a row that its primary key lets one
process insert, and that this one keeps fresh. A lease that went stale is taken over with its trial, whose parameters
stand in the database already. So a trial is begun once, and goes on wherever its process died. A slot whose trial
failed gets another by who begins to work on the study later. Knows no training.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from cifarlab.errors import CifarlabError, Interrupted, Pruned, UsageError, one_line
from cifarlab.progress import notice

try:
    import optuna
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, delete, func, insert, select, update
    from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
except ModuleNotFoundError as error:
    raise UsageError(f"tuning needs {error.name}: pip install 'cifarlab[tune]'") from error

BEAT_SECONDS = 10.0  # between two signs of life
GRACE_SECONDS = 60.0  # without one, after which a process counts as dead
SECONDS_BETWEEN_LOOKS = 1.0  # of one that waits for the others' trials
SECONDS_FOR_A_LOCK = 60  # SQLite lets one process write at a time
TRIES_TO_CREATE = 8  # of the tables, which several processes may begin at once
SLOT, REASON = "slot", "reason"  # what a trial of the study is marked with
LONGEST_REASON = 500  # letters
WRONG_FILE = ("SQLITE_CANTOPEN", "SQLITE_NOTADB")  # what SQLite says of a path that should have been another
DATABASE_ERRORS = (StorageInternalError, SQLAlchemyError)
Objective = Callable[["optuna.Trial", "Lease"], float]
Sampler = Callable[[int], "optuna.samplers.BaseSampler"]

_leases = Table(
    "cifarlab_leases",
    MetaData(),
    Column("study", String(200), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(32), nullable=False),
    Column("beat", BigInteger, nullable=False),  # seconds, by the database's clock: those of machines differ
)


class NotOurs(Interrupted):
    """The trial is another process's: this one was taken for dead, or somebody else trains in its folder."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 0)


@dataclass(frozen=True)
class Lease:
    """The right to work on a slot."""

    renew: Callable[[], bool]
    """Gives a sign of life, and says whether the slot is still ours."""


class Leases:
    """Who works on which slot of a study."""

    def __init__(
        self, engine: sqlalchemy.Engine, study: str, beat: float = BEAT_SECONDS, grace: float = GRACE_SECONDS
    ) -> None:
        self._engine, self._study, self._beat, self.grace = engine, study, beat, grace
        self._holder = uuid.uuid4().hex

    def held_by_others(self) -> dict[int, int]:
        """The slots with a fresh lease, and how many seconds ago their holders last gave a sign of life."""
        with self._engine.connect() as connection:
            now = _now(connection)
            mine = (_leases.c.study == self._study, _leases.c.holder != self._holder)
            rows = connection.execute(select(_leases.c.slot, _leases.c.beat).where(*mine))
            return {slot: now - beat for slot, beat in rows if now - beat <= self.grace}

    def take(self, slot: int) -> bool:
        """Takes a slot that nobody holds, or whose holder gave no sign of life for too long; False if that fails."""
        with contextlib.suppress(IntegrityError), self._engine.begin() as connection:
            now = _now(connection)
            row = connection.execute(select(_leases.c.holder, _leases.c.beat).where(*self._at(slot))).one_or_none()
            if row is None:
                new = {"study": self._study, "slot": slot, "holder": self._holder, "beat": now}
                connection.execute(insert(_leases).values(new))
                return True
            if now - row.beat <= self.grace:
                return False
            unchanged = (*self._at(slot), _leases.c.holder == row.holder, _leases.c.beat == row.beat)
            taken = connection.execute(update(_leases).where(*unchanged).values(holder=self._holder, beat=now))
            return bool(taken.rowcount == 1)
        return False

    @contextlib.contextmanager
    def hold(self, slot: int) -> Iterator[Lease]:
        """Keeps a slot that was taken, by a sign of life now and then, and lets go of it at the end."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._beat):
                with contextlib.suppress(SQLAlchemyError):  # a database that is away for a moment
                    self._renew(slot)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield Lease(lambda: self._renew(slot))
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(delete(_leases).where(*self._at(slot), _leases.c.holder == self._holder))

    def _renew(self, slot: int) -> bool:
        with self._engine.begin() as connection:
            mine = (*self._at(slot), _leases.c.holder == self._holder)
            return bool(connection.execute(update(_leases).where(*mine).values(beat=_now(connection))).rowcount == 1)

    def _at(self, slot: int) -> tuple[sqlalchemy.ColumnElement[bool], ...]:
        return _leases.c.study == self._study, _leases.c.slot == slot


def _now(connection: sqlalchemy.Connection) -> int:
    moment = connection.scalar(select(func.current_timestamp()))
    assert moment is not None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


@dataclass(frozen=True)
class Shared:
    """A study and who works on what of it."""

    study: optuna.Study
    storage: optuna.storages.RDBStorage
    leases: Leases

    def close(self) -> None:
        """Closes the connections to the database."""
        self.storage.engine.dispose()

    def trials(self) -> dict[int, FrozenTrial]:
        """The trials begun so far, by slot: the first that has not failed, or the last where all have."""
        found: dict[int, FrozenTrial] = {}
        for trial in self._begun():
            slot = trial.user_attrs[SLOT]
            if slot not in found or found[slot].state == TrialState.FAIL:
                found[slot] = trial
        return found

    def failed(self) -> list[FrozenTrial]:
        """All trials that failed, those that another stands in for by now, too."""
        return [trial for trial in self._begun() if trial.state == TrialState.FAIL]

    def _begun(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if SLOT in trial.user_attrs]


def connect(
    url: str, name: str, pruner: optuna.pruners.BasePruner, beat: float = BEAT_SECONDS, grace: float = GRACE_SECONDS
) -> Shared:
    """The study of this name in a database, which is made where it is not there yet; its value is to be maximised.

    Args:
        url: of a database, as SQLAlchemy takes it, such as `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.
        name: of the study.
        pruner: decides which trials are hopeless.
        beat: seconds between signs of life of a process.
        grace: seconds without one, after which its trial is taken over.

    Raises:
        UsageError: this is no such URL, the database's driver is not installed, or SQLite cannot open the file.
        CifarlabError: the database cannot be reached.
    """
    address = _address(url)
    shown = address.render_as_string(hide_password=True)
    options = {"connect_args": {"timeout": SECONDS_FOR_A_LOCK}} if address.get_backend_name() == "sqlite" else {}
    whole = address.render_as_string(hide_password=False)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its lines would stand between those of the trainings
    try:
        _try(address, options)
        template = whole.replace("{", "{{").replace("}", "}}")  # Optuna puts its own version into URLs
        storage = _create(lambda: optuna.storages.RDBStorage(template, options))
        _create(lambda: _leases.metadata.create_all(storage.engine))
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
        )
    except (ImportError, NoSuchModuleError) as error:
        raise UsageError(f"--storage {shown}: its driver is missing: {one_line(error)}") from error
    except DATABASE_ERRORS as error:
        if getattr(_cause(error), "sqlite_errorname", "") in WRONG_FILE:
            folder = Path(address.database or "").absolute().parent
            what = one_line(_cause(error)) if folder.is_dir() else f"there is no folder {folder}"
            raise UsageError(f"the database of the tuning ({shown}) failed: {what}") from error
        raise database_failed(error, shown) from error
    return Shared(study, storage, Leases(storage.engine, name, beat, grace))


def _try(address: sqlalchemy.URL, options: Mapping[str, Any]) -> None:
    """Connects once, so that what cannot work is said at once."""
    engine = sqlalchemy.create_engine(address, **options)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def database_failed(error: Exception, shown: str = "") -> CifarlabError:
    """The one line for a database that does not answer, without its password and without the statement."""
    told = one_line(_cause(error))[:200]
    return CifarlabError(f"the database of the tuning{f' ({shown})' if shown else ''} failed: {told}")


def _cause(error: Exception) -> object:
    """What the database's driver raised."""
    return getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error


def sqlite_url(path: Path) -> str:
    """The URL of a file of SQLite's."""
    return sqlalchemy.URL.create("sqlite", database=str(path.resolve())).render_as_string(hide_password=False)


def without_password(url: str) -> str:
    """A database's URL, to be shown."""
    return _address(url).render_as_string(hide_password=True)


def _address(url: str) -> sqlalchemy.URL:
    try:
        address = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "--storage: should be a database's URL, such as sqlite:///tuning.db or postgresql://USER@HOST/NAME"
        ) from error
    if address.drivername in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")
    return address


def _create(make: Callable[[], Any]) -> Any:
    """Makes tables, again where another process was making them at the same moment."""
    for left in reversed(range(TRIES_TO_CREATE)):
        try:
            return make()
        except (*DATABASE_ERRORS, AssertionError):  # asserted by Optuna of what is half made
            if not left:
                raise
            time.sleep(random.uniform(0.05, 0.5))


def work(
    shared: Shared,
    total: int,
    objective: Objective,
    *,
    sampler: Sampler | None = None,
    first: Mapping[str, Any] | None = None,
    before: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> None:
    """Works on a study, together with whoever else does, until so many trials of it are done.

    A trial that fails here is done, or a fault that all have would never end. Those that failed before this call are
    not: others, with parameters of their own, stand in for them.

    Args:
        shared: from `connect`.
        total: trials of the study, whoever does them.
        objective: from a trial to its value; raises `Pruned` where it ends early, anything else that is no interrupt
            where the trial fails, and `NotOurs` where it should be left to others for now.
        sampler: from a trial's number to what draws its parameters: equal seeds would have processes try the same.
        first: the parameters of the first trial, as far as they are given.
        before: called before each trial and while waiting; may raise, to end this.
        quiet: say nothing.

    Raises:
        Interrupted: whatever `objective` or `before` raised; the trial goes on when somebody works on the study again.
    """
    left_to_others: set[int] = set()
    failed_before = {trial.number for trial in shared.failed()}
    told_of: set[int] = set()
    while slots := _open(shared, total, failed_before):
        before()
        slot = _take_one(shared, sorted(slots, key=lambda each: (each in left_to_others, each)))
        if slot is not None:
            with shared.leases.hold(slot) as lease:
                trial = _begin(shared, slot, first or {}, failed_before, sampler)
                try:
                    if trial is not None:
                        _run(shared.study, trial, lease, objective, quiet)
                except NotOurs as error:
                    notice(str(error), quiet=quiet)
                    left_to_others.add(slot)
        elif not told_of >= set(slots):
            told_of |= set(slots)
            notice(_waiting_for(shared, slots), quiet=quiet)
        if slot is None or slot in left_to_others:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _open(shared: Shared, total: int, failed_before: Collection[int]) -> list[int]:
    trials = shared.trials()
    done = {slot for slot, trial in trials.items() if trial.state.is_finished() and trial.number not in failed_before}
    return [slot for slot in range(total) if slot not in done]


def _waiting_for(shared: Shared, slots: Collection[int]) -> str:
    """Whose trials these are, and when they are taken over if their processes have died."""
    trials, held, grace = shared.trials(), shared.leases.held_by_others(), shared.leases.grace
    told = [
        f"trial {trials[slot].number} (last sign of life {held[slot]} s ago)"
        for slot in slots
        if slot in trials and slot in held
    ]
    what = ", ".join(told) or "the last trials"
    return f"waiting for other processes: {what}; after {grace:.0f} s without one a trial is taken over"


def _take_one(shared: Shared, slots: Collection[int]) -> int | None:
    held = shared.leases.held_by_others()
    return next((slot for slot in slots if slot not in held and shared.leases.take(slot)), None)


def _begin(
    shared: Shared, slot: int, first: Mapping[str, Any], failed_before: Collection[int], sampler: Sampler | None
) -> optuna.Trial | None:
    """The slot's trial, made if it has none that counts; None if it is done by now.

    Only the lease's holder may call this.
    """
    found = shared.trials().get(slot)
    if found is None or found.number in failed_before:
        shared.study.enqueue_trial(dict(first) if slot == 0 else {}, user_attrs={SLOT: slot})
        found = shared.trials()[slot]
    if found.state.is_finished():
        return None
    study = shared.storage.get_study_id_from_name(shared.study.study_name)
    number = shared.storage.get_trial_id_from_study_id_trial_number(study, found.number)
    shared.storage.set_trial_state_values(number, TrialState.RUNNING)
    if sampler is not None:
        shared.study.sampler = sampler(found.number)
    return optuna.Trial(shared.study, number)


def _run(study: optuna.Study, trial: optuna.Trial, lease: Lease, objective: Objective, quiet: bool) -> None:
    state, value, reason = TrialState.COMPLETE, None, ""
    try:
        value = objective(trial, lease)
    except Pruned as error:
        state, reason = TrialState.PRUNED, str(error)
    except (Interrupted, *DATABASE_ERRORS):
        raise
    except Exception as error:  # a trial that fails says something about its parameters
        state, reason = TrialState.FAIL, one_line(error)
        if not isinstance(error, CifarlabError):
            reason = f"{type(error).__name__}: {reason}"
    if not lease.renew():
        raise NotOurs(f"trial {trial.number} was taken over by another process")
    if reason:
        trial.set_user_attr(REASON, reason[:LONGEST_REASON])
    study.tell(trial, value, state)
    if state == TrialState.FAIL:
        notice(f"trial {trial.number} failed: {reason}", quiet=quiet)
