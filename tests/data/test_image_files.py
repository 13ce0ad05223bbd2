"""Image files: every kind that people have on their disks, and files that are not images."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cifarlab.data import image_files
from cifarlab.data.image_files import from_array, read_image
from cifarlab.errors import UsageError

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
QUADRANTS = (RED, GREEN, BLUE, WHITE)  # top left, top right, bottom left, bottom right
ORIENTATION = 0x0112  # in EXIF


def four_colours(size: int = 64) -> Image.Image:
    picture = Image.new("RGB", (size, size))
    half = size // 2
    for number, colour in enumerate(QUADRANTS):
        picture.paste(
            colour, (number % 2 * half, number // 2 * half, number % 2 * half + half, number // 2 * half + half)
        )
    return picture


def colour_at(read: np.ndarray[Any, Any], down: float, right: float) -> tuple[int, ...]:
    """Return the colour at a position, given as fractions of the side; JPEG's small errors are rounded away."""
    height, width = read.shape[1:]
    values = read[:, int(down * height), int(right * width)].astype(int)
    return tuple(int(round(value / 51) * 51) for value in values)


def quadrants(read: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(colour_at(read, down, right) for down in (0.25, 0.75) for right in (0.25, 0.75))


def refused(path: Path, size: int = 32) -> str:
    """Return the error's text, which must be one line with the path."""
    with pytest.raises(UsageError) as raised:
        read_image(path, size)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    return str(raised.value)


def png_of_size(width: int, height: int) -> bytes:
    """Return the start of a PNG whose header has this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize("size", [1, 28, 32, 65])
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "webp", "tif"])
def test_any_format_becomes_a_square_of_the_requested_size(tmp_path: Path, kind: str, size: int) -> None:
    four_colours().save(tmp_path / f"a.{kind}")
    read = read_image(tmp_path / f"a.{kind}", size)
    assert read.shape == (3, size, size)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    if size > 1:
        assert quadrants(read) == QUADRANTS


def test_an_image_of_the_right_size_is_not_changed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 32), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(90, 30), (30, 90)])
def test_images_are_cropped_to_the_central_square(tmp_path: Path, shape: tuple[int, int]) -> None:
    picture = Image.new("RGB", shape, RED)
    left, top = (shape[0] - 30) // 2, (shape[1] - 30) // 2
    ImageDraw.Draw(picture).rectangle((left, top, left + 29, top + 29), GREEN)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(
        read_image(tmp_path / "a.png", 30),
        np.asarray(picture.crop((left, top, left + 30, top + 30))).transpose(2, 0, 1),
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1)])
def test_the_narrowest_images_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.new("RGB", shape, BLUE).save(tmp_path / "a.png")
    assert quadrants(read_image(tmp_path / "a.png", 8)) == (BLUE,) * 4


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),  # EXIF: rotate by 90 degrees clockwise
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_an_image_is_rotated_as_its_exif_data_says(
    tmp_path: Path, orientation: int, undo: Image.Transpose, kind: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lying = four_colours().transpose(undo)
    lying.save(tmp_path / f"a.{kind}", exif=exif)
    lying.save(tmp_path / f"b.{kind}")
    assert quadrants(read_image(tmp_path / f"a.{kind}", 32)) == QUADRANTS
    assert quadrants(read_image(tmp_path / f"b.{kind}", 32)) != QUADRANTS  # without EXIF it is not rotated


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0", b"Exif\0\0"])
def test_an_image_with_broken_metadata_is_read(tmp_path: Path, exif: bytes) -> None:
    four_colours().save(tmp_path / "a.jpg", exif=exif)
    assert quadrants(read_image(tmp_path / "a.jpg", 32)) == QUADRANTS


def test_transparency_is_white(tmp_path: Path) -> None:
    picture = four_colours().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 32))  # black, but fully transparent
    picture.paste((0, 0, 0, 128), (32, 0, 64, 32))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.webp", lossless=True)
    for name in ("a.png", "a.webp"):
        read = read_image(tmp_path / name, 64)
        assert colour_at(read, 0.25, 0.25) == WHITE
        assert 125 <= read[0, 16, 48] <= 129 and len(set(read[:, 16, 48].tolist())) == 1
        assert quadrants(read)[2:] == QUADRANTS[2:]


@pytest.mark.parametrize("mode", ["LA", "L", "1", "RGB", "P"])
def test_transparency_of_every_kind_is_white(tmp_path: Path, mode: str) -> None:
    if mode == "LA":
        picture = Image.merge("LA", [Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)])
        picture.save(tmp_path / "a.png")
    else:
        Image.new(mode, (8, 8)).save(tmp_path / "a.png", transparency=BLACK if mode == "RGB" else 0)
    assert quadrants(read_image(tmp_path / "a.png", 8)) == (WHITE,) * 4


def test_a_palette_with_degrees_of_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (64, 64))
    picture.putpalette([*RED, *GREEN, *BLUE, *BLACK])
    for number in range(4):
        picture.paste(number, (number % 2 * 32, number // 2 * 32, number % 2 * 32 + 32, number // 2 * 32 + 32))
    picture.save(tmp_path / "a.png", transparency=bytes([255, 255, 255, 0]))
    assert quadrants(read_image(tmp_path / "a.png", 32)) == QUADRANTS


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 65_535, 64).astype(np.uint16)[None], 64, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "b.tif")
    with Image.open(tmp_path / "a.png") as written:
        assert written.mode.startswith("I;16")
    for name in ("a.png", "a.tif", "b.tif"):
        read = read_image(tmp_path / name, 64)
        assert np.abs(read.astype(int) - np.linspace(0, 255, 64)).max() <= 1
    Image.fromarray(np.array([[7, -3], [255, 0]], dtype=np.int32)).save(tmp_path / "c.tif")  # 8 bits in a wide file
    assert read_image(tmp_path / "c.tif", 2)[0].tolist() == [[7, 0], [255, 0]]


def test_a_cmyk_photograph_keeps_its_colours(tmp_path: Path) -> None:
    four_colours().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    four_colours().convert("CMYK").save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.mode == "CMYK"
    assert quadrants(read_image(tmp_path / "a.jpg", 32)) == QUADRANTS
    assert quadrants(read_image(tmp_path / "a.tif", 32)) == QUADRANTS


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    others = [Image.new("RGB", (64, 64), colour) for colour in (BLACK, RED)]
    for name in ("a.gif", "a.webp", "a.png"):
        four_colours().save(tmp_path / name, save_all=True, append_images=others, duration=50)
        with Image.open(tmp_path / name) as written:
            assert getattr(written, "n_frames", 1) == 3
        assert quadrants(read_image(tmp_path / name, 32)) == QUADRANTS


@pytest.mark.parametrize(("mode", "white"), [("L", 200), ("1", 1), ("P", None), ("YCbCr", None), ("LAB", None)])
def test_other_modes_become_colours(tmp_path: Path, mode: str, white: int | None) -> None:
    if white is None:
        Image.new("RGB", (8, 8), WHITE).convert("RGB" if mode == "LAB" else mode).save(tmp_path / "a.tif")
    else:
        Image.new(mode, (8, 8), white).save(tmp_path / "a.png")
    read = read_image(tmp_path / ("a.tif" if white is None else "a.png"), 8)
    assert np.all(read == (200 if mode == "L" else 255))


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a.tif")
    assert "save it with 8 or 16 bits" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_a_cut_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for kept in (len(whole) * 2 // 3, len(whole) // 3, 30, 3):
        path.write_bytes(whole[:kept])
        text = refused(path)
        assert "damaged image" in text or "not an image" in text


def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for content in (b"", b"Just text.\nTwo lines.", b"<html></html>", bytes(1000), b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        assert "not an image in a known format" in refused(path)
    refused(tmp_path)  # a folder


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.png") == f"there is no image {str(tmp_path / 'none.png')!r}"


def test_too_many_pixels_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    for width, height in ((10_001, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        path.write_bytes(png_of_size(width, height))
        assert "at most 100,000,000 pixels" in refused(path)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 64 * 64 - 1)
    four_colours().save(path)
    assert "at most 4,095 pixels, got 64 x 64 pixels" in refused(path)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 64 * 64)
    assert quadrants(read_image(path, 32)) == QUADRANTS


def test_a_large_photograph_is_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)  # Pillow warns of more; warnings are errors
    four_colours().save(tmp_path / "a.png")
    assert quadrants(read_image(tmp_path / "a.png", 32)) == QUADRANTS


def test_arrays_are_resized_as_files_are(tmp_path: Path) -> None:
    pixels = np.stack([np.asarray(four_colours(side)) for side in (64, 64)])
    pixels[1] = pixels[1, ::-1]
    four_colours().save(tmp_path / "a.png")
    resized = from_array(pixels, 32)
    assert resized.shape == (2, 3, 32, 32)
    assert np.array_equal(resized[0], read_image(tmp_path / "a.png", 32))
    assert quadrants(resized[1]) == QUADRANTS[2:] + QUADRANTS[:2]
    same = from_array(pixels, 64)
    assert np.array_equal(same, pixels.transpose(0, 3, 1, 2)) and same.flags.c_contiguous


@pytest.mark.parametrize(("width", "height"), [(64, 32), (20, 50)])
def test_pictures_become_square_as_asked(tmp_path: Path, width: int, height: int) -> None:
    four_colours(64).resize((width, height)).save(tmp_path / "a.png")
    stretched = read_image(tmp_path / "a.png", 32, resize="stretch")
    assert quadrants(stretched) == QUADRANTS
    padded = read_image(tmp_path / "a.png", 32, resize="pad")
    assert quadrants(padded[:, 12:20, 12:20]) == QUADRANTS and not padded[:, 0, 0].any() and not padded[:, -1, -1].any()
    arrays = np.asarray(Image.open(tmp_path / "a.png"))[None]
    assert np.array_equal(from_array(arrays, 32, "pad")[0], padded)
    assert np.array_equal(from_array(arrays, 32, "stretch")[0], stretched)


@pytest.mark.parametrize("shape", [(30, 2000), (2000, 30), (1, 64), (1, 65)])
def test_very_long_pictures_are_padded_to_a_row_at_least(shape: tuple[int, int]) -> None:
    padded = from_array(np.full((1, *shape, 3), 200, np.uint8), 32, "pad")[0, 0]
    assert 32 <= (padded == 200).sum() <= 64 and (padded == 0).sum() == 32 * 32 - (padded == 200).sum()


def test_scans_are_counted_within_the_jpeg_file_alone(tmp_path: Path) -> None:
    scan, path = b"\xff\xda", tmp_path / "motion.jpg"
    four_colours().save(path, progressive=True, exif=b"Exif\0\0" + scan * 50)  # as in a thumbnail
    content = path.read_bytes()
    path.write_bytes(content + scan * 5000)  # as in a telephone's video
    assert quadrants(read_image(path, 32)) == QUADRANTS
    last = content[content.rindex(scan) : -2]
    for filler in (b"", b"\0\0", b"\xff\xff"):  # which decoders skip
        path.write_bytes(content[:-2] + (filler + last) * 50 + b"\xff\xd9")
        assert "more scans than any camera" in refused(path)


def test_a_broken_stream_in_a_jpeg_file_is_refused(tmp_path: Path) -> None:
    four_colours(64).save(path := tmp_path / "a.jpg", progressive=True)
    content = path.read_bytes()
    start = content.rindex(b"\xff\xda")
    path.write_bytes(content[:start] + b"\xff\x02" + content[start:])  # an unknown marker, between segments
    assert "damaged image" in refused(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UsageError, match="is a folder or a pipe, not an image"):
        read_image(tmp_path / "a.png", 32)


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"II*\0\x08\0\0\0\x05\0", b"nothing"])
def test_an_image_with_a_broken_exif_chunk_is_read(tmp_path: Path, kind: str, exif: bytes) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    four_colours().save(tmp_path / f"a.{kind}", exif=exif, **options)
    assert quadrants(read_image(tmp_path / f"a.{kind}", 32)) == QUADRANTS


def test_twelve_bits_in_sixteen_are_not_dark(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 4095, 64).astype(np.uint16)[None], 64, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png", 64).astype(int) - np.linspace(0, 255, 64)).max() <= 1


def test_sixteen_bits_take_little_memory(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2000, 2000), np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    image_files.read_image(tmp_path / "a.png", 32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2000**2


def test_a_progressive_photograph_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "a.jpg", progressive=True)
    assert image_files.read_image(tmp_path / "a.jpg", 32).shape == (3, 32, 32)


@pytest.mark.parametrize("mode", ["1", "L", "I;16"])
def test_gray_images_have_one_channel_of_the_same_values(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    picture = Image.fromarray(noise.astype(np.uint16) * 257 if mode == "I;16" else noise).convert(mode)
    picture.save(tmp_path / "gray.png")
    colour = picture.convert("L") if mode != "I;16" else Image.fromarray(noise)
    colour.convert("RGB").save(tmp_path / "rgb.png")
    for resize in ("crop", "stretch", "pad"):
        gray, rgb = (read_image(tmp_path / f"{name}.png", 16, resize=resize) for name in ("gray", "rgb"))
        assert gray.shape == (1, 16, 16) and rgb.shape == (3, 16, 16) and (gray == rgb).all()
    several = [picture, Image.open(tmp_path / "rgb.png")]
    assert from_array([picture] * 2, 16).shape == (2, 1, 16, 16) and from_array(several, 16).shape == (2, 3, 16, 16)
