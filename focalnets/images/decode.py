"""One image: bytes -> pixels, by one written rule for each kind of file."""

import contextlib
import io
import os

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from focalnets.files import open_regular, reason
from focalnets.images.formats import HEAD, describe, identify
from focalnets.images.metadata import orientation, without_metadata
from focalnets.images.samples import UnsupportedError, as_8_bits, examine

# Checked before any pixel is decoded; Pillow's own limit raises from 179 megapixels on only.
MAX_PIXELS = 64_000_000

# Files of these formats, and files with damaged metadata, are read into memory as a whole.
MAX_BYTES = 256 * 2**20
_READ_AS_A_WHOLE = ("AVIF", "HEIF", "WEBP")

# The last bytes of a file that is whole, by format, and how far before its end they may stand: cameras
# write more behind the end of a JPEG.
_ENDINGS = {"JPEG": (b"\xff\xd9", 65_536), "PNG": (b"IEND", 64), "GIF": (b";", 16)}

# EXIF orientation -> what puts the image upright (Exif 2.3, 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source, channels=3, name=None):
    """Decode one image.

    Args:
        source: path of a regular file, or binary file object.
        channels: int. 3 for RGB, 1 for grayscale. Defaults to 3.
        name: str. How errors call the image, and whose suffix tells formats without a signature. Defaults to
            the path.

    Returns:
        uint8 array (H, W, channels). The rules: the content decides the format (see `images/formats.py`); the
        EXIF orientation is applied; transparency is laid on white; palette, grayscale and CMYK become RGB (or
        grayscale) by Pillow's conversion; 16-bit samples keep their high byte, or the high 8 of the bits that
        the file states; of an animation the first frame is read, of an icon the largest. Samples whose range
        nothing states (signed, float, 32-bit, unscaled in 16 bits) are refused. Color profiles and gamma
        are ignored. Damaged metadata is ignored.

    Raises:
        ValueError: if it is not an image, cannot be decoded for whatever reason, or has more than
            `MAX_PIXELS` pixels. The message starts with the name.
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

    def decoded(image, stream, name):
        return _decoded(image, stream, name, channels, smallest)

    return _with_file(source, name, decoded)


def check_image(source, name=None):
    """Raise what `read_image` would raise, as far as it can be told from the file's head and end.

    Thirty times as fast as decoding. It finds what is empty, too large or not an image, and JPEG, PNG and GIF
    files that are cut short; other damage is found by decoding alone. A file without the usual end is
    decoded, so that nothing is refused here that `read_image` reads.
    """
    _with_file(source, name, _checked)


def as_pixels(image):
    """A PIL image of mode "RGB" or "L" as uint8 (H, W, channels)."""
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def as_image(pixels):
    """uint8 (H, W, channels), 1 or 3 of them, as a PIL image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _with_file(source, name, use):
    """`use(opened PIL image, stream, name)`; whatever goes wrong is a ValueError that starts with the name.

    Where it fails, it is tried once more without the file's metadata. Decoders may raise anything at all for
    a damaged file (struct.error, RuntimeError, zlib.error, MemoryError, ...), so that everything is caught.
    """
    is_path = isinstance(source, str | os.PathLike)
    if name is None:
        name = str(source) if is_path else "image"
    with contextlib.ExitStack() as stack:
        stream = source
        if is_path:
            try:
                stream = stack.enter_context(open_regular(source))
            except (OSError, ValueError) as error:
                raise ValueError(f"{name}: {reason(error)}") from error
        try:
            return _use(stream, name, use)
        except Exception as error:
            if not isinstance(error, UnsupportedError):
                with contextlib.suppress(Exception):
                    return _use(_without_metadata(stream, name), name, use)
            raise ValueError(f"{name}: {_why(error)}") from error


def _why(error):
    text = reason(error)
    if isinstance(error, UnsupportedError) or getattr(error, "errno", None) is not None:
        return text
    if "truncated" in text.lower():
        return "the file is truncated"
    if isinstance(error, UnidentifiedImageError):  # its own text names the stream object
        return "damaged, or stored in a way that is not supported; save it as PNG or JPEG"
    return f"cannot be decoded ({text}); save it anew as PNG or JPEG"


def _use(stream, name, use):
    with _opened(stream, name) as image:
        return use(image, stream, name)


def _opened(stream, name):
    stream.seek(0)
    head = stream.read(HEAD)
    stream.seek(0)
    format_ = identify(head, name)
    if format_ is None:
        raise UnsupportedError(describe(head))
    if format_ in _READ_AS_A_WHOLE and (size := _size(stream)) > MAX_BYTES:
        raise UnsupportedError(
            f"{size / 2**20:.0f} MiB are more than the limit of {MAX_BYTES / 2**20:.0f} MiB"
        )
    if format_ == "HEIF":
        _register_heif()
    if format_ == "JPEG":  # Pillow's factory goes through the metadata for further images (MPO)
        image = JpegImagePlugin.JpegImageFile(stream)
    else:
        image = Image.open(stream, formats=(format_,))
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnsupportedError(
            f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS / 1e6:g} million"
        )
    return image


def _register_heif():
    try:
        import pillow_heif
    except ImportError as error:
        raise UnsupportedError(
            "HEIC images need the package pillow-heif: pip install 'focalnets[heic]'"
        ) from error
    pillow_heif.register_heif_opener()


def _decoded(image, stream, name, channels, smallest):
    mode = "RGB" if channels == 3 else "L"
    how = examine(image, stream)
    turned = image_orientation(image)
    size = None
    if smallest is not None and turned >= 5:
        size = smallest(image.width, image.height)
    elif smallest is not None:
        size = smallest(image.height, image.width)[::-1]
    if image.format == "JPEG":  # HEIF would take a thumbnail from the file
        image.draft(mode, size)
    image.load()
    return upright(as_8_bits(image, how, mode, name), turned)


def image_orientation(image):
    """EXIF orientation of an opened PIL image, 1 to 8; damaged metadata count as 1.

    Pillow turns TIFF files itself, at the end of decoding; their size is that of the upright image already.
    """
    return 1 if image.format == "TIFF" else orientation(image.info)


def upright(image, turned):
    """A decoded PIL image put upright, where `turned` is what `image_orientation` said before."""
    return image.transpose(_UPRIGHT[turned]) if turned in _UPRIGHT else image


def _checked(image, stream, name):
    examine(image, stream)
    ending, within = _ENDINGS.get(image.format, (b"", 0))
    tail = _tail(stream, within)
    if image.format == "JPEG":  # a thumbnail in the head has an end of its own
        tail = tail[max(tail.rfind(b"\xff\xda"), 0) :]
    if ending not in tail:  # some writers leave it out, others write much behind it
        stream.seek(0)
        image.load()


def _without_metadata(stream, name):
    """A stream of the same image without its metadata; ValueError if that makes no difference."""
    if _size(stream) > MAX_BYTES:
        raise ValueError("too large")
    stream.seek(0)
    data = stream.read()
    bare = without_metadata(data, identify(data, name))
    if bare is None or bare == data:
        raise ValueError("no metadata")
    return io.BytesIO(bare)


def _size(stream):
    return stream.seek(0, os.SEEK_END)


def _tail(stream, count):
    stream.seek(max(0, _size(stream) - count))
    return stream.read(count)
