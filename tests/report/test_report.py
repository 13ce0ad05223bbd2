"""The page, the card and the pictures."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import cifarlab
from cifarlab import Data, Recipe, Run, figures
from cifarlab.figures import mosaics
from cifarlab.report import page
from cifarlab.report.comparing import held_out_names
from cifarlab.report.pictures import draw_embedding
from cifarlab.runs.folder import RunFolder

LARGEST_PAGE = 5_000_000  # bytes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=2, batch_size=64)
    return cifarlab.train(recipe, runs=tmp_path_factory.mktemp("runs"), name="a", quiet=True)


class _Page(HTMLParser):
    """What a browser would look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_well_formed(run: Run) -> None:
    text = run.report.read_text()
    parsed = _Page(text)
    assert parsed.open == []
    assert run.report.stat().st_size < LARGEST_PAGE
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing is fetched from anywhere
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 10 and all(image["alt"] for image in images)
    headings = [tag for tag, _ in parsed.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1" and headings.count("h1") == 1


def test_the_page_says_what_the_run_says(run: Run) -> None:
    text = run.report.read_text()
    assert f"{run.results['test_accuracy']:.2%}" in text
    assert "Honest protocol" in text and "Most confused pairs of classes" in text and "Classification report" in text
    for row in run.history:
        assert f"{row.validation_loss:.4f}" in text
    evaluation = run.evaluate()
    for line in evaluation.per_class:
        assert f"<td>{line.precision:.3f}</td><td>{line.recall:.3f}</td><td>{line.f1:.3f}</td>" in text


def test_test_images_are_not_called_validation_images(small: Recipe, tmp_path: Path) -> None:
    published = small.changed({"epochs": 1, "train_on": "all", "validate_on": "test", "keep": "last"})
    run = cifarlab.train(published, runs=tmp_path, name="a", quiet=True)
    text = run.report.read_text()
    assert "images and 359 test images, which were looked at after every epoch" in text
    assert "test loss" in text and "validation" not in re.sub(r"<details>.*?</details>|src=.*?>", "", text, flags=re.S)
    for name in ("curves", "confusion"):
        assert ">test</text>" in run.figures["curves"].read_text() and "alidation" not in run.figures[name].read_text()
    assert "test loss" in run.log and "validation" not in run.log
    assert held_out_names([run]) == "test"


def test_a_report_that_is_asked_for_has_an_embedding_too(run: Run, digits: Data, tmp_path: Path) -> None:
    copied = Run(shutil.copytree(run.path, tmp_path / "copy"))
    html = page.finish(copied, digits.test, thorough=True).read_text()
    assert "Similar images" in html and "embedding" in copied.figures
    assert "embedding" not in run.figures  # a training does not wait for it


@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e30])
def test_an_embedding_of_any_network_is_drawn_or_left_out(run: Run, tmp_path: Path, scale: float) -> None:
    copied = Run(shutil.copytree(run.path, tmp_path / "copied"))
    assert copied.predictions is not None
    logits, labels = copied.predictions
    spread = np.random.default_rng(0).normal(size=logits.shape)
    np.savez(copied.path / "predictions.npz", logits=(1 + scale * spread).astype(np.float32), labels=labels)
    draw_embedding(copied)
    assert ("embedding" in copied.figures) == bool(scale)


def test_several_runs_are_compared_on_their_page(run: Run, small: Recipe, tmp_path: Path) -> None:
    other = cifarlab.train(small.changed({"learning_rate": 0.0001}), runs=tmp_path, name="slow", quiet=True)
    page.write_page([run, other], tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text()
    assert "Test accuracy by recipe" in html and "McNemar" in html and "smallest detectable difference" in html
    begun = RunFolder(run.path)
    begun._record = begun.record.model_copy(update={"status": "running"})
    page.write_page([run, begun], tmp_path / "two.html")
    assert "The runs cannot be compared" in (tmp_path / "two.html").read_text()


def test_names_from_outside_cannot_write_html(run: Run, tmp_path: Path) -> None:
    hostile = RunFolder(run.path)
    classes = ("<script>alert(1)</script>", *hostile.record.data.classes[1:])
    data = hostile.record.data.model_copy(update={"classes": classes})
    hostile._record = hostile.record.model_copy(update={"data": data, "name": '"><img src=x>'})
    page.write_page([hostile], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and "<img src=x>" not in text
    assert "&lt;script&gt;" in text


def test_a_run_that_has_only_begun_has_a_page_too(run: Run, tmp_path: Path) -> None:
    for name in ("metrics.csv", "confusion.npz", "run.json"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    begun = Run(tmp_path)
    begun.update(status="running", results=None)
    html = page.finish(begun, None).read_text()
    assert "This run is <strong>interrupted</strong>" in html and "cifarlab resume" in html


def test_the_card_says_how_to_use_the_weights(run: Run) -> None:
    text = (run.path / "README.md").read_text()
    assert "cifarlab predict best.safetensors" in text
    assert f"{run.results['test_accuracy']:.2%} on 359 images" in text


def test_figures_are_files_of_both_kinds(run: Run) -> None:
    for name, path in run.figures.items():
        ElementTree.parse(path)
        png = path.with_suffix(".png").read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 5_000, name


def test_a_confusion_matrix_shows_its_counts() -> None:
    matrix = np.array([[17, 3], [4, 1234]])
    svg = figures.to_bytes(figures.confusion_matrix(matrix, ["cat", "$%$"], "Title"), "svg").decode()
    for text in ("17", "3", "4", "1234", "cat", "$%$", "Title", "true class", "predicted class"):
        assert f">{text}<" in svg
    large = figures.to_bytes(
        figures.confusion_matrix(np.eye(100, dtype=np.int64), list(map(str, range(100))), "T"), "svg"
    )
    assert b">99<" in large  # a name, though no counts


def test_equal_figures_give_equal_bytes() -> None:
    def draw() -> bytes:
        return figures.to_bytes(figures.per_class(["a", "b"], [0.5, 0.25], [0.75, 1.0]), "svg")

    mine = draw()
    with matplotlib.rc_context({"figure.autolayout": True, "figure.constrained_layout.use": True, "font.size": 20}):
        assert draw() == mine  # whatever a user has set
        assert figures.to_bytes(figures.confusion_matrix(np.eye(2, dtype=np.int64), ["a", "b"], "T"), "png")


def test_heat_lies_over_an_image_where_there_is_any() -> None:
    images = np.full((1, 3, 2, 2), 100, dtype=np.uint8)
    heats = np.array([[[0, 1], [0, 0]]], dtype=np.float32)
    overlaid = mosaics.overlaid(images, heats)
    assert (overlaid[0, :, heats[0] == 0] == 100).all()
    assert overlaid[0, 0, 0, 1] > 200 > 150 > overlaid[0, 2, 0, 1]  # yellow, the hottest colour of the scale


def test_pictures_show_each_image_in_its_place() -> None:
    red, blue = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
    red[0], blue[2] = 255, 255
    figure = mosaics.pictures(np.stack([red, blue]), ["left", "right"], [True, False], 2, "Two")
    import io

    from PIL import Image

    with Image.open(io.BytesIO(figures.to_bytes(figure, "png"))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    where_red = np.argwhere((pixels == [255, 0, 0]).all(2))
    where_blue = np.argwhere((pixels == [0, 0, 255]).all(2))
    assert len(where_red) > 500 and len(where_blue) > 500
    assert where_red[:, 1].max() < where_blue[:, 1].min()
