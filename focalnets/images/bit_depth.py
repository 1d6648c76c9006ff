"""Detection of 16-bit images whose samples have fewer significant bits.

Cameras and scanners store 10 to 14 bits in 16 bits. Unscaled samples would give a black or dark image. Images
that look unscaled are refused. Images that may be unscaled or dark are decoded, and a warning is logged.
"""

import logging

import numpy as np

from focalnets.names import printable

_log = logging.getLogger("focalnets")

# Samples below the first limit are considered unscaled. For those below the second, see `check_range`.
_TWELVE_BITS, _FOURTEEN_BITS = 2**12, 2**14

# The low bits of fewer distinct samples may be regular by chance.
_MIN_LEVELS = 8


class UnsupportedError(ValueError):
    """An image that shows no damage cannot be converted to 8-bit pixels."""


def check_range(values, name):
    """Refuse 16-bit samples that look unscaled, and log a warning for samples that may be unscaled or dark.

    Samples that were scaled to 16 bits have low bits that are zero or repeat the high bits. Saturated
    unscaled samples have a maximum of 8191 (13 bits) or 16383 (14 bits).
    """
    highest = int(values.max())
    if not 0 < highest < _FOURTEEN_BITS or _are_scaled(values, 8 if highest < _TWELVE_BITS else 12):
        return
    if highest < _TWELVE_BITS or highest in (2**13 - 1, 2**14 - 1):
        bits = next(bits for bits in (8, 10, 12, 13, 14) if highest < 2**bits)
        _refuse(f"{highest} of 65535", bits)
    _report_dark(name, f"{highest} of 65535")


def _are_scaled(values, most):
    """Check if 16-bit samples are samples of 8 to `most` bits that were shifted or scaled."""
    levels = np.flatnonzero(np.bincount(values.ravel()))
    if len(levels) < _MIN_LEVELS:
        return False
    for bits in range(8, most + 1):
        high = levels >> (16 - bits)
        stretched = high * (65535 / (2**bits - 1))
        for scaled in (high << (16 - bits), np.floor(stretched), np.round(stretched)):
            if (levels == scaled).all():
                return True
    return False


def check_high_bytes(image, name):
    """`check_range` for color images, whose low bytes Pillow drops. A black image is refused as well."""
    colors = image.getextrema()
    colors = colors if isinstance(colors[0], tuple) else (colors,)
    highest = max(most for _, most in colors[:3])
    if highest <= _TWELVE_BITS // 256:
        bits = next((bits for bits in (8, 10) if highest < 2 ** (bits - 8)), 12)
        _refuse(f"{highest}/255 of their range", bits)
    if highest < _FOURTEEN_BITS // 256:
        _report_dark(name, f"{highest}/255 of their range")


def _refuse(highest, bits):
    raise UnsupportedError(
        f"16-bit pixels of at most {highest} look like unscaled {bits}-bit values and would become "
        f"{'black' if bits <= 12 else 'too dark'}. Multiply all images by the same factor to fill 16 bits "
        "(8-bit values by 257, 10-bit by 64, 12-bit by 16, 13-bit by 8, 14-bit by 4), or save 8-bit images"
    )


_reported_dark = set()  # name of the first dark image


def _report_dark(name, highest):
    if not _reported_dark:
        _reported_dark.add(name)
        _log.warning(
            "%s: 16-bit pixels of at most %s are decoded as a dark image. If they are unscaled 13-bit or "
            "14-bit values, multiply all images by 8 or 4 to fill 16 bits. This warning is logged only once.",
            printable(name),
            highest,
        )
