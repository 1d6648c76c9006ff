"""export: a directory with all that predictions need, without Keras or a backend.

model.onnx        the network, from pixels to logits, for any number of images of one size
model.data        the weights, if they exceed the limit of the ONNX format
explain.onnx      if asked for: the exact evidence of each decision (`onnx_evidence.py`), with its weights
export.json       format version, origin, image size, preprocessing and class names
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from focalnets import __version__
from focalnets.conversion.open import as_classifier
from focalnets.deployment.onnx_evidence import onnx_evidence_model
from focalnets.deployment.onnx_graph import onnx_model
from focalnets.deployment.record import (
    EXPLAIN_GRAPH,
    EXPLAIN_WEIGHTS,
    FORMAT,
    FORMAT_VERSION,
    GRAPH,
    RECORD,
    WEIGHTS,
)
from focalnets.deployment.runtimes import NO_RUNTIME, RUNTIMES, usable_runtimes
from focalnets.files import expanded
from focalnets.layers.geometry import receptive_fields
from focalnets.models.evidence import evidence_model, strides, taps, target_vector
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
        evidence_difference: float or None. Largest difference of the evidence at any tap or level, relative
            to the largest value there. `None` without `explain`.
    """

    directory: pathlib.Path
    runtime: str
    difference: float
    evidence_difference: float | None = None


def export(preset, out, force=False, explain=False):
    """Export a classifier to ONNX and verify the export, as `focalnets export` does.

    The ONNX graph takes uint8 images (N, height, width, channels) and returns logits (N, classes).

    Args:
        preset: Path of a preset or run directory, a name in `CHECKPOINTS`, any other source that
            `FocalNetImageClassifier.from_preset` accepts, or a `FocalNetImageClassifier`.
        out: str or path. Directory to create. `focalnets.predict(out, images)` uses it.
        force: bool. Replace an existing export. Defaults to `False`.
        explain: bool. Also write explain.onnx, which returns the exact evidence. Defaults to `False`.

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
        found = write_verified(classifier, partial, usable[0], origin, explain=explain)
    return Exported(expanded(out), usable[0], *found)


def write_verified(classifier, directory, runtime, origin=None, cached=False, explain=False):
    """Write an export and compare the results of the runtime with those of the classifier.

    Returns:
        (float, float or None). Largest difference of the logits, and of the evidence, see `Exported`.

    Raises:
        ValueError: if the results differ.
    """
    write_export(classifier, directory, origin, explain)
    graph = RUNTIMES[runtime](directory / GRAPH, cached)
    found = difference(classifier, lambda images: graph({"images": images})["logits"])
    _check(found, f"output of {runtime}", "logit")
    if not explain:
        return found, None
    of_evidence = evidence_difference(classifier, RUNTIMES[runtime](directory / EXPLAIN_GRAPH, cached))
    _check(of_evidence, f"evidence of {runtime}", "value")
    return found, of_evidence


def evidence_difference(classifier, run):
    """Largest difference between the evidence of `run` and Keras, relative to the largest value per array."""
    images = _random_images(classifier)
    classes = classifier.num_classes
    targets = np.stack([target_vector(classes, one) for one in (0, classes - 1)])
    inputs = {"images": images, "targets": targets}
    expected = evidence_model(classifier, levels=True).predict_on_batch(inputs)
    expected = {
        **{f"evidence_{tap}": one for tap, one in expected["evidence"].items()},
        **{f"levels_{block}": one for block, one in expected["levels"].items()},
    }
    found = run(inputs)
    return max(float(np.abs(found[name] - one).max() / np.abs(one).max()) for name, one in expected.items())


def _check(found, what, unit):
    if not found <= _TOLERANCE:  # also if it is NaN
        raise ValueError(
            f"The {what} differs from that of Keras by {found:.1e} times the largest {unit}; expected at "
            f"most {_TOLERANCE}. Use the network with Keras (--engine keras), and please report this problem."
        )


def write_export(classifier, directory, origin=None, explain=False):
    """Write the files of an export into an existing directory.

    Args:
        classifier: `FocalNetImageClassifier` with an image size.
        directory: str or path. Existing directory.
        origin: dict. Source of the classifier, for export.json. Defaults to `None`.
        explain: bool. Also write explain.onnx. Defaults to `False`.

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
    converter = classifier.image_converter
    preprocessing = None
    if converter is not None:
        names = ("image_size", "crop_fraction", "interpolation")
        preprocessing = {name: getattr(converter, name) for name in names}
    directory = pathlib.Path(directory)
    _save(model, classifier, directory / GRAPH, WEIGHTS)
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
    if explain:
        graph = onnx_evidence_model(classifier, height, width)
        _save(graph, classifier, directory / EXPLAIN_GRAPH, EXPLAIN_WEIGHTS)
        backbone = classifier.backbone
        record["explain"] = {
            "taps": dict(zip(taps(classifier), strides(backbone), strict=True)),
            "levels": {one.name: receptive_fields(one.modulation.kernel_sizes) for one in backbone.blocks},
        }
    write_json(directory / RECORD, record)


def _save(model, classifier, path, weights):
    import onnx

    large = 4 * classifier.count_params() > _LARGEST_MESSAGE
    onnx.save(model, path, save_as_external_data=large, location=weights)


def image_shape(classifier):
    """Shape (height, width, channels) of the inputs of a classifier. A height or width of None is free."""
    height, width, channels = classifier.backbone.image_shape
    converter = classifier.image_converter
    if converter is not None and converter.image_size is not None:
        height, width = converter.image_size
    return height, width, channels


def difference(classifier, run):
    """Largest difference between the logits of `run` and the classifier, relative to the largest logit."""
    images = _random_images(classifier)
    expected = classifier.predict_on_batch(images)
    return float(np.abs(run(images) - expected).max() / np.abs(expected).max())


def _random_images(classifier):
    shape = (2, *image_shape(classifier))
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    return images if classifier.image_converter is not None else images.astype("float32") / 128 - 1
