"""Preprocessing of single images on the host: resize and crop.

This module does not import Keras, because exported networks run without Keras. Pillow resizes the images,
because the results of the backends differ by up to 7 gray levels.
"""

import math

import numpy as np
from PIL import Image

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Pixels of a resized image before it is cropped. Resizing a strip of 1 x 20,000 pixels would take gigabytes.
_MAX_PIXELS = 64_000_000

# A network needs some kilobytes of memory per pixel. These limits apply to an image that is resized without
# a crop (as a multiple of the image size), and to an image that is not resized (pixels in total and per
# side).
_MAX_IMAGE_SIZES = 16
_MAX_UNRESIZED = 2**21
_MAX_UNRESIZED_SIDE = 2**13


def resize_and_crop(image, image_size, crop_fraction=1.0, interpolation="bicubic", crop=True):
    """Resize the shorter side to image_size / crop_fraction and crop the center.

    Args:
        image: uint8 array (H, W, C) with 1, 3 or 4 channels, or PIL image.
        image_size: (int, int). Height and width of the result in pixels, or `None` for no resizing.
        crop_fraction: float. Side of the crop as a fraction of the resized side. Defaults to 1.
        interpolation: str. A key of `INTERPOLATIONS`. Pillow applies antialiasing. Defaults to "bicubic".
        crop: bool. If `False`, keep the whole image and its aspect ratio: one side is resized to
            `image_size`, and the other side is at least as long as in `image_size`. Defaults to `True`.

    Returns:
        uint8 array (image_size[0], image_size[1], C). It is larger with `crop=False`, and has the size of
        the image with `image_size=None`. An image of the right size is not resampled.

    Raises:
        ValueError: if an array is not one uint8 image, if the result without a crop has more than 16 times
            the pixels of `image_size`, or if an image without resizing has more than 2 million pixels.

    >>> import numpy as np
    >>> from focalnets.resizing import resize_and_crop
    >>> resize_and_crop(np.zeros((20, 30, 1), "uint8"), (8, 8)).shape
    (8, 8, 1)
    """
    if not isinstance(image, Image.Image):
        if image.ndim != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"prepare takes one image, uint8 (H, W, C); got {image.dtype} of shape {image.shape}."
            )
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    fraction = crop_fraction if crop else 1.0
    size = (image.height, image.width)
    too_large = image.height * image.width > _MAX_UNRESIZED or max(size) > _MAX_UNRESIZED_SIDE
    if image_size is None and too_large:
        raise ValueError(
            f"{image.width} x {image.height} pixels are too many for a network without resizing; expected at "
            f"most {_MAX_UNRESIZED / 1e6:.1f} million, and {_MAX_UNRESIZED_SIDE} per side. Set image_size of "
            "the FocalNetImageConverter."
        )
    if image_size is None or (size == tuple(image_size) and fraction == 1.0):
        return _pixels(image)
    height, width = image_size
    # As in timm and torchvision: one side becomes floor(size / crop_fraction), the other is rounded down, and
    # the corner of the crop is rounded to the nearest pixel.
    high, wide = (math.floor(side / fraction) for side in image_size)
    if high * image.width >= wide * image.height:
        resized_height, resized_width = high, max(high * image.width // image.height, width)
    else:
        resized_height, resized_width = max(wide * image.height // image.width, height), wide
    if not crop and resized_height * resized_width > _MAX_IMAGE_SIZES * height * width:
        raise ValueError(
            f"{image.width} x {image.height} pixels are too narrow to resize without a crop: the result, "
            f"{resized_width} x {resized_height}, is more than {_MAX_IMAGE_SIZES} times the image size. Set "
            "crop=True, or leave out --whole."
        )
    top, left = round((resized_height - height) / 2), round((resized_width - width) / 2)
    if resized_height * resized_width > _MAX_PIXELS:  # resize the crop only
        across, down = image.width / resized_width, image.height / resized_height
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return _pixels(image.resize((width, height), INTERPOLATIONS[interpolation], box=box))
    resized = image.resize((resized_width, resized_height), INTERPOLATIONS[interpolation])
    return _pixels(resized.crop((left, top, left + width, top + height)) if crop else resized)


def _pixels(image):
    """Convert a PIL image to a uint8 array (H, W, C)."""
    return np.asarray(image).reshape(image.height, image.width, -1)
