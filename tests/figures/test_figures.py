"""Figures: what is drawn, where, and that equal figures are equal bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from cifarlab import figures
from cifarlab.figures import mosaics


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
