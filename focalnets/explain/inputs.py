"""Which preset, and which pictures, the words of a command line mean."""

import functools
import glob
import logging

from focalnets._io import expanded
from focalnets.data.files import has_image_suffix, head_of_file, holds_images, is_image_file
from focalnets.presets.checkpoints import CHECKPOINTS, DEFAULT

_log = logging.getLogger("focalnets")


def preset_and_pictures(first, others):
    """(preset, pictures): the first word may be a picture, and then the bundled preset is meant.

    Args:
        first: a preset, or a picture, folder of pictures, pattern, or "-"; None if there is no word at all.
        others: the words behind it.

    >>> from focalnets.explain.inputs import preset_and_pictures
    >>> preset_and_pictures("runs/mine", ("photo.jpg",))
    ('runs/mine', ('photo.jpg',))
    """
    if first is None:
        return DEFAULT, ()
    if not _means_pictures(first):
        return first, tuple(others)
    _log.warning(
        "no preset named: taking %s, trained on %s; name another before the pictures",
        DEFAULT,
        CHECKPOINTS[DEFAULT].data,
    )
    return DEFAULT, (first, *others)


def _means_pictures(word):
    path = expanded(word)
    if word in CHECKPOINTS:
        return False
    if word == "-" or has_image_suffix(path.name):
        return True
    if path.is_file():
        return is_image_file(path.name, functools.partial(head_of_file, path))
    if path.is_dir():
        if any((path / name).is_file() for name in ("config.json", "run.json")):  # a preset, or a run
            return False
        if any(child.suffix in (".safetensors", ".pth", ".pt") for child in path.iterdir()):
            return False
        return holds_images(path)
    return glob.has_magic(word) and not path.exists()
