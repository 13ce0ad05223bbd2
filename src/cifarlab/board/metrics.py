"""Metrics of `cifarlab serve` for Prometheus, in its text format 0.0.4."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds; Prometheus's own defaults
Sample = tuple[str, Mapping[str, str], float]  # what follows the metric's name, labels, value


class RequestMetrics:
    """Counts and durations of requests by path, for `MetricsMiddleware`."""

    def __init__(self) -> None:
        self.requests = Counter[tuple[str, int]]()  # by path and status code
        self._seconds = defaultdict[str, float](float)
        self._within = defaultdict[str, list[int]](lambda: [0] * len(BUCKETS))  # requests that took at most so long

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests[path, status] += 1
        self._seconds[path] += seconds
        for place, limit in enumerate(BUCKETS):
            self._within[path][place] += seconds <= limit

    def lines(self) -> list[str]:
        """Return the lines of both metrics."""
        counts = [("", {"path": path, "status": str(status)}, n) for (path, status), n in sorted(self.requests.items())]
        durations: list[Sample] = []
        for path in sorted(self._seconds):
            total = sum(n for (of_path, _), n in self.requests.items() if of_path == path)
            limits = [*map(str, BUCKETS), "+Inf"]
            within = zip(limits, [*self._within[path], total], strict=True)
            durations += [("_bucket", {"path": path, "le": limit}, count) for limit, count in within]
            durations += [("_sum", {"path": path}, self._seconds[path]), ("_count", {"path": path}, total)]
        name, text = "cifarlab_request_seconds", "Time from the beginning of a request to the end of its answer."
        return [
            *metric("cifarlab_requests_total", "counter", "Requests that were answered.", counts),
            *metric(name, "histogram", text, durations),
        ]


class MetricsMiddleware:
    """Count every request, also those that are refused; unknown paths together, because anybody can invent them."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.add(path, status, time.perf_counter() - began)


def metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    """Return the lines of a metric: its help, its type and its samples."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for ending, labels, value in samples:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{ending}{f'{{{pairs}}}' if pairs else ''} {value:.17g}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
