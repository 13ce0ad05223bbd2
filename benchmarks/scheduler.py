"""Simulates a study of very many runs on very many GPUs, with costs measured on a real run.

    python benchmarks/scheduler.py --runs 100000 --gpus 100 --like runs/NAME

What a run costs besides training (seconds, bytes, files) is measured on the run folder that is named; how long runs
take and what a GPU costs an hour are arguments. Events are simulated one by one, so that queues, lost work and the idle
end of a study come out as they would, not as means say.
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
    """What one run adds to its training."""

    seconds: float
    """Process, data, validation, figures and report."""
    size: float
    """Of the run folder, in bytes."""
    files: int


@dataclass(frozen=True)
class Plan:
    """A study and the machines that it is given."""

    runs: int
    gpus: int
    gpus_a_node: int
    minutes: float
    """Median training time of a run; they spread log-normally by `spread`."""
    spread: float
    checkpoint: float
    """Seconds between checkpoints that outlive a node; 0: there are none."""
    dispatch: float
    """Seconds that the scheduler needs for one run, during which no other is started."""
    lost_after: float
    """Mean hours until a node is lost."""
    replaced: float
    """Minutes until another takes its place."""
    longest_first: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a plan."""

    hours: float
    """From the first start to the last end."""
    busy: float
    """Share of all GPU time in which runs went forward."""
    redone: float
    """Share in which work that had been lost was done again."""
    waiting: float
    """Share in which a GPU waited for the scheduler."""
    losses: int
    """Runs that lost their node."""


def measure(folder: Path) -> Costs:
    """What a finished run cost besides the steps of its training."""
    record = json.loads((folder / "run.json").read_text())
    whole = datetime.fromisoformat(record["finished"]) - datetime.fromisoformat(record["created"])
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Costs(whole.total_seconds() - record["results"]["train_seconds"], sum(sizes), len(sizes))


def simulate(plan: Plan, costs: Costs, seed: int = 0) -> Outcome:
    """Plays a study through, event by event."""
    draw = random.Random(seed)
    lengths = [60 * plan.minutes * draw.lognormvariate(0, plan.spread) + costs.seconds for _ in range(plan.runs)]
    queue = deque(sorted(lengths, reverse=True) if plan.longest_first else lengths)
    events: list[tuple[float, int, str, int]] = []  # when, number, what, GPU or node
    running: dict[int, tuple[float, float, int]] = {}  # by GPU: begun, seconds still to do, number of its end's event
    scheduler_free = waited = lost_seconds = now = finished = 0.0
    losses = number = 0
    down = set[int]()

    def happens(when: float, what: str, where: int) -> int:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, what, where))
        return number

    def start(gpu: int) -> None:
        nonlocal scheduler_free, waited
        if not queue or gpu // plan.gpus_a_node in down:
            return
        begins = max(now, scheduler_free) + plan.dispatch
        scheduler_free, waited = begins, waited + begins - now
        left = queue.popleft()
        running[gpu] = (begins, left, happens(begins + left, "end", gpu))

    for node in range(-(-plan.gpus // plan.gpus_a_node)):
        happens(draw.expovariate(1 / (plan.lost_after * HOUR)), "lost", node)
    for gpu in range(plan.gpus):
        start(gpu)
    while running or queue:
        now, this, what, where = heapq.heappop(events)
        gpus = range(where * plan.gpus_a_node, min(plan.gpus, (where + 1) * plan.gpus_a_node))
        if what == "end":
            if where in running and running[where][2] == this:  # else its node was lost before
                del running[where]
                finished = now
                start(where)
        elif what == "lost":
            down.add(where)
            happens(now + 60 * plan.replaced, "back", where)
            for gpu in gpus:
                if gpu in running:
                    begins, left, _ = running.pop(gpu)
                    done = max(0.0, now - begins)
                    kept = done // plan.checkpoint * plan.checkpoint if plan.checkpoint else 0.0
                    lost_seconds, losses = lost_seconds + done - kept, losses + 1
                    queue.appendleft(left - kept + costs.seconds)
        else:
            down.discard(where)
            happens(now + draw.expovariate(1 / (plan.lost_after * HOUR)), "lost", where)
            for gpu in gpus:
                start(gpu)
    whole = plan.gpus * finished
    return Outcome(finished / HOUR, sum(lengths) / whole, lost_seconds / whole, waited / whole, losses)


def main() -> None:
    """Prints what the run cost, and a table of plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="a finished run, whose costs are measured")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=5.0, help="median training time of a run")
    parser.add_argument("--price", type=float, default=2.5, help="of a GPU, an hour")
    parser.add_argument("--terabyte", type=float, default=23.0, help="price of a terabyte kept, a month")
    asked = parser.parse_args()
    costs = measure(asked.like)
    console = Console(width=130)
    console.print(f"a run adds {costs.seconds:.1f} s to its training, {costs.size / 1e6:.2f} MB, {costs.files} files")
    stored, kept = asked.runs * costs.size / 1e12, asked.runs * costs.files
    console.print(f"{asked.runs:,} runs: {stored:.2f} TB in {kept:,} files, {stored * asked.terabyte:.0f} a month")
    usual = Plan(asked.runs, asked.gpus, 8, asked.minutes, 0.5, 60.0, 0.02, 2_000.0, 10.0)
    plans = {
        "as usual": usual,
        "longest first": replace(usual, longest_first=True),
        "nodes lost every 4 hours": replace(usual, lost_after=4.0),
        "the same without checkpoints": replace(usual, lost_after=4.0, checkpoint=0.0),
        "runs of 10 s": replace(usual, minutes=1 / 6),
        "the same, 0.5 s to start one": replace(usual, minutes=1 / 6, dispatch=0.5),
        "runs of 2 hours, a hundredth as many": replace(usual, minutes=120.0, runs=max(1, asked.runs // 100)),
        "the same, longest first": replace(usual, minutes=120.0, runs=max(1, asked.runs // 100), longest_first=True),
    }
    table = Table("plan", "hours", "price", "busy", "done again", "waiting to start", "runs cut off")
    for name, plan in plans.items():
        found = simulate(plan, costs)
        shares = [f"{share:.2%}" for share in (found.busy, found.redone, found.waiting)]
        price = found.hours * plan.gpus * asked.price
        table.add_row(name, f"{found.hours:,.1f}", f"{price:,.0f}", *shares, f"{found.losses:,}")
    console.print(table)


if __name__ == "__main__":
    main()
