"""16-bit samples that may have fewer bits: refused where they look unscaled, reported where nothing tells.

Cameras and scanners store 10 to 14 bits in 16. An image that nobody has scaled would become black or dark.
"""

import logging

import numpy as np

from focalnets.names import printable

_log = logging.getLogger("focalnets")

# 16-bit samples that all stay below the first value are taken for unscaled samples of at most 12 bits. Below
# the second, it depends on the samples; see `check_range`.
_TWELVE_BITS, _FOURTEEN_BITS = 2**12, 2**14

# Fewer different samples tell nothing by their low bits.
_LEAST_LEVELS = 8


class UnsupportedError(ValueError):
    """The image is whole, as far as it was looked at, but cannot become 8-bit pixels."""


def check_range(values, name):
    """Refuse 16-bit samples that look unscaled; report those that may be unscaled or dark.

    Samples that somebody has scaled to 16 bits show it: their low bits are zero or repeat the high ones.
    Unscaled samples show it where they are saturated, at 8191 (13 bits) or 16383 (14 bits).
    """
    highest = int(values.max())
    if not 0 < highest < _FOURTEEN_BITS or _are_scaled(values, 8 if highest < _TWELVE_BITS else 12):
        return
    if highest < _TWELVE_BITS or highest in (2**13 - 1, 2**14 - 1):
        bits = next(bits for bits in (8, 10, 12, 13, 14) if highest < 2**bits)
        _refuse(f"16-bit pixels of at most {highest} of 65535", bits)
    _report_dark(name, f"at most {highest} of 65535")


def _are_scaled(values, most):
    """Whether 16-bit samples are ones of 8 to `most` bits, shifted or stretched."""
    levels = np.flatnonzero(np.bincount(values.ravel()))
    if len(levels) < _LEAST_LEVELS:
        return False
    for bits in range(8, most + 1):
        high = levels >> (16 - bits)
        stretched = high * (65535 / (2**bits - 1))
        for scaled in (high << (16 - bits), np.floor(stretched), np.round(stretched)):
            if (levels == scaled).all():
                return True
    return False


def check_high_bytes(image, name):
    """`check_range` for colors, of which Pillow has dropped the low bytes: a wide image that is black in all
    is refused as well."""
    colors = image.getextrema()
    colors = colors if isinstance(colors[0], tuple) else (colors,)
    highest = max(most for _, most in colors[:3])
    if highest <= _TWELVE_BITS // 256:
        bits = next((bits for bits in (8, 10) if highest < 2 ** (bits - 8)), 12)
        _refuse(f"16-bit pixels of at most {highest}/255 of their range", bits)
    if highest < _FOURTEEN_BITS // 256:
        _report_dark(name, f"at most {highest}/255 of their range")


def _refuse(what, bits):
    raise UnsupportedError(
        f"{what} look like unscaled {bits}-bit values and would become "
        f"{'black' if bits <= 12 else 'too dark'}; multiply all images by the same number to fill 16 bits "
        "(8-bit values by 257, 10-bit by 64, 12-bit by 16, 13-bit by 8, 14-bit by 4), or save 8 bits"
    )


_reported_dark = set()  # the name of the first one


def _report_dark(name, what):
    if not _reported_dark:
        _reported_dark.add(name)
        _log.warning(
            "%s: 16-bit pixels of %s are read as a dark image. If they are unscaled values of 13 or 14 bits, "
            "multiply all images by 8 or 4 to fill 16 bits. Other images may be like it: this is said once.",
            printable(name),
            what,
        )
