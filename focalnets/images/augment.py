"""What changes from one epoch to the next: one record, and the changes that act on uint8 batches.

Every draw is a function of (seed, epoch, index of the image or batch), whoever asks and in which order.
The changes to single images are in `transforms.py`.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from focalnets.schema import check_fields

INTERPOLATIONS = ("area", "nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the default leaves them alone. In the order of application:

    Attributes:
        random_resized_crop: least and largest share of the image's area that a random crop keeps, before
            it is resized to the image size; None for none. (0.08, 1) is usual for ImageNet.
        resize_crop: resize the image to a square of this side and cut the image size from it at random
            (the tutorial: 52 for 48); 0 for none.
        interpolation: of these two: "nearest", "bilinear", "bicubic" or "lanczos", with antialiasing, or
            "area": the mean of the pixels covered where the crop shrinks, "bilinear" where it grows; the
            fastest that does not alias.
        color_jitter: brightness, contrast and saturation times a random factor in 1 -+ so much.
        randaugment: how many random operations (RandAugment) each image gets; 0 for none.
        randaugment_magnitude: strength of those, 0 to 10.
        randaugment_spread: standard deviation of that strength.
        pad_crop: shift by up to so many pixels, filling with black.
        flip: mirror half of the images, and in the next epoch the other half.
        erasing: share of the images of which a rectangle is replaced by noise.
        mixup, cutmix: Beta parameter of how two images are blended, or a rectangle of one is put into the
            other; 0 for never. With both, each batch gets one of them.

    Sources: RandAugment (Cubuk et al., 2020), Random Erasing (Zhong et al., 2020), MixUp (Zhang et al.,
    2018), CutMix (Yun et al., 2019). Strengths are about those of timm's `rand-m9-mstd0.5-inc1`; it applies
    an operation with probability 1/2 only, posterises down to 1 bit (here 4), and has two more: inversion
    and adding below a threshold.

    Raises:
        ValueError: on values out of range, or two ways of cropping at once.
    """

    random_resized_crop: tuple[float, float] | None = None
    resize_crop: Annotated[int, Meta(le=16_384)] = 0
    interpolation: str = "area"
    color_jitter: float = 0.0
    randaugment: Annotated[int, Meta(le=100)] = 0
    randaugment_magnitude: float = 9.0
    randaugment_spread: Annotated[float, Meta(le=100)] = 0.5
    pad_crop: Annotated[int, Meta(le=8192)] = 0
    flip: bool = False
    erasing: float = 0.0
    mixup: Annotated[float, Meta(le=1000)] = 0.0
    cutmix: Annotated[float, Meta(le=1000)] = 0.0

    def __post_init__(self):
        check_fields(self)
        area = self.random_resized_crop
        if area is not None and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
            raise ValueError(
                f"random_resized_crop must be two shares of the area, 0 < least <= largest <= 1; got {area}."
            )
        if area is not None and self.resize_crop:
            raise ValueError("random_resized_crop and resize_crop exclude each other; give one of them.")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}; got {self.interpolation!r}."
            )
        for name in ("resize_crop", "pad_crop", "randaugment", "randaugment_spread", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        for name, largest in (("color_jitter", 1), ("erasing", 1), ("randaugment_magnitude", 10)):
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} must be in [0, {largest}]; got {getattr(self, name)}.")

    @property
    def needs_originals(self):
        """Whether it starts from the image as it was, not from the prepared image."""
        return self.random_resized_crop is not None or self.resize_crop > 0

    @property
    def changes_images(self):
        """Whether single images pass through `transforms.py`."""
        return self.needs_originals or self.color_jitter > 0 or self.randaugment > 0


def generator_for(seed, epoch, purpose, index=0):
    """A NumPy generator for one purpose and one image or batch in one epoch, independent of all others.

    Args:
        purpose: a short word, such as "order" or "crop".
    """
    return np.random.default_rng([seed, epoch, index, *purpose.encode()])


def crop_offsets(seed, epoch, count, padding):
    """Rows and columns (count, 2) at which to cut from images padded by `padding` pixels."""
    return generator_for(seed, epoch, "crop").integers(0, 2 * padding + 1, size=(count, 2))


def flips(seed, epoch, count):
    """Which of `count` images to mirror: bool (count,); in the next epoch, the others.

    Two epochs show each image both ways, which independent draws do for half of the images only.

    Source: "alternating flip" of Jordan, arXiv 2404.00498.
    """
    return (generator_for(seed, 0, "flip").random(count) < 0.5) ^ (epoch % 2 == 1)


def crop(images, offsets, padding):
    """Shift images (N, H, W, C) by cutting (H, W) at `offsets` (N, 2) from their zero-padded form.

    >>> import numpy as np
    >>> from focalnets.images.augment import crop
    >>> images = np.arange(4, dtype="uint8").reshape(1, 2, 2, 1)
    >>> crop(images, np.array([[0, 1]]), padding=1)[0, ..., 0].tolist()
    [[0, 0], [0, 1]]
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + np.arange(width)
    batch = np.arange(len(images))[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]]


def flip(images, chosen):
    """Mirror the chosen images (bool (N,)) left to right."""
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def erase(image, generator):
    """`image` (H, W, C) with a rectangle of 2 to 33 % of its area replaced by uniform noise."""
    height, width = image.shape[:2]
    area = generator.uniform(0.02, 1 / 3) * height * width
    aspect = np.exp(generator.uniform(np.log(0.3), -np.log(0.3)))
    rows = int(np.clip(round(np.sqrt(area * aspect)), 1, height))
    columns = int(np.clip(round(np.sqrt(area / aspect)), 1, width))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    erased = image.copy()
    noise = generator.integers(0, 256, (rows, columns, image.shape[2]), "uint8")
    erased[top : top + rows, left : left + columns] = noise
    return erased


def mix(images, targets, mixup, cutmix, generator):
    """MixUp or CutMix of a batch with itself in reverse order, which is random because the batch is.

    Args:
        images: uint8 (B, H, W, C).
        targets: float32 (B, classes).
        mixup, cutmix: Beta parameters, 0 for never; with both, a coin decides.

    Returns:
        (images uint8, targets float32), the targets in the proportion of the pixels.

    >>> import numpy as np
    >>> from focalnets.images.augment import mix
    >>> images = np.array([0, 100], "uint8").reshape(2, 1, 1, 1)
    >>> blended, targets = mix(images, np.eye(2, dtype="float32"), 1.0, 0.0, np.random.default_rng(0))
    >>> bool(np.isclose(blended[0, 0, 0, 0], 100 * targets[0, 1], atol=0.5))
    True
    """
    use_cutmix = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    share = generator.beta(cutmix, cutmix) if use_cutmix else generator.beta(mixup, mixup)
    if use_cutmix:
        height, width = images.shape[1:3]
        rows, columns = round(height * np.sqrt(1 - share)), round(width * np.sqrt(1 - share))
        # The rectangle's center is anywhere, so that it may hang over the edge, as in the paper.
        row, column = generator.integers(height), generator.integers(width)
        top, bottom = np.clip([row - rows // 2, row - rows // 2 + rows], 0, height)
        left, right = np.clip([column - columns // 2, column - columns // 2 + columns], 0, width)
        share = 1 - (bottom - top) * (right - left) / (height * width)
        mixed = images.copy()
        mixed[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    else:
        kept = np.float32(share)
        mixed = images * kept + images[::-1] * (1 - kept)
        mixed = np.round(mixed, out=mixed).astype("uint8")
    share = np.float32(share)
    return mixed, targets * share + targets[::-1] * (1 - share)
