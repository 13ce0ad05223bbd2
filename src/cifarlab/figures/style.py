"""The style that all figures share, and figures as SVG or PNG bytes.

Colours are those of Okabe and Ito, which people with the common colour-vision deficiencies can tell apart.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
DOTS_PER_INCH = 110

# From matplotlib's defaults, whatever the user's matplotlibrc says. It types keys as literals, unlike a dictionary.
STYLE: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")} | {
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
# Inverts lightness and keeps hues. Orange would become brown and look like red, so both start from other colours.
_DARK = b"@media (prefers-color-scheme: dark) { svg { filter: invert(0.9) hue-rotate(180deg) }\n"
for _colour, _start in ((ORANGE, "#bf4f00"), (RED, "#ff5454")):
    for _key in ("stroke", "fill"):
        _DARK += f'[style*="{_key}: {_colour.lower()}"] {{ {_key}: {_start} !important }}\n'.encode()
_DARK += b"}\n"


@contextmanager
def styled_axes(
    width: float, height: float, *, grid: bool = True, percent: str = "", whole: str = ""
) -> Iterator[tuple[Figure, Axes]]:
    """Yield a new figure of this size, in inches, and its axes, while matplotlib has our style.

    The axes named in `percent`, such as `xy`, show fractions as percentages; those in `whole` have whole numbers only.
    """
    with matplotlib.rc_context({**STYLE, "axes.grid": grid}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        by_name = {"x": axes.xaxis, "y": axes.yaxis}
        for name in percent:
            by_name[name].set_major_formatter(PercentFormatter(1))
        for name in whole:
            by_name[name].set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # more would not be whole
        yield figure, axes


def short_names(names: Sequence[str], length: int) -> list[str]:
    """Return names of at most `length` letters, cut in the middle, or where they stay different from each other."""
    cuts = [
        [name if len(name) <= length else f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}" for name in names]
        for head in (length // 2, 0, length - 1)
    ]
    return [
        next((cut[number] for cut in cuts if cut.count(cut[number]) == 1), f"{number}: {name}"[:length])
        for number, name in enumerate(names)
    ]


def to_bytes(figure: Figure, kind: str) -> bytes:
    """Return the figure as the bytes of an `svg` or `png` file; equal figures give equal bytes.

    An SVG is light or dark as the reader's system is. The first call fixes the layout, so draw everything before it.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A PNG shows a box instead of a missing letter; an SVG is complete.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        if (layout := figure.get_layout_engine()) is not None:  # once, because layout takes as long as drawing
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    content = buffer.getvalue()
    return content.replace(b"*{stroke-linejoin", _DARK + b"*{stroke-linejoin", 1) if kind == "svg" else content
