"""Reading photographs of every kind that a folder may hold."""

import hashlib
import os
import struct
import tracemalloc

import numpy as np
import processes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.datasets.files import content_digest
from blcf_utils.datasets.formats import (
    FORMATS,
    IMAGE_ENDINGS,
    OTHER_ENDINGS,
    advice,
    begins_as_picture,
    usual_ending,
)
from blcf_utils.datasets.images import UnreadableImage, image_size, read_image, resized_size
from blcf_utils.datasets.views import View
from blcf_utils.ground.errors import StudyError


def gradient(width=60, height=40):
    """An RGB image, smooth, whose red grows to the right and green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, np.full(x.shape, 128.0)]
    return np.stack(channels, axis=2).astype(np.uint8)


def test_a_png_is_read_as_it_is(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert (pixels.dtype, pixels.shape) == (np.uint8, (40, 60, 3))
    np.testing.assert_array_equal(pixels, gradient())
    assert image_size(tmp_path / "a.png") == (60, 40)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(gradient()).convert(mode).save(path)
    pixels = read_image(path, (30, 20))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (20, 30, 3))
    grey = mode in ("L", "LA", "1")
    small = np.asarray(Image.fromarray(gradient()).resize((30, 20)).convert("L"), float)
    found = np.asarray(Image.fromarray(pixels).convert("L"), float)
    assert np.abs(found - small).mean() < (70 if mode == "1" else 16)
    assert (pixels.max(axis=2) == pixels.min(axis=2)).all() == grey


def transparent(mode):
    """Red at a quarter opacity left, and fully transparent blue right, in a mode with alpha."""
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[:, :20], pixels[:, 20:] = (200, 40, 0, 64), (0, 0, 250, 0)
    image = Image.fromarray(pixels)
    if mode == "P":  # a colour of the palette is transparent
        image = image.convert("RGB").quantize(4, dither=Image.Dither.NONE)
        image.info["transparency"] = image.getpixel((30, 5))
    return image.convert(mode)


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("RGBA", "webp"), ("LA", "png")])
def test_transparent_pixels_are_shown_on_white(tmp_path, mode, suffix):
    image, path = transparent(mode), tmp_path / f"a.{suffix}"
    image.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    *colour, alpha = (np.asarray(image.getpixel((5, 5)), float)).tolist()
    shown = read_image(path)
    expected = np.array(colour) * alpha / 255 + 255 * (1 - alpha / 255)
    np.testing.assert_allclose(shown[5, 5], np.broadcast_to(expected, 3), atol=1)
    assert (shown[:, 20:] == 255).all()
    dropped = read_image(path, alpha="drop")
    np.testing.assert_array_equal(dropped, np.asarray(image.convert("RGB")))
    assert (dropped[5, 30] != 255).any()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_white(tmp_path, suffix):
    image = transparent("P")
    image.save(tmp_path / f"a.{suffix}", transparency=image.info["transparency"])
    shown = read_image(tmp_path / f"a.{suffix}")
    assert (shown[:, 20:] == 255).all()
    np.testing.assert_allclose(shown[5, 5], (200, 40, 0), atol=3)
    assert (read_image(tmp_path / f"a.{suffix}", alpha="drop")[5, 30] != 255).any()


def test_opaque_alpha_changes_nothing(tmp_path):
    Image.fromarray(gradient()).convert("RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), gradient())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path, suffix):
    shades = np.linspace(0, 65_535, 60 * 40).reshape(40, 60).astype(np.uint16)
    Image.fromarray(shades).save(tmp_path / f"a.{suffix}")
    pixels = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(pixels[..., 0], shades / 257, atol=0.51)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_pixels_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"a\.tif: .*mode F"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_turns_pixels_and_size_alike(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(path, exif=exif)
    for turn in (False, True):
        height, width = read_image(path, exif_orientation=turn).shape[:2]
        assert image_size(path, exif_orientation=turn) == (width, height)
    assert (height, width) == ((60, 40) if orientation >= 5 else (40, 60))


def test_orientation_six_means_a_quarter_turn_clockwise(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png", exif_orientation=True)
    np.testing.assert_array_equal(turned, np.rot90(gradient(), -1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), gradient())


# An EXIF block of little-endian entries: tag, type, count, value in place or its offset.
ODD_TAGS = {
    "resolution as text": (0x011A, 2, 3, b"72\0\0"),
    "resolution as bytes": (0x011A, 7, 4, b"\0\0\0H"),
    "width as text": (0x0100, 2, 4, b"320\0"),
    "an offset beyond the end": (0x011A, 5, 1, b"\xff\xff\xff\0"),
}


@pytest.mark.parametrize("odd", ODD_TAGS.values(), ids=ODD_TAGS)
def test_a_photograph_with_odd_exif_tags_is_still_turned(tmp_path, odd):
    turned = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    entries = b"".join(struct.pack("<HHL", *tag) + value for *tag, value in sorted((odd, turned)))
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4)
    path = tmp_path / "a.jpg"
    Image.fromarray(np.rot90(gradient(), 1)).save(path, quality=95, exif=exif)
    assert image_size(path, exif_orientation=True) == (60, 40)
    shown = read_image(path, exif_orientation=True)
    assert np.abs(shown.astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"no"])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path, exif):
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert image_size(tmp_path / "a.jpg", exif_orientation=True) == (60, 40)
    assert read_image(tmp_path / "a.jpg", exif_orientation=True).shape == (40, 60, 3)


@pytest.mark.parametrize(
    "error", [struct.error("s"), TypeError(), ZeroDivisionError(), NotImplementedError("n")]
)
def test_whatever_a_decoder_raises_is_the_error_of_that_file(tmp_path, monkeypatch, error):
    Image.fromarray(gradient()).save(tmp_path / "a.png")

    def fails(image):
        raise error

    monkeypatch.setattr(PngImageFile, "load", fails)
    with pytest.raises(UnreadableImage, match=r"a\.png: expected an image that decodes") as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.reason == (str(error) or repr(error))


def test_a_file_of_any_size_is_looked_at_in_little_memory(tmp_path):
    path, size = tmp_path / "film.jpg", 50_000_000
    with path.open("wb") as file:
        file.truncate(size)
    whole = hashlib.blake2b(bytes(size), digest_size=16).hexdigest()
    tracemalloc.start()
    try:
        assert content_digest(path) == whole
        film = Dataset("film", tmp_path, (path,), ())
        with pytest.raises(StudyError, match=r"1 files cannot be decoded .*film.jpg"):
            check_dataset(film)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_many_pixels_are_read_without_a_word(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    code = """
        import sys
        from pathlib import Path
        from PIL import Image
        from blcf_utils.datasets.images import read_image
        Image.MAX_IMAGE_PIXELS = 60 * 40 - 1
        assert read_image(Path(sys.argv[1])).shape == (40, 60, 3)
    """
    assert processes.run(code, tmp_path / "a.png", output=tmp_path) == 0
    assert "Warning" not in (tmp_path / "stderr").read_text()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"a\.jpg: .*no regular file"):
            read(tmp_path / "a.jpg")


def test_what_would_start_another_program_is_no_image(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.eps")  # Ghostscript draws them
    with pytest.raises(UnreadableImage, match="not of a known image format"):
        read_image((tmp_path / "a.eps").rename(tmp_path / "a.jpg"))


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_under_its_usual_ending(tmp_path, format):
    path = tmp_path / f"a{usual_ending(format)}"
    Image.fromarray(gradient()).save(path, format)
    assert path.suffix in IMAGE_ENDINGS
    assert np.abs(read_image(path).astype(int) - gradient()).mean() < 12
    with path.open("rb") as file:
        assert begins_as_picture(file) == (format != "PPM")


def test_a_heic_is_read_where_its_reader_is_installed(tmp_path):
    path = tmp_path / "a.heic"
    if "HEIF" not in FORMATS:
        assert ".heic" in OTHER_ENDINGS
        assert advice(".heic") == "pip install 'blcf-study[heif]' reads them"
        pytest.skip("SKIPPED, NOT TESTED: reading HEIC; install pillow-heif")
    assert ".heic" in IMAGE_ENDINGS - OTHER_ENDINGS
    Image.fromarray(gradient()).save(path, quality=95)
    assert image_size(path, exif_orientation=True) == (60, 40)
    shown = read_image(path, exif_orientation=True)
    assert np.abs(shown.astype(int) - gradient()).mean() < 4


# 6 x 4 grey pixels, 0, 10 ... 230, that cjxl stored as 4 x 6 ones to be turned (orientation 6).
TURNED_JXL = (
    "ff0a2800065820282e090802010080004b188b15525c4777"
    "0a4451aa3a41607c101886ffe29ae8b263d721fc50abea02"
)


def test_a_jxl_is_read_where_its_reader_is_installed(tmp_path):
    path = tmp_path / "a.jxl"
    if "JXL" not in FORMATS:
        assert ".jxl" in OTHER_ENDINGS
        assert advice(".jxl") == "pip install 'blcf-study[jxl]' reads them"
        pytest.skip("SKIPPED, NOT TESTED: reading JPEG XL; install pillow-jxl-plugin")
    from blcf_utils.datasets.jxl import told_size

    assert ".jxl" in IMAGE_ENDINGS - OTHER_ENDINGS
    exif = Image.Exif()
    exif[0x0112] = 6
    # A JPEG within is turned by its EXIF, as it is outside.
    turned = tmp_path / "turned.jpg"
    Image.fromarray(np.rot90(gradient(), 1)).save(turned, quality=95, exif=exif)
    with Image.open(turned) as image:
        image.save(path, lossless_jpeg=True)
    assert image_size(path, exif_orientation=True) == (60, 40)
    shown = read_image(path, exif_orientation=True)
    assert np.abs(shown.astype(int) - gradient()).mean() < 3
    # Otherwise a picture says itself how it is turned, and its EXIF does not count.
    Image.fromarray(gradient()).save(path, lossless=True, exif=exif.tobytes(), use_container=True)
    np.testing.assert_array_equal(read_image(path, exif_orientation=True), gradient())
    path.write_bytes(bytes.fromhex(TURNED_JXL))
    assert told_size(path.read_bytes()) == (4, 6)
    assert image_size(path, exif_orientation=True) == (6, 4)
    shown = read_image(path, exif_orientation=True)
    np.testing.assert_array_equal(shown[..., 0].ravel(), range(0, 240, 10))
    path.write_bytes(bytes.fromhex(TURNED_JXL)[:30])
    with pytest.raises(UnreadableImage, match="cut or broken JPEG XL"):
        read_image(path)
    # In eights, by a ratio, and as two numbers; in boxes too, of which one is cut.
    for width, height in ((64, 48), (256, 128), (60, 40), (601, 397), (9001, 1)):
        for boxed in (False, True):
            Image.new("L", (width, height)).save(path, use_container=boxed)
            assert told_size(path.read_bytes()) == (width, height)
    for content in (b"", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\2jxlc", b"\0\0\0\1jxlc\0"):
        with pytest.raises(ValueError, match="no picture"):
            told_size(content)


def test_a_jxl_of_too_many_pixels_is_not_decoded(tmp_path):
    if "JXL" not in FORMATS:
        pytest.skip("SKIPPED, NOT TESTED: reading JPEG XL; install pillow-jxl-plugin")
    path = tmp_path / "a.jxl"
    # 2^30 x 2^30 pixels, of which nothing follows: not in eights, two numbers of 30 bits.
    bits = (2**30 - 1) << 38 | 3 << 36 | 0 << 33 | (2**30 - 1) << 3 | 3 << 1
    path.write_bytes(b"\xff\x0a" + bits.to_bytes(12, "little"))
    with pytest.raises(UnreadableImage, match="1073741824x1073741824 pixels are too many"):
        image_size(path)


def test_resizing_is_bilinear_with_antialiasing(tmp_path):
    # A checkerboard of single pixels, made four times smaller, is grey and not black or white.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png", (16, 16)).astype(int) - 127).max() < 10


def bilinear(pixels, size):
    """Values between the nearest four pixels; half-pixel centres, borders repeated."""
    for axis, new in ((0, size[1]), (1, size[0])):
        old = pixels.shape[axis]
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), old - 2)
        share = np.expand_dims(at - low, tuple(i for i in range(3) if i != axis))
        first, second = pixels.take(low, axis), pixels.take(low + 1, axis)
        pixels = first * (1 - share) + second * share
    return pixels


@pytest.mark.parametrize("size", [(20, 13), (31, 40), (90, 61)])
def test_plain_resizing_reads_the_nearest_four_pixels_only(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", size, resize="plain")
    assert (found.dtype, found.shape) == (np.uint8, (*size[::-1], 3))
    np.testing.assert_allclose(found, bilinear(noise.astype(float), size), atol=1)
    smooth = read_image(tmp_path / "a.png", size)
    alike = np.abs(smooth.astype(int) - found).max() <= 1
    assert alike == (size == (90, 61))  # enlarged, both are the same


def test_plain_resizing_of_a_view_is_that_of_its_part(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", (25, 20), view=View(True, 2), resize="plain")
    expected = bilinear(noise[10:30, 15:45].astype(float), (25, 20))[:, ::-1]
    np.testing.assert_allclose(found, expected, atol=1)


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(32, 2000))
def test_the_longest_side_is_exact_and_the_aspect_kept(width, height, longest):
    new = resized_size((width, height), longest)
    assert max(new) == longest
    assert min(new) >= 1
    exact = min(width, height) * longest / max(width, height)
    assert abs(min(new) - max(exact, 1)) <= 0.5
    assert (new[0] >= new[1]) == (width >= height) or new[0] == new[1]


def broken_files(folder):
    whole = folder / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(whole)
    content = whole.read_bytes()
    return {
        "cut.jpg": content[: len(content) // 2],
        "empty.jpg": b"",
        "text.jpg": b"<html>404 not found</html>",
        "head.png": b"\x89PNG\r\n\x1a\n\x00\x00",
    }


@pytest.mark.parametrize("name", ["cut.jpg", "empty.jpg", "text.jpg", "head.png"])
def test_a_broken_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(broken_files(tmp_path)[name])
    with pytest.raises(UnreadableImage, match=f"{name}: expected an image that decodes"):
        read_image(tmp_path / name)
    if name != "cut.jpg":  # its header is whole
        with pytest.raises(UnreadableImage, match=name):
            image_size(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path):
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"no\.jpg: .*\(no such file\)"):
            read(tmp_path / "no.jpg")
        with pytest.raises(UnreadableImage):
            read(tmp_path)


def test_an_image_too_large_to_be_meant_is_refused(tmp_path, monkeypatch):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match="decompression bomb"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp"])
def test_damage_anywhere_gives_pixels_or_a_named_error(tmp_path, suffix):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"damaged.{suffix}"
    Image.fromarray(gradient()).save(whole)
    rng, outcomes = np.random.default_rng(3), set()
    for _ in range(150):
        content = bytearray(whole.read_bytes())
        for place in rng.integers(0, min(len(content), 200), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(1, 2 * len(content))])
        try:
            outcomes.add(read_image(path, (8, 8), exif_orientation=True).shape)
        except UnreadableImage:
            outcomes.add("refused")
    assert outcomes == {(8, 8, 3), "refused"}
