"""From arrays of a network to maps over its images. NumPy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BlockMaps:
    """What one block modulated N images (H x W pixels) with, at the size of the images.

    Attributes:
        gates: float32 (N, H, W, L + 1), raw values of either sign; the last is the global gate.
        modulator_norm: float32 (N, H, W), Euclidean norm over channels.
        receptive_fields: side of what each of the L levels sees, in positions of the block's own map.
    """

    gates: np.ndarray
    modulator_norm: np.ndarray
    receptive_fields: tuple[int, ...]


def channel_norm(values):
    """Euclidean norm over the last axis: (..., C) -> (...), float32.

    >>> import numpy as np
    >>> from focalnets.explanation.maps import channel_norm
    >>> float(channel_norm(np.array([3.0, 4.0])))
    5.0
    """
    return np.sqrt(np.sum(np.square(values, dtype="float32"), axis=-1))


def upsample(values, size, stride):
    """Bilinear up-sampling of a map to the pixels it stands for.

    Position (i, j) of the map stands for the square of `stride` pixels that begins at
    (i * stride, j * stride); its value belongs to the center of that square. Beyond the outermost centers
    the outermost values hold. What the map covers beyond the image (padding at the bottom and on the
    right) is cut off.

    Args:
        values: (N, h, w, K).
        size: (H, W) of the image, H <= h * stride and W <= w * stride.
        stride: pixels a position.

    Returns:
        float32 (N, H, W, K).

    >>> import numpy as np
    >>> from focalnets.explanation.maps import upsample
    >>> upsample(np.array([0.0, 1.0]).reshape(1, 1, 2, 1), (1, 4), stride=2)[0, 0, :, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    rows = _weights(size[0], values.shape[1], stride)
    columns = _weights(size[1], values.shape[2], stride)
    return np.einsum("yh,xw,nhwk->nyxk", rows, columns, values.astype("float32"), optimize=True)


def _weights(pixels, positions, stride):
    """(pixels, positions) matrix of linear interpolation between the centers of positions."""
    centers = (np.arange(pixels) + 0.5) / stride - 0.5
    centers = centers.clip(0, positions - 1)
    below = np.floor(centers).astype(int)
    above = np.minimum(below + 1, positions - 1)
    weights = np.zeros((pixels, positions), "float32")
    weights[np.arange(pixels), below] += 1 - (centers - below)
    weights[np.arange(pixels), above] += centers - below
    return weights
