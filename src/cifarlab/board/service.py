"""The web application of `cifarlab serve`: predictions of one network, its health, and metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from cifarlab import __version__
from cifarlab.board.access import HEALTH, PREDICTING, AccessMiddleware
from cifarlab.board.answers import NotFoundError, json_error, make_app
from cifarlab.board.images import to_png
from cifarlab.board.metrics import CONTENT_TYPE, MetricsMiddleware, RequestMetrics, metric
from cifarlab.board.predictions import FORM, IMAGE, Predictions, prediction_request
from cifarlab.errors import CifarlabError
from cifarlab.inference.loading import absolute_target, load
from cifarlab.inference.prediction import SURE

SECONDS_BETWEEN_TRIALS = 1.0  # of the first prediction, after which the server is ready


def create_service(target: str, *, runs: Path | None = None, token: str = "") -> FastAPI:
    """Return the application that predicts with a run, a weights file or `pretrained:NAME`.

    Clients must know the token, or be on this machine if it is empty. The network is loaded once here, so that a wrong
    target is an error at once, and then by the processes that predict.
    """
    classifier, place = load(target, runs=runs, device="cpu", quiet=False), absolute_target(target, runs)
    facts = {"target": target, "model": classifier.model}
    network = {**facts, "classes": classifier.classes, "size": classifier.size, "sure": SURE}
    predictions, requests = Predictions(), RequestMetrics()
    is_ready = asyncio.Event()
    blank = to_png(np.zeros((3, classifier.size, classifier.size), np.uint8))

    async def try_network() -> None:
        while not is_ready.is_set():
            try:
                await predictions.predictor.answer(prediction_request(place, blank))
                is_ready.set()
            except CifarlabError:
                await asyncio.sleep(SECONDS_BETWEEN_TRIALS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        predictions.predictor.start()
        trial = asyncio.create_task(try_network())
        yield
        trial.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trial
        predictions.close()

    app = make_app("cifarlab serve", lifespan)
    app.add_middleware(AccessMiddleware, token=token)
    app.add_middleware(MetricsMiddleware, metrics=requests)
    app.add_exception_handler(CifarlabError, _answer_error)
    app.add_exception_handler(404, _no_page)

    @app.post(PREDICTING[0], openapi_extra=IMAGE)
    async def predict(request: Request, explain: bool = False) -> Response:
        """Classify the image file in the body; with `explain=true` also return heat maps."""
        return await predictions.answer(request, lambda: place, explain=explain)

    @app.post(PREDICTING[1], openapi_extra=FORM)
    async def predict_batch(request: Request) -> Response:
        """Classify the files of a form (multipart/form-data), each of which gets classes or an error of its own."""
        return await predictions.answer_batch(request, lambda: place)

    @app.get("/api/network")
    async def served_network() -> dict[str, Any]:
        """Return the network's name, classes and image size, and the least probability of a sure answer."""
        return network

    @app.get(HEALTH)
    async def health() -> JSONResponse:
        """Return status 200 once the network has classified an image, and 503 before."""
        return JSONResponse({"status": "ok"}) if is_ready.is_set() else JSONResponse({"status": "starting"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return counts and durations for Prometheus."""
        queues = {"quick": predictions.predictor.quick, "slow": predictions.predictor.slow}
        waiting = [("", {"queue": name}, queue.waiting) for name, queue in queues.items()]
        images = [("", {"outcome": outcome}, predictions.outcomes[outcome]) for outcome in ("classified", "refused")]
        info = [("", {"version": __version__, **facts}, 1)]
        lines = [
            *requests.lines(),
            *metric("cifarlab_images_total", "counter", "Images that were classified or refused.", images),
            *metric("cifarlab_waiting_images", "gauge", "Images that wait for the network.", waiting),
            *metric("cifarlab_uploaded_bytes", "gauge", "Images in memory.", [("", {}, predictions.uploaded)]),
            *metric("cifarlab_info", "gauge", "Version and network.", info),
        ]
        return Response("\n".join(lines) + "\n", media_type=CONTENT_TYPE)

    return app


def _answer_error(_: Request, error: Exception) -> Response:
    return json_error(error)


def _no_page(request: Request, _: Exception) -> Response:
    return json_error(NotFoundError(f"there is no page {request.url.path!r}"))
