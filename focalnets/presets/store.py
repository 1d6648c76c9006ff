"""Writing of preset directories. A preset holds these files, and a run directory also holds them:

config.json           format version, task, backbone arguments, number of classes (null: no head)
model.weights.h5      Keras weights, the same file on every backend
preprocessing.json    arguments of the FocalNetImageConverter; absent if inputs are normalized
labels.json           list of class names; absent if there are none
"""

import contextlib
import pathlib
import shutil

import h5py
import numpy as np

from focalnets import __version__
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.output.files import write_json, writing
from focalnets.output.replace import new_directory
from focalnets.presets.files import (
    CONFIG,
    FORMAT,
    FORMAT_VERSION,
    IMAGE_CLASSIFICATION,
    LABELS,
    PREPROCESSING,
    WEIGHTS,
    read_preset_files,
)
from focalnets.presets.hdf5 import check_hdf5

_BESIDE = ("README.md", "conversion.json")  # model card, and report of a conversion

# Entries of `get_config` that are not arguments in a preset.
_NOT_STORED = ("name", "dtype", "trainable")


def save_preset(network, directory, replace=False, image_converter=None):
    """Write a classifier or backbone to a new preset directory, atomically.

    Args:
        network, image_converter: See `write_preset_files`.
        directory: str or path. Directory to create.
        replace: bool. Replace an existing preset. Defaults to `False`.

    Raises:
        FileExistsError: if `directory` exists, unless `replace`.
        ValueError: if `replace` would replace a directory that is not a preset.
    """
    with new_directory(directory, "preset", replace) as partial:
        write_preset_files(network, partial, image_converter)


def write_preset_files(network, directory, image_converter=None):
    """Write the files of a preset to an existing directory, each one atomically.

    Args:
        network: `FocalNetImageClassifier` or `FocalNetBackbone`.
        directory: str or path. Existing directory.
        image_converter: `FocalNetImageConverter` or None. Preprocessing of a backbone. Ignored for a
            classifier, which has its own. Defaults to None.

    Raises:
        ValueError: if the network has been quantized.
    """
    if any(variable.dtype == "int8" for variable in network.variables):
        raise ValueError(
            "A quantized network cannot be stored in a preset. Save it before `quantize`, and quantize the "
            "loaded network again."
        )
    directory = pathlib.Path(directory)
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
    image_converter = getattr(network, "image_converter", image_converter)
    class_names = getattr(network, "class_names", None)
    with writing(directory / WEIGHTS) as partial, _without_optimizer(network):
        network.save_weights(partial)
    if image_converter is not None:
        write_json(directory / PREPROCESSING, _stored(image_converter.get_config()))
    if class_names is not None:
        write_json(directory / LABELS, class_names)
    files = {WEIGHTS: True, PREPROCESSING: image_converter is not None, LABELS: class_names is not None}
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "focalnets_version": __version__,
        "files": [name for name, present in files.items() if present],
        "task": IMAGE_CLASSIFICATION if network is not backbone else None,
        "num_classes": getattr(network, "num_classes", None),
        "parameters": network.count_params(),
        "backbone": _stored(backbone.get_config()),
    }
    write_json(directory / CONFIG, config)  # last: a directory with a config is complete


@contextlib.contextmanager
def _without_optimizer(network):
    """Detach the optimizer, because Keras would save its variables with the weights."""
    optimizer = getattr(network, "optimizer", None)
    if optimizer is None:
        yield
        return
    network.optimizer = None
    try:
        yield
    finally:
        network.optimizer = optimizer


def halve(source, directory):
    """Copy a preset with float16 weights, at half the size. They are loaded as float32.

    Args:
        source: str or path. Preset directory.
        directory: str or path. Existing directory to write to.

    Raises:
        ValueError: if a weight is too large for float16.

    >>> import pathlib, tempfile
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.presets.store import halve
    >>> whole, half = (pathlib.Path(tempfile.mkdtemp()) for _ in range(2))
    >>> FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).save_to_preset(whole / "p")
    >>> halve(whole / "p", half)
    >>> half_size, size = ((path / "model.weights.h5").stat().st_size for path in (half, whole / "p"))
    >>> half_size < 0.7 * size
    True
    """
    source, directory = pathlib.Path(source), pathlib.Path(directory)
    config, *_ = read_preset_files(source)
    check_hdf5(source / WEIGHTS)
    with h5py.File(source / WEIGHTS) as whole, h5py.File(directory / WEIGHTS, "w") as half:

        def copy(name, item):
            copied = half.require_group(name) if isinstance(item, h5py.Group) else None
            if copied is None:
                values = item[()]
                if values.dtype == np.float32:
                    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                        raise ValueError(
                            f"{name} of {source} has values above the float16 maximum of 65504. Keep float32."
                        )
                    values = values.astype(np.float16)
                copied = half.create_dataset(name, data=values)
            copied.attrs.update(item.attrs)

        half.attrs.update(whole.attrs)
        whole.visititems(copy)
    _copy_files(source, directory, [name for name in config["files"] if name != WEIGHTS])
    write_json(directory / CONFIG, config)  # last: a directory with a config is complete


def copy_preset(source, directory):
    """Copy the files of a preset, without the other files of a run directory.

    Args:
        source: str or path. Preset directory.
        directory: str or path. Existing directory to write to.

    Raises:
        ValueError: if `source` is damaged or not a preset.
    """
    source, directory = pathlib.Path(source), pathlib.Path(directory)
    config, *_ = read_preset_files(source)
    if (source / WEIGHTS).exists():
        check_hdf5(source / WEIGHTS)
    beside = [name for name in _BESIDE if (source / name).is_file()]
    _copy_files(source, directory, [*config["files"], *beside, CONFIG])


def _copy_files(source, directory, names):
    for name in names:
        shutil.copyfile(source / name, directory / name)


def _stored(config):
    return {name: value for name, value in config.items() if name not in _NOT_STORED}
