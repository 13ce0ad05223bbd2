"""Fill the Jinja2 templates of this package. The board's pages use the same filters."""

import base64
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from cifarlab.progress import duration
from cifarlab.statistics.significance import p_text

TEMPLATES = Path(__file__).parent / "templates"
FILTERS: dict[str, Callable[[Any], str]] = {  # a missing value becomes a dash
    "percent": lambda value: f"{value:.2%}" if isinstance(value, int | float) else "-",
    "points": lambda value: f"{100 * value:+.2f}" if isinstance(value, int | float) else "-",
    "time": lambda value: duration(value) if isinstance(value, int | float) else "-",
    "p_value": p_text,
    "count": lambda value: f"{value:,.0f}" if isinstance(value, int | float) else "-",
    "quoted": lambda text: shlex.quote(str(text)),  # for a shell
    "sentence": lambda text: f"{text[:1].upper()}{text[1:]}.",
}


def render(template: str, **values: Any) -> str:
    """Return a template of `report/templates` filled with values; in HTML they are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= FILTERS
    return environment.get_template(template).render(values)


def data_url(content: bytes, kind: str) -> str:
    """Return an `svg` or `png` file as an address that contains it."""
    media = "image/png" if kind == "png" else "image/svg+xml"
    return f"data:{media};base64,{base64.b64encode(content).decode()}"
