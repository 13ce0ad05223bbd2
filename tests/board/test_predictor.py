"""The queue in front of the network: the same answers, together, and no more waiting than can be served."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifarlab import Data
from cifarlab.board.predictor import Busy, Lane, Large, Predictor, Question
from cifarlab.errors import CifarlabError, UsageError

TARGET = "pretrained:fastnet"


def file_of(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(digits: Data) -> list[bytes]:
    return [file_of(image) for image in digits.test.images[:10]]


def asked(*contents: bytes, explain: bool = False) -> list[Question]:
    return [Question(TARGET, None, explain, content) for content in contents]


def serving(work: Callable[[Predictor], Awaitable[None]]) -> None:
    """Does some work with a predictor, and ends it."""

    async def whole() -> None:
        served = Predictor()
        try:
            await work(served)
        finally:
            await served.close()

    asyncio.run(whole())


async def answers(served: Predictor, questions: list[Question]) -> list[Any]:
    """Of all at once; errors among them."""
    told = await asyncio.gather(*map(served.answer, questions), return_exceptions=True)
    return [json.loads(one) if isinstance(one, bytes) else one for one in told]


def test_every_picture_gets_its_own_answer(pictures: list[bytes]) -> None:
    async def work(served: Predictor) -> None:
        together = await answers(served, asked(*pictures))
        alone = [(await answers(served, asked(picture)))[0] for picture in pictures]
        for one, other in zip(together, alone, strict=True):
            likely = [{row["name"]: row["probability"] for row in told["classes"]} for told in (one, other)]
            assert likely[0] == pytest.approx(likely[1], abs=1e-5)
        assert len({told["classes"][0]["probability"] for told in alone}) == len(pictures)

    serving(work)


def test_an_error_goes_to_who_asked_and_no_further(pictures: list[bytes], tmp_path: Path) -> None:
    wrong = [Question(TARGET, None, False, b"no picture"), Question(str(tmp_path), None, False, pictures[0])]

    async def work(served: Predictor) -> None:
        right, no_picture, no_target = await answers(served, [*asked(pictures[0]), *wrong])
        assert right["classes"]
        assert isinstance(no_picture, UsageError) and "not an image" in str(no_picture)
        assert isinstance(no_target, UsageError)

    serving(work)


def test_what_is_slow_has_a_process_of_its_own(pictures: list[bytes]) -> None:
    large = file_of(np.zeros((3, 600, 600), np.uint8))

    async def work(served: Predictor) -> None:
        with pytest.raises(Large):
            await served.quick.answer(*asked(large))
        answer, explained = await answers(served, [*asked(large), *asked(pictures[0], explain=True)])
        assert answer["classes"] and explained["heats"].keys() == {"Grad-CAM", "occlusion"}

    serving(work)


def test_too_many_are_refused(pictures: list[bytes]) -> None:
    async def work(served: Predictor) -> None:
        served.quick = Lane(most_waiting=3, most_at_once=1, most_pixels=10**6)
        told = await answers(served, asked(*pictures))  # all ask before the process has begun
        refused = [str(answer) for answer in told if isinstance(answer, Busy)]
        assert refused == ["too many pictures are waiting"] * (len(pictures) - 3)
        assert sum("classes" in answer for answer in told if isinstance(answer, dict)) == 3

    serving(work)


def test_a_process_that_died_is_started_again(pictures: list[bytes]) -> None:
    async def work(served: Predictor) -> None:
        await served.answer(*asked(pictures[0]))
        process = served.quick.process
        assert process is not None
        served.quick._most_at_once = 2
        process.send_signal(signal.SIGSTOP)
        waiting = asyncio.create_task(answers(served, asked(*pictures)))
        await asyncio.sleep(0.1)
        process.kill()
        told = await waiting
        lost = [error for error in told if isinstance(error, CifarlabError)]  # what the process had
        assert [str(error) for error in lost] == ["the process that predicts has died: try again"] * len(lost)
        assert 2 <= len(lost) < len(told) and all("classes" in answer for answer in told if answer not in lost)

    serving(work)
