"""Pixels are 0..255. What other ranges look like, and what to say about them. NumPy only."""

import numpy as np

_IMAGES = 8  # of a batch that are looked at
_PIXELS = 32  # per side, evenly spaced: a look takes microseconds, whatever the size
_NORMALIZED = 10.0  # images with negative values below this were standardized; resizing overshoots further
_OVERSHOOT = 2 * 255.0  # bicubic resizing of floats exceeds 255, but not by this much
_UNDERSHOOT = -70.0  # nor does it fall below 0 by this much: -40 in photos, -67 in noise
_12_BITS = 4095
_ITSELF = "The classifier normalizes them itself: remove"


def holds_numbers(dtype):
    """Whether arrays of a dtype hold numbers; unknown kinds of dtypes do.

    >>> import numpy as np
    >>> from focalnets.pixel_range import holds_numbers
    >>> holds_numbers(np.dtype("uint8")), holds_numbers(np.dtype("object"))
    (True, False)
    """
    # NumPy's kind of JAX's bfloat16 is that of records, too.
    return getattr(dtype, "kind", None) not in tuple("OUS") and getattr(dtype, "type", None) is not np.void


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
    """What is wrong with pixels that are not in the range 0..255, and what to do; or None.

    Args:
        pixels: array of any shape. uint8 cannot be out of range. All zeros are black images.

    >>> import numpy as np
    >>> from focalnets.pixel_range import range_problem
    >>> range_problem(np.array([0.0, 0.5, 1.0]))
    'The images have values from 0 to 1; expected pixels from 0 to 255. The classifier normalizes them \
itself: remove Rescaling(1 / 255), a division by 255 or any other normalization before it.'
    >>> range_problem(np.array([0.0, 65535.0]))
    'The images have values from 0 to 65535; expected pixels from 0 to 255. They look like 16 bits: \
divide by 257.'
    >>> range_problem(np.array([-124.0, 151.0]))
    'The images have values from -124 to 151; expected pixels from 0 to 255. The classifier normalizes them \
itself: remove the subtraction of a mean before it.'
    >>> range_problem(np.array([0, 255], "uint8")) is None
    True
    """
    pixels = np.asarray(pixels)
    if pixels.dtype == np.uint8 or pixels.size == 0:
        return None
    if pixels.dtype == bool:
        return _sentence("False", "True", "Multiply them by 255.")
    low, high = float(pixels.min()), float(pixels.max())
    scaled = 0 <= low < high <= 1 and not np.issubdtype(pixels.dtype, np.integer)
    constant = 0 < low == high < 1  # one gray, as in a test image
    standardized = low < 0 and high <= _NORMALIZED
    if pixels.dtype == np.int8 and low < 0:
        advice = "Bytes were read as signed ones: use images.view('uint8')."
        advice += " If a mean or 128 was subtracted, add it again."
    elif high > _12_BITS:
        advice = "They look like 16 bits: divide by 257."
    elif high > _OVERSHOOT:
        advice = "Scale them to 8 bits."
    elif scaled or constant or standardized:
        advice = f"{_ITSELF} Rescaling(1 / 255), a division by 255 or any other normalization before it."
    elif low < _UNDERSHOOT:
        advice = f"{_ITSELF} the subtraction of a mean before it."
    else:
        return None
    return _sentence(f"{low:.4g}", f"{high:.5g}", advice)


def _sentence(low, high, advice):
    return f"The images have values from {low} to {high}; expected pixels from 0 to 255. {advice}"
