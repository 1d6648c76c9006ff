"""One picture: bytes -> pixels, by one written rule for each kind of file."""

import contextlib
import os
import pathlib
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from focalnets._io import reason

# Checked before any pixel is decoded; Pillow's own limit raises from 179 megapixels on only.
MAX_PIXELS = 64_000_000

# The last bytes of a file that is whole, by format, and how far before its end they may stand: cameras
# write more behind the end of a JPEG.
_ENDINGS = {"JPEG": (b"\xff\xd9", 65_536), "PNG": (b"IEND", 64), "GIF": (b";", 16)}

# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)


def read_image(source, channels=3, name=None):
    """Decode one picture.

    Args:
        source: path or binary file object.
        channels: 3 for RGB, 1 for grey.
        name: how errors call it; the path where None.

    Returns:
        uint8 array (H, W, channels). The rules: EXIF orientation is applied; transparency is laid on
        white; palette, grey and CMYK become RGB (or grey) by Pillow's conversion; 16-bit grey keeps its
        high byte; of an animation the first frame is read; 32-bit pixels are refused, since nothing says
        what their range is.

    Raises:
        ValueError: if it is no picture, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    return as_pixels(open_image(source, channels, name))


def open_image(source, channels=3, name=None, smallest=None):
    """The same as `read_image`, but a decoded PIL image of mode "RGB" or "L".

    Args:
        smallest: function (height, width) -> the least (height, width) that will do. A JPEG that is twice,
            four or eight times as large is then decoded at a half, a quarter or an eighth of its size,
            which for photographs of many megapixels is several times as fast; its pixels differ a little
            from those of a full decoding. None to decode every pixel.
    """
    with _explained(source, name), _opened(source) as image:
        size = None
        if smallest is not None:
            turned = image.getexif().get(0x0112) in _TURNED
            least = smallest(image.width, image.height) if turned else smallest(image.height, image.width)
            size = least if turned else least[::-1]
        image.draft("RGB" if channels == 3 else "L", size)
        ImageOps.exif_transpose(image, in_place=True)
        return _in_mode(image, "RGB" if channels == 3 else "L")


def check_image(source, name=None):
    """Raise what `read_image` would raise, as far as it can be told from the file's head and end.

    Thirty times as fast as decoding. It finds what is empty, too large or no picture, and JPEG, PNG and GIF
    files that are cut short; other damage is found by decoding alone.
    """
    with _explained(source, name), _opened(source) as image:
        _refuse_32_bits(image)
        ending, within = _ENDINGS.get(image.format, (b"", 0))
        tail = _tail(image.fp, within)
        if image.format == "JPEG":  # a thumbnail in the head has an end of its own
            tail = tail[max(tail.rfind(b"\xff\xda"), 0) :]
        if ending not in tail:
            raise ValueError("the file is truncated")


def as_pixels(image):
    """A PIL image of mode "RGB" or "L" as uint8 (H, W, channels)."""
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def as_image(pixels):
    """uint8 (H, W, channels), 1 or 3 of them, as a PIL image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _opened(source):
    image = Image.open(source)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS / 1e6:g} million"
        )
    return image


@contextlib.contextmanager
def _explained(source, name):
    """Turn whatever goes wrong with a picture into a ValueError that begins with its name."""
    name = str(source) if name is None else name
    try:
        yield
    except UnidentifiedImageError as error:  # its own text names the stream object
        why = "an empty file" if _is_empty(source) else "not a picture, whatever its name says"
        raise ValueError(f"{name}: {why}") from error
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: {reason(error)}") from error


def _is_empty(source):
    if isinstance(source, str | os.PathLike):
        return not pathlib.Path(source).stat().st_size
    return not source.seek(0, os.SEEK_END)


def _tail(stream, count):
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - count))
    return stream.read(count)


def _refuse_32_bits(image):
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no known range; save it with 8 or 16 bits")


def _in_mode(image, mode):
    _refuse_32_bits(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image.load()
    return image if image.mode == mode else image.convert(mode)
