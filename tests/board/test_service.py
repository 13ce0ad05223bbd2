"""`cifarlab serve`: predictions of one network, forms with many images, who gets in, health, metrics, and its end."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from typer.main import get_command

from cifarlab import Data, Recipe, Run
from cifarlab.board import predictions
from cifarlab.board.images import to_png
from cifarlab.board.predictions import LARGEST_BATCH, MOST_IMAGES, files_in_form
from cifarlab.board.service import create_service
from cifarlab.cli import app as cifarlab_app
from cifarlab.errors import UsageError
from cifarlab.inference import weights
from conftest import Cli
from small_trainings import train_only

ADDRESS = "http://localhost:8643"
TOKEN = "a-token-of-20-letters"
SAMPLE = re.compile(r'([a-z_]+?)(_bucket|_sum|_count)?(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)')


@pytest.fixture(scope="module")
def app(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    folder = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(trained_run.path, folder)
    return create_service(str(folder))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=ADDRESS) as client:
        yield client


@pytest.fixture(scope="module")
def images(digits: Data) -> list[bytes]:
    return [to_png(image) for image in digits.test.images[:6]]


def form(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{number}.png", content)) for number, content in enumerate(contents)]


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["probability"] for row in answer["classes"]}


def test_health_is_bad_until_the_network_answers(client: TestClient) -> None:
    first = client.get("/health")
    assert (first.status_code, first.json()) == (503, {"status": "starting"})
    deadline = time.monotonic() + 60
    while client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.get("/health").json() == {"status": "ok"}


def test_answers_are_those_of_the_command_line(
    client: TestClient, images: list[bytes], trained_run: Run, tmp_path: Path
) -> None:
    together = client.post("/api/predict/batch", files=form(*images)).json()["images"]
    for number, (content, of_batch) in enumerate(zip(images, together, strict=True)):
        (tmp_path / f"{number}.png").write_bytes(content)
        (expected,) = trained_run.predict(tmp_path / f"{number}.png")
        alone = client.post("/api/predict", content=content).json()
        assert alone.keys() == {"classes", "sure"} and of_batch.keys() == {"name", *alone}
        assert of_batch["name"] == f"{number}.png" and alone["sure"] == (expected.probability >= 0.5)
        assert probabilities(alone) == pytest.approx(expected.probabilities, abs=1e-5)
        assert probabilities(of_batch) == pytest.approx(expected.probabilities, abs=1e-5)
    assert client.post("/api/predict?explain=true", content=images[0]).json()["heats"].keys() == {
        "Grad-CAM",
        "occlusion",
    }
    network = client.get("/api/network").json()
    assert network["classes"] == list(trained_run.classifier.classes) and network["size"] == 32


def test_a_broken_picture_does_not_fail_the_others(
    client: TestClient, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)).save(large, "PNG")
    monkeypatch.setattr(predictions, "LARGEST_UPLOAD", 1_000_000)
    contents = [images[0], b"", b"GIF89a" + bytes(50), large.getvalue(), images[1], large.getvalue()[:900_000]]
    response = client.post("/api/predict/batch", files=form(*contents))
    answers = response.json()["images"]
    assert response.status_code == 200 and [answer["name"] for answer in answers] == [f"{n}.png" for n in range(6)]
    errors = [answer.get("error", "") for answer in answers]
    assert "not an image" in errors[1] and "damaged image" in errors[2] + errors[5]
    assert errors[3] == "an image file may have at most 1 MB"
    assert [bool(error) for error in errors] == [False, True, True, True, False, True]


def test_forms_have_limits(client: TestClient, images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    most = client.post("/api/predict/batch", files=form(*[images[0]] * MOST_IMAGES))
    assert most.status_code == 200 and len(most.json()["images"]) == MOST_IMAGES
    more = client.post("/api/predict/batch", files=form(*[images[0]] * (MOST_IMAGES + 1)))
    assert more.status_code == 400 and more.json() == {"detail": "a request may have at most 100 images"}
    large = client.post("/api/predict/batch", files=form(bytes(LARGEST_BATCH)))
    assert large.status_code == 400 and large.json() == {"detail": "the images of one request may have at most 50 MB"}
    wrong = client.post("/api/predict", files=form(images[0]))
    assert wrong.status_code == 400 and "Send forms to /api/predict/batch" in wrong.json()["detail"]
    monkeypatch.setattr(predictions, "MOST_UPLOADED", 10)
    for path in ("/api/predict", "/api/predict/batch"):
        assert client.post(path, content=images[0]).status_code == 503
    monkeypatch.undo()
    assert client.post("/api/predict", content=images[0]).status_code == 200  # nothing stays counted


def body(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


FILE = b'Content-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'


def test_forms_are_read_as_clients_write_them() -> None:
    content = b"\r\n\r\n--\xff\x00\r\n--c\r\n"
    for kind in ("multipart/form-data; boundary=b", 'Multipart/Form-Data;charset=utf-8; boundary="b"; x=y'):
        assert files_in_form(kind, bytearray(body(FILE + content, FILE))) == [("a.png", content), ("a.png", b"")]
    for header, name in (
        (b'Content-Disposition: form-data; name="images"; filename="a \\"b\\"; c.png"', 'a "b"; c.png'),
        ('content-disposition: form-data; filename="é.png"'.encode(), "é.png"),
        (b"Content-Disposition: form-data; filename=a.png; name=images", "a.png"),
        (b'Content-Disposition: form-data; name="images"', "image 0"),
        (b'Content-Disposition: form-data; filename="' + b"x" * 900 + b'"', "x" * 199 + "…"),
    ):
        assert files_in_form("multipart/form-data; boundary=b", body(header + b"\r\n\r\n1")) == [(name, b"1")]
    assert files_in_form("multipart/form-data; boundary=b", body(b"\r\n1")) == [("image 0", b"1")]  # without headers


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("", body(FILE), "must be sent as a form"),
        ("application/json", body(FILE), "must be sent as a form"),
        ("multipart/form-data", body(FILE), "must be sent as a form"),
        ("multipart/form-data; boundary=" + "b" * 71, body(FILE), "must be sent as a form"),
        ("multipart/form-data;" * 10_000, body(FILE), "must be sent as a form"),
        ("multipart/form-data; boundary=b", b"", "damaged or incomplete"),
        ("multipart/form-data; boundary=b", body(FILE, end=b""), "damaged or incomplete"),
        ("multipart/form-data; boundary=b", body(b"no headers"), "damaged or incomplete"),
        ("multipart/form-data; boundary=b", body(b"x" * 3_000 + b"\r\n\r\n"), "damaged or incomplete"),
        ("multipart/form-data; boundary=b", body(), "has no file"),
        ("multipart/form-data; boundary=b", b"--b" * 1_000_000, "damaged or incomplete"),
    ],
)
def test_damaged_forms_are_refused(kind: str, content: bytes, reason: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError, match=reason):
        files_in_form(kind, content)
    assert time.process_time() - began < 1


def test_only_this_machine_gets_in_without_a_token(client: TestClient, images: list[bytes]) -> None:
    paths = ("/api/predict", "/api/predict/batch", "/api/network", "/health", "/metrics", "/nothing")
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1", "", "localhost@evil.example"):
        for path in paths:
            assert client.request("POST", path, headers={"host": host}).status_code == 421, (host, path)
    for path in paths[:2]:
        foreign = client.post(path, content=images[0], headers={"origin": "http://elsewhere.example"})
        assert foreign.status_code == 403
    answer = client.post("/api/predict", content=images[0], headers={"origin": ADDRESS})
    assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"


def test_others_need_the_token(app: FastAPI, trained_run: Run, images: list[bytes]) -> None:
    with TestClient(create_service(str(trained_run.path), token=TOKEN), base_url="http://elsewhere.example") as client:
        assert client.get("/health").json()["status"] in ("ok", "starting")  # for the health checks of containers
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"cookie": "a=b"}):
            for path in ("/api/network", "/metrics", "/nothing", "/health/x"):
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer", path
            for path in ("/api/predict", "/api/predict/batch"):
                assert client.post(path, content=images[0], headers=headers).status_code == 401
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/api/predict/batch", files=form(images[0]), headers=bearer).status_code == 200
        assert client.get("/metrics", headers=bearer).status_code == 200
        assert client.get("/metrics").status_code == 401  # a header leaves no cookie
        assert client.get(f"/metrics?token={TOKEN}").status_code == 200


def test_metrics_are_in_the_format_of_prometheus(client: TestClient, images: list[bytes]) -> None:
    def samples() -> dict[tuple[str, str], float]:
        answer = client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.text.endswith("\n")
        types: dict[str, str] = {}
        found: dict[tuple[str, str], float] = {}
        for line in answer.text.splitlines():
            if kind := re.fullmatch(r"# TYPE (\S+) (counter|gauge|histogram)", line):
                assert kind[1] not in types
                types[kind[1]] = kind[2]
            elif not re.fullmatch(r"# HELP \S+ .+", line):
                sample = SAMPLE.fullmatch(line)
                assert sample, line
                assert (types[sample[1]] == "histogram") == bool(sample[2])
                key = (sample[1] + (sample[2] or ""), sample[3] or "")
                assert key not in found
                found[key] = float(sample[4])
        return found

    before = samples()
    for number in range(3):
        client.get(f"/invented/{number}")
    client.post("/api/predict/batch", files=form(images[0], b"broken", images[1]))
    client.post("/api/predict", content=b"broken")
    after = samples()
    new = {key: value - before.get(key, 0) for key, value in after.items()}
    assert new["cifarlab_images_total", 'outcome="classified"'] == 2
    assert new["cifarlab_images_total", 'outcome="refused"'] == 2
    assert new["cifarlab_requests_total", 'path="other",status="404"'] == 3
    assert new["cifarlab_requests_total", 'path="/api/predict/batch",status="200"'] == 1
    assert new["cifarlab_requests_total", 'path="/api/predict",status="400"'] == 1
    assert not [key for key in after if "invented" in key[1]]
    for path in ("/api/predict", "/api/predict/batch"):
        name = "cifarlab_request_seconds"
        buckets = [value for (of, labels), value in after.items() if of == f"{name}_bucket" and f'"{path}"' in labels]
        assert buckets == sorted(buckets) and len(buckets) == 12
        assert buckets[-1] == after[f"{name}_count", f'path="{path}"'] > 0 < after[f"{name}_sum", f'path="{path}"']
        requests = [
            value for (of, labels), value in after.items() if of == "cifarlab_requests_total" and f'"{path}"' in labels
        ]
        assert sum(requests) == buckets[-1]


def test_weights_that_are_replaced_are_read_again(
    client: TestClient, app: FastAPI, images: list[bytes], small: Recipe, tmp_path: Path
) -> None:
    path = Path(client.get("/api/network").json()["target"])
    before = client.post("/api/predict", content=images[0]).json()
    other = train_only(small.changed({"epochs": 1, "seed": 5}), tmp_path)
    shutil.rmtree(path)
    shutil.copytree(other.path, path)
    after = client.post("/api/predict", content=images[0]).json()
    (tmp_path / "0.png").write_bytes(images[0])
    assert probabilities(after) == pytest.approx(other.predict(tmp_path / "0.png")[0].probabilities, abs=1e-5)
    assert before != after


def test_wrong_starts_are_one_line(cli: Cli, trained_run: Run, tmp_path: Path) -> None:
    assert "unknown run 'none'" in cli("serve", "none", status=2).stderr
    assert "there is no weights file" in cli("serve", "none.safetensors", status=2).stderr
    for token in ("short", "with spaces and more of them", "a" * 201):
        error = cli("serve", trained_run.path, status=2, CIFARLAB_TOKEN=token).stderr
        assert f"CIFARLAB_TOKEN must be 16 to 200 letters, digits, - and _, got {len(token)} characters" in error
        assert token not in error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = cli("serve", trained_run.path, "--port", str(taken.getsockname()[1]), status=1).stderr
        assert "choose another --port" in error


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_token_is_printed_once(host: str, cli: Cli, trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.board.server.serve", lambda app, listening, seconds: listening.close())
    words = ("serve", trained_run.path, "--host", host, "--port", "0")
    address, *others = cli(*words).stderr.splitlines()
    assert re.fullmatch(r"serve: http://\S+:\d+/api/predict  \(stop it with Ctrl-C\)", address)
    assert (host == "0.0.0.0") == bool(others) == any(re.search(r"Bearer [\w-]{32}$", line) for line in others)
    assert TOKEN not in cli(*words, CIFARLAB_TOKEN=TOKEN).stderr


def test_the_dockerfile_copies_what_is_there_and_starts_serve() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines for source in re.findall(r"^COPY (?!--)(.*) \S+$", line)]
    sources = {source for line in copied for source in line.split()}
    allowed = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == allowed and all((root / source).exists() for source in sources)
    (entry,) = (json.loads(line.partition(" ")[2]) for line in lines if line.startswith("ENTRYPOINT"))
    (arguments,) = (json.loads(line.partition(" ")[2]) for line in lines if line.startswith("CMD"))
    assert entry[:2] == ["cifarlab", "serve"] and entry[2] in options_of("serve")
    assert arguments[0].removeprefix("pretrained:") in weights.names()
    assert "USER cifarlab" in lines[lines.index("FROM python:${PYTHON}-slim") :]


def options_of(command: str) -> list[str]:
    parameters = get_command(cifarlab_app).commands[command].params  # type: ignore[attr-defined]
    return [option for parameter in parameters for option in parameter.opts]


@contextlib.contextmanager
def serving(run: Run, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves a run, and its address."""
    command = [sys.executable, "-m", "cifarlab", "serve", str(run.path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as server:
        try:
            assert server.stderr is not None
            yield server, server.stderr.readline().split()[1]
        finally:
            server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_leaves_no_process(
    number: signal.Signals, trained_run: Run, images: list[bytes], tmp_path: Path
) -> None:
    large = to_png(np.random.default_rng(0).integers(0, 256, (3, 1_500, 1_500), dtype=np.uint8))
    answers: list[Any] = []
    with serving(trained_run, tmp_path) as (server, address):
        assert server.stderr is not None
        for content in (images[0], large):  # both processes have loaded the network
            urllib.request.urlopen(address, content).close()
        children = children_of(server.pid)
        assert len(children) >= 2
        request = threading.Thread(target=lambda: answers.append(json.load(urllib.request.urlopen(address, large))))
        request.start()
        time.sleep(0.1)
        server.send_signal(number)
        assert server.wait(30) == (130 if number == signal.SIGINT else -signal.SIGTERM)
        request.join()
        assert "Traceback" not in server.stderr.read()
    assert answers[0]["classes"]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_slow_forms_are_cut_off_and_others_are_answered(trained_run: Run, images: list[bytes], tmp_path: Path) -> None:
    beginning = "POST /api/predict/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    beginning += "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    with serving(trained_run, tmp_path) as (server, address), contextlib.ExitStack() as clients:
        port = urlsplit(address).port or 0
        slow = [clients.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(200)]
        for client in slow:
            client.sendall(beginning.encode())
        began = time.monotonic()
        assert json.load(urllib.request.urlopen(address, images[0]))["classes"]
        for client in slow:
            with contextlib.suppress(ConnectionError):
                assert client.recv(1_000) == b""
        assert time.monotonic() - began < 25
        server.terminate()
        assert server.stderr is not None and not server.stderr.read()  # no traceback for each of them
