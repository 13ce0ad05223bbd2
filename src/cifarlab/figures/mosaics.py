"""Pictures made of images: samples, mistakes, kernels, and images with heat maps. One function each; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cifarlab.figures.style import BLUE, RED, STYLE

FILTERS_A_ROW = 16
HEAT, OPACITY = "inferno", 0.75
_FINER = 2  # pixels a point of the screen, so that images stay sharp when a picture is enlarged


def pictures(
    images: UInt8[np.ndarray, "n 3 h w"], captions: Sequence[str], wrong: Sequence[bool], columns: int, title: str
) -> Figure:
    """Images in a grid, each with a caption, which is red where something is wrong.

    Args:
        images: colour images.
        captions: a text for each, of at most two lines.
        wrong: whether each is a mistake.
        columns: images a row.
        title: above all.
    """
    rows = max(1, -(-len(images) // columns))
    with matplotlib.rc_context(STYLE):
        figure, axes = _mosaic(columns, rows, cell=(1.25, 1.62), left=0.0, title=title)
        places = [divmod(place, columns) for place in range(len(images))]
        _show(axes, list(images), [(column + 0.04, row + 0.26, 0.92, 0.71) for row, column in places])
        for (row, column), caption, is_wrong in zip(places, captions, wrong, strict=True):
            colour = RED if is_wrong else "black"
            axes.text(column + 0.5, row + 0.24, caption, ha="center", va="bottom", fontsize=7.5, color=colour)
    return figure


def class_samples(rows: Sequence[UInt8[np.ndarray, "_ 3 h w"]], names: Sequence[str], title: str) -> Figure:
    """A row of images for each name.

    Args:
        rows: images of each row; rows may be of different lengths.
        names: what stands before each row.
        title: above all.
    """
    columns = max(len(row) for row in rows)
    with matplotlib.rc_context(STYLE):
        figure, axes = _mosaic(columns, len(rows), cell=(0.75, 0.75), left=1.3, title=title)
        for line, name in enumerate(names):
            axes.text(-0.1, line + 0.5, name, ha="right", va="center", fontsize=9)
        images = [image for row in rows for image in row]
        places = [
            (column + 0.04, line + 0.04, 0.92, 0.92) for line, row in enumerate(rows) for column in range(len(row))
        ]
        _show(axes, images, places)
    return figure


def filters(kernels: Float32[np.ndarray, "n 3 h w"], title: str) -> Figure:
    """Kernels over colours as small pictures: grey is 0, and each is scaled by its own largest weight."""
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    shown = (127.5 + 127.5 * kernels / np.maximum(scale, 1e-12)).round().astype(np.uint8)
    rows = [shown[start : start + FILTERS_A_ROW] for start in range(0, len(shown), FILTERS_A_ROW)]
    return class_samples(rows, [""] * len(rows), title)


def overlaid(images: UInt8[np.ndarray, "n 3 h w"], heats: Float32[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Images with heat maps from 0 to 1 laid over them, the clearer the hotter."""
    opacity = OPACITY * heats[:, None]
    colours = 255 * matplotlib.colormaps[HEAT](heats)[..., :3].transpose(0, 3, 1, 2)
    mixed: np.ndarray = ((1 - opacity) * images + opacity * colours).round().astype(np.uint8)
    return mixed


def explanation(
    image: UInt8[np.ndarray, "3 h w"],
    heats: Mapping[str, Float32[np.ndarray, "h w"]],
    probabilities: Mapping[str, float],
    title: str,
) -> Figure:
    """An image, heat maps laid over it, and the likeliest classes as bars.

    Args:
        image: as the network got it.
        heats: heat maps from 0 to 1 by name.
        probabilities: of the classes to show, the likeliest first.
        title: above all.
    """
    shown = [image, *(overlaid(image[None], heat[None])[0] for heat in heats.values())]
    side, left = 1.75, 0.15 + 1.9 * len(shown) + 1.0  # inches: of an image, and where bars begin
    with matplotlib.rc_context(STYLE):
        figure, axes = _mosaic(1, 1, cell=(left + 2.3, 2.1), left=0.0, title=title)
        axes.set(xlim=(0, left + 2.3), ylim=(2.1, 0))  # in inches
        _show(axes, shown, [(0.15 + 1.9 * place, 0.25, side, side) for place in range(len(shown))])
        for place, name in enumerate(["image", *heats]):
            axes.text(0.15 + 1.9 * place + side / 2, 0.2, name, ha="center", va="bottom", fontsize=9)
        for place, (name, probability) in enumerate(probabilities.items()):
            middle = 0.25 + side * (place + 0.5) / len(probabilities)
            axes.add_patch(Rectangle((left, middle - 0.1), 1.7 * probability, 0.2, color=BLUE))
            axes.text(left - 0.08, middle, name, ha="right", va="center", fontsize=9)
            axes.text(left + 1.7 * probability + 0.05, middle, f"{probability:.1%}", va="center", fontsize=8)
    return figure


def _mosaic(columns: int, rows: int, cell: tuple[float, float], left: float, title: str) -> tuple[Figure, Axes]:
    """One drawing area for many images, because laying out an area for each takes seconds.

    Its units are cells, from (0, 0) at the top left. `cell` is a cell's width and height and `left` the margin for
    names, in inches.
    """
    width, height, top = left + cell[0] * columns, cell[1] * rows, 0.4
    figure = Figure(figsize=(width, height + top))
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / (height + top), va="top")
    axes = figure.add_axes((left / width, 0, 1 - left / width, height / (height + top)))
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    return figure, axes


def _show(
    axes: Axes, images: Sequence[UInt8[np.ndarray, "3 _ _"]], places: Sequence[tuple[float, float, float, float]]
) -> None:
    """Puts images into a drawing area, as one, because drawing each takes long.

    Args:
        axes: from `_mosaic`.
        images: of any sizes.
        places: left, top, width and height of each, in cells.
    """
    columns, rows = axes.get_xlim()[1], axes.get_ylim()[0]
    area = axes.get_window_extent()
    right, down = (area.width * _FINER / columns, area.height * _FINER / rows)  # pixels a cell
    canvas = np.zeros((round(rows * down), round(columns * right), 4), dtype=np.uint8)  # transparent
    for image, (x, y, width, height) in zip(images, places, strict=True):
        part = canvas[round(y * down) : round((y + height) * down), round(x * right) : round((x + width) * right)]
        tall, wide = part.shape[:2]
        nearest = np.ix_(np.arange(tall) * image.shape[1] // tall, np.arange(wide) * image.shape[2] // wide)
        part[..., :3], part[..., 3] = image.transpose(1, 2, 0)[nearest], 255
    axes.imshow(canvas, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
