"""Decoding of image files to uint8 pixels."""

import contextlib
import io
import os

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from focalnets.files import open_regular, reason
from focalnets.images.formats import HEAD, describe, identify
from focalnets.images.metadata import orientation, without_metadata
from focalnets.images.samples import UnsupportedError, as_8_bits, examine

# Checked before decoding. Pillow's own limit is 179 megapixels.
MAX_PIXELS = 64_000_000

# Limit for files of these formats and files with damaged metadata, which are read into memory completely.
MAX_BYTES = 256 * 2**20
_READ_COMPLETELY = ("AVIF", "HEIF", "WEBP")

# Format -> (end marker of a complete file, number of bytes at the end of the file that are searched for it).
# Cameras append other data to a JPEG.
_ENDINGS = {"JPEG": (b"\xff\xd9", 65_536), "PNG": (b"IEND", 64), "GIF": (b";", 16)}

# EXIF orientation -> operation that makes the image upright (Exif 2.3, 4.6.4).
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
    """Decode an image.

    The content selects the format (see `images/formats.py`). The EXIF orientation is applied. Transparent
    pixels are blended with white. Pillow converts palettes, grayscale and CMYK. 16-bit samples keep their
    high byte, or the high 8 of the bits that the file states. An animation gives its first frame, an icon its
    largest image. Color profiles, gamma and damaged metadata are ignored. Samples of unknown range (signed,
    float, 32-bit, unscaled in 16 bits) are refused.

    Args:
        source: str, path or binary file object. A regular file.
        channels: int. 3 for RGB, 1 for grayscale. Defaults to 3.
        name: str. Name of the image in errors. Its suffix identifies formats without a signature. Defaults
            to the path.

    Returns:
        uint8 array (H, W, channels).

    Raises:
        ValueError: if the file is not an image, cannot be decoded, or has more than `MAX_PIXELS` pixels. The
            message starts with the name.
    """
    return as_pixels(open_image(source, channels, name))


def open_image(source, channels=3, name=None, smallest=None):
    """Decode an image to a PIL image of mode "RGB" or "L". See `read_image`.

    Args:
        source: str, path or binary file object. See `read_image`.
        channels: int. 3 for RGB, 1 for grayscale. Defaults to 3.
        name: str. See `read_image`. Defaults to the path.
        smallest: Function of the image's (height, width) that returns the smallest sufficient (height,
            width). JPEGs of at least twice, 4 or 8 times this size are decoded at 1/2, 1/4 or 1/8 of their
            size. This is several times faster for large photographs, and changes pixels slightly. Defaults to
            `None`, which decodes every pixel.
    """

    def decoded(image, stream, name):
        return _decoded(image, stream, name, channels, smallest)

    return _with_file(source, name, decoded)


def check_image(source, name=None):
    """Check the start and end of an image file, thirty times faster than decoding it.

    The check finds files that are empty, too large or not an image, and truncated JPEG, PNG and GIF files.
    Only decoding finds other damage. A file without the usual end marker is decoded, so that every file that
    `read_image` decodes passes the check. Arguments and errors are those of `read_image`.
    """
    _with_file(source, name, _checked)


def as_pixels(image):
    """Convert a PIL image of mode "RGB" or "L" to a uint8 array (H, W, channels)."""
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def as_image(pixels):
    """Convert a uint8 array (H, W, channels) with 1 or 3 channels to a PIL image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _with_file(source, name, use):
    """Return `use(opened PIL image, stream, name)`, or raise a ValueError that starts with the name.

    After a failure, the file is tried once more without its metadata. All exceptions are caught because
    decoders raise many types for damaged files (struct.error, RuntimeError, zlib.error, MemoryError, ...).
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
            raise ValueError(f"{name}: {_explanation(error)}") from error


def _explanation(error):
    text = reason(error)
    if isinstance(error, UnsupportedError) or getattr(error, "errno", None) is not None:
        return text
    if "truncated" in text.lower():
        return "the file is truncated"
    if isinstance(error, UnidentifiedImageError):  # whose text only shows the stream object
        return "damaged, or its encoding is not supported. Save it as PNG or JPEG"
    return f"cannot be decoded ({text}). Save it again as PNG or JPEG"


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
    if format_ in _READ_COMPLETELY and (size := _size(stream)) > MAX_BYTES:
        raise UnsupportedError(
            f"file size {size / 2**20:.0f} MiB exceeds the limit of {MAX_BYTES / 2**20:.0f} MiB"
        )
    if format_ == "HEIF":
        _register_heif()
    if format_ == "JPEG":  # Image.open also parses metadata for further images (MPO)
        image = JpegImagePlugin.JpegImageFile(stream)
    else:
        image = Image.open(stream, formats=(format_,))
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnsupportedError(
            f"{image.width} x {image.height} pixels exceed the limit of {MAX_PIXELS / 1e6:g} million"
        )
    return image


def _register_heif():
    try:
        import pillow_heif
    except ImportError as error:
        raise UnsupportedError("HEIC needs the package pillow-heif: pip install 'focalnets[heic]'") from error
    pillow_heif.register_heif_opener()


def _decoded(image, stream, name, channels, smallest):
    mode = "RGB" if channels == 3 else "L"
    stored = examine(image, stream)
    turned = image_orientation(image)
    size = None
    if smallest is not None and turned >= 5:
        size = smallest(image.width, image.height)
    elif smallest is not None:
        size = smallest(image.height, image.width)[::-1]
    if image.format == "JPEG":  # for HEIF, `draft` would select a thumbnail
        image.draft(mode, size)
    image.load()
    return upright(as_8_bits(image, stored, mode, name), turned)


def image_orientation(image):
    """EXIF orientation of an opened PIL image, 1 to 8. It is 1 for damaged metadata.

    It is also 1 for TIFF, because Pillow itself rotates TIFF images and reports the size after rotation.
    """
    return 1 if image.format == "TIFF" else orientation(image.info)


def upright(image, turned):
    """Rotate or mirror a decoded PIL image so that it is upright. `turned` is its `image_orientation`."""
    return image.transpose(_UPRIGHT[turned]) if turned in _UPRIGHT else image


def _checked(image, stream, name):
    examine(image, stream)
    ending, within = _ENDINGS.get(image.format, (b"", 0))
    tail = _tail(stream, within)
    if image.format == "JPEG":  # a thumbnail in the metadata has its own end marker
        tail = tail[max(tail.rfind(b"\xff\xda"), 0) :]
    if ending not in tail:  # some programs omit the marker, others append many bytes after it
        stream.seek(0)
        image.load()


def _without_metadata(stream, name):
    """A stream of the image without its metadata. ValueError if this makes no difference."""
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
