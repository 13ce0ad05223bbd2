"""What a layer sees: feature maps, kernels, and the embedding of test images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Page, expect
from sklearn.decomposition import PCA
from torch import nn

from chromium import needs_chromium, serious_faults, served
from cifarlab import Data, Run
from cifarlab.board.app import create_app
from cifarlab.board.images import to_png
from cifarlab.board.layers.pictures import EMBEDDED_IMAGES, embedding, layer_pictures
from cifarlab.inference import loading, targets

ADDRESS = "http://127.0.0.1:8642"
TOKENS = ("the-token-of-the-teacher", "the-token-of-the-pupils")
SECONDS = 120_000  # in milliseconds


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_feature_maps_are_those_of_the_layers(trained_run: Run) -> None:
    classifier = loading.load(trained_run, device="cpu")
    test = targets.evaluation_data(classifier, None, quiet=True).test
    seen = layer_pictures(classifier, test.images[0])
    first = seen["layers"][0]
    layer = dict(classifier.network.named_modules())[first["name"]]
    assert isinstance(layer, nn.Conv2d) and first["kind"] == "Conv2d"
    with torch.inference_mode():
        maps = layer(classifier.preprocess(torch.from_numpy(test.images[:1])))[0].numpy()
    assert first["shape"] == list(maps.shape)
    height, width = maps.shape[1:]
    scaled = 255 * (maps[1] - maps[1].min()) / np.ptp(maps[1])
    drawn = pixels(first["picture"])[:height, width + 1 : 2 * width + 1]
    assert np.abs(drawn - scaled).max() <= 1  # the second map is right of the first
    assert seen["kernel_count"] == len(layer.weight) and pixels(seen["kernels"]).size > 1


def test_the_embedding_is_the_pca_of_the_last_features(trained_run: Run) -> None:
    classifier = loading.load(trained_run, device="cpu")
    test = targets.evaluation_data(classifier, None, quiet=True).test
    answer = embedding(classifier)
    numbers = [point["number"] for point in answer["points"]]
    assert len(numbers) == min(EMBEDDED_IMAGES, len(test)) and embedding(classifier) == answer
    last = [layer for layer in classifier.network.modules() if isinstance(layer, nn.Linear)][-1]
    kept = []
    hook = last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.inference_mode():
        logits = classifier.logits(torch.from_numpy(test.images[numbers]))
    hook.remove()
    expected = PCA(2, svd_solver="full").fit(kept[0].double().numpy())
    points = np.array([[point["x"], point["y"]] for point in answer["points"]])
    for axis, wanted in enumerate(expected.transform(kept[0].double().numpy()).T):
        assert abs(np.corrcoef(points[:, axis], wanted)[0, 1]) > 0.999
    assert answer["share"] == pytest.approx(expected.explained_variance_ratio_.sum(), abs=1e-6)
    assert [point["predicted"] for point in answer["points"]] == logits.argmax(1).tolist()
    size, sprite = answer["size"], pixels(answer["sprite"])
    tile = sprite[:size, size : 2 * size]  # of the second point
    assert np.array_equal(tile if tile.ndim == 2 else tile.transpose(2, 0, 1), np.squeeze(test.images[numbers[1]]))


@pytest.fixture
def client(trained_run: Run) -> Iterator[TestClient]:
    with TestClient(create_app(trained_run.path.parent), base_url=ADDRESS) as client:
        yield client


def test_layers_are_served_and_bad_input_is_refused(client: TestClient, digits: Data) -> None:
    image = to_png(digits.test.images[0])
    answer: dict[str, Any] = client.post("/api/layers?target=a", content=image).json()
    assert answer["layers"] and answer["classes"][0]["probability"] > 0 and "heats" not in answer
    assert "embedding" in client.get("/layers?target=a").text
    assert client.post("/api/layers?target=a", content=b"no image").status_code == 400
    assert client.post("/api/layers?target=none", content=image).status_code == 404
    assert len(client.get("/api/layers/embedding?target=a").json()["points"]) > 100
    for target in ("none", "../a", "/etc/passwd", "pretrained:none"):
        assert client.get("/api/layers/embedding", params={"target": target}).status_code in (400, 404)


def test_layers_need_a_token(trained_run: Run) -> None:
    app = create_app(trained_run.path.parent, *TOKENS)
    with TestClient(app, base_url="http://elsewhere.example") as client:
        assert client.post("/api/layers?target=a").status_code == 401
        assert client.get("/api/layers/embedding?target=a").status_code == 401
        foreign = {"authorization": f"Bearer {TOKENS[1]}", "origin": "http://evil.example"}
        assert client.post("/api/layers?target=a", headers=foreign).status_code == 403


@needs_chromium
@pytest.mark.slow
def test_a_tour_of_the_layers(page: Page, axe: str, trained_run: Run, tmp_path: Path) -> None:
    with served(trained_run.path.parent) as address:
        page.goto(f"{address}/layers?target=a")
        expect(page.locator("#embedding-about")).to_contain_text("variance", timeout=SECONDS)
        page.locator("#point").press("ArrowRight")
        expect(page.locator("#pointed-about")).to_contain_text("Test image")
        page.get_by_role("button", name="Look at this image").press("Enter")
        expect(page.locator("#maps img").first).to_be_visible(timeout=SECONDS)
        page.locator("#others").select_option("pretrained:fastnet")
        page.get_by_role("button", name="Ask them").press("Enter")
        expect(page.locator("#opinions tbody tr")).to_have_count(2, timeout=SECONDS)
        for scheme, width in (("light", 1280), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 800})
            assert serious_faults(page, axe) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=tmp_path / f"layers-{scheme}.png", full_page=True)
