"""Preset and images among the positional words of a command line."""

import functools
import glob
import logging
import shlex

from focalnets.data.files import has_image_suffix, head_of_file, holds_images, is_image_file
from focalnets.data.names import kind_of_data_file
from focalnets.files import expanded
from focalnets.presets.checkpoints import CHECKPOINTS, DEFAULT
from focalnets.presets.files import CONFIG, RUN, WEIGHTS
from focalnets.presets.resolve import is_checkpoint_name

_log = logging.getLogger("focalnets")


def preset_and_images(first, others):
    """Split positional words into (preset, images). The bundled preset is the default.

    Args:
        first: str or None. First word: a preset, or an image, folder of images, pattern or "-".
        others: sequence of str. Further words.

    >>> from focalnets.commands.words import preset_and_images
    >>> preset_and_images("runs/mine", ("photo.jpg",))
    ('runs/mine', ('photo.jpg',))
    """
    if first is None:
        return DEFAULT, ()
    if not means_images(first):
        return first, tuple(others)
    _log.warning(
        "No preset given. Using %s, trained on %s. To use another one, give it before the images.",
        DEFAULT,
        CHECKPOINTS[DEFAULT].data,
    )
    return DEFAULT, (first, *others)


def means_images(word):
    """Whether a word is an image, folder of images, pattern or "-". Archives and tables count, too."""
    path = expanded(word)
    if word in CHECKPOINTS:
        return False
    if word == "-" or has_image_suffix(path.name):
        return True
    if path.is_file():
        head = functools.partial(head_of_file, path)
        return kind_of_data_file(path) is not None or is_image_file(path.name, head)
    if path.is_dir():
        if any((path / name).is_file() for name in (CONFIG, RUN)):  # a preset, or a run
            return False
        if any(is_checkpoint_name(child) for child in path.iterdir()):
            return False
        return holds_images(path)
    return glob.has_magic(word) and not path.exists()


def check_no_presets(words):
    """Raise ValueError if a word for images is a preset, run or checkpoint: its figures are not input images.

    A folder counts as a preset only if it has weights, so that photographs beside a `config.json` are images.
    """
    for word in words:
        path = expanded(word)
        is_run = (path / RUN).is_file()
        is_preset = (path / CONFIG).is_file() and _holds_weights(path)
        if is_run or is_preset or (path.is_file() and is_checkpoint_name(path)):
            raise ValueError(
                f"{word!r} is a preset, not an image. Expected one preset, followed by images. Give the "
                f"preset first: {shlex.quote(word)} IMAGE..."
            )


def _holds_weights(folder):
    return any(child.name == WEIGHTS or is_checkpoint_name(child) for child in folder.iterdir())
