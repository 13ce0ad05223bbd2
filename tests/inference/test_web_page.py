"""The page of `export --format html`: opened from disk without a network, it answers as `predict` does."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, FileChooser, Page, expect
from sklearn.datasets import load_sample_images

import cifarlab
from chromium import choose_with_the_keyboard, needs_chromium, press_until, serious_faults
from cifarlab import Data
from cifarlab.data.image_files import read_image
from cifarlab.errors import UsageError
from cifarlab.figures.mosaics import overlaid
from cifarlab.inference import explain, web_page
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.export import export
from cifarlab.recipes import Preprocessing

pytestmark = needs_chromium

SECONDS = 60_000  # in milliseconds: the longest wait on a busy machine
ROUNDING = 0.051  # percentage points; the page shows one decimal
HOSTILE = "<img src=x onerror=document.title='hit'></script>"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page without a network that may neither log errors nor ask for anything that is not inside."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints, asked = list[str](), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    opened_page = page.url
    context.close()
    assert not complaints
    assert [url for url in asked if url != opened_page and not url.startswith(("data:", "blob:"))] == []


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("pretrained:lenet5", tmp_path_factory.mktemp("page") / "lenet5.html", format="html").path


def random_classifier(settings: Preprocessing, temperature: float = 0.02, size: int = 32) -> Classifier:
    """A network with random weights, and with a temperature that makes it sure of its answers."""
    torch.manual_seed(0)
    classes = (HOSTILE, *(f"class {number}" for number in range(11)))
    classifier = make_classifier("lenet5", {}, classes, size, settings)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, size, size), dtype=np.uint8)
    classifier.preprocess.fit(images)
    return replace(classifier, about={"temperature": temperature})


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    """A network that gives all classes about the same probability, and its page."""
    classifier = random_classifier(Preprocessing("unit"), temperature=1.0)
    return classifier, export(classifier, tmp_path_factory.mktemp("unsure") / "page.html", format="html").path


def opened(page: Page, path: Path) -> None:
    page.goto(path.as_uri())
    expect(page.locator("#answer")).to_have_text("Ready for a picture", timeout=SECONDS)


def answer(page: Page, file: Path) -> dict[str, float]:
    """Give the page a picture, and return the percentages that it shows, most likely class first."""
    page.locator("#answer").evaluate("element => element.textContent = ''")
    page.set_input_files("#file", file)
    expect(page.locator("#answer")).to_contain_text("%", timeout=SECONDS)
    rows = page.locator("#bars li").evaluate_all("all => all.map(row => [...row.children].map(c => c.textContent))")
    return {name: float(share.removesuffix("\N{NO-BREAK SPACE}%")) for name, _, share in rows}


def largest_difference(shown: dict[str, float], predicted: dict[str, float]) -> float:
    return max(abs(share - 100 * predicted[name]) for name, share in shown.items())


def pixels(page: Page, canvas: str) -> np.ndarray:
    """The pixels of a canvas as [3, size, size]."""
    url = page.locator(canvas).evaluate("canvas => canvas.toDataURL()")
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(int)


def save_images(data: Data, folder: Path, count: int) -> list[Path]:
    for number, image in enumerate(data.test.images[:count]):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(count)]


def test_the_page_answers_as_predict_does(page: Page, lenet5: Path, cifar10: Data, tmp_path: Path) -> None:
    assert lenet5.stat().st_size < web_page.MOST_BYTES
    files = save_images(cifar10, tmp_path, 10)
    opened(page, lenet5)
    for file, prediction in zip(files, cifarlab.predict("pretrained:lenet5", files), strict=True):
        shown = answer(page, file)
        assert next(iter(shown)) == prediction.label
        assert largest_difference(shown, prediction.probabilities) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5-wide", "fastnet"])  # fastnet answers with the mean over six views
def test_a_hundred_test_images_get_the_same_class(page: Page, name: str, cifar10: Data, tmp_path: Path) -> None:
    files = save_images(cifar10, tmp_path, 100)
    opened(page, export(f"pretrained:{name}", tmp_path / "page.html", format="html").path)
    predictions = cifarlab.predict(f"pretrained:{name}", files)
    differences = []
    for file, prediction in zip(files, predictions, strict=True):
        shown = answer(page, file)
        assert next(iter(shown)) == prediction.label
        differences.append(largest_difference(shown, prediction.probabilities))
    assert max(differences) < ROUNDING


SETTINGS = [
    Preprocessing("unit", channels="mono"),
    Preprocessing("raw", (104.0, 117.0, 124.0), (), "bgr", "stretch"),
    Preprocessing(std=(0.5,), channels="gray", resize="pad"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_photos_are_prepared_as_in_python(page: Page, settings: Preprocessing, tmp_path: Path) -> None:
    classifier = random_classifier(settings)
    opened(page, export(classifier, tmp_path / "page.html", format="html").path)
    photo = Image.fromarray(load_sample_images().images[1])
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    for number, (width, height) in enumerate([(640, 427), (93, 120), (20, 17), (900, 3)]):
        resized = photo.resize((width, height))
        resized.save(tmp_path / f"{number}.png")
        resized.save(tmp_path / f"{number}.jpg", exif=turned, quality=90)
    photo.resize((90, 301)).save(tmp_path / "tall.png")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "transparent.png")
    for file in sorted([*tmp_path.glob("*.png"), *tmp_path.glob("*.jpg")]):
        shown, (prediction,) = answer(page, file), cifarlab.predict(classifier, [file])
        expected = read_image(file, 32, resize=settings.resize)
        if settings.channels == "mono":
            expected = classifier.preprocess.ordered(torch.from_numpy(expected)[None])[0].numpy()
        difference = np.abs(pixels(page, "#seen") - expected)
        if file.name[0].isdigit() and file.suffix == ".png":
            assert not difference.any()
            assert largest_difference(shown, prediction.probabilities) < ROUNDING
        else:  # JPEG decoders and a canvas with transparent pixels round, and tall pictures are resized, differently
            assert difference.max() <= 6 and difference.mean() < 0.5


@pytest.mark.slow
def test_photos_get_the_same_class(page: Page, cifar10: Data, tmp_path: Path) -> None:
    generator, files = np.random.default_rng(0), []
    for number, image in enumerate(cifar10.test.images[:60]):
        width, height = (int(side) for side in generator.integers(40, 1600, 2))
        files.append(tmp_path / f"{number}.{('png', 'jpg', 'webp')[number % 3]}")
        large = Image.fromarray(image.transpose(1, 2, 0)).resize((width, height), Image.Resampling.LANCZOS)
        large.save(files[-1], quality=85)
    opened(page, export("pretrained:fastnet", tmp_path / "page.html", format="html").path)
    predictions = cifarlab.predict("pretrained:fastnet", files)
    same = [next(iter(answer(page, file))) == each.label for file, each in zip(files, predictions, strict=True)]
    assert np.mean(same) > 0.98


def test_the_heat_map_is_that_of_python(page: Page, unsure: tuple[Classifier, Path], tmp_path: Path) -> None:
    classifier, path = unsure
    image = np.random.default_rng(1).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "a.png")
    opened(page, path)
    label = next(iter(answer(page, tmp_path / "a.png")))
    expect(page.locator("#doubt")).to_have_text("Not sure. Many other classes are possible.")
    expect(page.locator("#legend")).to_contain_text("Evidence for ", timeout=SECONDS)
    heat = explain.occlusion(classifier, image[None], np.array([classifier.classes.index(label)]))
    difference = pixels(page, "#heat") - overlaid(image[None], heat)[0]
    assert np.abs(difference).max() <= 13  # of 255; the page's colour scale has nine colours


def test_names_of_classes_are_text(page: Page, unsure: tuple[Classifier, Path], tmp_path: Path) -> None:
    opened(page, unsure[1])
    Image.new("RGB", (5, 5), "red").save(tmp_path / "a.png")
    expect(page.locator("#doubt")).to_contain_text(HOSTILE)
    assert HOSTILE in answer(page, tmp_path / "a.png")
    page.get_by_text("How to read the answer").click()
    expect(page.locator("details").first).to_contain_text(HOSTILE)
    assert "classify a picture" in page.title()


def test_the_page_forbids_itself_every_connection(browser: Browser, lenet5: Path) -> None:
    page = browser.new_page()
    opened(page, lenet5)
    violated = page.evaluate(
        """async () => {
            const kept = [];
            addEventListener("securitypolicyviolation", (event) => kept.push(event.effectiveDirective));
            await fetch("https://example.org/").catch(() => {});
            const image = new Image();
            const failed = new Promise((resolve) => { image.onerror = resolve; });
            image.src = "https://example.org/a.png";
            await failed;
            return kept;
        }"""
    )
    assert violated == ["connect-src", "img-src"]
    page.close()


def test_the_keyboard_alone_and_the_camera(page: Page, lenet5: Path, cifar10: Data, axe: str, tmp_path: Path) -> None:
    (file,) = save_images(cifar10, tmp_path, 1)
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    opened(page, lenet5)
    choose_with_the_keyboard(page, choosers, file)
    (prediction,) = cifarlab.predict("pretrained:lenet5", [file])
    expect(page.locator("#answer")).to_contain_text(f"{prediction.label}, ", timeout=SECONDS)
    expect(page.locator("#legend")).to_contain_text("Evidence for ", timeout=SECONDS)
    press_until(page, "webcam")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop the camera")).to_be_focused(timeout=SECONDS)
    expect(page.locator("#video")).to_have_js_property("videoWidth", 640, timeout=SECONDS)
    page.wait_for_timeout(1_000)
    seen = pixels(page, "#seen")
    page.wait_for_timeout(1_000)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Use the camera")).to_be_visible()
    expect(page.locator("#legend")).to_contain_text("Evidence for ", timeout=SECONDS)
    assert not np.array_equal(pixels(page, "#seen"), seen)  # the camera's picture moves
    assert page.evaluate("document.getElementById('video').srcObject.getTracks()[0].readyState") == "ended"
    assert serious_faults(page, axe) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all(page: Page, lenet5: Path, scheme: Any, cifar10: Data, axe: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.emulate_media(color_scheme=scheme)
    opened(page, lenet5)
    answer(page, *save_images(cifar10, tmp_path, 1))
    for summary in ("How to read the answer", "Licences"):
        page.get_by_text(summary).click()
    expect(page.locator("#notices")).to_contain_text("Eigen", timeout=SECONDS)
    expect(page.get_by_label("Licence of ONNX Runtime Web")).to_contain_text("Permission is hereby granted")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert serious_faults(page, axe) == []


GIVE = {
    "paste": "new ClipboardEvent('paste', {clipboardData: data})",
    "drop": "new DragEvent('drop', {dataTransfer: data})",
}


@pytest.mark.parametrize("way", GIVE)
def test_pictures_are_pasted_and_dropped(way: str, page: Page, lenet5: Path, cifar10: Data, tmp_path: Path) -> None:
    (file,) = save_images(cifar10, tmp_path, 1)
    (prediction,) = cifarlab.predict("pretrained:lenet5", [file])
    opened(page, lenet5)
    give = f"""(bytes) => {{
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a.png", {{type: "image/png"}}));
        dispatchEvent({GIVE[way]});
    }}"""
    page.evaluate(give, list(file.read_bytes()))
    expect(page.locator("#answer")).to_contain_text(f"{prediction.label}, ", timeout=SECONDS)


def test_a_file_that_is_no_picture_is_named(page: Page, lenet5: Path, cifar10: Data, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    opened(page, lenet5)
    page.set_input_files("#file", tmp_path / "notes.png")
    expect(page.locator("#message")).to_contain_text("notes.png is not a picture that this browser can read")
    expect(page.locator("#answer")).to_have_text("No answer")
    assert answer(page, *save_images(cifar10, tmp_path, 1))
    expect(page.locator("#message")).to_have_text("")


def test_an_onnx_file_becomes_a_page(page: Page, cifar10: Data, tmp_path: Path) -> None:
    onnx = export("pretrained:lenet5", tmp_path / "photos.onnx").path
    opened(page, export(onnx, tmp_path / "page.html", format="html").path)
    (file,) = save_images(cifar10, tmp_path, 1)
    (prediction,) = cifarlab.predict(onnx, [file])
    assert largest_difference(answer(page, file), prediction.probabilities) < ROUNDING


@pytest.mark.slow
def test_int8_runs_in_the_browser(page: Page, cifar10: Data, tmp_path: Path) -> None:
    written = export("pretrained:lenet5", tmp_path / "page.html", format="html", int8=True)
    assert written.accuracy is not None and written.own_accuracy is not None
    assert written.accuracy > written.own_accuracy - 0.02
    opened(page, written.path)
    files = save_images(cifar10, tmp_path, 20)
    predictions = cifarlab.predict("pretrained:lenet5", files)
    same = [next(iter(answer(page, file))) == each.label for file, each in zip(files, predictions, strict=True)]
    assert np.mean(same) >= 0.9


def test_what_cannot_become_a_page_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = random_classifier(Preprocessing("unit"))
    path = export(classifier, tmp_path / "a.html", format="html").path
    onnx = export(classifier, tmp_path / "a.onnx").path
    before = sorted(tmp_path.iterdir())
    for target, arguments, text in (
        (classifier, {"out": path}, "the file exists; replace it with --force"),
        (classifier, {"out": tmp_path / "b.onnx"}, r"should end in .html, or add --format onnx"),
        (classifier, {"out": tmp_path / "none" / "b.html"}, "there is no folder"),
        (onnx, {"out": tmp_path / "b.html", "int8": True}, "is already an ONNX file"),
    ):
        with pytest.raises(UsageError, match=text):
            export(target, format="html", **arguments)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(web_page, "MOST_BYTES", 1_000_000)
    export(classifier, path, format="html", force=True, quiet=False)
    warning = r"a.html has \d\.\d MB. Phones may not open more than 1 MB. --int8 makes"
    assert re.search(warning, capsys.readouterr().err)


def test_the_runtime_is_the_published_one() -> None:
    folder = Path(web_page.__file__).parent / "onnxruntime-web"
    readme = (folder / "README.md").read_text()
    checksums = dict(re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", readme, re.M))
    assert len(checksums) == 2 and f"Web {web_page.RUNTIME_VERSION}," in readme
    for name, expected in checksums.items():
        content = (folder / name).read_bytes()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert hashlib.sha256(content).hexdigest() == expected
    assert f"ONNX Runtime Web v{web_page.RUNTIME_VERSION}" in (folder / "ort.wasm.bundle.min.mjs").read_text()
