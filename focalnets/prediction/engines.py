"""Engines that compute the logits of a `Predictor`: Keras, or a runtime for exported networks.

A runtime needs neither Keras nor a backend, whose imports take most of the time of a first prediction. The
export is made once and cached.
"""

import functools
import logging
import os
import pathlib

import msgspec
import numpy as np

from focalnets.data.find import NO_PREPROCESSING
from focalnets.deployment.record import GRAPHS, read_export
from focalnets.deployment.runtimes import RUNTIMES, missing_packages, usable_runtimes
from focalnets.prediction.export_cache import cached_export
from focalnets.presets.files import WEIGHTS, read_preset_files
from focalnets.presets.resolve import not_a_classifier, resolve, resolve_weights
from focalnets.resizing import resize_and_crop

ENGINES = ("auto", "keras", "onnxruntime", "openvino")

_log = logging.getLogger("focalnets")


def open_engine(preset, engine="auto"):
    """Open an engine for a preset.

    Args:
        preset: Preset as in `FocalNetImageClassifier.from_preset`, a directory that `focalnets.export` wrote,
            or a `FocalNetImageClassifier`.
        engine: str. One of `ENGINES`. "auto" selects the fastest installed runtime if there is no GPU,
            `preset` is a local directory and its image size is fixed, and Keras otherwise. Defaults to
            "auto".

    Returns:
        Object with the attributes `channels`, `num_classes`, `class_names` (or None) and `takes_images`
        (whether it has preprocessing), and the methods `prepare(image, crop)`, `run(images)`, which maps
        images (N, H, W, channels) to logits (N, classes), and `features(images)`, which maps them to the
        input of the classification head (N, C), in float32.

    Raises:
        TypeError: if `preset` has another type.
        ValueError: if the engine is unknown, or the network cannot be exported.
        ImportError: if the engine is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}.")
    if not isinstance(preset, str | os.PathLike):
        if not hasattr(preset, "classify"):
            raise TypeError(not_a_classifier(preset))
        if engine not in ("auto", "keras"):
            raise ValueError(
                f"A classifier in memory runs with Keras; got engine={engine!r}. Save it with save_to_preset "
                "and give the directory."
            )
        return KerasEngine(preset)
    source = resolve(preset)
    if source.kind == "export":
        return _open_export(source.place, engine)
    source = resolve_weights(preset)
    if engine == "auto":
        return _automatic(source)
    if engine == "keras":
        return KerasEngine.load(source)
    missing = missing_packages(engine)
    if missing:
        raise ImportError(f"The engine {engine} needs {missing}: pip install 'focalnets[{engine}]'.")
    return ExportEngine(_exported(source, engine), engine, cached=True)


def class_names_of(preset):
    """Class names of a preset, or "class 0", "class 1", ... if it has none. Opens no engine.

    Args:
        preset: See `open_engine`.

    Returns:
        tuple of str.

    >>> from focalnets.prediction.engines import class_names_of
    >>> class_names_of("focalnet_nano_cifar10")[:2]
    ('airplane', 'automobile')
    """
    if not isinstance(preset, str | os.PathLike):
        count, names = preset.num_classes, preset.class_names
    elif (source := resolve(preset)).kind == "export":
        record = read_export(source.place)
        count, names = record.num_classes, record.class_names
    else:
        config, _, names = read_preset_files(_local_preset(resolve_weights(preset)))
        count = config["num_classes"]
    return named_classes(names, count)


def named_classes(names, count):
    """Tuple of class names, or "class 0", "class 1", ... if `names` is None."""
    return tuple(names or (f"class {index}" for index in range(count)))


def _open_export(directory, engine):
    if engine == "keras":
        raise ValueError(
            f"{directory} is an exported network, which Keras cannot run; got engine='keras'. Use onnxruntime"
            " or openvino, or give the preset that it was exported from."
        )
    return ExportEngine(directory, runtime_of(directory, read_export(directory), engine))


def runtime_of(directory, record, engine="auto"):
    """Name of the runtime that runs an export.

    Args:
        directory: Path. Export directory, for the errors.
        record: `Export`, from its export.json.
        engine: str. "onnxruntime", "openvino", or "auto" for the fastest installed one. Defaults to "auto".

    Raises:
        ValueError: if no runtime runs the format of the export.
        ImportError: if the runtime is not installed.
    """
    usable = usable_runtimes() if engine == "auto" else [engine] * (not missing_packages(engine))
    if record.model not in GRAPHS:
        raise ValueError(
            f"{directory} is an export in the format {record.model}; focalnets predicts with the formats "
            f"{' and '.join(GRAPHS)}. Its README.md has the code that runs it."
        )
    if record.model == "openvino":
        usable = [one for one in usable if one == "openvino"]
    if not usable:
        wanted = "openvino" if record.model == "openvino" else "onnxruntime" if engine == "auto" else engine
        raise ImportError(f"{directory} needs a runtime: pip install 'focalnets[{wanted}]'.")
    return usable[0]


def _automatic(source):
    usable = usable_runtimes()
    if usable and not pathlib.Path("/dev/nvidia0").exists() and _has_image_size(source):
        try:
            return ExportEngine(_exported(source, usable[0]), usable[0], cached=True)
        except (OSError, ValueError) as error:  # the cache cannot be written, or the export is wrong
            engine = KerasEngine.load(source)  # raises its own error if the preset is damaged
            _log.warning("%s Predicting with Keras.", error)
            return engine
    return KerasEngine.load(source)


def _unprocessed(image):
    """Return an array unchanged, for a network without preprocessing. ValueError for a PIL image."""
    if not isinstance(image, np.ndarray):
        raise ValueError(NO_PREPROCESSING)
    return image


class KerasEngine:
    """Runs a classifier with Keras."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.takes_images = classifier.image_converter is not None
        self.channels = classifier.backbone.image_shape[-1]
        self.num_classes, self.class_names = classifier.num_classes, classifier.class_names

    @classmethod
    def load(cls, source):
        from focalnets.presets.load import load_preset  # imports Keras

        return cls(load_preset(_local_preset(source)))

    def prepare(self, image, crop=True):
        converter = self.classifier.image_converter
        return _unprocessed(image) if converter is None else converter.prepare(image, crop=crop)

    def run(self, images):
        return self.classifier.predict_on_batch(images)

    def features(self, images):
        return np.float32(self._features.predict_on_batch(images))

    @functools.cached_property
    def _features(self):
        import keras

        net = self.classifier
        inputs = keras.Input(net.backbone.image_shape, name="images")
        x = inputs if net.image_converter is None else net.image_converter(inputs)
        outputs = keras.layers.Identity(dtype="float32")(net.pooling(net.backbone(x)))
        return keras.Model(inputs, outputs)


