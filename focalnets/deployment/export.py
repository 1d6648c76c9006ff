"""export: a preset or classifier -> a directory with all that predictions need, without Keras or a backend.

model.onnx        the network, from pixels to logits, for images of one size and any number of them
model.data        its weights, if they are larger than the file format allows
export.json       format version, origin, image size, preprocessing, class names
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from focalnets import __version__
from focalnets.conversion.open import open_classifier
from focalnets.deployment.onnx_graph import onnx_model
from focalnets.deployment.record import FORMAT, FORMAT_VERSION, GRAPH, RECORD, WEIGHTS
from focalnets.deployment.runtimes import NO_RUNTIME, RUNTIMES, usable_runtimes
from focalnets.files import expanded
from focalnets.output.files import write_json
from focalnets.output.inputs import paths_among
from focalnets.output.replace import new_directory

_LARGEST_MESSAGE = 2**31 - 2**26  # protobuf's limit, and room for the graph
_TOLERANCE = 1e-4  # of logits, relative to the largest one


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        directory: Path. The export directory.
        runtime: str. The runtime that has verified it.
        difference: float. Largest difference of its logits from those of the network, relative to the largest
            logit.
    """

    directory: pathlib.Path
    runtime: str
    difference: float


def export(preset, out, force=False):
    """Write a network for runtimes that need neither Keras nor a backend, and verify it.

    The function behind `focalnets export`. The ONNX graph takes uint8 images (N, height, width, channels)
    and returns logits (N, classes).

    Args:
        preset: path of a preset or run directory, a name in `CHECKPOINTS` or whatever else
            `FocalNetImageClassifier.from_preset` takes; or a `FocalNetImageClassifier`.
        out: str or path. Directory to create, with model.onnx, and export.json for size, preprocessing and
            class names. `focalnets.predict(out, images)` uses it.
        force: bool. Replace the export that is there. Defaults to `False`.

    Returns:
        An `Exported`.

    Raises:
        ImportError: if `onnx`, or both ONNX Runtime and OpenVINO, are not installed.
        ValueError: if the network takes images of any size, or the runtime gives other logits.
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
    classifier = preset if hasattr(preset, "classify") else open_classifier(preset)
    origin = None if hasattr(preset, "classify") else {"preset": str(preset)}
    with new_directory(out, "deployment", force, paths_among([origin and str(preset)])) as partial:
        found = write_verified(classifier, partial, usable[0], origin)
    return Exported(expanded(out), usable[0], found)


def write_verified(classifier, directory, runtime, origin=None, cached=False):
    """`write_export`, and compare the runtime's logits with those of the classifier.

    Returns:
        float. The largest difference, relative to the largest logit.

    Raises:
        ValueError: if the runtime gives other logits.
    """
    write_export(classifier, directory, origin)
    found = difference(classifier, RUNTIMES[runtime](directory / GRAPH, cached))
    if not found <= _TOLERANCE:  # nor if it is NaN: a wrong export never exists
        raise ValueError(
            f"{runtime} gives other logits than Keras (relative difference {found:.1e}): predict with "
            "--engine keras, and please report this."
        )
    return found


def write_export(classifier, directory, origin=None):
    """Write the files of an export into an existing directory.

    Args:
        classifier: a `FocalNetImageClassifier` whose images have one size.
        directory: its path.
        origin: kept in export.json: what the classifier was made from.

    Raises:
        ValueError: if images of any size are welcome, so that none is known.
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
            "An exported network takes images of one size, and this one has none: it needs a "
            "FocalNetImageConverter with an image_size, or a backbone with an image_shape."
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
    """(height, width, channels) of the images that a classifier is fed, None where any will do."""
    height, width, channels = classifier.backbone.image_shape
    converter = classifier.image_converter
    if converter is not None and converter.image_size is not None:
        height, width = converter.image_size
    return height, width, channels


def difference(classifier, run):
    """Largest difference of the logits that `run` gives, relative to the largest of the classifier's."""
    shape = (2, *image_shape(classifier))
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    if classifier.image_converter is None:
        images = images.astype("float32") / 128 - 1
    expected = classifier.predict_on_batch(images)
    return float(np.abs(run(images) - expected).max() / np.abs(expected).max())
