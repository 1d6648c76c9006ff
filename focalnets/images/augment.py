"""Settings of the augmentation, and the random changes to batches of uint8 images.

Every draw is a function of (seed, epoch, index of the image or batch) and independent of other draws.
`transforms.py` has the random changes to single images.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from focalnets.schema import check_fields

INTERPOLATIONS = ("area", "nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images. The default changes nothing. Attributes are in order of application.

    Attributes:
        random_resized_crop: (float, float). Smallest and largest area of a random crop, as a fraction of the
            image. The crop is resized to the image size. (0.08, 1) is usual for ImageNet. Defaults to `None`.
        resize_crop: int. Side in pixels of a square to which the image is resized, before a random crop of
            the image size is cut from it (the tutorial cuts 48 from 52). Defaults to 0, no such crop.
        interpolation: str. Method of both resizes: "nearest", "bilinear", "bicubic", "lanczos" or "area".
            "area" averages the covered pixels where the crop shrinks, and is "bilinear" where it expands. It
            is the fastest method that does not alias. Defaults to "area".
        color_jitter: float. Largest relative change of brightness, contrast and saturation. Defaults to 0.
        randaugment: int. Number of random operations per image (RandAugment). Defaults to 0.
        randaugment_magnitude: float. Mean strength of these operations, 0 to 10. Defaults to 9.
        randaugment_spread: float. Standard deviation of their strength. Defaults to 0.5.
        pad_crop: int. Largest shift in pixels. Uncovered pixels become black. Defaults to 0.
        flip: bool. Mirror half of the images, and the other half in the next epoch. Defaults to `False`.
        erasing: float. Fraction of the images that get a rectangle of noise. Defaults to 0.
        mixup: float. Beta distribution's parameter for blending two images. Defaults to 0, no MixUp.
        cutmix: float. The same for replacing a rectangle by that of another image. If both are positive,
            each batch randomly uses one of them. Defaults to 0, no CutMix.

    Sources: RandAugment (Cubuk et al., 2020), Random Erasing (Zhong et al., 2020), MixUp (Zhang et al.,
    2018), CutMix (Yun et al., 2019). Strengths are close to timm's `rand-m9-mstd0.5-inc1`. timm applies each
    operation with probability 1/2, posterizes down to 1 bit (here 4), and also has inversion and SolarizeAdd.

    Raises:
        ValueError: if a value is out of range, or both crops are set.
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
                f"random_resized_crop must be two fractions, 0 < smallest <= largest <= 1; got {area}."
            )
        if area is not None and self.resize_crop:
            raise ValueError(
                f"Got random_resized_crop={area} and resize_crop={self.resize_crop}. Set only one of them."
            )
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
        """True if the augmentation crops the original image instead of the prepared one."""
        return self.random_resized_crop is not None or self.resize_crop > 0

    @property
    def changes_images(self):
        """True if `transforms.py` changes single images."""
        return self.needs_originals or self.color_jitter > 0 or self.randaugment > 0


def generator_for(seed, epoch, purpose, index=0):
    """Independent NumPy generator for one purpose ("order", "crop", ...), epoch, and image or batch."""
    return np.random.default_rng([seed, epoch, index, *purpose.encode()])


def crop_offsets(seed, epoch, count, padding):
    """Random top rows and left columns, int (count, 2), of crops from images padded by `padding` pixels."""
    return generator_for(seed, epoch, "crop").integers(0, 2 * padding + 1, size=(count, 2))


def flips(seed, epoch, count):
    """Mask, bool (count,), of the images to mirror. The next epoch mirrors the other images.

    Any two successive epochs show each image in both orientations. With independent draws, only half of the
    images would appear in both.

    Source: "alternating flip" of Jordan, arXiv 2404.00498.
    """
    return (generator_for(seed, 0, "flip").random(count) < 0.5) ^ (epoch % 2 == 1)


def crop(images, offsets, padding):
    """Shift images (N, H, W, C): pad them with zeros and crop (H, W) at `offsets` (N, 2).

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
    """Copy of an image (H, W, C) in which noise replaces a rectangle of 2 to 33 % of the area."""
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


def mix(images, targets, others, other_targets, mixup, cutmix, generator):
    """Apply MixUp or CutMix to images and others, such as a batch and its reverse.

    Args:
        images: uint8 array (B, H, W, C).
        targets: float32 array (B, classes).
        others, other_targets: Arrays of the same shapes.
        mixup: float. Parameter of the Beta distribution for MixUp, 0 for no MixUp.
        cutmix: float. The same for CutMix. If both are positive, each is used with probability 1/2.
        generator: NumPy generator.

    Returns:
        Tuple (images, targets) of the same shapes. Targets are mixed in proportion to the pixels.

    >>> import numpy as np
    >>> from focalnets.images.augment import mix
    >>> images = np.array([0, 100], "uint8").reshape(2, 1, 1, 1)
    >>> targets = np.eye(2, dtype="float32")
    >>> generator = np.random.default_rng(0)
    >>> blended, targets = mix(images, targets, images[::-1], targets[::-1], 1.0, 0.0, generator)
    >>> bool(np.isclose(blended[0, 0, 0, 0], 100 * targets[0, 1], atol=0.5))
    True
    """
    use_cutmix = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    weight = generator.beta(cutmix, cutmix) if use_cutmix else generator.beta(mixup, mixup)
    if use_cutmix:
        height, width = images.shape[1:3]
        rows, columns = round(height * np.sqrt(1 - weight)), round(width * np.sqrt(1 - weight))
        # As in the paper, the center is anywhere in the image, so the rectangle may extend past the edge.
        row, column = generator.integers(height), generator.integers(width)
        top, bottom = np.clip([row - rows // 2, row - rows // 2 + rows], 0, height)
        left, right = np.clip([column - columns // 2, column - columns // 2 + columns], 0, width)
        weight = np.float32(1 - (bottom - top) * (right - left) / (height * width))
        mixed = images.copy()
        mixed[:, top:bottom, left:right] = others[:, top:bottom, left:right]
    else:
        weight = np.float32(weight)
        mixed = images * weight + others * (1 - weight)
        mixed = np.round(mixed, out=mixed).astype("uint8")
    return mixed, targets * weight + other_targets * (1 - weight)