class ExportEngine:
    """Runs an export directory with ONNX Runtime or OpenVINO, in float32 on the CPU."""

    def __init__(self, directory, runtime, cached=False):
        record = read_export(directory)
        self.channels = record.image_shape[-1]
        self.num_classes, self.class_names = record.num_classes, record.class_names
        self._preprocessing = msgspec.to_builtins(record.preprocessing)
        self.takes_images = self._preprocessing is not None
        self._directory = directory
        self._graph = RUNTIMES[runtime](directory / GRAPHS[record.model], cached)

    def prepare(self, image, crop=True):
        if self._preprocessing is None:
            return _unprocessed(image)
        return resize_and_crop(image, **self._preprocessing, crop=crop)

    def run(self, images):
        return self._graph({"images": images})["logits"]

    def features(self, images):
        found = self._graph({"images": images})
        if "features" not in found:
            raise ValueError(
                f"{self._directory} has no output 'features', because an earlier version of focalnets wrote "
                "it. Export the network again."
            )
        return found["features"]


def _has_image_size(source):
    """Whether a preset is a local classifier with a fixed image size. Does not import Keras."""
    if source.kind != "preset" or not (source.place / WEIGHTS).is_file():
        return False
    config, preprocessing, _ = read_preset_files(source.place)
    if config["num_classes"] is None:
        return False
    size = None if preprocessing is None else preprocessing.get("image_size")
    return size is not None or None not in config["backbone"].get("image_shape", [None])


def _local_preset(source):
    """Preset directory of a `Source`, converted if necessary."""
    if source.kind == "preset":
        return source.place
    from focalnets.conversion.open import local_preset  # imports Keras

    return local_preset(source)


def _exported(source, runtime):
    """Export directory of a preset, from the cache or newly exported and verified."""
    preset = _local_preset(source).absolute()
    return cached_export(preset, runtime, lambda *where: _export(preset, runtime, *where))


def _export(preset, runtime, directory, origin):
    from focalnets.deployment.export import verify, write_export  # imports Keras
    from focalnets.presets.load import load_preset

    classifier = load_preset(preset)
    write_export(classifier, directory, origin)
    verify(classifier, directory, runtime, made=2, cached=True)
