"""The page that shows what the layers of a network see, and its JSON interface."""

import json
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from cifarlab.board.answers import BusyError
from cifarlab.board.api import AppBoard
from cifarlab.board.children import run_child
from cifarlab.board.pages import page
from cifarlab.board.predictions import IMAGE, WEIGHTS_FILES, file_versions
from cifarlab.errors import UsageError

MOST_SECONDS = 120  # for an embedding
MOST_WAITING = 8  # visitors
MOST_KEPT = 8  # embeddings, of half a megabyte each
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api/layers")


@pages.get("/layers")
async def layers(request: Request, board: AppBoard, target: str = "") -> HTMLResponse:
    """Let the visitor choose a network and an image."""
    board.predictions.predictor.start()
    return page(request, "layers", targets=await run_in_threadpool(board.targets), chosen=target)


@router.post("", openapi_extra=IMAGE)
async def pictures(request: Request, board: AppBoard, target: str) -> Response:
    """Return the feature maps of every layer for an image, the first kernels, and the prediction.

    The body of the request is the image file itself, in any common format.
    """
    return await board.predictions.answer(request, lambda: board.target(target), explain=True, layers=True)


@router.get("/embedding")
async def embedding(board: AppBoard, target: str) -> Response:
    """Return test images as points in two dimensions, near each other if the network's last layer sees them alike."""
    path = await run_in_threadpool(board.target, target)
    key = (path, file_versions(Path(path), WEIGHTS_FILES))
    if key not in board.embeddings:
        if board.embedding_visitors >= MOST_WAITING:
            raise BusyError("many embeddings are being computed. Try again in some seconds.")
        board.embedding_visitors += 1
        try:
            async with board.embedding:
                if key not in board.embeddings:
                    board.embeddings[key] = await _compute(path)
                    for oldest in list(board.embeddings)[:-MOST_KEPT]:
                        del board.embeddings[oldest]
        finally:
            board.embedding_visitors -= 1
    return Response(board.embeddings[key], media_type="application/json")


async def _compute(target: str) -> bytes:
    try:
        ended = await run_child(["cifarlab.board.layers.child", target], MOST_SECONDS)
    except TimeoutError as error:
        raise UsageError(f"the embedding takes more than {MOST_SECONDS} seconds") from error
    if ended.status:
        raise UsageError(f"the process that computes the embedding ended with status {ended.status}")
    if (answer := json.loads(ended.output)).get("error"):
        raise UsageError(answer["error"])
    return ended.output
