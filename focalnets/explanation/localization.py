"""Made images whose object is known to be in one place, to test whether a map finds it.

`grid_images` puts four images of different classes on one canvas. `pasted_images` puts a smaller image on a
texture. Both are drawn from a seed, so that a set is the same everywhere.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from focalnets.maps import blurred


class Located(NamedTuple):
    """Images with an object in a known region.

    Attributes:
        images: uint8 array of shape (N, H, W, channels).
        classes: int array of shape (N,). Class of the object.
        regions: bool array of shape (N, H, W). True on the object.
    """

    images: np.ndarray
    classes: np.ndarray
    regions: np.ndarray


def grid_images(images, classes, count, seed=0):
    """Canvases of 2 x 2 images of different classes, of which one is the object.

    Args:
        images: uint8 array of shape (N, H, W, channels).
        classes: int array of shape (N,). At least four different classes.
        count: int. Number of canvases.
        seed: int. Seed of the choice. Defaults to 0.

    Returns:
        `Located` with images of shape (count, 2 H, 2 W, channels).

    Source: the grid pointing game of Boehle et al., arXiv 2104.00032.

    >>> import numpy as np
    >>> from focalnets.explanation.localization import grid_images
    >>> found = grid_images(np.zeros((4, 8, 8, 1), "uint8"), np.arange(4), count=3)
    >>> found.images.shape, float(found.regions.mean())
    ((3, 16, 16, 1), 0.25)
    """
    generator, classes = np.random.default_rng(seed), np.asarray(classes)
    height, width = images.shape[1:3]
    canvases, objects, regions = [], [], []
    for _ in range(count):
        order = generator.permutation(len(images))
        _, first = np.unique(classes[order], return_index=True)
        chosen = order[np.sort(first)[:4]]
        if len(chosen) < 4:
            raise ValueError(f"grid_images needs images of four classes; got {len(np.unique(classes))}.")
        rows = [np.concatenate(images[pair], axis=1) for pair in (chosen[:2], chosen[2:])]
        place = generator.integers(4)
        region = np.zeros((2 * height, 2 * width), bool)
        region[place // 2 * height :, place % 2 * width :][:height, :width] = True
        canvases.append(np.concatenate(rows))
        objects.append(classes[chosen[place]])
        regions.append(region)
    return Located(np.stack(canvases), np.array(objects), np.stack(regions))


def pasted_images(images, classes, count, seed=0):
    """Images of half the size, each at a random place on a smooth random texture.

    The canvas has the size of the images: a network for small images does not find an object in a large one.

    Args:
        images: uint8 array of shape (N, H, W, channels).
        classes: int array of shape (N,).
        count: int. Number of images.
        seed: int. Seed of the choice, the places and the textures. Defaults to 0.

    Returns:
        `Located` with images of shape (count, H, W, channels).

    >>> import numpy as np
    >>> from focalnets.explanation.localization import pasted_images
    >>> found = pasted_images(np.zeros((2, 8, 8, 3), "uint8"), [0, 1], count=3)
    >>> found.images.shape, float(found.regions.mean())
    ((3, 8, 8, 3), 0.25)
    """
    generator, classes = np.random.default_rng(seed), np.asarray(classes)
    height, width = images.shape[1:3]
    rows = generator.permutation(np.arange(count) % len(images))
    texture = generator.normal(size=(count, *images.shape[1:])).astype("float32")
    texture = blurred(texture, min(height, width) / 16)
    texture = 128 + 40 * texture / texture.std(axis=(1, 2, 3), keepdims=True)
    canvases = np.rint(texture).clip(0, 255).astype("uint8")
    regions = np.zeros((count, height, width), bool)
    for canvas, region, row in zip(canvases, regions, rows, strict=True):
        top, left = (
            generator.integers(0, height - height // 2 + 1),
            generator.integers(0, width - width // 2 + 1),
        )
        place = slice(top, top + height // 2), slice(left, left + width // 2)
        canvas[place] = _halved(images[row])
        region[place] = True
    return Located(canvases, classes[rows], regions)


def _halved(image):
    small = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = small.resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(image.shape[0] // 2, image.shape[1] // 2, -1)


def energy_inside(maps, regions):
    """Fraction (N,) of the positive part of maps (N, H, W) that is inside regions (N, H, W).

    >>> import numpy as np
    >>> from focalnets.explanation.localization import energy_inside
    >>> energy_inside(np.array([[[3.0, 1.0]]]), np.array([[[True, False]]])).tolist()
    [0.75]
    """
    positive = np.maximum(maps, 0)
    return (positive * regions).sum(axis=(1, 2)) / np.maximum(positive.sum(axis=(1, 2)), 1e-12)


def points_inside(maps, regions):
    """True (N,) where the largest value of maps (N, H, W) is inside regions (N, H, W): the pointing game.

    >>> import numpy as np
    >>> from focalnets.explanation.localization import points_inside
    >>> points_inside(np.array([[[3.0, 1.0]]]), np.array([[[True, False]]])).tolist()
    [True]
    """
    best = maps.reshape(len(maps), -1).argmax(axis=1)
    return regions.reshape(len(maps), -1)[np.arange(len(maps)), best]
