"""A name, directory, file, URL or hub id -> a local preset directory: downloaded and converted once."""

import contextlib
import hashlib
import importlib.util
import logging
import os
import pathlib

from focalnets._io import locked
from focalnets.conversion.architecture import is_doubtful
from focalnets.conversion.convert import convert_checkpoint
from focalnets.conversion.sources import is_checkpoint_name
from focalnets.conversion.unpickle import DamagedError
from focalnets.hub import download, fetch_hugging_face, hub_address, local_file, private_directory
from focalnets.hub.transfer import file_sha256
from focalnets.presets import store
from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.checkpoints import CHECKPOINTS, bundled_directory
from focalnets.presets.load import load_backbone, load_preset
from focalnets.presets.overrides import check_arguments
from focalnets.presets.resolve import check_preset, located

_log = logging.getLogger("focalnets")


def open_classifier(preset, load_weights=True, **arguments):
    """A classifier from anything that `preset_directory` takes; see `FocalNetImageClassifier.from_preset`."""
    check_arguments(arguments, load_weights, ("num_classes", "class_names", "name"))
    preset, load_weights = _resolved(located(preset), load_weights)
    return load_preset(preset, load_weights, **arguments)


def open_backbone(preset, load_weights=True, **arguments):
    """Its backbone; see `FocalNetBackbone.from_preset`."""
    check_arguments(arguments, load_weights)
    preset, load_weights = _resolved(located(preset), load_weights)
    return load_backbone(preset, load_weights, **arguments)


def preset_directory(source):
    """The local preset directory of a source, made if need be.

    Args:
        source: a preset or run directory; a name in `CHECKPOINTS`; a checkpoint of microsoft/FocalNet, timm
            or transformers as a file, a directory, an https:// URL or hf://organization/name. Conversions
            are kept in the cache (`focalnets.hub.cache_directory`).

    Returns:
        `pathlib.Path`.

    Raises:
        ValueError: if it is none of these, or no FocalNet's weights.
        OSError: if it cannot be downloaded.
        ImportError: naming what is to be installed to read it.

    >>> import tempfile
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.conversion.open import preset_directory
    >>> folder = tempfile.mkdtemp() + "/preset"
    >>> FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).save_to_preset(folder)
    >>> str(preset_directory(folder)) == folder
    True
    """
    source = located(source)
    if (ready := ready_preset(source)) is not None:
        return ready
    file, variant = checkpoint_file(source)
    with dropping_damaged(source, file):
        return _converted(file, variant, pathlib.Path(str(source)).name)


@contextlib.contextmanager
def dropping_damaged(source, file):
    """Remove the download `file` of `source` if it turns out to be damaged: the next run fetches it anew."""
    try:
        yield
    except DamagedError as error:
        if os.path.exists(source):  # the user's own file
            raise
        for path in (file.resolve(), file):  # the hub's client has a link to a blob
            path.unlink(missing_ok=True)
        raise ValueError(f"{error} It was removed from the cache: run again to download it anew.") from error


def ready_preset(source):
    """The preset directory that a source is as it stands, None if it must be converted.

    Args:
        source: as for `preset_directory`.

    Returns:
        `pathlib.Path` or None.
    """
    source = located(source)
    if (bundled := bundled_directory(str(source))) is not None:
        return bundled
    is_ours = store.is_preset_directory(source) and not _is_foreign(source)
    return pathlib.Path(source) if is_ours and str(source) not in CHECKPOINTS else None


def checkpoint_file(source):
    """The checkpoint of a source that is no preset, downloaded if need be.

    Args:
        source: as for `preset_directory`.

    Returns:
        (`pathlib.Path` of a file or directory, the architecture's name or None if it is not known).
    """
    source = located(source)
    if str(source) in CHECKPOINTS:
        return _of_checkpoint(str(source)), CHECKPOINTS[str(source)].architecture
    return _download(source), None


def _resolved(preset, load_weights):
    """(what `load_preset` takes, whether to load weights)."""
    name = str(preset)
    if not load_weights and name in CHECKPOINTS:
        return CHECKPOINTS[name].architecture, False
    if name in ARCHITECTURES or (not _is_foreign(preset) and name not in CHECKPOINTS):
        return preset, load_weights  # whatever is wrong with it, `load_preset` says it best
    check_preset(preset)
    return preset_directory(preset), load_weights


def _is_foreign(source):
    """Whether it is something to be downloaded or converted."""
    text, path = str(source), pathlib.Path(source)
    if text.startswith(("hf://", "http://", "https://")):
        return True
    if path.is_dir():
        is_ours = (path / store.WEIGHTS).is_file() or (path / "run.json").is_file()
        return not is_ours and any(is_checkpoint_name(one) for one in path.iterdir())
    return is_checkpoint_name(path)


def _of_checkpoint(name):
    row = CHECKPOINTS[name]
    if not row.sources:
        raise ValueError(
            f"No copy of the weights of {name} is known to be left. If you have the file: focalnets convert "
            f"FILE OUT --variant {row.architecture}."
        )
    usable = [source for source in row.sources if not _lacks(source)]
    if not usable:
        needs = "; or ".join(_lacks(source) for source in row.sources)
        raise ImportError(f"To read the weights of {name}: {needs}.")
    for source in usable:
        try:
            sha256 = row.sha256 if source == row.sources[0] else None
            file = _download(source, sha256)
            break
        except OSError as error:
            if source == usable[-1]:
                raise
            _log.warning("%s Trying %s.", error, usable[usable.index(source) + 1])
    if sha256 is None and not source.startswith("hf://"):
        _log.warning("nobody has published a hash of %s; it is checked by its size and arrays", source)
    return file


def _lacks(source):
    """What has to be installed to use a source, "" if nothing."""
    if source.startswith("hf://"):
        missing = [one for one in ("huggingface_hub", "safetensors") if not importlib.util.find_spec(one)]
        return "pip install 'focalnets[hub]'" if missing else ""
    return "" if importlib.util.find_spec("torch") else "pip install torch"


def _download(source, sha256=None):
    text = str(source)
    if not text.startswith("hf://"):
        return local_file(source) if sha256 is None else download(text, sha256=sha256)
    file = local_file(text)
    address = hub_address(text)
    for name in ("config.json", "preprocessor_config.json"):
        try:  # they lie beside the weights then, and say what weights cannot
            fetch_hugging_face(address["repository"], name, address["revision"])
        except OSError:
            _log.debug("%s has no %s", source, name)
    return file


def _converted(file, variant, name):
    """The preset directory made of a file, kept as long as the file does not change."""
    file = pathlib.Path(file).absolute()
    lines = [f"{path} {file_sha256(path)}" for path in _files_that_count(file)]
    key = "\n".join((*lines, str(variant)))
    digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:12]
    directory = private_directory("presets") / f"{name}-{digest}"
    if not store.is_preset_directory(directory):
        with locked(directory.with_name(f".{directory.name}.lock"), f"converting {name}"):
            if not store.is_preset_directory(directory):
                for line in convert_checkpoint(file, directory, variant, published=variant is not None):
                    _log.warning(line) if is_doubtful(line) else _log.info(line)
    return directory


def _files_that_count(file):
    """The file itself, or those of a directory with weights, and the settings beside them."""
    folder, named = (file, None) if file.is_dir() else (file.parent, file)
    settings = ("config.json", "preprocessor_config.json")
    found = [folder / name for name in settings if (folder / name).is_file()]
    shards = named is None or named.name.endswith(".index.json")
    weights = [path for path in sorted(folder.iterdir()) if is_checkpoint_name(path)] if shards else [named]
    return [*weights, *found]
