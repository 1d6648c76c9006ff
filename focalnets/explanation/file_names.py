"""File names of explained images."""

import os
import unicodedata


def free_name(name, used):
    """Name of an image without folder and suffix, with a number if `used` already has it.

    Names are compared without case, because some file systems do not distinguish it. They are shortened to
    200 bytes, because file systems allow at most 255.
    """
    stem = name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    stem = os.fsdecode(os.fsencode(stem)[:200]) if len(os.fsencode(stem)) > 200 else stem
    candidate, number = stem, 1
    while _folded(candidate) in used:
        number += 1
        candidate = f"{stem}-{number}"
    used.add(_folded(candidate))
    return candidate


def _folded(name):
    return unicodedata.normalize("NFC", name).casefold()
