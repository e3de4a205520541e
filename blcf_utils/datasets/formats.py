"""Which files are pictures, which of them are read, and what would read the others.

A file is taken for a picture by its ending, or else by its first bytes. It is decoded by what its
bytes say, whatever its ending.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from typing import BinaryIO

from PIL import Image, features

# Pillow's format: endings, the usual one first. No decoder of these runs another program.
_READ = {
    # An MPO is a JPEG with further pictures behind the first, which is read.
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_AVIF, _HEIF, _JXL = (".avif", ".avifs"), (".heic", ".heif", ".hif"), (".jxl",)
_UNREAD = {
    "a raw converter exports them as JPEG or TIFF": (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw "
        ".orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
    ),
    "the program that made them exports PNG or TIFF": (
        ".ai .clip .emf .eps .kra .ora .psb .psd .svg .svgz .wmf .xcf"
    ),
    "convert them to PNG or JPEG": (
        ".blp .bpg .bw .cur .dcx .dds .dib .exr .flif .fits .hdr .icb .icns .ico .im .jng "
        ".jxr .mng .msp .palm .pcd .pcx .pfm .qoi .ras .rgb .rgba .sgi .spi .tga .vda .vst .wdp "
        ".xbm .xpm"
    ),
}
_ADVICE = {ending: advice for advice, all_ in _UNREAD.items() for ending in all_.split()}
_ADVICE |= dict.fromkeys(_HEIF, "pip install 'blcf-study[heif]' reads them")
_ADVICE |= dict.fromkeys(_JXL, "pip install 'blcf-study[jxl]' reads them")
_ADVICE |= dict.fromkeys(_AVIF, "a Pillow that has AVIF reads them")

with suppress(ImportError):  # the extra `heif`
    from pillow_heif import register_heif_opener

    register_heif_opener()
    _READ["HEIF"] = _HEIF
with suppress(ImportError):  # the extra `jxl`
    import blcf_utils.datasets.jxl  # noqa: F401

    _READ["JXL"] = _JXL
if features.check("avif"):
    _READ["AVIF"] = _AVIF

# Pillow reads up to twice its limit, with a warning, and refuses what has more pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS = tuple(_READ)
IMAGE_ENDINGS = frozenset(ending for endings in _READ.values() for ending in endings)
OTHER_ENDINGS = frozenset(_ADVICE) - IMAGE_ENDINGS
EXPECTED = "jpg, png, webp, bmp, tif, gif, jp2, ppm" + "".join(
    f", {format.lower()}" for format in ("AVIF", "HEIF", "JXL") if format in _READ
)
_BEGINS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|BM.{4}\0{4}|8BPS|\xff\x0a"
    rb"|\0\0\0\x0c(jP  |JXL )|....ftyp(hei|hev|mif1|msf1|avi[fs])",
    re.DOTALL,
)


def usual_ending(format: str) -> str:
    """Return the ending of files of a format, as an opened image names it."""
    return _READ["JPEG" if format == "MPO" else format][0]


def advice(ending: str) -> str:
    """Return what to do with pictures that are not read, by their ending in lower case."""
    return _ADVICE.get(ending, "pictures without a picture's ending: give them theirs")


def begins_as_picture(file: BinaryIO) -> bool:
    """Tell from its first bytes whether a file is a picture of a common kind."""
    return _BEGINS.match(file.read(16)) is not None


def open_image(source, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a file's path or its bytes as Pillow does, as one of the formats that are read.

    Raises:
        Exception: of any type, as every decoder has its own; also when pixels are loaded.
    """
    return Image.open(source, formats=formats)
