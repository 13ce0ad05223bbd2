"""One Optuna study that several processes and machines work on through a database.

Optuna's heartbeats tell which processes are alive. The trial of a dead process is queued again with the same
parameters, and the next process continues in the run folder of the first attempt. Nothing here knows of training.
"""

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from cifarlab.errors import CifarlabError, Interrupted, Pruned, one_line
from cifarlab.experiments.tuning import database
from cifarlab.progress import notice

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # without a heartbeat, after which a process counts as dead
POLL_SECONDS = 1.0  # between two looks at the study while waiting for other processes
REASON, HEARTBEAT, SURPLUS = "reason", "heartbeat", "surplus"  # user attributes of a trial
LONGEST_REASON = 500  # characters


class TakenOver(Interrupted):
    """Raised when another process has taken over the trial, because this process counted as dead."""

    def __init__(self, number: int) -> None:
        super().__init__(f"trial {number} was taken over by another process", 0)


@contextlib.contextmanager
def experimental_allowed() -> Iterator[None]:
    """Silence Optuna's warnings that heartbeats are experimental and meant for `Study.optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")
        yield


with experimental_allowed():
    RETRY = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)  # queues a stopped trial again


@experimental_allowed()
def first_number(trial: FrozenTrial) -> int:
    """Return the number of a trial's first attempt, which names its run."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


