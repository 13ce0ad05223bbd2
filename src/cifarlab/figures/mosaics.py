"""Figures made of images: grids with captions, rows by class, convolution kernels, heat maps over images."""

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cifarlab.figures.style import BLUE, STYLE, short_names

IMAGES_A_ROW, FILTERS_A_ROW = 8, 16
KERNEL_PIXELS = 12  # a side for each weight of a kernel, which has a frame of one pixel
RED = "#C00000"  # in letters, where the red of curves looks orange
NARROWEST = 4.0  # inches of a figure
LINE = 0.185  # inches of a line of a caption
HEAT_COLOURS = "inferno"
HEAT_OPACITY = 0.75  # of the hottest pixels
NARROWEST_NAMES = 1.3  # inches for the names beside rows of images
INCHES_PER_LETTER = 0.08  # of these names, and of a title
LONGEST_NAME = 20  # letters of a class beside its bar
MARGIN = 0.04  # around an image, as a share of its cell
_OVERSAMPLING = 2  # pixels per dot of the figure, so that images stay sharp when it is enlarged


def image_grid(
    images: Collection[UInt8[np.ndarray, "_ h w"]],
    captions: Sequence[str],
    wrong: Sequence[bool],
    title: str,
    columns: int = IMAGES_A_ROW,
    heat_scale: bool = False,
) -> Figure:
    """Draw images in a grid, each below its caption, which is red where `wrong` is True, and a scale of heat maps."""
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    above = LINE * max((caption.count("\n") + 1 for caption in captions), default=1)
    height = above + 1.25
    with _mosaic(columns, rows, cell=(1.25, height), left=0.0, title=title, heat_scale=heat_scale) as (figure, axes):
        cells = [divmod(number, columns) for number in range(len(images))]
        top, side = (above + 0.05) / height, 1.15 / height
        _draw_images(axes, list(images), [(column + MARGIN, row + top, 0.92, side) for row, column in cells])
        for (row, column), caption, is_wrong in zip(cells, captions, wrong, strict=True):
            colour = RED if is_wrong else "black"
            axes.text(column + 0.5, row + top - 0.02, caption, ha="center", va="bottom", fontsize=7.5, color=colour)
    return figure


def class_samples(rows: Sequence[UInt8[np.ndarray, "_ c h w"]], names: Sequence[str], title: str) -> Figure:
    """Draw rows of images, each with a name of up to three lines to its left, or none; rows may differ in length."""
    columns, longest = max(map(len, rows)), max(len(line) for name in names for line in name.split("\n"))
    left = max(NARROWEST_NAMES, 0.1 + INCHES_PER_LETTER * longest) if longest else 0.0
    with _mosaic(columns, len(rows), cell=(0.75, 0.75), left=left, title=title) as (figure, axes):
        for line, name in enumerate(names):
            axes.text(-0.1, line + 0.5, name, ha="right", va="center", fontsize=9)
        cells = [(line, column) for line, row in enumerate(rows) for column in range(len(row))]
        boxes = [(column + MARGIN, line + MARGIN, 0.92, 0.92) for line, column in cells]
        _draw_images(axes, [image for row in rows for image in row], boxes)
    return figure


def filters(kernels: Float32[np.ndarray, "n c h w"]) -> Figure:
    """Draw convolution kernels over colours as small images: grey is 0, and each is scaled by its largest weight."""
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    images = (127.5 + 127.5 * kernels / np.maximum(scale, 1e-12)).round().astype(np.uint8)
    images = images.repeat(KERNEL_PIXELS, axis=2).repeat(KERNEL_PIXELS, axis=3)
    images = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=127)  # else white weights have no edge
    rows = [images[start : start + FILTERS_A_ROW] for start in range(0, len(images), FILTERS_A_ROW)]
    return class_samples(rows, [""] * len(rows), "First layer, each filter on its own scale")


