"""export: a directory with all that predictions need, without Keras or a backend.

model.onnx        the network, from pixels to logits, for any number of images of one size
model.data        the weights, if they exceed the limit of the ONNX format
export.json       format version, origin, image size, preprocessing and class names
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from focalnets import __version__
from focalnets.conversion.open import as_classifier
from focalnets.deployment.onnx_graph import onnx_model
from focalnets.deployment.record import FORMAT, FORMAT_VERSION, GRAPH, RECORD, WEIGHTS
from focalnets.deployment.runtimes import NO_RUNTIME, RUNTIMES, usable_runtimes
from focalnets.files import expanded
from focalnets.output.files import write_json
from focalnets.output.inputs import paths_among
from focalnets.output.replace import new_directory

_LARGEST_MESSAGE = 2**31 - 2**26  # limit of protobuf, minus space for the graph
_TOLERANCE = 1e-4  # difference of logits, relative to the largest logit


@dataclass(frozen=True)
class Exported:
    """Result of `export`.

    Attributes:
        directory: Path. Export directory.
        runtime: str. Runtime that verified the export.
        difference: float. Largest difference from the logits of Keras, relative to the largest logit.
    """

    directory: pathlib.Path
    runtime: str
    difference: float


def export(preset, out, force=False):
    """Export a classifier to ONNX and verify the export, as `focalnets export` does.

    The ONNX graph takes uint8 images (N, height, width, channels) and returns logits (N, classes).

    Args:
        preset: Path of a preset or run directory, a name in `CHECKPOINTS`, any other source that
            `FocalNetImageClassifier.from_preset` accepts, or a `FocalNetImageClassifier`.
        out: str or path. Directory to create. `focalnets.predict(out, images)` uses it.
        force: bool. Replace an existing export. Defaults to `False`.

    Returns:
        `Exported`.

    Raises:
        ImportError: if `onnx` is not installed, or neither ONNX Runtime nor OpenVINO is.
        ValueError: if the classifier has no image size, or the logits of the runtime differ.
        FileExistsError: if `out` exists, unless `force`.

    >>> import tempfile
    >>> import focalnets
    >>> done = focalnets.export("focalnet_nano_cifar10", tempfile.mkdtemp() + "/exported")
    >>> done.difference < 1e-4
    True
    """
    usable = usable_runtimes()
    if not usable:
        raise ImportError(NO_RUNTIME)
    classifier = as_classifier(preset)
    origin = None if classifier is preset else {"preset": str(preset)}
    with new_directory(out, "deployment", force, paths_among([origin and str(preset)])) as partial:
        found = write_verified(classifier, partial, usable[0], origin)
    return Exported(expanded(out), usable[0], found)


def write_verified(classifier, directory, runtime, origin=None, cached=False):
    """Write an export and compare the logits of the runtime with those of the classifier.

    Returns:
        float. Largest difference, relative to the largest logit.

    Raises:
        ValueError: if the logits differ.
    """
    write_export(classifier, directory, origin)
    found = difference(classifier, RUNTIMES[runtime](directory / GRAPH, cached))
    if not found <= _TOLERANCE:  # also if it is NaN
        raise ValueError(
            f"The logits of {runtime} differ from those of Keras by {found:.1e} times the largest logit; "
            f"expected at most {_TOLERANCE}. Predict with --engine keras, and please report this problem."
        )
    return found


def write_export(classifier, directory, origin=None):
    """Write the files of an export into an existing directory.

    Args:
        classifier: `FocalNetImageClassifier` with an image size.
        directory: str or path. Existing directory.
        origin: dict. Source of the classifier, for export.json. Defaults to `None`.

    Raises:
        ValueError: if the classifier has no image size.
        ImportError: if the package `onnx` is not installed.

    >>> import tempfile
    >>> from focalnets import FocalNetImageClassifier, FocalNetImageConverter
    >>> from focalnets.deployment.export import write_export
    >>> from focalnets.presets.architectures import find_architecture
    >>> from focalnets.presets.load import build_architecture
    >>> converter = FocalNetImageConverter(image_size=8, mean=(0.5,), std=(0.5,))
    >>> net = build_architecture(find_architecture("focalnet_pico"), image_converter=converter)
    >>> write_export(net, tempfile.mkdtemp())
    """
    height, width, channels = image_shape(classifier)
    if height is None or width is None:
        raise ValueError(
            "An exported network takes images of one size, but this classifier has no image size. Set "
            "image_size of its FocalNetImageConverter, or image_shape of its backbone."
        )
    model = onnx_model(classifier, height, width)
    import onnx

    converter = classifier.image_converter
    preprocessing = None
    if converter is not None:
        names = ("image_size", "crop_fraction", "interpolation")
        preprocessing = {name: getattr(converter, name) for name in names}
    directory = pathlib.Path(directory)
    large = 4 * classifier.count_params() > _LARGEST_MESSAGE
    onnx.save(model, directory / GRAPH, save_as_external_data=large, location=WEIGHTS)
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "focalnets_version": __version__,
        "origin": origin,
        "image_shape": [height, width, channels],
        "preprocessing": preprocessing,
        "num_classes": classifier.num_classes,
        "class_names": classifier.class_names,
    }
    write_json(directory / RECORD, record)


def image_shape(classifier):
    """Shape (height, width, channels) of the inputs of a classifier. A height or width of None is free."""
    height, width, channels = classifier.backbone.image_shape
    converter = classifier.image_converter
    if converter is not None and converter.image_size is not None:
        height, width = converter.image_size
    return height, width, channels


def difference(classifier, run):
    """Largest difference between the logits of `run` and the classifier, relative to the largest logit."""
    shape = (2, *image_shape(classifier))
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    if classifier.image_converter is None:
        images = images.astype("float32") / 128 - 1
    expected = classifier.predict_on_batch(images)
    return float(np.abs(run(images) - expected).max() / np.abs(expected).max())
