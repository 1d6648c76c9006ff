"""Networks from a preset directory or from the name of an architecture."""

import contextlib
import logging
import pathlib
import warnings

from focalnets.layers.initializers import skip_initialization
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.image_converter import FocalNetImageConverter
from focalnets.names import plural
from focalnets.presets.architectures import find_architecture
from focalnets.presets.files import CONFIG, PREPROCESSING, WEIGHTS, check_size, read_preset_files
from focalnets.presets.hdf5 import check_hdf5

_log = logging.getLogger("focalnets")


def load_preset(directory, load_weights=True, num_classes=None, class_names=None, name=None, **arguments):
    """A classifier from a preset directory, with the arguments of `FocalNetImageClassifier.from_preset`."""
    if class_names is not None:
        class_names = tuple(class_names)
        num_classes = len(class_names) if num_classes is None else num_classes
    chosen = {"class_names": class_names, "name": name}
    directory = pathlib.Path(directory)
    config, preprocessing, labels = read_preset_files(directory)
    image_converter = make_converter(preprocessing, directory)
    saved = config["num_classes"]
    if saved is None and num_classes is None:
        raise ValueError(
            f"The preset {directory} is a backbone without a head. Give num_classes for a new head, or load "
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
    if load_weights:
        _load_weights(backbone if saved is None else classifier, directory / WEIGHTS)
    if saved is None:
        return FocalNetImageClassifier(backbone, num_classes, image_converter, **chosen)
    if not new_head:
        return classifier
    classes = plural(num_classes, "class", "classes")
    _log.warning("new head with random weights for %d %s; the preset has %d", num_classes, classes, saved)
    return FocalNetImageClassifier(backbone, num_classes, image_converter, **chosen)


def load_backbone(directory, load_weights=True, **arguments):
    """The backbone of a preset directory. A head in the preset is dropped."""
    config, *_ = read_preset_files(directory)
    head = {} if config["num_classes"] is not None else {"num_classes": 1}
    return load_preset(directory, load_weights, **head, **arguments).backbone


def load_any(directory):
    """The classifier of a preset directory, or the backbone if the preset has no head."""
    config, *_ = read_preset_files(directory)
    return load_backbone(directory) if config["num_classes"] is None else load_preset(directory)


def new_classifier(architecture, num_classes=None, class_names=None, name=None, **arguments):
    """A classifier with random weights from a name in `ARCHITECTURES`, as `from_preset` returns it."""
    chosen = {"class_names": class_names, "name": name}
    if class_names is not None and num_classes is None:
        num_classes = len(class_names)
    if num_classes is not None:
        chosen["num_classes"] = num_classes
    return build_architecture(find_architecture(architecture), arguments, **chosen)


def build_architecture(architecture, backbone_arguments=None, **arguments):
    """A classifier with random weights from an `Architecture`.

    Args:
        architecture: `Architecture`.
        backbone_arguments: dict. Arguments of `FocalNetBackbone` that replace the architecture's. Defaults to
            None.
        arguments: Arguments of `FocalNetImageClassifier`. `num_classes` defaults to the architecture's.
    """
    shape = {"image_shape": (None, None, architecture.channels)}
    backbone = FocalNetBackbone(**{**architecture.backbone, **shape, **(backbone_arguments or {})})
    return FocalNetImageClassifier(backbone, **{"num_classes": architecture.num_classes, **arguments})


def make_converter(preprocessing, directory):
    """`FocalNetImageConverter` with the preprocessing that `read_preset_files` returned, or None."""
    if preprocessing is None:
        return None
    try:
        return FocalNetImageConverter(**preprocessing)
    except ValueError as error:
        raise ValueError(f"{pathlib.Path(directory) / PREPROCESSING}: {error}") from error


def _fit_image_shape(shape, backbone, image_converter, load_weights):
    """Check the channels of an `image_shape`, and set the image size of the preprocessing."""
    height, width, channels = shape
    trained = backbone.get("image_shape", (None, None, 3))[-1]
    if load_weights and channels != trained:
        raise ValueError(
            f"image_shape={tuple(shape)} has {channels} channels, but the preset has weights for {trained}. "
            f"Give (height, width, {trained}), and convert images with classifier.preprocess(images)."
        )
    if image_converter is not None and height is not None and width is not None:
        image_converter.image_size = (int(height), int(width))


def _check_weights(directory, config):
    """Refuse weights of another network before memory is allocated."""
    path = directory / WEIGHTS
    held, needed = check_hdf5(path), check_size(config["backbone"], config["num_classes"], path)
    if held < needed:
        raise ValueError(
            f"{_FOREIGN.format(path)}: it holds {held:,} numbers, but the network has {needed:,}."
        )


def _load_weights(network, path):
    with warnings.catch_warnings(), _explained(_FOREIGN.format(path)):
        warnings.simplefilter("ignore")  # Keras warns about each layer before it raises an error
        network.load_weights(path)


_FOREIGN = f"{{}} is damaged, or does not belong to the network in {CONFIG}"


@contextlib.contextmanager
def _explained(problem):
    """Replace errors of any type that Keras and h5py raise about a file by a ValueError of one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{problem}: {reason}") from error