def overlaid(images: UInt8[np.ndarray, "n c h w"], heats: Float32[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Return images with heat maps in [0, 1] laid over them; the hotter a pixel, the more opaque its colour."""
    opacity = HEAT_OPACITY * heats[:, None]
    colours = 255 * matplotlib.colormaps[HEAT_COLOURS](heats)[..., :3].transpose(0, 3, 1, 2)
    mixed: np.ndarray = ((1 - opacity) * images + opacity * colours).round().astype(np.uint8)
    return mixed


def explanation(
    image: UInt8[np.ndarray, "c h w"],
    heats: Mapping[str, Float32[np.ndarray, "h w"]],
    probabilities: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw an image as the network got it, heat maps in [0, 1] laid over it, and class probabilities as bars."""
    images = [image, *(overlaid(image[None], heat[None])[0] for heat in heats.values())]
    names = short_names(list(probabilities), LONGEST_NAME)
    side, widest = 1.75, max(1.0, 0.09 * max(map(len, names)) + 0.1)  # inches: side of an image, width of a name
    left = 0.15 + 1.9 * len(images) + widest  # end of the bars
    with _mosaic(1, 1, cell=(left + 2.3, 2.1), left=0.0, title=title, heat_scale=True) as (figure, axes):
        axes.set(xlim=(0, left + 2.3), ylim=(2.1, 0))  # in inches
        _draw_images(axes, images, [(0.15 + 1.9 * number, 0.25, side, side) for number in range(len(images))])
        for number, name in enumerate(["image", *heats]):
            axes.text(0.15 + 1.9 * number + side / 2, 0.2, name, ha="center", va="bottom", fontsize=9)
        for number, (name, probability) in enumerate(zip(names, probabilities.values(), strict=True)):
            middle = 0.25 + side * (number + 0.5) / len(probabilities)
            axes.add_patch(Rectangle((left, middle - 0.1), 1.7 * probability, 0.2, color=BLUE))
            axes.text(left - 0.08, middle, name, ha="right", va="center", fontsize=9)
            axes.text(left + 1.7 * probability + 0.05, middle, f"{probability:.1%}", va="center", fontsize=8)
    return figure


@contextmanager
def _mosaic(
    columns: int, rows: int, cell: tuple[float, float], left: float, title: str, heat_scale: bool = False
) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one drawing area for many images, because laying out an area per image takes seconds.

    Width and height of a cell and the left margin, for names, are in inches. Coordinates count cells, from (0, 0) at
    the top left. The area is in the middle of the figure if the title is wider. A scale of heat maps is below it.
    """
    across, down, bottom = cell[0] * columns, cell[1] * rows, 0.5 if heat_scale else 0.0
    width = max(NARROWEST, left + across)
    lines = textwrap.wrap(title, int(width / INCHES_PER_LETTER))
    height = bottom + down + 0.2 + 0.2 * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        figure.suptitle("\n".join(lines), fontsize=11, y=1 - 0.12 / height, va="top")
        beside = (width - left - across) / 2
        axes = figure.add_axes(((beside + left) / width, bottom / height, across / width, down / height))
        axes.set_axis_off()
        axes.set(xlim=(0, columns), ylim=(rows, 0))
        if heat_scale:
            ramp = overlaid(np.full((1, 3, 1, 64), 128, np.uint8), np.linspace(0, 1, 64, dtype=np.float32)[None, None])
            scale = figure.add_axes((0.5 - 0.6 / width, 0.2 / height, 1.2 / width, 0.12 / height))
            scale.imshow(ramp[0].transpose(1, 2, 0), aspect="auto")
            scale.set(xticks=[], yticks=[])
            for x, side, text in ((-0.05, "right", "no influence"), (1.05, "left", "most in its image")):
                scale.text(x, 0.5, text, ha=side, va="center", fontsize=7.5, transform=scale.transAxes)
        yield figure, axes


def _draw_images(
    axes: Axes, images: Sequence[UInt8[np.ndarray, "_ _ _"]], boxes: Sequence[tuple[float, float, float, float]]
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
