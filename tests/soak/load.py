"""The board under load: predictions a second, how long they take, and slow clients cut off meanwhile.

    cifarlab train lenet5 --set epochs=2 --runs runs/soak --name small
    python tests/soak/load.py --runs runs/soak --target small --seconds 60 --rate 1100

Starts `cifarlab board` as a process of its own. 64 connections send 32x32 pictures at a steady rate; 1,000 more send
the beginning of a request and then nothing. A time is counted from when a request was due, so that waiting for a late
answer before it counts too.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cifarlab

CONNECTIONS = 64
SLOW = 1_000
OPENING = 5.0  # seconds over which the slow ones come
PICTURES = 200
WARM_UP = 2.0  # seconds that do not count


def main() -> None:
    """Does what the command line says, and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="pretrained:fastnet")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1_100, help="requests a second that are due")
    given = parser.parse_args()
    pictures = cifarlab.load_data("cifar10", quiet=True).test.images[:PICTURES]
    files = [_png(image) for image in pictures]
    command = [sys.executable, "-m", "cifarlab", "board", "--port", "0", "--runs", given.runs]
    board = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert board.stderr is not None
        found = re.search(r":(\d+)/", board.stderr.readline())
        assert found is not None
        result = asyncio.run(_load(int(found[1]), given.target, files, given.seconds, given.rate, board.pid))
    finally:
        board.terminate()
        board.wait()
    labels = _labels(given.target, given.runs, pictures)
    wrong = sum(labels[number] != label for number, label in result.pop("answers"))
    print(json.dumps({"target": given.target, **result, "other than the command line's": wrong}, indent=2))


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def _labels(target: str, runs: str, pictures: np.ndarray) -> list[str]:
    from cifarlab.inference.prediction import predict

    classifier = cifarlab.load(target, runs=runs)
    likely = predict(classifier, np.array(pictures), tta=classifier.tta)
    return [classifier.classes[place] for place in likely.argmax(axis=1)]


async def _load(port: int, target: str, files: list[bytes], seconds: float, rate: float, board: int) -> dict[str, Any]:
    head = f"POST /api/predict?target={target}&explain=false HTTP/1.1\r\nHost: localhost:{port}\r\n"
    requests = [f"{head}Content-Length: {len(file)}\r\n\r\n".encode() + file for file in files]
    answers: list[tuple[int, str]] = []
    statuses: dict[str, int] = {}
    latencies: list[float] = []

    async def answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
        header = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", header.lower())[1])  # type: ignore[index]
        return header[9:12].decode(), await reader.readexactly(length)

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(requests[0])
    await answer(reader)  # the first one waits until the network is there
    writer.close()
    began = time.monotonic() + 1
    counted = began + WARM_UP
    end = counted + seconds

    async def visitor(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(int((end - began) * rate / CONNECTIONS)):
            due = began + (number + turn * CONNECTIONS) / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            which = (number + turn) % len(requests)
            writer.write(requests[which])
            status, body = await answer(reader)
            if due < counted:
                continue
            latencies.append(time.monotonic() - due)
            statuses[status] = statuses.get(status, 0) + 1
            if status == "200":
                answers.append((which, json.loads(body)["classes"][0]["name"]))
        writer.close()

    cut: list[float] = []

    async def slow(number: int) -> None:
        await asyncio.sleep(max(0.0, counted + OPENING * number / SLOW - time.monotonic()))
        start = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /api/predict HTTP/1.1\r\nHost: local")
            await reader.read()
        except OSError:
            pass
        cut.append(time.monotonic() - start)

    memory: list[int] = []

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(_memory(board))
            await asyncio.sleep(1)

    late = [asyncio.create_task(slow(number)) for number in range(SLOW)]
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(visitor(number) for number in range(CONNECTIONS)))
    done = time.monotonic() - counted
    await watching
    _, waiting = await asyncio.wait(late, timeout=5)
    milliseconds = np.array(latencies) * 1_000
    return {
        "seconds": round(done, 1),
        "predictions a second": round(statuses.get("200", 0) / done),
        "statuses": statuses,
        "milliseconds, median": round(float(np.median(milliseconds)), 1),
        "milliseconds, 99 %": round(float(np.quantile(milliseconds, 0.99)), 1),
        "slow connections cut": len(cut),
        "the last after, seconds": round(max(cut, default=0), 1),
        "never cut": len(waiting),
        "memory at first, MB": memory[3] // 1_000_000,
        "memory at the end, MB": memory[-1] // 1_000_000,
        "answers": answers,
    }


def _memory(process: int) -> int:
    """Of a process, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
