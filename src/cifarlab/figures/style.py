"""The style that all figures share, and figures as SVG or PNG bytes.

Colours are those of Okabe and Ito, which people with the common colour-vision deficiencies can tell apart.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
DOTS_PER_INCH = 110

STYLE: Any = {  # matplotlib types the keys as literals, which a dictionary does not
    "figure.autolayout": False,  # a user's setting would replace our layout
    "figure.constrained_layout.use": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.edgecolor": "#888888",
    "svg.fonttype": "none",  # text stays text: smaller, searchable, readable aloud
    "svg.hashsalt": "cifarlab",
    "text.parse_math": False,  # a class name may contain "$"
}
CENTRED: Any = {"ha": "center", "va": "center"}
# Inverts lightness and keeps hues.
_DARK = b"@media (prefers-color-scheme: dark) { svg { filter: invert(0.9) hue-rotate(180deg) } }\n"


@contextmanager
def styled_axes(width: float, height: float, *, grid: bool = True) -> Iterator[tuple[Figure, Axes]]:
    """Yield a new figure of this size, in inches, and its axes, while matplotlib has our style."""
    with matplotlib.rc_context({**STYLE, "axes.grid": grid}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def to_bytes(figure: Figure, kind: str) -> bytes:
    """Return the figure as the bytes of an `svg` or `png` file; equal figures give equal bytes.

    An SVG is light or dark as the reader's system is. The first call fixes the layout, so draw everything before it.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Glyph \d+ .* missing from font"
        )  # a PNG shows a box instead, an SVG is complete
        if (layout := figure.get_layout_engine()) is not None:  # once, because layout takes as long as drawing
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    content = buffer.getvalue()
    return content.replace(b"*{stroke-linejoin", _DARK + b"*{stroke-linejoin", 1) if kind == "svg" else content
