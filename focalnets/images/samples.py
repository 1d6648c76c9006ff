"""Samples of any depth, sign and color space as 8-bit RGB or grayscale: the same pixels, or an error.

Pillow reads many forms of an image faithfully. This module handles those in which it does not: 16-bit samples
with fewer significant bits, values that mean white at 0, color maps of another scale, transparency in another
scale than the pixels, and samples whose range nobody states.
"""

import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from focalnets.images.bit_depth import UnsupportedError, check_high_bytes, check_range
from focalnets.images.metadata import png_chunks

# TIFF tags (TIFF 6.0, section 8).
_BITS, _PHOTOMETRIC, _MAXIMUM, _PLANAR, _COLOR_MAP = 258, 262, 281, 284, 320
_SAMPLE_FORMAT, _SUBSAMPLING = 339, 530

_SIGNED = "signed pixels have no known range; save it with unsigned 8 or 16 bits"

# Layouts that Pillow reads in files of the other byte order only. Samples of 12 bits are packed the same way.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 1, (1,), 1, (12,), ()), ("I;16", "I;12"))

# Bytes at the start of a file in which PNG and JPEG 2000 state the significant bits.
_HEAD = 65_536

# Writers of these formats leave the fourth byte empty where they have no alpha.
_UNRELIABLE_ALPHA = ("BMP", "DIB", "TGA", "ICO", "CUR")


@dataclass(frozen=True)
class Stored:
    """How a file stores its samples.

    Attributes:
        raw: Pillow's name of the layout of the samples in the file, such as "RGB;16B".
        wide: whether samples have 16 bits and the file does not say how many of them count.
        bits: significant bits of a sample; None where all or an unknown number of them count.
        scaled: whether samples of `bits` bits are meant to be scaled to 16 bits (PNG).
        white_is_zero: whether 0 means white and Pillow does not invert.
    """

    raw: str
    wide: bool = False
    bits: int | None = None
    scaled: bool = False
    white_is_zero: bool = False


def examine(image, stream):
    """The `Stored` of an opened image whose pixels are not decoded yet.

    Also corrects what Pillow would misread: planes of 16-bit samples and 8-bit color maps of TIFF files.

    Args:
        image: PIL image as `Image.open` returns it.
        stream: binary file object that the image was opened from.

    Raises:
        UnsupportedError: if nothing states the range of the samples, or their color space is not converted.
    """
    raw = image.tile[0].args if image.tile else ""
    raw = str(raw[0] if isinstance(raw, tuple) else raw)
    if image.format == "TIFF":
        return _examine_tiff(image, raw)
    if image.format == "PNG" and ";16" in raw:
        bits = _png_bits(_start(stream))
        if image.mode != "I;16" and bits != 16:  # of which Pillow drops the low bytes
            bits = None
        return Stored(raw, wide=bits is None, bits=bits if image.mode == "I;16" else None, scaled=True)
    if image.format == "JPEG2000":
        return _examine_jpeg2000(image, raw, _start(stream))
    if image.format == "PSD" and image.mode == "1":  # Pillow exchanges black and white
        raise UnsupportedError("Photoshop's bitmaps of 1 bit are not supported; save it as grayscale")
    if image.format == "PPM":  # Pillow scales by the stated maximum, which may be that of the container
        return Stored(raw, wide=raw == "I;16B" or image.tile[0].args[-1] == 65535)
    if image.format == "SGI":
        return Stored(raw, wide=_start(stream)[3] == 2)
    return Stored(raw, wide=";16" in raw)


def _examine_tiff(image, raw):
    tags = image.tag_v2
    kinds = set(tags.get(_SAMPLE_FORMAT, (1,)))
    if 2 in kinds:
        raise UnsupportedError(_SIGNED)
    raw_tiles = bool(image.tile) and image.tile[0].codec_name == "raw"
    if raw_tiles and image.mode == "YCbCr" and tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1):
        raise UnsupportedError("uncompressed YCbCr with subsampled chroma is not decoded; save it as RGB")
    if (
        image.mode in ("P", "PA") and max(tags[_COLOR_MAP]) < 256
    ):  # Pillow divides by 256, as the standard says
        image.palette = None
        image.info["color_map"] = np.array(tags[_COLOR_MAP], "uint8").reshape(3, -1).T.tobytes()
    wide = tags.get(_BITS, (1,))[0] == 16
    if wide and raw_tiles and tags.get(_PLANAR) == 2:
        end = "L" if tags.prefix == b"II" else "B"
        image.tile = [tile._replace(args=(f"{tile.args[0]};16{end}", *tile.args[1:])) for tile in image.tile]
    bits = 12 if raw == "I;12" else None
    maximum = tags.get(_MAXIMUM, (65535,))
    maximum = maximum[0] if isinstance(maximum, tuple) else maximum
    if image.mode.startswith("I;16") and maximum in [2**n - 1 for n in range(8, 16)]:
        bits = maximum.bit_length()
    inverted = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0
    return Stored(raw, wide=wide and bits is None, bits=bits, white_is_zero=inverted)


