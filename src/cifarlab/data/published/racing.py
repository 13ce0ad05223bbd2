"""Choose among the sources of a data set: each downloads for a few seconds, then the fastest goes on.

The estimate of a source is the time that its remaining files will take at its present speed. A source goes on at once
if it will be done before the others could be tried. Later it gives way only to a faster one, and only if its own
estimate is over five minutes. What a source has sent is kept, so that it continues there if its turn comes again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cifarlab.data.download import Unreachable
from cifarlab.data.published.description import Source
from cifarlab.errors import CifarlabError
from cifarlab.progress import duration, notice

_Delivered = TypeVar("_Delivered")


@dataclass(frozen=True)
class Pace:
    """Seconds that decide when another source gets its turn."""

    trial: float = 4.0  # that each source downloads at first
    window: float = 30.0  # over which speed is measured later
    patience: float = 300.0  # up to which an estimate makes no source give way once all have been tried


PACE = Pace()


class TooSlow(CifarlabError):
    """Raised when another source should be tried, or should go on."""

    def __init__(self, rate: float, estimate: float) -> None:
        super().__init__(f"{rate / 1e6:.2f} MB/s, {duration(estimate)} left")
        self.estimate = estimate


class AllFailed(CifarlabError):
    """Raised when no source delivers; `offline` is True if none of them could be reached."""

    def __init__(self, reasons: Sequence[str], offline: bool) -> None:
        super().__init__("; ".join(reasons))
        self.offline = offline


@dataclass
class _Runner:
    source: Source
    estimate: float = 0.0  # seconds; an untried source may be done at once
    is_tried: bool = False


class Watch:
    """Measures the speed of a download, and raises `TooSlow` when another source should get its turn."""

    def __init__(self, expected: int, seconds: float, longest: float) -> None:
        """Watch a download of `expected` bytes that may take `longest` seconds, measured every so many seconds."""
        self.left, self._seconds, self._longest = expected, seconds, longest
        self._began, self._bytes = time.monotonic(), 0

    def __call__(self, count: int) -> None:
        """Count bytes that have arrived."""
        self.left -= count
        self._bytes += count
        if (passed := time.monotonic() - self._began) >= self._seconds:
            rate = self._bytes / passed
            if (estimate := max(self.left, 0) / rate) > self._longest:
                raise TooSlow(rate, estimate)
            self._began, self._bytes = time.monotonic(), 0


def deliver_fastest(
    title: str,
    sources: Sequence[Source],
    deliver: Callable[[Source, Watch], _Delivered],
    pace: Pace,
    quiet: bool,
) -> tuple[str, _Delivered]:
    """Return the name of the source that delivers, and what it delivers; `deliver` gets a source or raises an error."""
    runners, reasons, offline = [_Runner(source) for source in sources], list[str](), True
    while runners:
        runner = min(runners, key=lambda runner: runner.estimate)
        others = [other for other in runners if other is not runner]
        untried = sum(not other.is_tried for other in others)
        longest = max(
            min((other.estimate for other in others), default=float("inf")),
            pace.patience if runner.is_tried else pace.trial * untried,
        )
        watch = Watch(runner.source.bytes, pace.window if runner.is_tried else pace.trial, longest)
        size = f" ({runner.source.bytes / 1e6:,.0f} MB)" if runner.source.bytes else ""
        notice(f"getting {title} from: {runner.source.name}{size}", quiet=quiet)
        try:
            return runner.source.name, deliver(runner.source, watch)
        except TooSlow as slow:
            notice(f"{runner.source.name}: {slow}", quiet=quiet)
            runner.estimate, runner.is_tried = slow.estimate, True
        except CifarlabError as error:
            notice(f"{runner.source.name}: {error}", quiet=quiet or not others)
            reasons.append(f"{runner.source.name}: {error}")
            offline = offline and isinstance(error, Unreachable)
            runners.remove(runner)
    raise AllFailed(reasons, offline)
