"""The prediction queue: batches give the same answers as single requests, and a full queue refuses requests."""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifarlab import Data
from cifarlab.board.answers import BusyError
from cifarlab.board.predictor import PredictionQueue, Predictor
from cifarlab.board.predictor_child import LargeImageError, PredictionRequest
from cifarlab.errors import CifarlabError, UsageError

TARGET = "pretrained:fastnet"


def png_file(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(digits: Data) -> list[bytes]:
    return [png_file(image) for image in digits.test.images[:10]]


def requests(*contents: bytes, explain: bool = False) -> list[PredictionRequest]:
    return [PredictionRequest(TARGET, None, explain, content) for content in contents]


def run_with_predictor(work: Callable[[Predictor], Awaitable[None]]) -> None:
    """Run a coroutine with a predictor, and close the predictor."""

    async def run() -> None:
        predictor = Predictor()
        try:
            await work(predictor)
        finally:
            predictor.close()

    asyncio.run(run())


async def answers(predictor: Predictor, batch: list[PredictionRequest]) -> list[Any]:
    """Return the answers to requests that are sent at once; errors are among them."""
    told = await asyncio.gather(*map(predictor.answer, batch), return_exceptions=True)
    return [json.loads(one) if isinstance(one, bytes) else one for one in told]


def test_every_image_gets_its_own_answer(images: list[bytes]) -> None:
    async def work(predictor: Predictor) -> None:
        together = await answers(predictor, requests(*images))
        alone = [(await answers(predictor, requests(image)))[0] for image in images]
        for one, other in zip(together, alone, strict=True):
            likely = [{row["name"]: row["probability"] for row in told["classes"]} for told in (one, other)]
            assert likely[0] == pytest.approx(likely[1], abs=1e-5)
        assert len({told["classes"][0]["probability"] for told in alone}) == len(images)

    run_with_predictor(work)


def test_an_error_concerns_only_its_own_request(images: list[bytes], tmp_path: Path) -> None:
    wrong = [
        PredictionRequest(TARGET, None, False, b"no image"),
        PredictionRequest(str(tmp_path), None, False, images[0]),
    ]

    async def work(predictor: Predictor) -> None:
        right, no_image, no_target = await answers(predictor, [*requests(images[0]), *wrong])
        assert right["classes"]
        assert isinstance(no_image, UsageError) and "not an image" in str(no_image)
        assert isinstance(no_target, UsageError)

    run_with_predictor(work)


def test_slow_requests_have_a_process_of_their_own(images: list[bytes]) -> None:
    large = png_file(np.zeros((3, 600, 600), np.uint8))

    async def work(predictor: Predictor) -> None:
        with pytest.raises(LargeImageError):
            await predictor.quick.answer(*requests(large))
        answer, explained = await answers(predictor, [*requests(large), *requests(images[0], explain=True)])
        assert answer["classes"] and explained["heats"].keys() == {"Grad-CAM", "occlusion"}

    run_with_predictor(work)


def test_a_full_queue_refuses_requests(images: list[bytes]) -> None:
    async def work(predictor: Predictor) -> None:
        predictor.quick = PredictionQueue(queue_size=3, batch_size=1, most_pixels=10**6)
        told = await answers(predictor, requests(*images))  # all are sent before the process has started
        refused = [str(answer) for answer in told if isinstance(answer, BusyError)]
        assert refused == ["too many images are waiting for a prediction. Try again later."] * (len(images) - 3)
        assert sum("classes" in answer for answer in told if isinstance(answer, dict)) == 3

    run_with_predictor(work)


def test_a_dead_process_is_replaced(images: list[bytes]) -> None:
    async def work(predictor: Predictor) -> None:
        predictor.quick = PredictionQueue(queue_size=100, batch_size=2, most_pixels=10**6)
        of_other_tests = multiprocessing.active_children()
        await predictor.answer(*requests(images[0]))
        (process,) = (child for child in multiprocessing.active_children() if child not in of_other_tests)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(answers(predictor, requests(*images)))
        await asyncio.sleep(0.1)
        process.kill()
        told = await waiting
        lost = [error for error in told if isinstance(error, CifarlabError)]  # sent to the process before it died
        assert [str(error) for error in lost] == ["the process that predicts has died. Try again."] * len(lost)
        assert 2 <= len(lost) < len(told) and all("classes" in answer for answer in told if answer not in lost)

    run_with_predictor(work)


def test_a_process_that_died_while_idle_is_replaced(images: list[bytes]) -> None:
    async def work(predictor: Predictor) -> None:
        await predictor.answer(*requests(images[0]))
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        await asyncio.sleep(0.5)
        assert json.loads(await predictor.answer(*requests(images[1])))["classes"]

    run_with_predictor(work)


def test_closing_ends_only_its_own_processes(images: list[bytes]) -> None:
    async def work(predictor: Predictor) -> None:
        await predictor.answer(*requests(images[0]))
        own = multiprocessing.active_children()
        other = Predictor()
        await other.answer(*requests(images[0]))
        started = [process for process in multiprocessing.active_children() if process not in own]
        other.close()
        assert started and not any(process.is_alive() for process in started)
        assert all(process.is_alive() for process in own)
        assert json.loads(await predictor.answer(*requests(images[1])))["classes"]

    run_with_predictor(work)


def test_processes_end_with_a_killed_server(tmp_path: Path) -> None:
    server = """
import asyncio, multiprocessing, os, signal
from cifarlab.board.predictor import Predictor
from cifarlab.board.predictor_child import PredictionRequest

async def main():
    predictor = Predictor()
    predictor.start()
    for explain in (False, True):
        try:
            await predictor.answer(PredictionRequest("pretrained:fastnet", None, explain, b"no image"))
        except Exception:
            pass
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    asyncio.run(main())
"""
    (tmp_path / "server.py").write_text(server)
    killed = subprocess.run([sys.executable, tmp_path / "server.py"], capture_output=True, text=True)
    pids = [int(pid) for pid in killed.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)
