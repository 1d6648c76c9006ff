"""Survey: size and color of the images of a data set as they are stored, judged by a sample."""

import contextlib
from dataclasses import dataclass

import numpy as np

from focalnets.images.decode import as_pixels

# Images that are looked at, spread evenly over the data set.
SAMPLE = 16

# Channels of a grayscale image stored as RGB are equal; those of a color image differ by more than this.
_GRAY_DIFFERENCE = 32


@dataclass(frozen=True)
class Survey:
    """The stored images of a data set, before they are resized or converted.

    Attributes:
        images: number of images that were looked at.
        height, width: median size in pixels.
        color: whether at least half of the images have color.

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
    """The `Survey` of an array of images, (N, H, W) or (N, H, W, C); None if it is empty."""
    chosen = np.asarray(images)[_sample(len(images))]
    return _survey([(image.shape[:2], _has_color(image)) for image in chosen])


def survey_files(images):
    """The `Survey` of a `FileImages` that reads RGB; None if none of the sample can be read.

    Large JPEGs are decoded at a fraction of their size.
    """
    found = []
    for index in _sample(len(images)):
        with contextlib.suppress(ValueError):  # an unreadable image is reported by whoever reads them all
            found.append(_look(images, index))
    return _survey(found)


def _look(images, index):
    sizes = []

    def smallest(height, width):
        sizes.append((height, width))  # upright
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
