"""The preset and the images that the words of a command line name."""

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
    """(preset, images): the first word may be an image, and then the bundled preset is meant.

    Args:
        first: a preset, or an image, folder of images, pattern, or "-"; None if there is no word at all.
        others: the words behind it.

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
    """Whether the first word of a command line is an image, folder of images, pattern or "-".

    A file that holds a data set, such as an archive, counts as well: it is no preset.
    """
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
    """Refuse presets among the words for images: curves and panels of a run are no images to classify.

    A folder counts as a preset if it holds a network and its weights, so that photographs beside a
    `config.json` stay images.

    Raises:
        ValueError: if one of the words means a preset, a run or a checkpoint.
    """
    for word in words:
        path = expanded(word)
        is_run = (path / RUN).is_file()
        is_preset = (path / CONFIG).is_file() and _holds_weights(path)
        if is_run or is_preset or (path.is_file() and is_checkpoint_name(path)):
            raise ValueError(
                f"{word!r} is a preset, not an image. Expected one preset, and images after it. Give the "
                f"preset first: {shlex.quote(word)} IMAGE..."
            )


def _holds_weights(folder):
    return any(child.name == WEIGHTS or is_checkpoint_name(child) for child in folder.iterdir())
