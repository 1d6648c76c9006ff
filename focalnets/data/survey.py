"""Size and color of the stored images of a data set, measured on a sample."""

import contextlib
from dataclasses import dataclass

import numpy as np

from focalnets.images.decode import as_pixels

# Number of images in the sample, evenly spaced over the data set.
SAMPLE = 16

# Channels of a color image differ by more than this. Those of a grayscale image stored as RGB are equal.
_GRAY_DIFFERENCE = 32


@dataclass(frozen=True)
class Survey:
    """Properties of the stored images of a data set, before they are resized or converted.

    Attributes:
        images: int. Number of images in the sample.
        height: int. Median height in pixels.
        width: int. Median width in pixels.
        color: bool. True if at least half of the images have color.

    >>> import numpy as np
    >>> from focalnets.data.survey import survey_array
    >>> survey_array(np.zeros((5, 20, 30, 1), "uint8"))
    Survey(images=5, height=20, width=30, color=False)
    """

    images: int
    height: int
    width: int
    color: bool


def survey_array(images):
    """`Survey` of an array of images (N, H, W) or (N, H, W, C), or None if it is empty."""
    chosen = np.asarray(images)[_sample(len(images))]
    return _survey([(image.shape[:2], _has_color(image)) for image in chosen])


def survey_files(images):
    """`Survey` of a `FileImages` with 3 channels, or None if the whole sample is unreadable.

    Large JPEGs are decoded at a fraction of their size.
    """
    found = []
    for index in _sample(len(images)):
        with contextlib.suppress(ValueError):  # unreadable images are reported when all images are read
            found.append(_measure(images, index))
    return _survey(found)


def _measure(images, index):
    sizes = []

    def smallest(height, width):
        sizes.append((height, width))
        return 64, 64

    pixels = as_pixels(images.read(index, smallest))
    return sizes[0], _has_color(pixels)


def _sample(count):
    return np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int))


def _has_color(pixels):
    return pixels.ndim == 3 and int(np.ptp(pixels[..., :3].astype(int), axis=-1).max()) > _GRAY_DIFFERENCE


def _survey(found):
    if not found:
        return None
    height, width = np.median([size for size, _ in found], axis=0).round().astype(int).tolist()
    return Survey(len(found), height, width, sum(color for _, color in found) >= len(found) / 2)
