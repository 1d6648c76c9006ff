"""The preset directory: the one artefact in which a network travels.

    config.json           format version, backbone arguments, number of classes
    model.weights.h5      Keras weights, the same file on every backend
    preprocessing.json    arguments of the ImageConverter; absent if inputs come normalised
    labels.json           list of class names; absent if there are none

A training run writes these files among its own; predict, evaluate, explain and export read them.
"""

import pathlib
import warnings

from focalnets import __version__
from focalnets._io import atomic_directory, read_json, write_json
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetClassifier
from focalnets.models.image_converter import ImageConverter
from focalnets.presets.architectures import ARCHITECTURES, find_architecture

FORMAT, FORMAT_VERSION = "focalnets preset", 1
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
PREPROCESSING, LABELS = "preprocessing.json", "labels.json"

# Keras bookkeeping that says nothing about the network.
_NOT_STORED = ("name", "dtype", "trainable")


def save_preset(classifier, directory):
    """Write `classifier` as the new preset directory `directory`, atomically.

    Raises:
        FileExistsError: if `directory` exists.
    """
    with atomic_directory(directory) as partial:
        write_preset_files(classifier, partial)


def write_preset_files(classifier, directory):
    """Write the files of a preset into an existing directory, each by write-then-rename."""
    directory = pathlib.Path(directory)
    partial_weights = directory / f"partial-{WEIGHTS}"
    classifier.save_weights(partial_weights)
    partial_weights.replace(directory / WEIGHTS)
    if classifier.image_converter is not None:
        write_json(directory / PREPROCESSING, _stored(classifier.image_converter.get_config()))
    if classifier.class_names is not None:
        write_json(directory / LABELS, classifier.class_names)
    files = {
        WEIGHTS: True,
        PREPROCESSING: classifier.image_converter is not None,
        LABELS: classifier.class_names is not None,
    }
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "focalnets_version": __version__,
        "files": [name for name, present in files.items() if present],
        "num_classes": classifier.num_classes,
        "parameters": classifier.count_params(),
        "backbone": _stored(classifier.backbone.get_config()),
    }
    write_json(directory / CONFIG, config)  # last: a directory with a config is complete


def load_preset(preset, load_weights=True):
    """A classifier from a preset directory or an architecture's name.

    See `FocalNetClassifier.from_preset`, which is the public way here.
    """
    directory = pathlib.Path(preset)
    if (directory / CONFIG).is_file():
        return _load_directory(directory, load_weights)
    if str(preset) not in ARCHITECTURES:
        if directory.exists():
            raise ValueError(
                f"{str(preset)!r} is not a preset directory: it holds no {CONFIG}. A run that has not "
                "ended its training has none yet."
            )
        if directory.name != str(preset):
            raise ValueError(f"There is no preset directory {str(preset)!r}; check the path.")
    architecture = find_architecture(str(preset))
    if load_weights:
        raise ValueError(
            f"{str(preset)!r} is an architecture: it has no trained weights. Give the path of a preset or "
            "run directory (or, in Python, load_weights=False for random weights)."
        )
    return build_architecture(architecture)


def build_architecture(architecture, **arguments):
    """A classifier with random weights from an `Architecture`.

    Args:
        architecture: an `Architecture`.
        arguments: of `FocalNetClassifier`, replacing the architecture's own `num_classes`.
    """
    image_shape = (None, None, architecture.channels)
    backbone = FocalNetBackbone(**architecture.backbone, image_shape=image_shape)
    return FocalNetClassifier(backbone, **{"num_classes": architecture.num_classes, **arguments})


def _load_directory(directory, load_weights):
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{directory / CONFIG} was not written by focalnets: it is another library's.")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{directory / CONFIG} has preset format version {version}; this focalnets ({__version__}) "
            f"reads version {FORMAT_VERSION}. Install the focalnets that wrote it: "
            f"{config.get('focalnets_version', 'unknown')}."
        )
    missing = [name for name in config["files"] if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"The preset {directory} lacks {', '.join(missing)}: copy or write it anew.")
    preprocessing, labels = directory / PREPROCESSING, directory / LABELS
    classifier = FocalNetClassifier(
        FocalNetBackbone(**config["backbone"]),
        num_classes=config["num_classes"],
        image_converter=ImageConverter(**_object(preprocessing))
        if PREPROCESSING in config["files"]
        else None,
        class_names=read_json(labels) if LABELS in config["files"] else None,
    )
    if load_weights:
        _load_weights(classifier, directory / WEIGHTS)
    return classifier


def _load_weights(classifier, path):
    try:
        with warnings.catch_warnings():  # Keras warns of each layer first, then raises
            warnings.simplefilter("ignore")
            classifier.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} is damaged, or belongs to another network than {CONFIG} describes: {reason}"
        ) from error


def _object(path):
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object. Copy or write the preset anew.")
    return value


def _stored(config):
    return {name: value for name, value in config.items() if name not in _NOT_STORED}
