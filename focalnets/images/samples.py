"""Conversion of samples of any bit depth and color space to 8-bit RGB or grayscale.

Pillow decodes most files correctly. This module handles those that it does not: 16-bit samples with fewer
significant bits, samples in which 0 is white, color maps and transparency on another scale than the pixels,
and samples of unknown range, which raise an error.
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

_SIGNED = "signed pixels have no known range. Save the image with unsigned 8 or 16 bits"

# Layouts that Pillow decodes only in little-endian files. Packed 12-bit samples are equal in both byte
# orders.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 1, (1,), 1, (12,), ()), ("I;16", "I;12"))

# Bytes at the start of a file that are searched for the significant bits of PNG and JPEG 2000.
_HEAD = 65_536

# Programs write zeros as alpha into images of these formats that have no alpha.
_UNRELIABLE_ALPHA = ("BMP", "DIB", "TGA", "ICO", "CUR")


@dataclass(frozen=True)
class Stored:
    """Storage of the samples of a file.

    Attributes:
        raw: str. Pillow's name of the layout of the samples in the file, such as "RGB;16B".
        wide: bool. Samples have 16 bits, and the file does not state how many are significant.
        bits: int. Significant bits of a sample, or `None` if all bits or an unknown number are significant.
        scaled: bool. Samples of `bits` bits should be scaled to 16 bits (PNG).
        white_is_zero: bool. 0 is white, and Pillow does not invert the samples.
    """

    raw: str
    wide: bool = False
    bits: int | None = None
    scaled: bool = False
    white_is_zero: bool = False


def examine(image, stream):
    """Examine an opened image before its pixels are decoded.

    This also corrects what Pillow misreads: planes of 16-bit samples and 8-bit color maps of TIFF files.

    Args:
        image: PIL image, as returned by `Image.open`.
        stream: Binary file object from which the image was opened.

    Returns:
        A `Stored`.

    Raises:
        UnsupportedError: if the range of the samples is unknown, or their color space is not supported.
    """
    raw = image.tile[0].args if image.tile else ""
    raw = str(raw[0] if isinstance(raw, tuple) else raw)
    if image.format == "TIFF":
        return _examine_tiff(image, raw)
    if image.format == "PNG" and ";16" in raw:
        bits = _png_bits(_start(stream))
        if image.mode != "I;16" and bits != 16:  # colors, whose low bytes Pillow drops
            bits = None
        return Stored(raw, wide=bits is None, bits=bits if image.mode == "I;16" else None, scaled=True)
    if image.format == "JPEG2000":
        return _examine_jpeg2000(image, raw, _start(stream))
    if image.format == "PSD" and image.mode == "1":  # Pillow inverts black and white
        raise UnsupportedError("1-bit Photoshop images are not supported. Save the image as grayscale")
    if image.format == "PPM":  # Pillow scales by the stated maximum. 65535 may only mean 16-bit storage.
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
        raise UnsupportedError(
            "uncompressed YCbCr with subsampled chroma is not supported. Save the image as RGB"
        )
    if image.mode in ("P", "PA") and max(tags[_COLOR_MAP]) < 256:
        image.palette = None  # Pillow expects 16-bit color maps, as the standard does, and divides by 256
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
    """Significant bits from the chunk sBIT (PNG, third edition, 11.3.3.6)."""
    for kind, chunk in png_chunks(head):
        if kind == b"sBIT" and len(chunk) > 12:
            return chunk[8] if 8 <= chunk[8] <= 16 else None
        if kind == b"IDAT":
            break
    return None


def _examine_jpeg2000(image, raw, head):
    """Read the marker SIZ (ISO 15444-1, A.5.1), which states the bits of every component."""
    place = head.find(b"\xff\x4f\xff\x51")
    (count,) = struct.unpack_from(">H", head, place + 40)
    components = head[place + 42 : place + 42 + 3 * count : 3]
    if any(bits & 0x80 for bits in components):
        raise UnsupportedError(_SIGNED)
    bits = max(components) + 1
    if bits > 8 and count > 1:  # Pillow 13 rounds the brightest values up to 256, which become 0
        raise UnsupportedError(f"{bits}-bit JPEG 2000 colors are not supported. Save 8-bit colors, or a PNG")
    if bits < 8 and image.mode in ("P", "PA"):  # Pillow shifts palette indices like samples
        raise UnsupportedError(f"{bits}-bit JPEG 2000 palettes are not supported. Save the image as PNG")
    return Stored(raw, wide=bits == 16, bits=bits if bits < 8 else None)


def as_8_bits(image, stored, mode, name="image"):
    """Convert a decoded image to a PIL image of mode "RGB" or "L".

    Transparent pixels are blended with white. 16-bit samples are reduced to their high byte, or to the high 8
    of the bits that the file states.

    Args:
        image: PIL image. Decoded, of any mode.
        stored: `Stored`. Result of `examine` for this image.
        mode: str. "RGB" or "L".
        name: str. Name of the image in warnings. Defaults to "image".

    Raises:
        UnsupportedError: if samples are floats or have 32 bits, or if 16-bit samples look like unscaled
            samples of 8 to 14 bits and the file does not state how many bits are significant.
    """
    if image.mode == "LAB":
        raise UnsupportedError("CIE Lab colors are not supported. Save the image as RGB")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise UnsupportedError("32-bit pixels have no known range. Save the image with 8 or 16 bits")
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
        if stored.bits is not None:  # fewer than 8: Pillow shifts these samples instead of scaling them
            top = 256 - 2 ** (8 - stored.bits)
            image = image.point(
                [min(255, round(value * 255 / top)) for value in range(256)] * len(image.getbands())
            )
        if (colors := image.info.get("color_map")) is not None:
            image.putpalette(colors)
        image = _on_white(image, stored, transparency)
    return image if image.mode == mode else image.convert(mode)


def _high_bytes(values, stored, name):
    bits = stored.bits
    if stored.scaled and bits is not None:  # the standard requires scaling, but some programs do not scale
        low_bits = values & (2 ** (16 - bits) - 1)
        if values.max() >= 2**bits or low_bits.max() <= 1:
            bits = None
    if stored.wide:
        check_range(values, name)
    if bits is None:
        return ((65535 - values if stored.white_is_zero else values) >> 8).astype("uint8")
    top = 2**bits - 1
    values = np.minimum(values, top)
    return np.round((top - values if stored.white_is_zero else values) * (255 / top)).astype("uint8")


def _on_white(image, stored, transparency):
    """Convert an image of any 8-bit mode to a mode without alpha."""
    format_ = image.format
    if format_ == "TGA" and (stored.raw == "BGRA;15Z" or image.mode == "P"):
        return image.convert("RGB")  # programs disagree about the meaning of the alpha bit
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
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
    """Convert PNG's transparent sample from the bit depth of the file to 8 bits."""
    if raw in ("L;2", "L;4"):
        highest = 2 ** int(raw[-1]) - 1
        return transparency * (255 // highest) if transparency <= highest else transparency
    if ";16" in raw and isinstance(transparency, tuple):
        return tuple(value >> 8 for value in transparency)
    return transparency
