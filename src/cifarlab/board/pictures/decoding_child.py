"""Decode uploaded pictures in a child process of `limited`: squares in, PNG files out."""

import io
from typing import Any

from PIL import Image

from cifarlab.data.image_files import FORMATS_IN_MEMORY, read_image
from cifarlab.errors import UsageError

LARGEST_SIDE, SMALLEST_SIDE = 256, 8  # pixels


def read(content: bytes, names: list[str], sizes: list[int]) -> tuple[list[str], list[bytes]]:
    """Return an error or an empty text for each picture, and each picture as a square PNG file, empty after an error.

    The pictures follow each other in `content`. A picture is cropped to its centre, reduced to at most `LARGEST_SIDE`
    pixels a side, and loses its metadata, such as the place where it was taken.
    """
    errors, squares, start = list[str](), list[bytes](), 0
    for name, size in zip(names, sizes, strict=True):
        picture, start = content[start : start + size], start + size
        try:
            squares.append(_square(picture, name))
            errors.append("")
        except UsageError as error:
            squares.append(b"")
            errors.append(str(error))
    return errors, squares


def _square(picture: bytes, name: str) -> bytes:
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS_IN_MEMORY) as image:
            side = max(SMALLEST_SIDE, min(LARGEST_SIDE, *image.size))
    except Exception:  # `read_image` says what is wrong
        side = SMALLEST_SIDE
    pixels: Any = read_image(picture, side, name)
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()
