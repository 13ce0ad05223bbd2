"""Validation and test images of runs, as data and as PNG files."""

import io
import json
import threading
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cifarlab.data.catalogue import load_parts
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UsageError
from cifarlab.recipes import check
from cifarlab.runs.folder import RunFolder

CACHED_DATA_SETS = 2
_READING = threading.Lock()  # a page asks for many images at once, but the data must be read only once


def held_out_images(run: RunFolder, part: str) -> Dataset:
    """Return the `validation` or `test` images of a run, with their labels."""
    with _READING:
        parts = _read_parts(run.recipe.model_dump_json(), run.record.data.sha256)
    if part not in parts:
        raise UsageError(f"part must be validation or test, got {part[:40]!r}")
    return parts[part]


@lru_cache(CACHED_DATA_SETS)
def _read_parts(recipe_json: str, sha256: str) -> dict[str, Dataset]:
    """Read the data of a run; the recipe is passed as JSON, because a cache needs a hashable key."""
    _, parts = load_parts(check(json.loads(recipe_json), "run.json"), sha256=sha256, fetch=False)
    return {"validation": parts.validation, "test": parts.test}  # the board shows no training images


def to_png(image: UInt8[np.ndarray, "c h w"]) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()
