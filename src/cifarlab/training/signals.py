"""Collect signals, so that a training stops between two steps with everything saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list instead of ending the process; a second Ctrl-C ends it at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return

    def collect(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    names = ["SIGINT", "SIGTERM"]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup ignores
        names.append("SIGHUP")  # the terminal was closed
    before = {number: signal.signal(number, collect) for number in map(signal.Signals.__getitem__, names)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is collect:  # no other handler was set inside that should stay
                signal.signal(number, handler)
