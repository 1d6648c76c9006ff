"""Test-time augmentation: the ways in which one image is looked at before the opinions are averaged."""

import functools

import numpy as np


def mirrored(images):
    """uint8 (N, H, W, C), left and right exchanged.

    >>> import numpy as np
    >>> from focalnets.prediction.tta import mirrored
    >>> mirrored(np.array([1, 2], "uint8").reshape(1, 1, 2, 1))[0, 0, :, 0].tolist()
    [2, 1]
    """
    return images[:, :, ::-1]


def shifted(images, pixels):
    """uint8 (N, H, W, C), moved down and to the right by so many pixels; the edge is repeated.

    >>> import numpy as np
    >>> from focalnets.prediction.tta import shifted
    >>> shifted(np.array([1, 2, 3], "uint8").reshape(1, 1, 3, 1), 1)[0, 0, :, 0].tolist()
    [1, 1, 2]
    """
    height, width = images.shape[1:3]
    rows = np.clip(np.arange(height) - pixels, 0, height - 1)
    columns = np.clip(np.arange(width) - pixels, 0, width - 1)
    return images[:, rows][:, :, columns]


def _as_it_is(images):
    return images


def _shift_and_flip():
    views = []
    for pixels in (0, -1, 1):
        move = functools.partial(shifted, pixels=pixels)
        views += [move, lambda images, move=move: mirrored(move(images))]
    return tuple(views)


VIEWS = {
    "none": (_as_it_is,),
    "flip": (_as_it_is, mirrored),
    "shift": _shift_and_flip(),  # by a pixel, each also mirrored: six views
}
