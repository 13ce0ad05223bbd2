"""Simulate a study of very many runs on very many GPUs, with costs measured on a real run.

    python benchmarks/scheduler.py --runs 100000 --gpus 100 --like runs/NAME

The overhead of a run (seconds, bytes, files) is measured on the run folder of `--like`. The training time of a run
and the price of a GPU are arguments. Events are simulated one by one, because queues, lost work and the idle end of a
study do not follow from means.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """Overhead of a run besides its training."""

    seconds: float
    """Seconds for starting the process, data, validation, figures and report."""
    size: float
    """Size of the run folder, in bytes."""
    files: int
    """Number of files in the run folder."""


@dataclass(frozen=True)
class Plan:
    """A study and its machines."""

    runs: int
    gpus: int
    gpus_per_node: int
    minutes: float
    """Median training time of a run."""
    spread: float
    """Standard deviation of the logarithm of the training time."""
    checkpoint: float
    """Seconds between checkpoints that outlive a node; 0 for no checkpoints."""
    dispatch: float
    """Seconds that the scheduler needs to start one run, during which it starts no other."""
    lost_after: float
    """Mean hours until a node is lost."""
    replaced: float
    """Minutes until a lost node is replaced."""
    longest_first: bool = False
    """True to start the longest runs first."""


@dataclass(frozen=True)
class Outcome:
    """Result of a simulated plan."""

    hours: float
    """Hours from the first start to the last end."""
    busy: float
    """Share of all GPU time in which runs made progress."""
    redone: float
    """Share of all GPU time in which lost work was repeated."""
    waiting: float
    """Share of all GPU time spent waiting for the scheduler."""
    losses: int
    """Number of runs that lost their node."""


def measure(folder: Path) -> Costs:
    """Return the overhead of a finished run."""
    record = json.loads((folder / "run.json").read_text())
    whole = datetime.fromisoformat(record["finished"]) - datetime.fromisoformat(record["created"])
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Costs(whole.total_seconds() - record["results"]["train_seconds"], sum(sizes), len(sizes))


def simulate(plan: Plan, costs: Costs, seed: int = 0) -> Outcome:
    """Simulate a study, event by event."""
    draw = random.Random(seed)
    lengths = [60 * plan.minutes * draw.lognormvariate(0, plan.spread) + costs.seconds for _ in range(plan.runs)]
    queue = deque(sorted(lengths, reverse=True) if plan.longest_first else lengths)
    events: list[tuple[float, int, str, int]] = []  # time, number, kind, GPU or node
    running: dict[int, tuple[float, float, int]] = {}  # by GPU: start, seconds left, number of the event of its end
    scheduler_free = waited = lost_seconds = now = finished = 0.0
    losses = number = 0
    down = set[int]()

    def add_event(when: float, kind: str, place: int) -> int:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, kind, place))
        return number

    def start(gpu: int) -> None:
        nonlocal scheduler_free, waited
        if not queue or gpu // plan.gpus_per_node in down:
            return
        begins = max(now, scheduler_free) + plan.dispatch
        scheduler_free, waited = begins, waited + begins - now
        left = queue.popleft()
        running[gpu] = (begins, left, add_event(begins + left, "end", gpu))

    for node in range(-(-plan.gpus // plan.gpus_per_node)):
        add_event(draw.expovariate(1 / (plan.lost_after * HOUR)), "lost", node)
    for gpu in range(plan.gpus):
        start(gpu)
    while running or queue:
        now, event, kind, place = heapq.heappop(events)
        gpus = range(place * plan.gpus_per_node, min(plan.gpus, (place + 1) * plan.gpus_per_node))
        if kind == "end":
            if place in running and running[place][2] == event:  # otherwise its node was lost before
                del running[place]
                finished = now
                start(place)
        elif kind == "lost":
            down.add(place)
            add_event(now + 60 * plan.replaced, "back", place)
            for gpu in gpus:
                if gpu in running:
                    begins, left, _ = running.pop(gpu)
                    done = max(0.0, now - begins)
                    kept = done // plan.checkpoint * plan.checkpoint if plan.checkpoint else 0.0
                    lost_seconds, losses = lost_seconds + done - kept, losses + 1
                    queue.appendleft(left - kept + costs.seconds)
        else:
            down.discard(place)
            add_event(now + draw.expovariate(1 / (plan.lost_after * HOUR)), "lost", place)
            for gpu in gpus:
                start(gpu)
    whole = plan.gpus * finished
    return Outcome(finished / HOUR, sum(lengths) / whole, lost_seconds / whole, waited / whole, losses)


def main() -> None:
    """Print the overhead of the run, and a table of plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="a finished run, whose overhead is measured")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=5.0, help="median training time of a run")
    parser.add_argument("--price", type=float, default=2.5, help="price of a GPU per hour")
    parser.add_argument("--terabyte", type=float, default=23.0, help="price of a terabyte of storage per month")
    arguments = parser.parse_args()
    runs, gpus = arguments.runs, arguments.gpus
    costs = measure(arguments.like)
    console = Console(width=130)
    console.print(f"a run adds {costs.seconds:.1f} s to its training, {costs.size / 1e6:.2f} MB, {costs.files} files")
    stored, kept = runs * costs.size / 1e12, runs * costs.files
    console.print(f"{runs:,} runs: {stored:.2f} TB in {kept:,} files, {stored * arguments.terabyte:.0f} a month")
    usual = Plan(runs, gpus, 8, arguments.minutes, 0.5, 60.0, 0.02, 2_000.0, 10.0)
    plans = {
        "as usual": usual,
        "longest first": replace(usual, longest_first=True),
        "nodes lost every 4 hours": replace(usual, lost_after=4.0),
        "the same without checkpoints": replace(usual, lost_after=4.0, checkpoint=0.0),
        "runs of 10 s": replace(usual, minutes=1 / 6),
        "the same, 0.5 s to start one": replace(usual, minutes=1 / 6, dispatch=0.5),
        "runs of 2 hours, a hundredth as many": replace(usual, minutes=120.0, runs=max(1, runs // 100)),
        "the same, longest first": replace(usual, minutes=120.0, runs=max(1, runs // 100), longest_first=True),
    }
    table = Table("plan", "hours", "price", "busy", "done again", "waiting to start", "runs cut off")
    for name, plan in plans.items():
        outcome = simulate(plan, costs)
        shares = [f"{share:.2%}" for share in (outcome.busy, outcome.redone, outcome.waiting)]
        price = outcome.hours * plan.gpus * arguments.price
        table.add_row(name, f"{outcome.hours:,.1f}", f"{price:,.0f}", *shares, f"{outcome.losses:,}")
    console.print(table)


if __name__ == "__main__":
    main()
