"""Validation and test images of runs, as data and as PNG files."""

import io
import json
import threading
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cifarlab.data.dataset import Dataset
from cifarlab.data.parts import load_parts
from cifarlab.errors import UsageError
from cifarlab.recipes import check
from cifarlab.runs.folder import RunFolder

CACHED_DATA_SETS = 2


class RunImages:
    """Cache of the images of the runs that were looked at last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a page asks for many images at once, but the data must be read only once
        self._read_parts = lru_cache(maxsize=CACHED_DATA_SETS)(_read_parts)

    def part(self, run: RunFolder, part: str) -> Dataset:
        """Return the `validation` or `test` images of a run, with their labels.

        Raises:
            UsageError: there is no such part, or the data set has changed.
        """
        with self._lock:
            parts = self._read_parts(run.recipe.model_dump_json(), run.record.data.sha256)
        if part not in parts:
            raise UsageError(f"part must be validation or test, got {part[:40]!r}")
        return parts[part]

    def png(self, run: RunFolder, part: str, number: int) -> bytes:
        """Return an image of a run as a PNG file.

        Args:
            run: the run.
            part: `validation` or `test`.
            number: number of the image in that part, counted from 0.

        Raises:
            UsageError: there is no such image.
        """
        images = self.part(run, part)
        if not 0 <= number < len(images):
            raise UsageError(f"the number of a {part} image must be 0 to {len(images) - 1}, got {number}")
        return to_png(images.images[number])


def to_png(image: UInt8[np.ndarray, "3 h w"]) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def _read_parts(recipe_json: str, sha256: str) -> dict[str, Dataset]:
    """Read the data of a run; the recipe is passed as JSON, because a cache needs a hashable key."""
    recipe = check(json.loads(recipe_json), "run.json")
    _, parts = load_parts(recipe, sha256=sha256, fetch=False)
    return {"validation": parts.validation, "test": parts.test}  # the board shows no training images
