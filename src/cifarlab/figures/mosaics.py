"""Figures made of images: grids with captions, rows by class, convolution kernels, heat maps over images."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cifarlab.figures.style import BLUE, RED, STYLE

IMAGES_A_ROW, FILTERS_A_ROW = 8, 16
HEAT_COLOURS = "inferno"
HEAT_OPACITY = 0.75  # of the hottest pixels
NARROWEST_NAMES = 1.3  # inches for the names beside rows of images
INCHES_PER_LETTER = 0.08  # of these names
MARGIN = 0.04  # around an image, as a share of its cell
_OVERSAMPLING = 2  # pixels per dot of the figure, so that images stay sharp when it is enlarged


def image_grid(
    images: Collection[UInt8[np.ndarray, "3 h w"]],
    captions: Sequence[str],
    wrong: Sequence[bool],
    title: str,
    columns: int = IMAGES_A_ROW,
) -> Figure:
    """Draw images in a grid, each below its caption of at most two lines, which is red where `wrong` is True."""
    rows = max(1, -(-len(images) // columns))
    with _mosaic(columns, rows, cell=(1.25, 1.62), left=0.0, title=title) as (figure, axes):
        cells = [divmod(number, columns) for number in range(len(images))]
        _draw_images(axes, list(images), [(column + MARGIN, row + 0.26, 0.92, 0.71) for row, column in cells])
        for (row, column), caption, is_wrong in zip(cells, captions, wrong, strict=True):
            colour = RED if is_wrong else "black"
            axes.text(column + 0.5, row + 0.24, caption, ha="center", va="bottom", fontsize=7.5, color=colour)
    return figure


def class_samples(rows: Sequence[UInt8[np.ndarray, "_ 3 h w"]], names: Sequence[str], title: str) -> Figure:
    """Draw rows of images, each with a name of up to three lines to its left; rows may have different lengths."""
    columns, longest = max(map(len, rows)), max(len(line) for name in names for line in name.split("\n"))
    left = max(NARROWEST_NAMES, 0.1 + INCHES_PER_LETTER * longest)
    with _mosaic(columns, len(rows), cell=(0.75, 0.75), left=left, title=title) as (figure, axes):
        for line, name in enumerate(names):
            axes.text(-0.1, line + 0.5, name, ha="right", va="center", fontsize=9)
        cells = [(line, column) for line, row in enumerate(rows) for column in range(len(row))]
        boxes = [(column + MARGIN, line + MARGIN, 0.92, 0.92) for line, column in cells]
        _draw_images(axes, [image for row in rows for image in row], boxes)
    return figure


def filters(kernels: Float32[np.ndarray, "n 3 h w"]) -> Figure:
    """Draw convolution kernels over colours as small images: grey is 0, and each is scaled by its largest weight."""
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    images = (127.5 + 127.5 * kernels / np.maximum(scale, 1e-12)).round().astype(np.uint8)
    rows = [images[start : start + FILTERS_A_ROW] for start in range(0, len(images), FILTERS_A_ROW)]
    return class_samples(rows, [""] * len(rows), "Filters of the first layer, each scaled by its largest weight")


def overlaid(images: UInt8[np.ndarray, "n 3 h w"], heats: Float32[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Return images with heat maps in [0, 1] laid over them; the hotter a pixel, the more opaque its colour."""
    opacity = HEAT_OPACITY * heats[:, None]
    colours = 255 * matplotlib.colormaps[HEAT_COLOURS](heats)[..., :3].transpose(0, 3, 1, 2)
    mixed: np.ndarray = ((1 - opacity) * images + opacity * colours).round().astype(np.uint8)
    return mixed


def explanation(
    image: UInt8[np.ndarray, "3 h w"],
    heats: Mapping[str, Float32[np.ndarray, "h w"]],
    probabilities: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw an image as the network got it, heat maps in [0, 1] laid over it, and class probabilities as bars."""
    images = [image, *(overlaid(image[None], heat[None])[0] for heat in heats.values())]
    side, left = 1.75, 0.15 + 1.9 * len(images) + 1.0  # inches: side of an image, left end of the bars
    with _mosaic(1, 1, cell=(left + 2.3, 2.1), left=0.0, title=title) as (figure, axes):
        axes.set(xlim=(0, left + 2.3), ylim=(2.1, 0))  # in inches
        _draw_images(axes, images, [(0.15 + 1.9 * number, 0.25, side, side) for number in range(len(images))])
        for number, name in enumerate(["image", *heats]):
            axes.text(0.15 + 1.9 * number + side / 2, 0.2, name, ha="center", va="bottom", fontsize=9)
        for number, (name, probability) in enumerate(probabilities.items()):
            middle = 0.25 + side * (number + 0.5) / len(probabilities)
            axes.add_patch(Rectangle((left, middle - 0.1), 1.7 * probability, 0.2, color=BLUE))
            axes.text(left - 0.08, middle, name, ha="right", va="center", fontsize=9)
            axes.text(left + 1.7 * probability + 0.05, middle, f"{probability:.1%}", va="center", fontsize=8)
    return figure


@contextmanager
def _mosaic(
    columns: int, rows: int, cell: tuple[float, float], left: float, title: str
) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one drawing area for many images, because laying out an area per image takes seconds.

    Width and height of a cell and the left margin, for names, are in inches. Coordinates count cells, from (0, 0) at
    the top left.
    """
    width, height, top = left + cell[0] * columns, cell[1] * rows, 0.4
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height + top))
        figure.suptitle(title, fontsize=11, y=1 - 0.12 / (height + top), va="top")
        axes = figure.add_axes((left / width, 0, 1 - left / width, height / (height + top)))
        axes.set_axis_off()
        axes.set(xlim=(0, columns), ylim=(rows, 0))
        yield figure, axes


def _draw_images(
    axes: Axes, images: Sequence[UInt8[np.ndarray, "3 _ _"]], boxes: Sequence[tuple[float, float, float, float]]
) -> None:
    """Draw images of any sizes as a single image, because drawing one by one takes long.

    A box is the left, top, width and height of an image, in cells.
    """
    columns, rows = axes.get_xlim()[1], axes.get_ylim()[0]
    area = axes.get_window_extent()
    across, down = area.width * _OVERSAMPLING / columns, area.height * _OVERSAMPLING / rows  # pixels per cell
    canvas = np.zeros((round(rows * down), round(columns * across), 4), dtype=np.uint8)  # transparent
    for image, (x, y, width, height) in zip(images, boxes, strict=True):
        part = canvas[round(y * down) : round((y + height) * down), round(x * across) : round((x + width) * across)]
        tall, wide = part.shape[:2]
        nearest = np.ix_(np.arange(tall) * image.shape[1] // tall, np.arange(wide) * image.shape[2] // wide)
        part[..., :3], part[..., 3] = image.transpose(1, 2, 0)[nearest], 255
    axes.imshow(canvas, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
