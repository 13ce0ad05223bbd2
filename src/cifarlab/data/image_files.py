"""Image files and arrays as the uint8 arrays that networks see: formats, sizes and colour modes.

Training from a folder and predicting a photo both use `read_image`, so that a network sees photos prepared in the same
way as its training images.
"""

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from cifarlab import files
from cifarlab.data.dataset import stacked
from cifarlab.errors import UsageError, one_line
from cifarlab.recipes import Resize

BACKGROUND = (255, 255, 255)  # behind transparent pixels: white, as on paper and most web pages
MOST_PIXELS = 100_000_000  # per image file; larger images are refused before they are decoded
MOST_PIXELS_IN_MEMORY = 25_000_000  # per image in memory, such as an upload
MOST_SCANS = 40  # of a JPEG file, each of which may paint all pixels again; progressive ones have about ten
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # of a JPEG's end, or of a segment, which says its length
FORMATS_IN_MEMORY: tuple[str, ...] = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
WHITES = (255.0, 4095.0, 65_535.0)  # of wide pixels; the smallest that fits, as scanners store 12 bits in 16
HEIC_ADVICE = "a HEIC photo, which cannot be read; convert it to JPEG, such as with: magick mogrify -format jpg *.heic"
# Other formats start programs.
FORMATS: tuple[str, ...] = (*FORMATS_IN_MEMORY, "AVIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "TGA")


def read_image(
    source: Path | bytes, size: int, name: str = "", resize: Resize = "crop"
) -> UInt8[np.ndarray, "c size size"]:
    """Return an image rotated as its EXIF data says, without transparency, resized to a square as `resize` says.

    A gray image has one channel, unless it is partly transparent; others have three.

    The source is the path of a file in one of `FORMATS`, or the content of a file in one of `FORMATS_IN_MEMORY` with
    its name for errors. The first frame of an animation is read.
    """
    if isinstance(source, bytes):
        place, most_pixels, formats = name or "the image", MOST_PIXELS_IN_MEMORY, FORMATS_IN_MEMORY
    else:
        place, most_pixels, formats = name or one_line(source), MOST_PIXELS, FORMATS
    too_large = f"{place}: should have at most {most_pixels:,} pixels"
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise UsageError(f"{place}: is a folder or a pipe, not an image")  # reading a pipe could wait for ever
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about many pixels, checked below, and broken metadata
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                if image.width * image.height > most_pixels:
                    raise UsageError(f"{too_large}, got {image.width} x {image.height} pixels")
                if image.format in ("JPEG", "MPO") and _scans(source) > MOST_SCANS:
                    raise UsageError(f"{place}: has more scans than any camera or program writes")
                if image.mode == "F":
                    raise UsageError(f"{place}: has floating-point pixels of unknown range; save it with 8 or 16 bits")
                image.load()  # damaged pixels raise once
                with contextlib.suppress(Exception):  # broken metadata
                    ImageOps.exif_transpose(image, in_place=True)
                square = _fit(_plain(image), size, resize)
    except FileNotFoundError as error:
        raise UsageError(f"there is no image {place!r}") from error
    except UnidentifiedImageError as error:
        other = "" if isinstance(source, bytes) else files.other_format(source, "image")
        reason = HEIC_ADVICE if _is_heic(source) else other or f"not an image in a known format ({', '.join(formats)})"
        raise UsageError(f"{place}: {reason}") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
        raise UsageError(too_large) from error
    except UsageError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged files
        raise UsageError(f"{place}: damaged image ({one_line(error)})") from error
    return np.array(square.transpose(2, 0, 1), order="C")  # a copy, because Pillow's arrays cannot be written to


def _is_heic(source: Path | bytes) -> bool:
    """Return True if this is a photo in the format of Apple's telephones, which needs a patented decoder."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        beginning = file.read(40)
    return beginning[4:8] == b"ftyp" and any(brand in beginning[8:] for brand in (b"heic", b"heix", b"hevc", b"heim"))


def pixels_in(content: bytes) -> int:
    """Return the number of pixels according to an image file's header, or 0 if this is not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS_IN_MEMORY) as image:
                return image.width * image.height
    except Exception:  # `read_image` reports the fault
        return 0


def from_array(images: Any, size: int, resize: Resize = "crop") -> UInt8[np.ndarray, "n c size size"]:
    """Return images in an array, a tensor or a list, gray or in colour, resized to a square as `resize` says.

    They are gray [n, h, w], or gray or RGB with channels last or first, or RGBA with channels last, from 0 to 255, or
    floats from 0 to 1, or a single image of three axes; see `is_single`. Those in a list may have different sizes.
    Anything else is a `ValueError`.
    """
    is_one, channels = is_single(images), (1, 3)
    if isinstance(images, list | tuple):
        images = [to_array(image) for image in images]
        if len({image.shape for image in images}) > 1:
            return stacked([from_array(image[None], size, resize)[0] for image in images])
    array = to_array(images)
    shape, dtype = array.shape, array.dtype
    if array.ndim == 3:
        array = array[None] if is_one else array[..., None]
    if array.ndim == 4 and array.shape[1] in channels and array.shape[3] not in channels:
        array = array.transpose(0, 2, 3, 1)
    low, high = (array.min(), array.max()) if array.size and dtype.kind in "buif" else (0, -1)
    if array.ndim != 4 or array.shape[3] not in (*channels, 4) or not 0 <= low <= high <= 255:
        layouts = "[n, h, w], [n, h, w, 1, 3 or 4] or [n, 1 or 3, h, w]"
        hint = ": give rows of pixels their shape again, with reshape" if len(shape) == 2 else ""
        raise ValueError(
            f"should be images {layouts} from 0 to 255, got {dtype} {list(shape)} from {low} to {high}{hint}"
        )
    if dtype != np.uint8:
        array = (array * (255.0 if dtype.kind in "bf" and high <= 1 else 1.0)).round().astype(np.uint8)
    if array.shape[3] == 4:
        array = np.stack([np.asarray(_plain(Image.fromarray(image))) for image in array])
    if array.shape[1:3] != (size, size):
        gray_or_colour = array[..., 0] if array.shape[3] == 1 else array
        array = np.stack([_fit(Image.fromarray(image), size, resize) for image in gray_or_colour])
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def is_single(images: Any) -> bool:
    """Return True for a path, an image, or an array or tensor [h, w], [h, w, 1, 3 or 4] or [1 or 3, h, w]."""
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) == 3:
        return shape[2] in (1, 3, 4) or shape[0] in (1, 3)
    return len(shape) == 2 or isinstance(images, str | Path | Image.Image)


