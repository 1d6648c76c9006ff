"""Conversion of arrays of a network to maps over its images. Imports NumPy only."""

import numpy as np


def channel_norm(values):
    """Euclidean norm over the last axis: (..., C) -> (...), float32.

    >>> import numpy as np
    >>> from focalnets.maps import channel_norm
    >>> float(channel_norm(np.array([3.0, 4.0])))
    5.0
    """
    return np.sqrt(np.sum(np.square(values, dtype="float32"), axis=-1))


def upsample(values, size, stride):
    """Upsample maps bilinearly to the size of the images.

    Position (i, j) of a map covers a square of `stride` x `stride` pixels from (i * stride, j * stride). Its
    value is at the center of the square. Pixels beyond the outermost centers get the outermost values.
    Positions beyond the image, from padding at the bottom and on the right, are removed.

    Args:
        values: array of shape (N, h, w, K).
        size: (H, W) of the images in pixels, where H <= h * stride and W <= w * stride.
        stride: int. Pixels per position.

    Returns:
        float32 array of shape (N, H, W, K).

    >>> import numpy as np
    >>> from focalnets.maps import upsample
    >>> upsample(np.array([0.0, 1.0]).reshape(1, 1, 2, 1), (1, 4), stride=2)[0, 0, :, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    rows = interpolation_weights(size[0], values.shape[1], stride)
    columns = interpolation_weights(size[1], values.shape[2], stride)
    return np.einsum("yh,xw,nhwk->nyxk", rows, columns, values.astype("float32"), optimize=True)


def spread(values, size, stride):
    """Spread the values of positions over the pixels of the image, so that all sums are kept.

    The value of a position is distributed over the pixels near its center, with the weights of bilinear
    interpolation (see `upsample`) divided by their sum.

    Args:
        values: array of shape (N, h, w).
        size: (H, W) of the images in pixels, where H <= h * stride and W <= w * stride.
        stride: int. Pixels per position.

    Returns:
        float32 array of shape (N, H, W).

    >>> import numpy as np
    >>> from focalnets.maps import spread
    >>> spread(np.array([[[1.0, 3.0]]]), (1, 4), stride=2)[0, 0].tolist()
    [0.5, 0.75, 1.25, 1.5]
    """
    rows = spreading_weights(size[0], values.shape[1], stride)
    columns = spreading_weights(size[1], values.shape[2], stride)
    return np.einsum("yh,xw,nhw->nyx", rows, columns, values.astype("float32"), optimize=True)


def blurred(images, sigma):
    """Gaussian blur of images (N, H, W, C) with edges repeated, in float32. `sigma` is in pixels.

    >>> import numpy as np
    >>> from focalnets.maps import blurred
    >>> float(blurred(np.ones((1, 4, 4, 1)), 2.0)[0, 0, 0, 0])
    1.0
    """
    x = np.float32(images)
    for axis in (1, 2):
        distance = np.arange(x.shape[axis])
        window = np.arange(-int(4 * sigma) - 1, int(4 * sigma) + 2)
        weights = np.exp(-0.5 * np.square(window / sigma))
        matrix = np.zeros((x.shape[axis], x.shape[axis]), "float32")
        for offset, weight in zip(window, weights / weights.sum(), strict=True):
            matrix[distance, (distance + offset).clip(0, len(distance) - 1)] += weight
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


def spreading_weights(pixels, positions, stride):
    """Matrix (pixels, positions) of `spread` along one axis. Each column sums to 1."""
    weights = interpolation_weights(pixels, positions, stride)
    return weights / weights.sum(axis=0)


def interpolation_weights(pixels, positions, stride):
    """Matrix (pixels, positions) of linear interpolation between the centers of positions."""
    centers = (np.arange(pixels) + 0.5) / stride - 0.5
    centers = centers.clip(0, positions - 1)
    below = np.floor(centers).astype(int)
    above = np.minimum(below + 1, positions - 1)
    weights = np.zeros((pixels, positions), "float32")
    weights[np.arange(pixels), below] += 1 - (centers - below)
    weights[np.arange(pixels), above] += centers - below
    return weights
