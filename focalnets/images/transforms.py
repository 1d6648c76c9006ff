"""Random changes to single images, computed by Pillow."""

import math

from PIL import Image, ImageEnhance, ImageOps

_RESAMPLING = {
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Value of pixels that geometric operations uncover.
_GRAY = 128


def transform(opened, size, augmentation, generator):
    """Apply the part of an augmentation that changes single images. `Loader` applies the rest to batches.

    Args:
        opened: Function of `smallest` that returns a PIL image of mode "RGB" or "L". See `decode.open_image`.
        size: (int, int). Height and width of the result. Used only if the augmentation crops or resizes.
        augmentation: `Augmentation`.
        generator: NumPy generator of this image in this epoch.

    Returns:
        A PIL image of the same mode.
    """
    interpolation = augmentation.interpolation
    if augmentation.random_resized_crop is not None:
        image = _random_resized_crop(opened, size, augmentation.random_resized_crop, interpolation, generator)
    elif augmentation.resize_crop:
        image = _resize_crop(opened(None), size, augmentation.resize_crop, interpolation, generator)
    else:
        image = opened(None)
    if augmentation.color_jitter:
        image = _color_jitter(image, augmentation.color_jitter, generator)
    for _ in range(augmentation.randaugment):
        image = _random_operation(
            image, augmentation.randaugment_magnitude, augmentation.randaugment_spread, generator
        )
    return image


def _random_resized_crop(opened, size, area, interpolation, generator):
    """Draw the crop before decoding, so that large JPEGs can be decoded at a reduced size."""
    drawn = None

    def smallest(height, width):
        nonlocal drawn
        left, top, right, bottom = crop_box(height, width, area, generator)
        drawn = (left / width, top / height, right / width, bottom / height)
        return math.ceil(size[0] * height / (bottom - top)), math.ceil(size[1] * width / (right - left))

    image = opened(smallest)
    if drawn is None:  # the image was decoded before and `smallest` was not called
        smallest(image.height, image.width)
    left, top, right, bottom = drawn
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    return _resized(image, size, interpolation, box)


def _resized(image, size, interpolation, box):
    if interpolation == "area":
        shrinks = box[2] - box[0] >= size[1] and box[3] - box[1] >= size[0]
        interpolation = "box" if shrinks else "bilinear"
    return image.resize(size[::-1], _RESAMPLING[interpolation], box=box)


def crop_box(height, width, area, generator):
    """Draw the box (left, top, right, bottom) of a crop, with an aspect ratio between 3:4 and 4:3.

    `area` is the range of the area as a fraction of the image. If none of ten random crops fits into the
    image, the result is the largest central crop with an aspect ratio in this range.

    Source: "Inception crop" (Szegedy et al., 2015), as torchvision's RandomResizedCrop.
    """
    for _ in range(10):
        pixels = generator.uniform(*area) * height * width
        aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = generator.integers(width - wide + 1), generator.integers(height - high + 1)
            return (int(left), int(top), int(left) + wide, int(top) + high)
    wide, high = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - wide) // 2, (height - high) // 2
    return (left, top, left + wide, top + high)


def _resize_crop(image, size, side, interpolation, generator):
    if side < max(size):
        raise ValueError(f"resize_crop must be at least the image size, {max(size)}; got {side}.")
    image = _resized(image, (side, side), interpolation, (0, 0, image.width, image.height))
    top, left = (int(generator.integers(side - part + 1)) for part in size)
    return image.crop((left, top, left + size[1], top + size[0]))


def _color_jitter(image, strength, generator):
    for enhancer in generator.permutation(
        [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    ):
        factor = generator.uniform(1 - strength, 1 + strength)
        if not (image.mode == "L" and enhancer is ImageEnhance.Color):
            image = enhancer(image).enhance(factor)
    return image


# === RandAugment: the paper's 14 operations, with `level` (strength) from 0 to 1 and `sign` -1 or 1 ===


def _fill(image):
    return (_GRAY,) * 3 if image.mode == "RGB" else _GRAY


def _affine(image, matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_fill(image)
    )


def _rotate(image, level, sign):
    return image.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=_fill(image))


def _enhance(enhancer):
    return lambda image, level, sign: enhancer(image).enhance(1 + 0.9 * level * sign)


_OPERATIONS = (
    lambda image, level, sign: image,
    lambda image, level, sign: ImageOps.autocontrast(image),
    lambda image, level, sign: ImageOps.equalize(image),
    lambda image, level, sign: ImageOps.solarize(image, round(256 * (1 - level))),
    lambda image, level, sign: ImageOps.posterize(image, 8 - round(4 * level)),
    _rotate,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda image, level, sign: _affine(image, (1, 0.3 * level * sign, 0, 0, 1, 0)),
    lambda image, level, sign: _affine(image, (1, 0, 0, 0.3 * level * sign, 1, 0)),
    lambda image, level, sign: _affine(image, (1, 0, 0.45 * level * sign * image.width, 0, 1, 0)),
    lambda image, level, sign: _affine(image, (1, 0, 0, 0, 1, 0.45 * level * sign * image.height)),
)


def _random_operation(image, magnitude, spread, generator):
    operation = _OPERATIONS[generator.integers(len(_OPERATIONS))]
    level = min(max(generator.normal(magnitude, spread), 0), 10) / 10
    return operation(image, level, 1 if generator.random() < 0.5 else -1)
