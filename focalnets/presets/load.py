"""Networks from a preset directory, see `presets.store`, or from an architecture's row."""

import contextlib
import logging
import pathlib
import warnings

from focalnets._io import plural
from focalnets.layers.initializers import skip_initialization
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.presets.architectures import ARCHITECTURES, find_architecture
from focalnets.presets.files import CONFIG, WEIGHTS, check_size, read_preset_files
from focalnets.presets.hdf5 import check_hdf5
from focalnets.presets.resolve import (
    missing_preset,
    no_trained_weights,
    other_kind_of_file,
)
from focalnets.presets.store import is_preset_directory, make_converter, read_config

_log = logging.getLogger("focalnets")


def load_preset(preset, load_weights=True, num_classes=None, class_names=None, name=None, **arguments):
    """A classifier from a preset directory or an architecture's name.

    See `FocalNetImageClassifier.from_preset`, which is the public way here and also knows other sources.
    """
    if class_names is not None:
        class_names = tuple(class_names)
        num_classes = len(class_names) if num_classes is None else num_classes
    chosen = {"class_names": class_names, "name": name}
    if not _is_meant(preset, load_weights):
        return _new_network(preset, load_weights, num_classes, arguments, **chosen)
    directory = pathlib.Path(preset)
    config, preprocessing, labels = read_preset_files(directory)
    image_converter = make_converter(preprocessing, directory)
    saved = config["num_classes"]
    if saved is None and num_classes is None:
        raise ValueError(
            f"The preset {directory} is a backbone without a head: give num_classes for a new head, or load "
            "it with FocalNetBackbone.from_preset."
        )
    if load_weights:
        _check_weights(directory, config)
    if "image_shape" in arguments:
        _fit_image_shape(arguments["image_shape"], config["backbone"], image_converter, load_weights)
    new_head = num_classes not in (None, saved) or not (
        class_names is None or labels is None or class_names == tuple(labels)
    )
    with (
        skip_initialization() if load_weights else contextlib.nullcontext(),
        _explained(f"{directory} describes a network that cannot be built"),
    ):
        backbone = FocalNetBackbone(**{**config["backbone"], **arguments})
        if saved is not None:
            of_preset = {"class_names": labels} if new_head or class_names is None else {}
            of_preset["name"] = None if new_head else name
            classifier = FocalNetImageClassifier(backbone, saved, image_converter, **{**chosen, **of_preset})
    if saved is None:
        if load_weights:
            _load_weights(backbone, directory / WEIGHTS)
        return FocalNetImageClassifier(backbone, num_classes, image_converter, **chosen)
    if load_weights:
        _load_weights(classifier, directory / WEIGHTS)
    if not new_head:
        return classifier
    classes = plural(num_classes, "class", "classes")
    _log.warning("new head for %d %s; that of the preset, for %d, is left out", num_classes, classes, saved)
    return FocalNetImageClassifier(backbone, num_classes, image_converter, **chosen)


def _fit_image_shape(shape, backbone, image_converter, load_weights):
    """Check the channels of an `image_shape`, and let the preprocessing deliver its size."""
    height, width, channels = shape
    trained = backbone.get("image_shape", (None, None, 3))[-1]
    if load_weights and channels != trained:
        raise ValueError(
            f"image_shape={tuple(shape)} has {channels} channels, but the preset's weights take {trained}: "
            f"give (height, width, {trained}), and convert images with classifier.preprocess(images)."
        )
    if image_converter is not None and height is not None and width is not None:
        image_converter.image_size = (int(height), int(width))


def load_backbone(preset, load_weights=True, **arguments):
    """The backbone of a preset directory, with a head or without, or of an architecture's name."""
    if not _is_meant(preset, load_weights):
        return _new_network(preset, load_weights, None, arguments).backbone
    config, _ = read_config(pathlib.Path(preset))
    if config["num_classes"] is not None:
        return load_preset(preset, load_weights, **arguments).backbone
    return load_preset(preset, load_weights, num_classes=1, **arguments).backbone


def load_any(directory):
    """The classifier of a preset directory, or the backbone where it holds no head."""
    config, _ = read_config(pathlib.Path(directory))
    return load_backbone(directory) if config["num_classes"] is None else load_preset(directory)


def _is_meant(preset, load_weights):
    """Whether a preset directory is meant, not an architecture, whose name goes before the directory's."""
    return is_preset_directory(preset) and (load_weights or str(preset) not in ARCHITECTURES)


def _new_network(preset, load_weights, num_classes, arguments, **chosen):
    path = pathlib.Path(preset)
    if str(preset) not in ARCHITECTURES:
        if (other := other_kind_of_file(path)) is not None:
            raise ValueError(other)
        if path.exists():
            raise ValueError(
                f"{str(preset)!r} is not a preset directory: it holds no {CONFIG}. A run that has not "
                "ended its training has none yet."
            )
        raise ValueError(missing_preset(str(preset)))
    architecture = find_architecture(str(preset))
    if load_weights:
        raise ValueError(no_trained_weights(str(preset)))
    if num_classes is not None:
        chosen["num_classes"] = num_classes
    return build_architecture(architecture, arguments, **chosen)


def build_architecture(architecture, backbone_arguments=None, **arguments):
    """A classifier with random weights from an `Architecture`.

    Args:
        architecture: an `Architecture`.
        backbone_arguments: dict of arguments of `FocalNetBackbone`, replacing the architecture's. Defaults to
            None.
        arguments: of `FocalNetImageClassifier`, replacing the architecture's own `num_classes`.
    """
    shape = {"image_shape": (None, None, architecture.channels)}
    backbone = FocalNetBackbone(**{**architecture.backbone, **shape, **(backbone_arguments or {})})
    return FocalNetImageClassifier(backbone, **{"num_classes": architecture.num_classes, **arguments})


def _check_weights(directory, config):
    """Refuse weights that cannot be those of the network, before anything is allocated for it."""
    path = directory / WEIGHTS
    held, needed = check_hdf5(path), check_size(config["backbone"], config["num_classes"], path)
    if held < needed:
        raise ValueError(f"{_FOREIGN.format(path)}: it holds {held:,} numbers, that network has {needed:,}.")


def _load_weights(network, path):
    with warnings.catch_warnings(), _explained(_FOREIGN.format(path)):
        warnings.simplefilter("ignore")  # Keras warns of each layer first, then raises
        network.load_weights(path)


_FOREIGN = f"{{}} is damaged, or belongs to another network than {CONFIG} describes"


@contextlib.contextmanager
def _explained(problem):
    """Turn whatever Keras and h5py raise about a file's content into one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{problem}: {reason}") from error
