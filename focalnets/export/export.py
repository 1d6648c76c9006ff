"""A classifier -> an export directory: all that predictions need, without Keras and without a backend.

model.onnx        the network, from pixels to logits, for images of one size and any number of them
model.data        its weights, if they are larger than the file format allows
export.json       format version, origin, image size, preprocessing, class names
"""

import pathlib

import numpy as np

from focalnets import __version__
from focalnets.export.onnx_graph import onnx_model
from focalnets.export.record import FORMAT, FORMAT_VERSION, GRAPH, RECORD, WEIGHTS
from focalnets.output.files import write_json

_LARGEST_MESSAGE = 2**31 - 2**26  # protobuf's limit, and room for the graph


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
    >>> from focalnets.export.export import write_export
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
