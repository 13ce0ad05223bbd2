"""One Optuna study that several processes and machines work on through a database.

Optuna's heartbeats tell which processes are alive. The trial of a dead process is queued again with the same
parameters, and the next process continues in the run folder of the first attempt. Nothing here trains.
"""

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import MedianPruner, NopPruner
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from cifarlab.errors import CifarlabError, Interrupted, Pruned, one_line
from cifarlab.experiments.tuning import database
from cifarlab.progress import notice
from cifarlab.runs.record import EpochRow

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # without a heartbeat, after which a process counts as dead
TRIALS_BEFORE_PRUNING = 5  # complete trials: the median of fewer is unreliable
POLL_SECONDS = 1.0  # between two looks at the study while waiting for other processes
REASON, HEARTBEAT, SURPLUS = "reason", "heartbeat", "surplus"  # user attributes of a trial
LONGEST_REASON = 500  # characters


class TakenOver(Interrupted, UpdateFinishedTrialError):
    """Raised when another process has taken over the trial, because this process counted as dead."""


def first_number(trial: FrozenTrial) -> int:
    """Return the number of a trial's first attempt, which names its run."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


@dataclass(frozen=True)
class SharedStudy:
    """An Optuna study in a database, and its trials as a tuning counts them."""

    study: optuna.Study
    storage: RDBStorage

    def trials(self, without: Collection[int] = ()) -> list[FrozenTrial]:
        """Return the trials in order, each as its latest attempt, without surplus ones and those of these numbers."""
        trials = self.study.get_trials(deepcopy=False)
        hidden = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        hidden |= {*without, *(trial.number for trial in trials if SURPLUS in trial.user_attrs)}
        return sorted((trial for trial in trials if trial.number not in hidden), key=first_number)

    def key(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


@dataclass(frozen=True)
class Attempt:
    """A trial that this process trains, or continues."""

    trial: optuna.Trial
    number: int  # of the trial's first attempt, which names its run
    position: int  # among the trials that count, from 0 on

    def report(self, history: Iterable[EpochRow]) -> None:
        """Report the epochs that the study lacks; raise `TakenOver` if another process has taken the trial over."""
        stored = self.trial.study.get_trials(deepcopy=False)[self.trial.number]
        if stored.state.is_finished():
            raise TakenOver(f"trial {self.number} was taken over by another process", 0)
        for row in history:
            if row.epoch not in stored.intermediate_values:
                self.trial.report(row.validation_accuracy, row.epoch)


Objective = Callable[[Attempt], float]


@contextlib.contextmanager
def open_study(
    url: str, name: str, warmup: int | None, heartbeat: int = HEARTBEAT_SECONDS, grace: int = GRACE_SECONDS
) -> Iterator[SharedStudy]:
    """Open a study in a database, and create it if needed; its value is to be maximised.

    Trials are pruned by the median at the same epoch after `warmup` epochs; None prunes no trial.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Optuna's messages would interrupt the progress lines
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")  # `Study.optimize`
        storage = database.connect(
            url,
            heartbeat_interval=heartbeat,
            grace_period=grace,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True),
        )
        try:
            pruner = NopPruner() if warmup is None else MedianPruner(TRIALS_BEFORE_PRUNING, n_warmup_steps=warmup)
            study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
            )
            yield SharedStudy(study, storage)
        finally:
            storage.engine.dispose()


