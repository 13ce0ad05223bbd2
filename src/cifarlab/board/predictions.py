"""Predictions over HTTP, for the board and for `cifarlab serve`: uploads with limits, single images and batches."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from cifarlab.board.answers import BusyError
from cifarlab.board.predictor import Predictor
from cifarlab.board.predictor_child import Answer, PredictionRequest
from cifarlab.errors import CifarlabError, UsageError, shorten

LARGEST_UPLOAD = 20_000_000  # bytes of an image file
LARGEST_BATCH = 50_000_000  # bytes of the images of one request together
MOST_IMAGES = 100  # of one request
MOST_BATCHES = 4  # requests with several images that are predicted at once, so that single images find a free place
MOST_UPLOADED = 200_000_000  # bytes of images being uploaded or waiting for a prediction, over all visitors
LONGEST_NAME = 200  # letters of a file's name in an answer
LARGEST_PART_HEADERS = 2_000  # bytes of the lines before a file in a form
WEIGHTS_FILES = ("run.json", "best.safetensors", "last.safetensors")  # of a run; if they change, they are read again

FileVersions = tuple[tuple[str, int, int], ...]  # name, modification time in nanoseconds and size of existing files

_BINARY = {"type": "string", "format": "binary"}
_FILES = {"type": "object", "properties": {"images": {"type": "array", "items": _BINARY, "maxItems": MOST_IMAGES}}}
IMAGE, FORM = (  # bodies of requests in the OpenAPI description
    {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}
    for kind, schema in (("application/octet-stream", _BINARY), ("multipart/form-data", _FILES))
)

_BOUNDARY = re.compile(r"""multipart/form-data *;.*?boundary=("?)([\w'()+,./:=?-]{1,70})\1 *(?:;|$)""", re.IGNORECASE)
_FILE_NAME = re.compile(rb"""; *filename=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))""", re.IGNORECASE)


class Predictions:
    """A predictor, the uploads that wait for it, and counts of what it answered."""

    def __init__(self) -> None:
        self.predictor = Predictor()
        self.uploaded = 0  # bytes of images that are being uploaded or wait for a prediction
        self.batches = 0  # that are being predicted
        self.outcomes = Counter[str]()  # images that were `classified` or `refused`

    def close(self) -> None:
        """End the processes that predict."""
        self.predictor.close()

    async def answer(
        self, request: Request, target: Callable[[], str], *, explain: bool, layers: bool = False
    ) -> Response:
        """Classify the image in the body of a request; `target` returns the network after the upload."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise UsageError("the body must be the image file itself. Send forms to /api/predict/batch.")
        async with self.upload(request, LARGEST_UPLOAD, "an image file") as content:
            prediction = prediction_request(target(), bytes(content), explain=explain, layers=layers)
            (answer,) = self._counted(await self.predictor.answer_all([prediction]))
        if isinstance(answer, CifarlabError):
            raise answer
        return Response(answer, media_type="application/json")

    async def answer_batch(self, request: Request, target: Callable[[], str]) -> Response:
        """Classify the files in a form. A file that cannot be classified has an error in the answer."""
        async with self.upload(request, LARGEST_BATCH, "the images of one request") as body:
            files = files_in_form(request.headers.get("content-type", ""), body)
            network = target()
            if self.batches >= MOST_BATCHES:
                raise BusyError("too many batches are being predicted. Try again later.")
            self.batches += 1
            try:
                fitting = [prediction_request(network, file) for _, file in files if len(file) <= LARGEST_UPLOAD]
                found = iter(await self.predictor.answer_all(fitting))
            finally:
                self.batches -= 1
        too_large = _too_large("an image file", LARGEST_UPLOAD)
        answers = self._counted([next(found) if len(file) <= LARGEST_UPLOAD else too_large for _, file in files])
        documents = [
            {"name": name} | ({"error": str(answer)} if isinstance(answer, CifarlabError) else json.loads(answer))
            for (name, _), answer in zip(files, answers, strict=True)
        ]
        return Response(json.dumps({"images": documents}), media_type="application/json")

    @asynccontextmanager
    async def upload(self, request: Request, most: int, what: str) -> AsyncIterator[bytearray]:
        """Receive the body of a request, which counts as uploaded until the answer is computed."""
        content = bytearray()
        try:
            async for chunk in request.stream():
                content += chunk
                self.uploaded += len(chunk)
                if len(content) > most:
                    raise _too_large(what, most)
                if self.uploaded > MOST_UPLOADED:
                    raise BusyError("too many images are being uploaded. Try again later.")
            yield content
        except ClientDisconnect as error:  # otherwise the log would have a traceback for each
            raise UsageError("the client left before the upload was complete") from error
        finally:
            self.uploaded -= len(content)

    def _counted(self, answers: list[Answer]) -> list[Answer]:
        refused = sum(isinstance(answer, CifarlabError) for answer in answers)
        self.outcomes.update(classified=len(answers) - refused, refused=refused)
        return answers


def _too_large(what: str, most: int) -> UsageError:
    return UsageError(f"{what} may have at most {most // 1_000_000} MB")


def files_in_form(content_type: str, body: bytes | bytearray) -> list[tuple[str, bytes]]:
    """Return name and content of each file in a form (multipart/form-data, RFC 7578); at most `MOST_IMAGES`."""
    if not (kind := _BOUNDARY.match(content_type[:300])):
        how = "such as with: curl -F images=@a.jpg -F images=@b.jpg"
        raise UsageError(f"the images must be sent as a form (multipart/form-data), {how}")
    files: list[tuple[str, bytes]] = []
    for part in body.split(b"--" + kind[2].encode(), MOST_IMAGES + 1)[1:]:
        if part.startswith(b"--"):  # the end
            break
        headers, blank, content = part.partition(b"\r\n\r\n")
        if len(files) == MOST_IMAGES:
            raise UsageError(f"a request may have at most {MOST_IMAGES} images")
        if not blank or len(headers) > LARGEST_PART_HEADERS or not content.endswith(b"\r\n"):
            raise UsageError("the form is damaged or incomplete")
        found = _FILE_NAME.search(headers)
        encoded = re.sub(rb'\\([\\"])', rb"\1", found[1] or found[2] or b"") if found else b"image %d" % len(files)
        name = encoded.decode(errors="replace")
        files.append((shorten(name, LONGEST_NAME), bytes(content[:-2])))
    else:
        raise UsageError("the form is damaged or incomplete")
    if not files:
        raise UsageError("the form has no file")
    return files


def file_versions(folder: Path, names: Sequence[str]) -> FileVersions:
    """Return the versions of files in a folder, which differ if a file has changed."""
    versions = []
    for name in names:
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            versions.append((name, status.st_mtime_ns, status.st_size))
    return tuple(versions)


def prediction_request(
    target: str, content: bytes, *, explain: bool = False, layers: bool = False
) -> PredictionRequest:
    """Return the request to classify an image file with the weights that the target has now."""
    path = Path(target)
    is_run = path.is_dir()
    version = file_versions(path if is_run else path.parent, WEIGHTS_FILES if is_run else [path.name])
    return PredictionRequest(target, version, explain, content, layers)
