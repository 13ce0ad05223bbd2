"""The engines that train a study's runs: in worker processes of this machine, or in a Ray cluster."""

from typing import Protocol, runtime_checkable

from cifarlab.experiments.study.jobs import Job, JobResult

NAMES = ("local", "ray")


@runtime_checkable
class Engine(Protocol):
    """A place to train jobs in, as `sweep` uses it."""

    def has_room(self) -> bool:
        """Return True if one more job can begin now."""

    def submit(self, job: Job) -> None:
        """Begin a job."""

    def poll(self, seconds: float) -> list[JobResult]:
        """Return the results of jobs that ended since the last call. Wait up to `seconds` for the first."""

    def stop(self) -> None:
        """Ask all jobs to save and end. `poll` returns their results when they have."""

    def close(self) -> None:
        """End all processes."""
