"""Faithfulness: does a map show what the decision depends on?

The image is divided into cells. Cells are removed in the order of the map, and the probability of the
explained class is measured. All numbers are areas under such curves over the fraction of removed cells, with
`steps` steps:

    deletion   most important cells first, replaced by the mean color            lower is better
    insertion  cells of the image return to a blurred image, best first          higher is better
    SRG        area with the least important first, minus deletion               higher is better, random is 0
    ROAD       as SRG, but removed cells are interpolated from their surroundings

A removed cell gives an image that the network was not trained on. ROAD shows how much that matters.

Source: Petsiuk et al., arXiv 1806.07421 (deletion, insertion); Samek et al., arXiv 1509.06321, and Bluecher
et al., arXiv 2401.06654 (symmetric relevance gain); Rong et al., arXiv 2202.00449 (ROAD).
"""

from dataclasses import dataclass

import numpy as np

from focalnets.maps import blurred

METRICS = ("deletion", "insertion", "SRG", "ROAD")
LOWER_IS_BETTER = ("deletion",)
_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Interval:
    """Mean with the ends of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values, seed=0):
        """Interval of the mean of values (N,), by resampling images.

        >>> from focalnets.explanation.faithfulness import Interval
        >>> Interval.of([1.0, 1.0]).low
        1.0
        """
        values = np.float64(values)
        rows = np.random.default_rng(seed).integers(0, len(values), (_BOOTSTRAP, len(values)))
        low, high = np.quantile(values[rows].mean(axis=1), (0.025, 0.975))
        return cls(float(values.mean()), float(low), float(high))

    def __str__(self):
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def faithfulness(probabilities, images, classes, maps, mean_color, cells=8, steps=8):
    """Measure how well maps predict the effect of removing parts of the images.

    Args:
        probabilities: function of float32 images (N, H, W, channels). Returns probabilities (N, classes).
        images: array of shape (N, H, W, channels). Pixels 0..255.
        classes: int array of shape (N,). Explained classes.
        maps: dict of name -> float array of shape (N, H, W). Importance of each pixel.
        mean_color: sequence of `channels` floats. Color of removed cells.
        cells: int. Number of cells along each side. Defaults to 8.
        steps: int. Number of steps of each curve. Defaults to 8.

    Returns:
        dict of name -> dict of "deletion", "insertion", "SRG" and "ROAD" -> float array (N,).

    >>> import numpy as np
    >>> from focalnets.explanation.faithfulness import faithfulness
    >>> images = np.zeros((1, 8, 8, 1), "float32")
    >>> images[:, :4] = 255.0
    >>> brightness = lambda x: np.stack([x.mean((1, 2, 3)) / 255, 1 - x.mean((1, 2, 3)) / 255], axis=1)
    >>> found = faithfulness(brightness, images, [0], {"map": images[..., 0]}, mean_color=[0.0])["map"]
    >>> round(float(found["deletion"][0]), 3), round(float(found["SRG"][0]), 3)
    (0.125, 0.25)
    """
    images = np.float32(images)
    height, width = images.shape[1:3]
    rows, columns = (np.arange(n) * cells // n for n in (height, width))
    color = np.broadcast_to(np.float32(mean_color), images.shape)
    blur = blurred(images, min(height, width) / 8)
    places = np.arange(len(images))

    def probability(changed):
        return probabilities(changed)[places, classes]

    def gray(mask):
        return np.where(mask[..., None], color, images)

    def inserted(mask):
        return np.where(mask[..., None], images, blur)

    def interpolated(mask):
        return diffused(images, mask)

    def area(order, changed, first=0.0, last=0.0):
        """Area under the probability of `changed(mask)`. The ends are the same for every order."""
        total = (first + last) / 2
        for step in range(1, steps):
            mask = np.zeros((len(images), cells * cells), bool)
            np.put_along_axis(mask, order[:, : cells * cells * step // steps], True, axis=1)
            total = total + probability(changed(mask.reshape(-1, cells, cells)[:, rows][:, :, columns]))
        return total / steps

    whole, empty, start = (probability(one) for one in (images, np.array(color), blur))
    found = {}
    for name, one in maps.items():
        scores = np.zeros((len(images), cells * cells))
        np.add.at(scores, (slice(None), rows[:, None] * cells + columns), np.float64(one))
        most = np.argsort(-scores, axis=1, kind="stable")
        least = most[:, ::-1]
        deletion = area(most, gray, whole, empty)
        found[name] = {
            "deletion": deletion,
            "insertion": area(most, inserted, start, whole),
            "SRG": area(least, gray, whole, empty) - deletion,
            "ROAD": area(least, interpolated) - area(most, interpolated),
        }
    return found


def diffused(images, mask, noise=2.5, sweeps=24, seed=0):
    """Replace masked pixels by a smooth interpolation of the others, with a little noise.

    Each masked pixel becomes nearly the mean of its four neighbors, as the linear imputation of ROAD. A
    pyramid of means gives the start, so that a few sweeps are enough for large holes.

    Args:
        images: float array of shape (N, H, W, C).
        mask: bool array of shape (N, H, W). Pixels to replace.
        noise: float. Standard deviation, in pixel values. Defaults to 2.5, 1 % of the range as in ROAD.
        sweeps: int. Number of averaging sweeps. Defaults to 24.
        seed: int. Seed of the noise. Defaults to 0.

    >>> import numpy as np
    >>> from focalnets.explanation.faithfulness import diffused
    >>> images = np.linspace(0, 70, 8, dtype="float32")[None, None, :, None].repeat(8, axis=1)
    >>> mask = np.zeros((1, 8, 8), bool)
    >>> mask[:, 3:5, 3:5] = True
    >>> bool(np.abs(diffused(images, mask, noise=0) - images).max() < 1)
    True
    """
    known = ~mask[..., None]
    x = np.where(known, images, _pulled(images * known, np.float32(known)))
    for _ in range(sweeps):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]) / 4
        x = np.where(known, images, mean)
    random = np.random.default_rng(seed).normal(0, noise, images.shape[1:]).astype("float32")
    return np.where(known, images, np.clip(x + random, 0, 255)).astype("float32")


def _pulled(sums, weights):
    """Means of the known pixels in growing squares: each pixel gets that of the smallest square with one."""
    if (sums.shape[1] <= 1 and sums.shape[2] <= 1) or weights.min() > 0:
        return sums / np.maximum(weights, 1e-9)
    odd = [(0, 0), *((0, n % 2) for n in sums.shape[1:3]), (0, 0)]
    halves = [_halved(np.pad(one, odd)) for one in (sums, weights)]
    coarse = _pulled(*halves).repeat(2, axis=1).repeat(2, axis=2)[:, : sums.shape[1], : sums.shape[2]]
    return np.where(weights > 0, sums / np.maximum(weights, 1e-9), coarse)


def _halved(x):
    return x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
