"""Pixels are 0..255. What other ranges look like, and what to say about them. NumPy only."""

import numpy as np

_IMAGES = 8  # of a batch that are looked at
_PIXELS = 32  # per side, evenly spaced: a look takes microseconds, whatever the size
_NORMALIZED = 10.0  # images with negative values below this were standardized; resizing overshoots further
_OVERSHOOT = 2 * 255.0  # bicubic resizing of floats exceeds 255, but not by this much


def sample_pixels(images):
    """A few pixels of the first images of a batch (N, H, W, C): a view, any array type.

    >>> import numpy as np
    >>> from focalnets.pixel_range import sample_pixels
    >>> sample_pixels(np.zeros((64, 224, 200, 3))).shape
    (8, 32, 34, 3)
    """
    rows, columns = (max(1, int(side) // _PIXELS) for side in images.shape[1:3])
    return images[:_IMAGES, ::rows, ::columns]


def range_problem(pixels):
    """A sentence about pixels that are not in the range 0..255, or None.

    Args:
        pixels: array of any shape. uint8 cannot be out of range. All zeros are black images.

    >>> import numpy as np
    >>> from focalnets.pixel_range import range_problem
    >>> range_problem(np.array([0.0, 0.5, 1.0]))
    'The images have values from 0 to 1; expected pixels from 0 to 255.'
    >>> range_problem(np.array([0, 255], "uint8")) is None
    True
    """
    pixels = np.asarray(pixels)
    if pixels.dtype == np.uint8 or pixels.size == 0:
        return None
    if pixels.dtype == bool:
        return _sentence("False", "True")
    low, high = float(pixels.min()), float(pixels.max())
    scaled = 0 <= low < high <= 1 and not np.issubdtype(pixels.dtype, np.integer)
    constant = 0 < low == high < 1  # one gray, as in a test image
    standardized = low < 0 and high <= _NORMALIZED
    if scaled or constant or standardized or high > _OVERSHOOT:
        return _sentence(f"{low:.4g}", f"{high:.5g}")
    return None


def _sentence(low, high):
    return f"The images have values from {low} to {high}; expected pixels from 0 to 255."
