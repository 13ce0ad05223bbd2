"""One's own pictures as the arrays that networks see: any Pillow format, any size, any mode.

Training from a folder and predicting a photo both come through here, so that a network is asked about pictures made in
the same way as those it learned from.
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from cifarlab.errors import UsageError, one_line

BACKGROUND = (255, 255, 255)  # under transparent pixels: white, as on paper and most web pages
MOST_PIXELS = 100_000_000  # of one picture; more is refused before it is decoded
MOST_PIXELS_IN_MEMORY = 25_000_000  # of a picture that comes as bytes, from somebody else
FORMATS_IN_MEMORY = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
FORMATS = (*FORMATS_IN_MEMORY, "AVIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "TGA")  # others start programs


def read_image(source: Path | bytes, size: int) -> UInt8[np.ndarray, "3 size size"]:
    """Reads a picture: turned as its EXIF says, transparency over white, cut to the central square, resized.

    Args:
        source: a file in any of `FORMATS`, or its content; of an animation the first picture counts.
        size: side of the result, in pixels.

    Raises:
        UsageError: the file is missing, not a picture, damaged, or has more than `MOST_PIXELS` pixels; of content,
            `MOST_PIXELS_IN_MEMORY`, and it must be of `FORMATS_IN_MEMORY`.
    """
    path = "the picture" if isinstance(source, bytes) else source
    most, formats = (MOST_PIXELS, FORMATS) if isinstance(source, Path) else (MOST_PIXELS_IN_MEMORY, FORMATS_IN_MEMORY)
    try:
        if isinstance(source, Path) and stat.S_ISFIFO(source.stat().st_mode):
            raise UsageError(f"{path}: is a pipe, not an image")  # which would be waited for
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, as MOST_PIXELS is checked, and of broken metadata
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                if image.width * image.height > most:
                    raise UsageError(f"{path}: {image.width} x {image.height} pixels are too many to read")
                if image.mode == "F":
                    raise UsageError(f"{path}: floating-point pixels have no known range: save as 8 or 16 bits")
                square = ImageOps.fit(_to_rgb(ImageOps.exif_transpose(image)), (size, size), Image.Resampling.BICUBIC)
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder, not an image") from error
    except FileNotFoundError as error:
        raise UsageError(f"there is no image {str(path)!r}") from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{path}: not an image in a format that is read ({', '.join(formats)})") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, of more pixels still
        raise UsageError(f"{path}: more than {MOST_PIXELS:,} pixels are too many to read") from error
    except UsageError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise UsageError(f"{path}: damaged image ({one_line(error)})") from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def pixels_in(content: bytes) -> int:
    """How many pixels a picture file says that it has; 0 for what is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS_IN_MEMORY) as image:
                return image.width * image.height
    except Exception:  # `read_image` says what is wrong
        return 0


def resize_all(images: UInt8[np.ndarray, "n h w 3"], size: int) -> UInt8[np.ndarray, "n 3 size size"]:
    """Images in an array, cut to the central square and resized where they are not of that size already."""
    if images.shape[1:3] != (size, size):
        fitted = [ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BICUBIC) for image in images]
        images = np.stack([np.asarray(image) for image in fitted])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def from_array(images: Any, size: int) -> UInt8[np.ndarray, "n 3 size size"]:
    """Images of anybody's array, whichever way its axes lie: gray or in colour, channels last or first.

    Args:
        images: uint8, [n, h, w], [n, h, w, 1 or 3] or [n, 1 or 3, h, w].
        size: side of the result, in pixels.

    Raises:
        ValueError: it is none of these.
    """
    found = np.asarray(images)
    shape, dtype = list(found.shape), found.dtype
    if found.ndim == 4 and found.shape[1] in (1, 3) and found.shape[3] not in (1, 3):
        found = found.transpose(0, 2, 3, 1)
    if found.ndim == 3:
        found = found[..., None]
    if dtype != np.uint8 or found.ndim != 4 or found.shape[3] not in (1, 3) or not found.size:
        raise ValueError(
            f"should be uint8 images [n, h, w], [n, h, w, 1 or 3] or [n, 1 or 3, h, w], got {dtype} {shape}"
        )
    return resize_all(np.repeat(found, 3, axis=3) if found.shape[3] == 1 else found, size)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 or 32 bits a pixel: Pillow's own conversion clips them to white
        values = np.asarray(image).astype(np.float64)
        deepest = 65_535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values.clip(0, deepest) / deepest * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, BACKGROUND)
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat
    return image.convert("RGB")
