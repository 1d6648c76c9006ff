"""Keras models and local preset directories from any source of a network. Each is converted only once."""

import contextlib
import hashlib
import logging
import os
import pathlib

from focalnets.conversion.architecture import is_doubtful
from focalnets.conversion.convert import convert_checkpoint
from focalnets.conversion.unpickle import DamagedError
from focalnets.files import file_sha256, locked
from focalnets.hub import fetch_hugging_face, hub_address, local_file, private_directory
from focalnets.presets.files import CONFIG
from focalnets.presets.load import load_backbone, load_preset, new_classifier
from focalnets.presets.overrides import check_arguments
from focalnets.presets.resolve import is_checkpoint_name, not_a_classifier, resolve, resolve_weights

_log = logging.getLogger("focalnets")


def open_classifier(preset, load_weights=True, **arguments):
    """Implementation of `FocalNetImageClassifier.from_preset`."""
    check_arguments(arguments, load_weights, ("num_classes", "class_names", "name"))
    if not load_weights and (architecture := resolve(preset).architecture):
        return new_classifier(architecture, **arguments)
    return load_preset(preset_directory(preset), load_weights, **arguments)


def as_classifier(preset):
    """A `FocalNetImageClassifier` as it is, or that of a preset.

    Raises:
        TypeError: if `preset` is another model, or no str or path.
    """
    if hasattr(preset, "classify"):
        return preset
    if not isinstance(preset, str | os.PathLike):
        raise TypeError(not_a_classifier(preset))
    return open_classifier(preset)


def open_backbone(preset, load_weights=True, **arguments):
    """Implementation of `FocalNetBackbone.from_preset`."""
    check_arguments(arguments, load_weights)
    if not load_weights and (architecture := resolve(preset).architecture):
        return new_classifier(architecture, **arguments).backbone
    return load_backbone(preset_directory(preset), load_weights, **arguments)


def preset_directory(preset):
    """Local preset directory of a network, downloaded and converted if necessary.

    Args:
        preset: str or path. See `resolve`. Conversions are stored in `focalnets.hub.cache_directory()`.

    Returns:
        `pathlib.Path`.

    Raises:
        ValueError: if `preset` is not a FocalNet.
        OSError: if the download fails.
        ImportError: if a required package is not installed.

    >>> import tempfile
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.conversion.open import preset_directory
    >>> folder = tempfile.mkdtemp() + "/preset"
    >>> FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).save_to_preset(folder)
    >>> str(preset_directory(folder)) == folder
    True
    """
    return local_preset(resolve_weights(preset))


def local_preset(source):
    """Local preset directory of a `Source`; see `preset_directory`."""
    if source.kind == "preset":
        return source.place
    with local_checkpoint(source) as file:
        return _converted(file, source.architecture, pathlib.Path(str(source.place)).name)


@contextlib.contextmanager
def local_checkpoint(source):
    """Yield the local file or directory of a `Source` of the kind "checkpoint".

    A downloaded file that is found to be damaged in the block is removed, so the next use downloads it again.
    """
    file = source.place if source.is_local else _downloaded(source.place)
    try:
        yield file
    except DamagedError as error:
        if source.is_local:  # the user's own file
            raise
        for path in (file.resolve(), file):  # in the cache of the hub, files are links
            path.unlink(missing_ok=True)
        raise ValueError(f"{error} It was removed from the cache: run again to download it.") from error


def _downloaded(address):
    file = local_file(address)
    if (parts := hub_address(address)) is not None:
        for name in ("config.json", "preprocessor_config.json"):
            try:  # settings that weights do not determine
                fetch_hugging_face(parts["repository"], name, parts["revision"])
            except OSError:
                _log.debug("%s has no %s", address, name)
    return file


def _converted(file, variant, name):
    """Preset directory converted from a file, in the cache. A changed file is converted again."""
    file = pathlib.Path(file).absolute()
    lines = [f"{path} {file_sha256(path)}" for path in _files_that_count(file)]
    key = "\n".join((*lines, str(variant)))
    digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:12]
    directory = private_directory("presets") / f"{name}-{digest}"
    if not (directory / CONFIG).is_file():
        with locked(directory.with_name(f".{directory.name}.lock"), f"converting {name}"):
            if not (directory / CONFIG).is_file():
                for line in convert_checkpoint(file, directory, variant, published=variant is not None):
                    _log.warning(line) if is_doubtful(line) else _log.info(line)
    return directory


def _files_that_count(file):
    """The files that determine a conversion: weights, and the settings beside them."""
    folder, named = (file, None) if file.is_dir() else (file.parent, file)
    settings = ("config.json", "preprocessor_config.json")
    found = [folder / name for name in settings if (folder / name).is_file()]
    shards = named is None or named.name.endswith(".index.json")
    weights = [path for path in sorted(folder.iterdir()) if is_checkpoint_name(path)] if shards else [named]
    return [*weights, *found]
