"""Detection of images whose pixels are not in the range 0 to 255. Needs NumPy only."""

import numpy as np

_IMAGES = 8  # images of a batch that are checked
_PIXELS = 32  # evenly spaced pixels per side: a check takes microseconds for any image size
_NORMALIZED = 10.0  # images with negative values and a maximum up to this are standardized
_OVERSHOOT = 2 * 255.0  # bicubic resizing of floats gives values over 255, but not over this
_UNDERSHOOT = -70.0  # it gives negative values, but not below this: -40 in photos, -67 in noise
_12_BITS = 4095
_ITSELF = "The classifier normalizes them itself: remove"


def holds_numbers(dtype):
    """Check if arrays of a dtype hold numbers. Unknown kinds of dtypes count as numbers.

    >>> import numpy as np
    >>> from focalnets.pixel_range import holds_numbers
    >>> holds_numbers(np.dtype("uint8")), holds_numbers(np.dtype("object"))
    (True, False)
    """
    # JAX's bfloat16 has the kind "V", as records do, but another type.
    return getattr(dtype, "kind", None) not in tuple("OUS") and getattr(dtype, "type", None) is not np.void


def sample_pixels(images):
    """View of evenly spaced pixels of the first images of a batch (N, H, W, C), for arrays of any library.

    >>> import numpy as np
    >>> from focalnets.pixel_range import sample_pixels
    >>> sample_pixels(np.zeros((64, 224, 200, 3))).shape
    (8, 32, 34, 3)
    """
    rows, columns = (max(1, int(side) // _PIXELS) for side in images.shape[1:3])
    return images[:_IMAGES, ::rows, ::columns]


def range_problem(pixels):
    """Describe pixels outside the range 0 to 255 and suggest a fix, or return None.

    Args:
        pixels: Array of any shape. uint8 arrays and arrays of zeros (black images) have no problem.

    >>> import numpy as np
    >>> from focalnets.pixel_range import range_problem
    >>> range_problem(np.array([0.0, 0.5, 1.0]))
    'The images have values from 0 to 1; expected pixels from 0 to 255. The classifier normalizes them \
itself: remove Rescaling(1 / 255), a division by 255 or any other normalization before it.'
    >>> range_problem(np.array([0.0, 65535.0]))
    'The images have values from 0 to 65535; expected pixels from 0 to 255. They look like 16-bit images: \
divide them by 257.'
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
    constant = 0 < low == high < 1  # a uniform gray, as in test images
    standardized = low < 0 and high <= _NORMALIZED
    if pixels.dtype == np.int8 and low < 0:
        advice = "They look like unsigned bytes that were read as int8: use images.view('uint8')."
        advice += " If a mean or 128 was subtracted, add it again."
    elif high > _12_BITS:
        advice = "They look like 16-bit images: divide them by 257."
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
