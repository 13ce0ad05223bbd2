"""Where a study's runs are trained: processes of this machine, or a Ray cluster.

An engine takes jobs while it is `free`, tells by `poll` which have ended, and asks all to save and end by `stop`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from cifarlab.experiments.study.jobs import Ended, Job

NAMES = ("local", "ray")


@runtime_checkable
class Engine(Protocol):
    """What `sweep` needs of a place to train in."""

    def free(self) -> bool:
        """Whether one more job can begin now."""

    def submit(self, job: Job) -> None:
        """Begins a job."""

    def poll(self, seconds: float) -> list[Ended]:
        """The jobs that have ended since the last call; waits at most so long for one."""

    def stop(self) -> None:
        """Has all jobs save everything and end; `poll` tells when they have."""

    def close(self) -> None:
        """Ends all processes."""
