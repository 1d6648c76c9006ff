"""Common corruptions, such as noise and blur, in five severities, to measure the robustness of a network.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019). Strengths are those of CIFAR-10-C. Lengths in pixels are scaled from 32 to the
longer side of the image. Results are close to those on CIFAR-10-C but not equal, because random numbers
differ and blurs are exact filters. Frost and snow, which need additional image files, are not implemented.
"""

import functools
import io

import numpy as np
from PIL import Image

from focalnets.images.augment import generator_for
from focalnets.names import unknown_name

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images, name, severity, first=0, seed=0):
    """Apply a corruption to images.

    Args:
        images: uint8 array (N, H, W, C) with 1 or 3 channels.
        name: str. A key of `CORRUPTIONS`.
        severity: int. 1 to 5.
        first: int. Index of the first image in the data set. Random numbers depend on seed, name, severity
            and index only, so they do not depend on the batch size. Defaults to 0.
        seed: int. Seed of the random numbers. Defaults to 0.

    Returns:
        uint8 array (N, H, W, C).

    Raises:
        ValueError: if the name or the severity is unknown.

    >>> import numpy as np
    >>> from focalnets.images.corruptions import corrupt
    >>> corrupt(np.full((1, 8, 8, 3), 100, "uint8"), "brightness", 3)[0, 0, 0].tolist()
    [138, 138, 138]
    """
    if name not in CORRUPTIONS:
        raise ValueError(unknown_name("corruption", name, CORRUPTIONS))
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be an integer from 1 to 5; got {severity}.")
    function, strengths = CORRUPTIONS[name]
    changed = []
    for index, image in enumerate(images):
        generator = generator_for(seed, severity, name, first + index)
        pixels = function(image / np.float32(255), strengths[severity - 1], generator)
        changed.append(np.round(np.clip(pixels, 0, 1) * 255).astype("uint8"))
    return np.stack(changed)


def corruptions_for(channels):
    """List of the corruptions for images with 1 or 3 channels. Grayscale images have no saturation.

    >>> from focalnets.images.corruptions import corruptions_for
    >>> len(corruptions_for(3)), len(corruptions_for(1))
    (12, 11)
    """
    return [name for name in CORRUPTIONS if channels > 1 or name != "saturation"]


# === Functions of an image, float32 (H, W, C) in [0, 1], a strength, and a NumPy generator ===


def _gaussian_noise(image, deviation, generator):
    return image + generator.normal(scale=deviation, size=image.shape)


def _shot_noise(image, photons, generator):
    return generator.poisson(image * photons) / photons


def _impulse_noise(image, fraction, generator):
    draws = generator.random(image.shape)
    return np.where(draws < fraction / 2, 0.0, np.where(draws < fraction, 1.0, image))


def _gaussian_blur(image, deviation, generator):
    return _filtered(image, _gaussian(_pixels(image, deviation)))


def _defocus_blur(image, lens, generator):
    radius, deviation = (_pixels(image, length) for length in lens)
    reach = max(1, int(np.ceil(radius)))
    offsets = np.arange(-reach, reach + 1)
    disk = ((offsets[:, None] ** 2 + offsets**2) <= radius**2).astype("float32")
    return _filtered(_filtered(image, disk / disk.sum()), _gaussian(deviation))


def _motion_blur(image, motion, generator):
    """Blur with a fading line. Its random direction is at most 45 degrees from the horizontal."""
    length, deviation = (_pixels(image, part) for part in motion)
    reach = int(np.ceil(2 * length))
    angle = np.deg2rad(generator.uniform(-45, 45))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), "float32")
    for step in np.linspace(0, 2 * length, 4 * reach + 1):
        row, column = reach + step * np.sin(angle), reach + step * np.cos(angle)
        weight = np.exp(-(step**2) / (2 * deviation**2))
        for near_row in (int(row), int(row) + 1):  # bilinear: the weight is divided among four pixels
            for near_column in (int(column), int(column) + 1):
                fraction = (1 - abs(row - near_row)) * (1 - abs(column - near_column))
                if fraction > 0:
                    kernel[near_row, near_column] += weight * fraction
    return _filtered(image, kernel / kernel.sum())


def _zoom_blur(image, largest, generator):
    zooms = np.arange(1, largest, 0.01)
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    for zoom in zooms:
        high, wide = height / zoom, width / zoom
        top, left = (height - high) / 2, (width - wide) / 2
        total += _resized(
            image, (height, width), Image.Resampling.BILINEAR, (left, top, left + wide, top + high)
        )
    return (image + total) / (len(zooms) + 1)


def _brightness(image, increase, generator):
    """Increase the value in HSV, which leaves hue and saturation unchanged."""
    value = image.max(axis=-1, keepdims=True)
    brighter = np.clip(value + increase, 0, 1)
    return np.where(value > 0, image * (brighter / np.maximum(value, 1e-6)), brighter)


def _contrast(image, factor, generator):
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def _saturation(image, change, generator):
    factor, increase = change
    value = image.max(axis=-1, keepdims=True)
    spread = value - image.min(axis=-1, keepdims=True)
    saturation = spread / np.maximum(value, 1e-6)
    wanted = np.clip(saturation * factor + increase * (spread > 0), 0, 1)
    return value - (value - image) * (wanted / np.maximum(saturation, 1e-6))


def _pixelate(image, fraction, generator):
    height, width = image.shape[:2]
    size = (max(1, int(height * fraction)), max(1, int(width * fraction)))
    small = _resized(image, size, Image.Resampling.BOX)
    return _resized(small, (height, width), Image.Resampling.NEAREST)


def _jpeg(image, quality, generator):
    pixels = np.round(image * 255).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=("JPEG",)), "float32").reshape(image.shape) / 255


# === Helpers ===


def _pixels(image, length):
    """Scale a length in pixels from images of side 32 to the size of the image."""
    return length * max(image.shape[:2]) / 32


@functools.cache
def _gaussian(deviation):
    reach = max(1, int(np.ceil(4 * deviation)))
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


def _filtered(image, kernel):
    """Convolve each channel with a kernel of odd sides. The image is mirrored at its edges."""
    rows, columns = (side // 2 for side in kernel.shape)
    padded = np.pad(image, ((rows, rows), (columns, columns), (0, 0)), "symmetric")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    whole = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return whole[2 * rows :, 2 * columns :]


def _resized(image, size, resampling, box=None):
    """Resize float (H, W, C) by channel, because Pillow resizes single-channel floats only."""
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(image[..., c])).resize(size[::-1], resampling, box))
        for c in range(image.shape[-1])
    ]
    return np.stack(channels, axis=-1)


CORRUPTIONS = {  # name -> (function, strengths of the five severities)
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "motion_blur": (_motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "brightness": (_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    "contrast": (_contrast, (0.75, 0.50, 0.40, 0.30, 0.15)),
    "saturation": (_saturation, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))),
    "pixelate": (_pixelate, (0.95, 0.90, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
