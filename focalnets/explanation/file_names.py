"""Names for the files of an explained image."""

import os
import unicodedata


def free_name(name, used):
    """The image's name without folder and suffix, with a number if another one has it, in whatever case:
    file systems differ in whether they tell A from a. No file system takes names of over 255 bytes."""
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
