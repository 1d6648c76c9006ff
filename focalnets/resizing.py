"""The half of a checkpoint's preprocessing that happens on the host: resize and crop, one image at a time.

Free of Keras, so that an exported network needs none. With Pillow, because the backends' own resizes
differ from one another by up to 7 gray levels.
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


_MOST_PIXELS = 64_000_000  # of a resized image: a strip of one pixel's height would take gigabytes

# A network needs some kilobytes per pixel. An image that is kept whole may become this many times as large
# as the image size; an image that is not resized may have this many pixels in all, and per side.
_MOST_IMAGE_SIZES = 16
_MOST_UNRESIZED = 2**21
_LONGEST_UNRESIZED = 2**13


def resize_and_crop(image, image_size, crop_fraction=1.0, interpolation="bicubic", crop=True):
    """Resize the shorter side to size / crop_fraction and crop the center.

    Args:
        image: uint8 array (H, W, C), C 1, 3 or 4; or a PIL image.
        image_size: (height, width), or None to leave the size as it is.
        crop_fraction: share of the resized image's side that is kept.
        interpolation: a name in `INTERPOLATIONS`; Pillow's, with antialiasing.
        crop: False to keep the whole image and its aspect: the side that decides becomes
            `image_size`'s, the other is at least that.

    Returns:
        uint8 array (image_size[0], image_size[1], C), or larger without `crop`; the image's own pixels if
        it has that size already and nothing is to be cropped, or if `image_size` is None.

    Raises:
        ValueError: if an array is not one uint8 image, if an image is more than 16 times as long as wide and
            is to be kept whole, or if it has more than 2 million pixels and is not to be resized.

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
    too_large = image.height * image.width > _MOST_UNRESIZED or max(size) > _LONGEST_UNRESIZED
    if image_size is None and too_large:
        raise ValueError(
            f"{image.width} x {image.height} pixels are too many for a network without resizing; expected at "
            f"most {_MOST_UNRESIZED / 1e6:.1f} million, and {_LONGEST_UNRESIZED} a side. Give the "
            "FocalNetImageConverter an image_size."
        )
    if image_size is None or (size == tuple(image_size) and fraction == 1.0):
        return _pixels(image)
    height, width = image_size
    # As timm and torchvision do it: the side that decides becomes floor(size / crop_fraction), the
    # other is truncated, the crop's corner rounded.
    high, wide = (math.floor(side / fraction) for side in image_size)
    if high * image.width >= wide * image.height:
        resized_height, resized_width = high, max(high * image.width // image.height, width)
    else:
        resized_height, resized_width = max(wide * image.height // image.width, height), wide
    if not crop and resized_height * resized_width > _MOST_IMAGE_SIZES * height * width:
        raise ValueError(
            f"{image.width} x {image.height} pixels are too thin to be kept whole: they would become "
            f"{resized_width} x {resized_height}, more than {_MOST_IMAGE_SIZES} times the image size."
        )
    top, left = round((resized_height - height) / 2), round((resized_width - width) / 2)
    if resized_height * resized_width > _MOST_PIXELS:  # no need to resize what is then cut away
        across, down = image.width / resized_width, image.height / resized_height
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return _pixels(image.resize((width, height), INTERPOLATIONS[interpolation], box=box))
    resized = image.resize((resized_width, resized_height), INTERPOLATIONS[interpolation])
    if not crop:
        return _pixels(resized)
    return _pixels(resized.crop((left, top, left + width, top + height)))


def _pixels(image):
    """A PIL image as uint8 (H, W, C)."""
    return np.asarray(image).reshape(image.height, image.width, -1)
