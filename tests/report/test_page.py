"""The report page, the model card and the figures in a run's folder."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab import recipe as load_recipe
from cifarlab.report import page
from cifarlab.report.comparing import held_out_names
from cifarlab.report.page import write_page
from cifarlab.report.run_figures import MISTAKES, draw_embedding, draw_test
from cifarlab.report.summary import describe_overfitting

LARGEST_PAGE = 5_000_000  # bytes


class _Page(HTMLParser):
    """The tags of a page as a browser sees them."""

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


def test_the_page_is_self_contained_and_well_formed(trained_run: Run) -> None:
    text = trained_run.report.read_text()
    parsed = _Page(text)
    assert parsed.open == []
    assert trained_run.report.stat().st_size < LARGEST_PAGE
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing is fetched
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 10 and all(image["alt"] for image in images)
    headings = [tag for tag, _ in parsed.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1" and headings.count("h1") == 1


def test_the_page_has_the_metrics_of_the_run(trained_run: Run) -> None:
    text = trained_run.report.read_text()
    assert (
        f"{trained_run.results['test_accuracy']:.2%}" in text
        and f"<strong>{trained_run.results['train_seconds']:.0f} s" in text
    )
    assert "Honest protocol" in text and "Most confused pairs of classes" in text and "Classification report" in text
    for row in trained_run.history:
        assert f"{row.validation_loss:.4f}" in text
    evaluation = trained_run.evaluate()
    for line in evaluation.per_class:
        assert f"<td>{line.precision:.3f}</td><td>{line.recall:.3f}</td><td>{line.f1:.3f}</td>" in text
    assert not re.search(r">None<|Undefined|\{\{", re.sub(r'src="[^"]*"', "", text))


def test_test_images_are_not_called_validation_images(small: Recipe, tmp_path: Path) -> None:
    published = small.changed({"epochs": 1, "train_on": "all", "validate_on": "test", "keep": "last"})
    run = cifarlab.train(published, runs=tmp_path, name="a", quiet=True)
    text = run.report.read_text()
    assert "training images and 359 test images, which were looked at after every epoch" in text
    assert "test loss" in text
    prose = re.sub(r"<details>.*?</details>|src=.*?>", "", text, flags=re.S)
    assert "validation" not in prose
    for name in ("curves", "confusion"):
        assert ">test</text>" in run.figures["curves"].read_text() and "alidation" not in run.figures[name].read_text()
    assert "  test 2." in run.log and "validation" not in run.log
    assert held_out_names([run]) == "test"


def test_a_thorough_report_has_an_embedding(trained_run: Run, copied_run: Run, digits: Data) -> None:
    html = page.write_report(copied_run, digits.test, thorough=True).read_text()
    assert "Similar images" in html and "embedding" in copied_run.figures
    assert "embedding" not in trained_run.figures  # training does not wait for it


@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e30])
def test_embeddings_of_extreme_logits_are_drawn_or_left_out(copied_run: Run, scale: float) -> None:
    assert copied_run.predictions is not None
    logits, labels = copied_run.predictions
    copied_run.update(sums={})
    spread = np.random.default_rng(0).normal(size=logits.shape)
    copied_run.write_predictions((1 + scale * spread).astype(np.float32), labels)
    draw_embedding(copied_run)
    assert ("embedding" in copied_run.figures) == bool(scale)


def test_a_page_of_several_runs_compares_them(trained_run: Run, copied_run: Run, small: Recipe, tmp_path: Path) -> None:
    other = cifarlab.train(small.changed({"learning_rate": 0.0001}), runs=tmp_path, name="slow", quiet=True)
    page.write_page([trained_run, other], tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text()
    assert "Test accuracy by recipe" in html and "McNemar" in html and "smallest detectable difference" in html
    assert "undecided: one seed each; on these images: differ" in html and "train each with five seeds" in html
    assert f'href="#run-{other.name}"' in html and f'<article id="run-{other.name}">' in html
    copied_run.update(status="interrupted")
    page.write_page([trained_run, copied_run], tmp_path / "two.html")
    assert (
        "The runs cannot be compared: the run &#39;copied&#39; is not finished" in (tmp_path / "two.html").read_text()
    )


def test_names_from_outside_cannot_write_html(copied_run: Run, tmp_path: Path) -> None:
    data = copied_run.record.data
    hostile_data = data.model_copy(update={"classes": ("<script>alert(1)</script>", *data.classes[1:])})
    copied_run.update(data=hostile_data, name='"><img src=x>')
    page.write_page([copied_run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and "<img src=x>" not in text
    assert "&lt;script&gt;" in text


def test_an_unfinished_run_has_a_page(trained_run: Run, tmp_path: Path) -> None:
    for name in ("metrics.csv", "confusion.npz", "run.json"):
        (tmp_path / name).write_bytes((trained_run.path / name).read_bytes())
    begun = Run(tmp_path)
    begun.update(status="running", results=None)
    html = page.write_report(begun, None).read_text()
    assert "This run is <strong>interrupted</strong>" in html and "cifarlab resume" in html


def test_the_card_says_how_to_use_the_weights(trained_run: Run) -> None:
    text = (trained_run.path / "README.md").read_text()
    assert text.startswith("# a\n") and "Honest protocol" in text
    assert "cifarlab predict best.safetensors" in text
    assert "cifarlab" not in text.partition("## Reproduce")[2]  # it was trained from Python
    assert f"{trained_run.results['test_accuracy']:.2%} on 359 images" in text


def test_repeating_beside_the_run_needs_no_new_name(copied_run: Run, tmp_path: Path) -> None:
    copied_run.update(name="it's mine", command="cifarlab train lenet5 --name a")
    html, card = page.write_report(copied_run, None).read_text(), (copied_run.path / "README.md").read_text()
    assert f"<code>cifarlab rerun {copied_run.path}</code>" in html
    assert """`cifarlab rerun 'it'"'"'s mine'`""" in card and "cifarlab train lenet5 --name a" in card
    copied_run.update(status="interrupted")
    assert "cifarlab rerun" not in page.write_report(copied_run, None).read_text()


def test_a_figure_that_fails_fails_no_training(
    copied_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied_run.report.unlink()
    monkeypatch.setattr(page, "draw_test", lambda *_: 1 / 0)
    page.write_report(copied_run, None)
    assert copied_run.report.exists() and (copied_run.path / "README.md").exists()
    warning = f"warning: figures of {copied_run.name} are missing: ZeroDivisionError"
    assert capsys.readouterr().err.startswith(warning)


def test_mistakes_in_files_of_their_own_are_named(copied_run: Run, digits: Data, tmp_path: Path) -> None:
    names = tuple(f"photos/{label}/image-{number}.png" for number, label in enumerate(digits.test.labels))
    mistakes = draw_test(copied_run, replace(digits.test, names=names))
    page.write_page([copied_run], tmp_path / "page.html", mistakes)
    text = (tmp_path / "page.html").read_text()
    shares = [mistake.probability for mistake in mistakes]
    assert len(mistakes) == MISTAKES and shares == sorted(shares, reverse=True)
    for mistake in mistakes:
        assert f'<th scope="row">{mistake.file}</th>' in text
        assert f"/{mistake.true}/" in mistake.file and mistake.true != mistake.predicted
    page.write_page([copied_run], tmp_path / "page.html")
    assert "Their files" not in (tmp_path / "page.html").read_text()


def test_only_the_published_recipe_has_published_results(copied_run: Run, tmp_path: Path) -> None:
    recipe = load_recipe("keras4", epochs=20)
    assert len(recipe.published) == 4 and not load_recipe("keras4", model="lenet5").published
    assert not load_recipe("keras4", dataset="digits").published and not load_recipe("keras4", drop=["cat"]).published
    copied_run.update(recipe=recipe)
    page.write_page([copied_run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<td>has fewer epochs</td>") == 4 and "published loss" not in text and "published time" in text


def test_commands_and_long_names_are_not_cut_on_paper(trained_run: Run) -> None:
    style = trained_run.report.read_text().partition("</style>")[0]
    assert "pre { background" in style and "pre-wrap" in style and "max-height: 7.5cm" in style


def test_figures_are_files_of_both_kinds(trained_run: Run) -> None:
    for name, path in trained_run.figures.items():
        ElementTree.parse(path)
        png = path.with_suffix(".png").read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 5_000, name


def test_overfitting_is_named_in_words(copied_run: Run) -> None:
    row = copied_run.history[0]

    def described(validation: list[float], training: list[float]) -> str:
        losses = enumerate(zip(validation, training, strict=True), 1)
        rows = [replace(row, epoch=number, validation_loss=a, train_loss=b) for number, (a, b) in losses]
        return describe_overfitting(rows, "validation")

    falling = [1.0, 0.8, 0.6, 0.4, 0.3, 0.2]
    rising = [0.9, 0.7, 0.65, 0.7, 0.8, 0.9]
    text = described(rising, falling)
    assert text.startswith(
        "Overfitting: from epoch 4 on, the loss on validation images rose from 0.65 to 0.90, while the training"
    )
    assert "fell from 0.60 to 0.20" in text and f"{row.train_accuracy:.1%} on training and" in text
    assert not described(falling, falling) and not described([], [])
    assert not described([0.9, 0.7, 0.65, 0.66, 0.65, 0.66], falling)  # level
    assert not described(rising, [1.0, 0.8, 0.6, 0.7, 0.8, 0.9])  # it diverges
    assert not described([0.9, 0.8, 0.7, 0.6, 0.8, 0.8], falling)  # for two epochs only
    copied_run.update(sums={})
    path = copied_run.path / "metrics.csv"
    lines = path.read_text().splitlines()
    header, values = lines[0].split(","), lines[1].split(",")
    rows = []
    for number, (a, b) in enumerate(zip(rising, falling, strict=True), 1):
        changed = {"epoch": number, "validation_loss": a, "train_loss": b}
        rows.append(",".join(str(changed.get(name, value)) for name, value in zip(header, values, strict=True)))
    path.write_text("\n".join([lines[0], *rows]) + "\n")
    write_page([copied_run], copied_run.report)
    assert "Overfitting: from epoch 4 on, the loss on validation images" in copied_run.report.read_text()
