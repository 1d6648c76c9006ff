"""Identification of image formats by content and suffix."""

import io

import pytest
from PIL import Image

from focalnets.images.formats import FORMATS, HEAD, IMAGE_SUFFIXES, identify, is_image

Image.init()
MODES = ("RGB", "P", "1")
# Formats that Pillow writes, and suffixes of those without a unique signature.
WRITTEN = sorted(set(FORMATS) & set(Image.SAVE) - {"HEIF"})
SUFFIXES = {"DIB": ".dib", "TGA": ".tga", "XBM": ".xbm"}


def written(format_):
    """Bytes of an image in a format, in the first mode that the format supports."""
    image = Image.linear_gradient("L").resize((40, 30))
    for mode in MODES:
        file = io.BytesIO()
        try:
            image.convert(mode).save(file, format_)
        except (OSError, ValueError):
            continue
        return file.getvalue()
    raise AssertionError(format_)


@pytest.mark.parametrize("format_", WRITTEN)
def test_identify_recognizes_every_format_written_by_pillow(format_):
    head = written(format_)[:HEAD]
    assert identify(head, "x" + SUFFIXES.get(format_, ".wrong")) == format_
    assert is_image(head) == (format_ not in SUFFIXES)
    with Image.open(io.BytesIO(written(format_)), formats=(*FORMATS[:1], format_)) as image:
        assert image.format == format_


@pytest.mark.parametrize(
    ("brands", "format_"),
    [
        (b"heic\0\0\0\0mif1heic", "HEIF"),
        (b"mif1\0\0\0\0mif1heic", "HEIF"),
        (b"mif1\0\0\0\0mif1avif", "AVIF"),
        (b"avif\0\0\0\0avifmif1", "AVIF"),
        (b"isom\0\0\0\0iso2mp41", None),  # a video
    ],
)
def test_identify_distinguishes_heif_avif_and_video(brands, format_):
    assert identify(b"\0\0\0\x18ftyp" + brands) == format_


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\n",
        b"path,label\na.jpg,cat\n",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"%PDF-1.4\n",
        b"PK\x03\x04",
        b"BM25 scores of each document, sorted",
        b"Python notes",
        b"P5.js is a library",
        b"#define WIDTH 40\n",
        b"\x93NUMPY\x01\0v\0",
        b"\x89HDF\r\n\x1a\n",
        b"\0\x01\0\0\0\x0f\0\x80",  # TrueType
        b"RIFF\x24\x08\0\0WAVEfmt ",
        bytes(64),
    ],
)
def test_is_image_rejects_other_content(head):
    assert not is_image(head)


def test_formats_excludes_programs_and_formats_without_decoder():
    assert set(FORMATS) - {"HEIF"} <= set(Image.OPEN)
    assert not {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC"} & set(FORMATS)


def test_image_suffixes_match_formats():
    known = {suffix for suffix, format_ in Image.registered_extensions().items() if format_ in FORMATS}
    assert known - IMAGE_SUFFIXES <= {".pfm", ".heics", ".heifs"}  # float samples, image sequences
    assert IMAGE_SUFFIXES - known <= {".mpo", ".heic", ".heif", ".hif"}