def to_array(values: Any) -> np.ndarray:
    """Return an array, a list, an image or a tensor on any device as an array."""
    if isinstance(values, Image.Image):
        return np.asarray(_plain(ImageOps.exif_transpose(values)))
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values  # which NumPy lacks
    return np.asarray(values)


def _scans(source: Path | bytes) -> int:
    """Return the number of scans of a JPEG file; what follows its end, such as a video of a telephone, is left out."""
    content, position, scans = source if isinstance(source, bytes) else source.read_bytes(), 2, 0
    while (marker := _MARKER.search(content, position)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return scans


def _fit(image: Image.Image, size: int, resize: Resize) -> UInt8[np.ndarray, "size size c"]:
    if resize == "pad" and min(image.size) * size * 2 <= max(image.size):  # at least one row, which Pillow rounds to 0
        image = image.resize((size, 1) if image.width > image.height else (1, size), Image.Resampling.BICUBIC)
    fit: Any = {"crop": ImageOps.fit, "stretch": Image.Image.resize, "pad": ImageOps.pad}[resize]
    return np.atleast_3d(np.asarray(fit(image, (size, size), Image.Resampling.BICUBIC)))


def _plain(image: Image.Image) -> Image.Image:
    """Return an image of any mode in RGB, or as L if it is gray; transparent pixels get the background colour."""
    if image.mode.startswith("I"):  # 16 or 32 bits a pixel, which Pillow's own conversion clips to white
        values = np.asarray(image).clip(0, int(WHITES[-1])).astype(np.uint16)
        white = next(white for white in WHITES if values.max() <= white)
        gray = (np.arange(WHITES[-1] + 1).clip(0, white) / white * 255).round().astype(np.uint8)
        image = Image.fromarray(gray[values])
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    flat = Image.new("RGB", image.size, BACKGROUND)
    layer = image.convert("RGBA")
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat
