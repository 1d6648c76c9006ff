"""Test-time augmentation: variants of an image whose predictions are averaged."""

import functools

import numpy as np


def mirrored(images):
    """Flip images (N, H, W, C) horizontally.

    >>> import numpy as np
    >>> from focalnets.prediction.tta import mirrored
    >>> mirrored(np.array([1, 2], "uint8").reshape(1, 1, 2, 1))[0, 0, :, 0].tolist()
    [2, 1]
    """
    return images[:, :, ::-1]


def shifted(images, pixels):
    """Shift images (N, H, W, C) down and to the right by a number of pixels. Edge pixels are repeated.

    >>> import numpy as np
    >>> from focalnets.prediction.tta import shifted
    >>> shifted(np.array([1, 2, 3], "uint8").reshape(1, 1, 3, 1), 1)[0, 0, :, 0].tolist()
    [1, 1, 2]
    """
    height, width = images.shape[1:3]
    rows = np.clip(np.arange(height) - pixels, 0, height - 1)
    columns = np.clip(np.arange(width) - pixels, 0, width - 1)
    return images[:, rows][:, :, columns]


def _unchanged(images):
    return images


def _shift_and_flip():
    views = []
    for pixels in (0, -1, 1):
        move = functools.partial(shifted, pixels=pixels)
        views += [move, lambda images, move=move: mirrored(move(images))]
    return tuple(views)


VIEWS = {
    "none": (_unchanged,),
    "flip": (_unchanged, mirrored),
    "shift": _shift_and_flip(),  # by -1, 0 and 1 pixel, with and without a flip
}