@dataclass(frozen=True)
class SharedStudy:
    """An Optuna study in a database, and its trials as a tuning counts them."""

    study: optuna.Study
    storage: RDBStorage

    def close(self) -> None:
        """Close the connections to the database."""
        self.storage.engine.dispose()

    @experimental_allowed()
    def trials(self, without: Collection[int] = ()) -> list[FrozenTrial]:
        """Return the trials in order, each as its latest attempt, without surplus ones and those of these numbers."""
        trials = self.study.get_trials(deepcopy=False)
        hidden = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        hidden |= {*without, *(trial.number for trial in trials if SURPLUS in trial.user_attrs)}
        return sorted((trial for trial in trials if trial.number not in hidden), key=first_number)

    def failed(self) -> set[int]:
        """Return the numbers of the failed trials."""
        return {trial.number for trial in self.trials() if trial.state == TrialState.FAIL}

    def record_heartbeat(self, number: int) -> None:
        """Record that the process of a trial is alive."""
        self.storage.record_heartbeat(self._key(number))

    def queue_again(self, number: int) -> None:
        """Return a running trial to the queue."""
        self.storage.set_trial_state_values(self._key(number), TrialState.WAITING)

    def _key(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


@dataclass(frozen=True)
class Attempt:
    """A trial that this process trains, or continues."""

    trial: optuna.Trial
    number: int
    """Number of the trial's first attempt, which names its run."""
    position: int
    """Position among the trials that count, from 0 on."""


def open_study(
    url: str,
    name: str,
    pruner: optuna.pruners.BasePruner,
    heartbeat: int = HEARTBEAT_SECONDS,
    grace: int = GRACE_SECONDS,
) -> SharedStudy:
    """Open a study in a database, and create it if needed; its value is to be maximised.

    Args:
        url: database URL, as `database.connect` takes it.
        name: name of the study.
        pruner: decides which trials end early.
        heartbeat: seconds between the heartbeats of a process.
        grace: seconds without a heartbeat, after which a trial is queued again.

    Raises:
        UsageError, CifarlabError: the database cannot be used; see `database.connect`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Optuna's messages would interrupt the progress lines
    with experimental_allowed():
        storage = database.connect(url, heartbeat, grace, RETRY)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    return SharedStudy(study, storage)


def work(
    shared: SharedStudy,
    total: int,
    objective: Callable[[Attempt], float],
    *,
    before: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> None:
    """Work on a study, together with other processes, until `total` of its trials are finished.

    A trial that fails during this call counts as finished, or a fault that all trials share would never end. Trials
    that failed before this call do not count: new ones with parameters of their own replace them.

    Args:
        shared: the study, from `connect`.
        total: number of trials of the study, over all processes.
        objective: returns the value of a trial. Raises `Pruned` if the trial ends early, `TakenOver` if another process
            has taken it over, and any other error if the trial fails.
        before: called before each trial and while waiting; may raise `Interrupted` to end this call.
        quiet: show no progress.

    Raises:
        Interrupted: raised by `objective` or `before`; the trial is queued again for the next process.
    """
    failed_before = shared.failed()
    adopted, awaited = set[int](), set[int]()
    while True:
        before()
        _queue_trials_of_dead_processes(shared, adopted)
        trials = shared.trials(without=failed_before)
        if sum(trial.state.is_finished() for trial in trials) >= total:
            return
        if len(trials) < total or any(trial.state == TrialState.WAITING for trial in trials[:total]):
            try:
                with _taken(shared, failed_before) as attempt:
                    if attempt.position < total or attempt.number != attempt.trial.number:
                        _run(shared, attempt, objective, quiet)
                    else:  # another process was faster to begin the last trial
                        attempt.trial.set_user_attr(SURPLUS, True)
                        shared.study.tell(attempt.trial, state=TrialState.FAIL)
            except TakenOver as error:
                notice(str(error), quiet=quiet)
        else:
            running = {first_number(trial) for trial in trials if not trial.state.is_finished()}
            if not running <= awaited:
                awaited |= running
                notice(_waiting_text(running, shared.storage.grace_period), quiet=quiet)
            time.sleep(POLL_SECONDS)


@experimental_allowed()
def _queue_trials_of_dead_processes(shared: SharedStudy, adopted: set[int]) -> None:
    for trial in shared.trials():
        # Optuna never gives up a trial whose process died before its first heartbeat. Record one on its behalf, once.
        silent = trial.user_attrs.get(HEARTBEAT) != trial.number
        if trial.state == TrialState.RUNNING and silent and trial.number not in adopted:
            adopted.add(trial.number)
            shared.record_heartbeat(trial.number)
    optuna.storages.fail_stale_trials(shared.study)


def _waiting_text(numbers: Collection[int], grace: int | None) -> str:
    listed = ", ".join(map(str, sorted(numbers)))
    return (
        f"waiting for other processes to finish trial{'s' if len(numbers) > 1 else ''} {listed}; a trial is taken over "
        f"if its process gives no sign of life for {grace} s"
    )


@contextlib.contextmanager
def _taken(shared: SharedStudy, failed_before: Collection[int]) -> Iterator[Attempt]:
    """Take a queued trial, or begin a new one, and record heartbeats until the end."""
    with experimental_allowed():
        trial = shared.study.ask()
    shared.record_heartbeat(trial.number)
    try:
        trial.set_user_attr(HEARTBEAT, trial.number)
    except UpdateFinishedTrialError as error:  # the last heartbeat of the attempt before was old
        raise TakenOver(trial.number) from error
    over, interval = threading.Event(), shared.storage.get_heartbeat_interval()

    def beat() -> None:
        while not over.wait(interval):
            with contextlib.suppress(*database.DATABASE_ERRORS):  # the database may be away for a moment
                shared.record_heartbeat(trial.number)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        trials = shared.trials(without=failed_before)
        position = next(place for place, other in enumerate(trials) if other.number == trial.number)
        yield Attempt(trial, first_number(trials[position]), position)
    finally:
        over.set()
        thread.join()


def _run(shared: SharedStudy, attempt: Attempt, objective: Callable[[Attempt], float], quiet: bool) -> None:
    """Run the objective and record how the trial ended."""
    state, value, reason = TrialState.COMPLETE, None, ""
    try:
        value = objective(attempt)
    except Pruned as error:
        state, reason = TrialState.PRUNED, str(error)
    except TakenOver:
        raise
    except Interrupted:
        with contextlib.suppress(UpdateFinishedTrialError):  # raised if the trial was taken over
            shared.queue_again(attempt.trial.number)
        raise
    except database.DATABASE_ERRORS:
        raise
    except Exception as error:  # a failure says something about the trial's parameters
        state, reason = TrialState.FAIL, one_line(error)
        if not isinstance(error, CifarlabError):
            reason = f"{type(error).__name__}: {reason}"
    try:
        if reason:
            attempt.trial.set_user_attr(REASON, reason[:LONGEST_REASON])
        shared.study.tell(attempt.trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError as error:
        raise TakenOver(attempt.number) from error
    if state == TrialState.FAIL:
        notice(f"trial {attempt.number} failed: {reason}", quiet=quiet)