def _start(stream):
    place = stream.tell()
    stream.seek(0)
    head = stream.read(_HEAD)
    stream.seek(place)
    return head


def _png_bits(head):
    """Significant bits by the chunk sBIT (PNG, third edition, 11.3.3.6)."""
    for kind, chunk in png_chunks(head):
        if kind == b"sBIT" and len(chunk) > 12:
            return chunk[8] if 8 <= chunk[8] <= 16 else None
        if kind == b"IDAT":
            break
    return None


def _examine_jpeg2000(image, raw, head):
    """From the marker SIZ (ISO 15444-1, A.5.1), which states the bits of every component."""
    place = head.find(b"\xff\x4f\xff\x51")
    (count,) = struct.unpack_from(">H", head, place + 40)
    components = head[place + 42 : place + 42 + 3 * count : 3]
    if any(bits & 0x80 for bits in components):
        raise UnsupportedError(_SIGNED)
    bits = max(components) + 1
    if bits > 8 and count > 1:  # Pillow 13 rounds the brightest values up to 256, which become 0
        raise UnsupportedError(f"JPEG 2000 colors of {bits} bits are not supported; save 8 bits, or PNG")
    if bits < 8 and image.mode in ("P", "PA"):  # Pillow shifts the indices as if they were samples
        raise UnsupportedError(f"JPEG 2000 palettes of {bits} bits are not supported; save a PNG")
    return Stored(raw, wide=bits == 16, bits=bits if bits < 8 else None)


def as_8_bits(image, stored, mode, name="image"):
    """A decoded image as a PIL image of mode "RGB" or "L".

    Transparency is laid on white. Of 16-bit samples the high byte is kept, or the high 8 of the bits that the
    file states.

    Args:
        image: decoded PIL image of any mode.
        stored: what `examine` returned for it.
        mode: "RGB" or "L".
        name: str. How a warning calls the image. Defaults to "image".

    Raises:
        UnsupportedError: if the samples are floats or have 32 bits, or if 16-bit samples look like unscaled
            ones of 8 to 14 bits and the file does not state how many bits count.
    """
    if image.mode == "LAB":
        raise UnsupportedError("CIE Lab colors are not converted; save it as RGB")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise UnsupportedError("32-bit pixels have no known range; save it with 8 or 16 bits")
    transparency = image.info.get("transparency")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype("uint16")
        clear = None if transparency is None else values == transparency
        image = Image.fromarray(_high_bytes(values, stored, name))
        if clear is not None and clear.any():
            image.paste(255, mask=Image.fromarray(clear))
    else:
        if stored.wide and image.mode != "CMYK":
            check_high_bytes(image, name)
        if stored.bits is not None:  # fewer than 8, which Pillow has only shifted
            top = 256 - 2 ** (8 - stored.bits)
            image = image.point(
                [min(255, round(value * 255 / top)) for value in range(256)] * len(image.getbands())
            )
        image = _on_white(_with_color_map(image), stored, transparency)
    return image if image.mode == mode else image.convert(mode)


def _high_bytes(values, stored, name):
    bits = stored.bits
    if stored.scaled and bits is not None:  # by the standard; but some writers leave the samples as they are
        below = values & (2 ** (16 - bits) - 1)
        if values.max() >= 2**bits or below.max() <= 1:
            bits = None
    if stored.wide:
        check_range(values, name)
    if bits is None:
        return ((65535 - values if stored.white_is_zero else values) >> 8).astype("uint8")
    top = 2**bits - 1
    values = np.minimum(values, top)
    return np.round((top - values if stored.white_is_zero else values) * (255 / top)).astype("uint8")


def _with_color_map(image):
    colors = image.info.get("color_map")
    if colors is not None:
        image.putpalette(colors)
    return image


def _on_white(image, stored, transparency):
    """Any 8-bit mode as one without alpha."""
    format_ = image.format
    if format_ == "TGA" and (stored.raw == "BGRA;15Z" or image.mode == "P"):
        return image.convert("RGB")  # one bit, whose meaning differs between writers
    if image.mode in ("La", "RGBa"):  # alpha is multiplied in
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if transparency is not None and image.mode in ("L", "RGB"):
        image.info["transparency"] = _on_scale(transparency, stored.raw)
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    if format_ in _UNRELIABLE_ALPHA and image.getextrema()[3][1] == 0:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _on_scale(transparency, raw):
    """PNG states the transparent sample in the depth of the file; pixels have 8 bits by now."""
    if raw in ("L;2", "L;4"):
        most = 2 ** int(raw[-1]) - 1
        return transparency * (255 // most) if transparency <= most else transparency
    if ";16" in raw and isinstance(transparency, tuple):
        return tuple(value >> 8 for value in transparency)
    return transparency
