"""Conversion of paths, PIL images, arrays and lists of these to the input of a classifier.

All of them follow the rules of `images/decode.py`, so an image gives the same pixels in every form.
"""

import io
import os

import numpy as np
from PIL import Image

from focalnets.data.find import NO_PREPROCESSING, find_images
from focalnets.files import reason
from focalnets.images.decode import image_orientation, open_image, upright
from focalnets.pixel_range import holds_numbers, range_problem, sample_pixels

# Modes that Pillow converts. All others follow the rules of `images/decode.py`.
_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB")
_BY_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def list_images(images):
    """List (name, path or array or PIL image) of each image.

    Args:
        images: Path of an image or folder, pattern, PIL image, array (H, W), (H, W, C) or (N, H, W, C), or a
            list of these.

    >>> import numpy as np
    >>> from focalnets.prediction.images import list_images
    >>> [name for name, _ in list_images([np.zeros((2, 8, 8, 3), "uint8"), np.zeros((9, 9), "uint8")])]
    ['image 0', 'image 1', 'image 2']
    """
    found = []
    for one in images if isinstance(images, list | tuple) else [images]:
        if isinstance(one, str | os.PathLike):
            found += [(str(path), path) for path in find_images([str(one)])]
        else:
            found += [(None, image) for image in _each(one)]
    return [(name or f"image {index}", image) for index, (name, image) in enumerate(found)]


def read_image_like(image, channels, name):
    """Convert one image of `list_images` to a PIL image of mode "RGB" or "L".

    Raises:
        ValueError: with the name, if the image cannot be read or its values are not in 0..255.
    """
    if isinstance(image, str | os.PathLike):
        return open_image(image, channels)
    try:
        if not isinstance(image, Image.Image):
            image = _from_array(image)
        image.load()  # may find more metadata
        return upright(_in_mode(image, channels), image_orientation(image))
    except Exception as error:  # a PIL image may be a damaged file that is not decoded yet
        raise ValueError(f"{name}: {reason(error)}") from error


def stack_images(images, converter, channels):
    """Batch of images, uint8 (N, height, width, channels). See `FocalNetImageClassifier.preprocess`."""
    if converter is None:
        raise ValueError(NO_PREPROCESSING)
    ready = [converter.prepare(read_image_like(image, channels, name)) for name, image in list_images(images)]
    sizes = sorted({image.shape[:2] for image in ready})
    if len(sizes) > 1:
        listed = ", ".join(f"{high} x {wide}" for high, wide in sizes[:3]) + ", ..." * (len(sizes) > 3)
        raise ValueError(
            f"The images have different sizes ({listed}), and the FocalNetImageConverter has no image_size. "
            "Preprocess images of equal size together, or build the classifier with "
            "FocalNetImageConverter(image_size=...)."
        )
    if not ready:
        return np.zeros((0, *(converter.image_size or (0, 0)), channels), "uint8")
    return np.stack(ready)


def _each(images):
    """List the images in an array or PIL image."""
    if isinstance(images, Image.Image):
        return [images]
    if not hasattr(images, "shape"):
        fix = " Give list(images)." if hasattr(images, "__iter__") else ""
        raise TypeError(f"Expected a path, a PIL image or an array; got {type(images).__name__}.{fix}")
    if hasattr(images, "detach"):  # a torch tensor
        images = images.detach().cpu()
    array = np.asarray(images)
    if not holds_numbers(array.dtype):
        raise TypeError(f"Expected an array of numbers; got dtype {array.dtype}. Give list(images).")
    if array.ndim == 4:
        return list(array)
    if array.ndim in (2, 3):
        return [array]
    raise ValueError(
        f"Expected an array (H, W), (H, W, C) or (N, H, W, C); got {_shape(array)}. Give images[..., None] "
        "for a batch (N, H, W)."
    )


def _from_array(array):
    """Convert an array (H, W) or (H, W, C) with values 0..255 to a PIL image."""
    array = array if array.ndim == 3 else array[..., None]
    if array.shape[-1] not in _BY_CHANNELS:
        channels_first = array.shape[0] in (1, 3)
        fix = " Move the channels to the end: np.moveaxis(image, 0, -1)." if channels_first else ""
        raise ValueError(f"expected (H, W, C) with 1 to 4 channels; got {_shape(array)}.{fix}")
    if 0 in array.shape:
        raise ValueError(f"the image is empty: {_shape(array)}.")
    if array.dtype != np.uint8:
        array = _as_bytes(array)
    pixels = np.ascontiguousarray(array if array.shape[-1] > 1 else array[..., 0])
    return Image.fromarray(pixels, _BY_CHANNELS[array.shape[-1]])


def _as_bytes(array):
    problem = range_problem(sample_pixels(array[None]))
    if problem is None:
        array = np.asarray(array, "float32")
        if not np.isfinite(array).all():
            problem = "The images have values that are NaN or infinite; expected pixels from 0 to 255."
    if problem is not None:
        raise ValueError(problem)
    return np.rint(array).clip(0, 255).astype("uint8")  # resized floats slightly exceed the range


def _in_mode(image, channels):
    mode = "RGB" if channels == 3 else "L"
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no known range. Convert the image to 8 bits.")
    if image.mode in _PLAIN and "transparency" not in image.info:
        return image.convert(mode)
    if image.mode in ("PA", "La", "RGBa"):  # not available in PNG
        image = image.convert("RGBA")
    stream = io.BytesIO()  # transparency and 16 bits follow the rules for files
    image.save(stream, "PNG", compress_level=0)
    stream.seek(0)
    return open_image(stream, channels, "the image as PNG")


def _shape(array):
    return f"the shape {tuple(array.shape)}"