def work(
    shared: SharedStudy, total: int, objective: Objective, *, before: Callable[[], None], quiet: bool = False
) -> None:
    """Work on a study, together with other processes, until `total` of its trials are finished.

    A trial that fails during this call counts as finished, or a fault that all trials share would never end. Trials
    that failed before this call do not count: new ones with parameters of their own replace them.

    Args:
        total: number of trials of the study, over all processes.
        objective: returns the value of a trial. Raises `Pruned` if the trial ends early, `TakenOver` if another process
            has taken it over, `Interrupted` to queue it again and end this call, any other error if the trial fails.
        before: called before each trial and while waiting; may raise `Interrupted` to end this call.
    """
    failed_before = {trial.number for trial in shared.trials() if trial.state == TrialState.FAIL}
    adopted, awaited = set[int](), set[int]()
    while True:
        before()
        _queue_trials_of_dead_processes(shared, adopted)
        trials = shared.trials(without=failed_before)
        running = {first_number(trial) for trial in trials if not trial.state.is_finished()}
        if len(trials) - len(running) >= total:
            return
        if len(trials) < total or any(trial.state == TrialState.WAITING for trial in trials[:total]):
            if problem := _run_next(shared, total, failed_before, objective):
                notice(problem, quiet=quiet)
            continue
        if not running <= awaited:
            awaited |= running
            numbers = ", ".join(map(str, sorted(running)))
            notice(
                f"waiting for other processes to finish trial{'s' if len(running) > 1 else ''} {numbers}; a trial is "
                f"taken over if its process gives no sign of life for {shared.storage.grace_period} s",
                quiet=quiet,
            )
        time.sleep(POLL_SECONDS)


def _queue_trials_of_dead_processes(shared: SharedStudy, adopted: set[int]) -> None:
    for trial in shared.trials():
        # Optuna never gives up a trial whose process died before its first heartbeat. Record one on its behalf, once.
        silent = trial.user_attrs.get(HEARTBEAT) != trial.number
        if trial.state == TrialState.RUNNING and silent and trial.number not in adopted:
            adopted.add(trial.number)
            shared.storage.record_heartbeat(shared.key(trial.number))
    optuna.storages.fail_stale_trials(shared.study)


def _run_next(shared: SharedStudy, total: int, failed_before: Collection[int], objective: Objective) -> str:
    """Take a queued trial, or begin a new one, run it, and record how it ended; return a message if it failed."""
    trial = shared.study.ask()
    number, key = trial.number, shared.key(trial.number)
    try:
        with _heartbeats(shared.storage, key):
            trial.set_user_attr(HEARTBEAT, trial.number)
            trials = shared.trials(without=failed_before)
            position = [other.number for other in trials].index(trial.number)
            number = first_number(trials[position])
            if position >= total and number == trial.number:  # another process was faster to begin the last trial
                trial.set_user_attr(SURPLUS, True)
                shared.study.tell(trial, state=TrialState.FAIL)
                return ""
            state, value, reason = _outcome(objective, Attempt(trial, number, position))
            if reason:
                trial.set_user_attr(REASON, reason[:LONGEST_REASON])
            shared.study.tell(trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return f"trial {number} was taken over by another process"
    except Interrupted:
        with contextlib.suppress(UpdateFinishedTrialError):  # raised if the trial was taken over
            shared.storage.set_trial_state_values(key, TrialState.WAITING)
        raise
    return f"trial {number} failed: {reason}" if state == TrialState.FAIL else ""


@contextlib.contextmanager
def _heartbeats(storage: RDBStorage, key: int) -> Iterator[None]:
    """Record heartbeats of a trial until the end."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(storage.get_heartbeat_interval()):
            with contextlib.suppress(*database.DATABASE_ERRORS):  # the database may be away for a moment
                storage.record_heartbeat(key)

    storage.record_heartbeat(key)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _outcome(objective: Objective, attempt: Attempt) -> tuple[TrialState, float | None, str]:
    """Return how a trial ended, with its value or the reason why it has none."""
    try:
        return TrialState.COMPLETE, objective(attempt), ""
    except Pruned as error:
        return TrialState.PRUNED, None, str(error)
    except (Interrupted, *database.DATABASE_ERRORS):
        raise
    except Exception as error:  # a failure says something about the trial's parameters
        kind = "" if isinstance(error, CifarlabError) else f"{type(error).__name__}: "
        return TrialState.FAIL, None, kind + one_line(error)
