"""Augmentation on uint8 batches. Every draw is a function of (seed, epoch, index of the image)."""

import numpy as np


def epoch_generator(seed, epoch, purpose):
    """A NumPy generator for one purpose in one epoch, independent of all others.

    Args:
        purpose: a short word, such as "order" or "crop".
    """
    return np.random.default_rng([seed, epoch, *purpose.encode()])


def crop_offsets(seed, epoch, count, padding):
    """Rows and columns (count, 2) at which to cut from images padded by `padding` pixels."""
    generator = epoch_generator(seed, epoch, "crop")
    return generator.integers(0, 2 * padding + 1, size=(count, 2))


def flips(seed, epoch, count):
    """Which of `count` images to mirror: bool (count,)."""
    return epoch_generator(seed, epoch, "flip").random(count) < 0.5


def crop(images, offsets, padding):
    """Shift images (N, H, W, C) by cutting (H, W) at `offsets` (N, 2) from their zero-padded form.

    >>> import numpy as np
    >>> from focalnets.data.augment import crop
    >>> images = np.arange(4, dtype="uint8").reshape(1, 2, 2, 1)
    >>> crop(images, np.array([[0, 1]]), padding=1)[0, ..., 0].tolist()
    [[0, 0], [0, 1]]
    """
    height, width = images.shape[1:3]
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, margins)
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + np.arange(width)
    batch = np.arange(len(images))[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]]


def flip(images, chosen):
    """Mirror the chosen images (bool (N,)) left to right."""
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)
