"""Figures: what is drawn, where, and that equal figures are equal bytes."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from cifarlab import figures
from cifarlab.figures import mosaics
from cifarlab.figures.style import short_names
from cifarlab.statistics.metrics import Reliability


def test_a_confusion_matrix_shows_its_counts() -> None:
    matrix = np.array([[17, 3], [4, 1234]])
    svg = figures.to_bytes(figures.confusion_matrix(matrix, ["cat", "$%$"], "Title"), "svg").decode()
    for text in ("17", "3", "4", "1234", "cat", "$%$", "Title", "true class", "predicted class"):
        assert f">{text}<" in svg
    names = list(map(str, range(100)))
    large = figures.to_bytes(figures.confusion_matrix(np.eye(100, dtype=np.int64), names, "T"), "svg")
    assert b">99<" in large  # a class name; cells as small as these have no counts


def test_learning_curves_name_the_two_losses() -> None:
    history: dict[str, list[float]] = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [1.0, 0.5]}
    history |= {"train_accuracy": [0.1, 0.2], "validation_accuracy": [0.1, 0.3]}
    svg = figures.to_bytes(figures.learning_curves(history, "validation"), "svg").decode()
    for text in ("training, as minimised", "validation, cross-entropy", "training", "validation", "Loss (nats)"):
        assert f">{text}<" in svg


def test_an_outlying_loss_flattens_no_curve() -> None:
    history: dict[str, list[float]] = {"epoch": [1, 2, 3], "train_loss": [2.0, 1.0, 0.9]}
    history |= {"train_accuracy": [0.1, 0.2, 0.3], "validation_accuracy": [0.1, 0.3, 0.3]}
    for loss, scale in ((50_000.0, "log"), (2.5, "linear"), (0.0, "linear")):
        figure = figures.learning_curves(history | {"validation_loss": [2.0, loss, 1.0]}, "validation")
        assert figure.axes[0].get_yscale() == scale and figures.to_bytes(figure, "svg")


def test_a_single_epoch_is_the_only_tick() -> None:
    history = {key: [0.5] for key in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")}
    drawn = [figures.learning_curves({"epoch": [1], **history}, "test"), figures.compared_curves({"a": [0.5]}, "test")]
    drawn += [figures.epoch_study([[0.5]], [[0.6]], "test", [], "T")]
    for axes in (axes for figure in drawn for axes in figure.axes):
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1.0]


LONG = [f"Tomato___{number}_{'Yellow_Leaf_Curl_Virus_' * 3}" for number in range(16)]


def test_long_class_names_stay_different_and_leave_room() -> None:
    assert short_names(["cat", "a" * 30 + "b", "a" * 31], 20) == [
        "cat",
        "a" * 10 + "…" + "a" * 8 + "b",
        "a" * 10 + "…" + "a" * 9,
    ]
    plants = ["Tomato___Late_blight", "Tomato___Early_blight", "Potato___Late_blight", "x"]
    for names in (LONG, plants, ["a" * 40 + str(n) + "b" * 40 for n in range(12)]):
        short = short_names(names, 14)
        assert len(set(short)) == len(names) and max(map(len, short)) <= 14
    for count in (2, 3, 16):
        names, shares = LONG[:count], [0.5] * count
        figure = figures.confusion_matrix(np.eye(count, dtype=np.int64), names, "T")
        figures.to_bytes(figure, "svg")  # fixes the layout; warnings are errors
        box = figure.axes[0].get_window_extent()
        assert min(box.width, box.height) > 0.4 * figure.bbox.width
        assert figures.to_bytes(figures.per_class(names, shares, shares), "svg")
    heat, image = np.ones((8, 8), np.float32), np.zeros((3, 8, 8), np.uint8)
    figure = mosaics.explanation(image, {"occlusion": heat}, {LONG[0]: 1.0}, LONG[0])
    figure.canvas.draw()
    texts = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert texts[short_names(LONG[:1], mosaics.LONGEST_NAME)[0]].x0 > texts["occlusion"].x1


def test_numbers_below_an_axis_are_not_slanted_and_zeros_have_no_share() -> None:
    figure = figures.confusion_matrix(np.diag([3, 4]), ["0", "1"], "T")
    assert [label.get_rotation() for label in figure.axes[0].get_xticklabels()] == [0.0, 0.0]
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0", "0", "100.0%", "100.0%", "3", "4"]


def test_a_hundred_classes_stay_readable() -> None:
    names = [f"{first} {second}" for first in "abcdefghij" for second in ("apple tree", *map(str, range(9)))]
    figure = figures.confusion_matrix(np.eye(100, dtype=np.int64), names, "T")
    figures.to_bytes(figure, "png")  # fixes the layout
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) == 100 and all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    recall = np.linspace(1, 0, 100).tolist()
    bars = figures.per_class(names, recall, recall)
    shown = [label.get_text() for label in bars.axes[0].get_yticklabels()]
    assert shown == names[:-31:-1] and "the 30 classes with the lowest recall" in bars.axes[0].get_title()
    assert bars.get_size_inches()[1] < 14


def test_titles_fit_their_figure() -> None:
    images = np.zeros((2, 3, 8, 8), np.uint8)
    title = "Most confused pairs of classes, the most confident mistakes first"
    kernels = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
    heats = mosaics.image_grid(images, ["a", "b\nc\nd"], [True, False], title, heat_scale=True)
    drawn = [mosaics.class_samples([images], ["cat"], title), mosaics.filters(kernels), heats]
    for figure in drawn:
        figure.canvas.draw()
        box, area = figure.texts[0].get_window_extent(), figure.axes[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= area.y1 - 2
    kernel_area = drawn[1].axes[0].get_position()
    assert abs(kernel_area.x0 + kernel_area.x1 - 1) < 1e-6  # in the middle
    assert [text.get_text() for text in heats.axes[1].texts] == ["no influence", "most in its image"]
    assert heats.axes[0].texts[0].get_color() == mosaics.RED


def test_bars_of_few_images_are_pale_and_the_legend_hides_none() -> None:
    bins = Reliability(np.array([3, 0, 40]), np.array([0.2, 0.0, 0.9]), np.array([1.0, 0.0, 0.8]))
    figure = figures.reliability(bins, 0.1, "T")
    bars = {round(bar.get_x(), 2): bar.get_alpha() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)}
    assert bars == {0.0: 0.3, 0.67: 1.0} and figure.axes[0].get_legend() is None


def test_curves_keep_their_colours_on_dark_pages() -> None:
    svg = figures.to_bytes(figures.per_class(["a"], [0.5], [0.5]), "svg").decode()
    assert '[style*="fill: #e69f00"] { fill:' in svg and "fill: #e69f00" in svg.split("</style>")[1]


def test_equal_figures_give_equal_bytes() -> None:
    def draw() -> bytes:
        return figures.to_bytes(figures.per_class(["a", "b"], [0.5, 0.25], [0.75, 1.0]), "svg")

    first = draw()
    layout: Any = {"figure.autolayout": True, "figure.constrained_layout.use": True, "savefig.bbox": "tight"}
    text: Any = {"font.size": 20, "text.usetex": True, "axes.labelcolor": "red", "axes.formatter.use_mathtext": True}
    with matplotlib.rc_context(layout | text):
        assert draw() == first  # whatever the user has set
        assert figures.to_bytes(figures.confusion_matrix(np.eye(2, dtype=np.int64), ["a", "b"], "T"), "png")


def test_heat_maps_colour_only_what_is_hot() -> None:
    images = np.full((1, 3, 2, 2), 100, dtype=np.uint8)
    heats = np.array([[[0, 1], [0, 0]]], dtype=np.float32)
    overlaid = mosaics.overlaid(images, heats)
    assert (overlaid[0, :, heats[0] == 0] == 100).all()
    assert overlaid[0, 0, 0, 1] > 200 > 150 > overlaid[0, 2, 0, 1]  # yellow, the hottest colour of the map


def test_images_are_drawn_in_their_cells() -> None:
    red, blue = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
    red[0], blue[2] = 255, 255
    figure = mosaics.image_grid(np.stack([red, blue]), ["left", "right"], [True, False], "Two", columns=2)
    with Image.open(io.BytesIO(figures.to_bytes(figure, "png"))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red_pixels = np.argwhere((pixels == [255, 0, 0]).all(2))
    blue_pixels = np.argwhere((pixels == [0, 0, 255]).all(2))
    assert len(red_pixels) > 500 and len(blue_pixels) > 500
    assert red_pixels[:, 1].max() < blue_pixels[:, 1].min()


@pytest.mark.parametrize("broken", ["backend", "file"])
def test_settings_that_matplotlib_refuses_do_not_stop_the_import(broken: str, tmp_path: Path) -> None:
    if broken == "file":
        (tmp_path / "matplotlibrc").write_bytes(b"font.family: caf\xe9\n")
    environment = {**os.environ, "MPLBACKEND": "nobody-knows-it" if broken == "backend" else "agg"}
    code = "from cifarlab.figures import intervals, to_bytes; import matplotlib.pyplot; print(matplotlib.get_backend())"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.strip(), ended.stderr
