"""What computes the logits of a `Predictor`: Keras, or a runtime for exported networks.

A runtime needs neither Keras nor a backend, whose imports take most of the time of a first prediction. The
export is made once and kept in the cache, under a name that belongs to the preset's path.
"""

import importlib.util
import logging
import os
import pathlib
import sys

import msgspec
import numpy as np

from focalnets._io import cores
from focalnets.data.pictures import NO_PREPROCESSING
from focalnets.export.record import GRAPH, read_export
from focalnets.inference.export_cache import cached_export, checked_files
from focalnets.presets.checkpoints import CHECKPOINTS, bundled_directory
from focalnets.presets.files import read_preset_files
from focalnets.presets.resolve import located
from focalnets.resizing import resize_and_crop

ENGINES = ("auto", "keras", "onnxruntime", "openvino")
_BY_SPEED = ("openvino", "onnxruntime")  # on CPUs: benchmarks/README.md
_TOLERANCE = 1e-4  # of the export's logits, relative to the largest

_log = logging.getLogger("focalnets")


def open_engine(preset, engine="auto"):
    """The engine for a preset.

    Args:
        preset: what `FocalNetImageClassifier.from_preset` takes, or a `FocalNetImageClassifier`.
        engine: one of `ENGINES`. "auto" takes the fastest runtime that is installed, where there is no GPU,
            `preset` is a local directory and the network's images have one size; Keras otherwise.

    Returns:
        An object with the attributes `channels`, `num_classes`, `class_names` (or None), `takes_pictures`
        (whether it has preprocessing), `prepare(image, crop)` and `run(images)`, which takes images
        (N, H, W, channels) and returns logits (N, classes).

    Raises:
        TypeError: if `preset` is something else.
        ValueError: on an unknown engine, or a network that cannot be exported.
        ImportError: if the engine is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}.")
    if not isinstance(preset, str | os.PathLike):
        if not hasattr(preset, "classify"):
            raise TypeError(
                f"A preset is a name, a path or a FocalNetImageClassifier; got {type(preset).__name__}. A "
                "backbone, or a model around a classifier, has no labels and preprocessing: give the "
                "classifier."
            )
        if engine not in ("auto", "keras"):
            raise ValueError(
                f"A classifier computes with Keras; got engine={engine!r}. Save it with save_to_preset and "
                "give the directory."
            )
        return KerasEngine(preset)
    preset = bundled_directory(str(preset)) or located(preset)
    if engine == "auto":
        return _automatic(preset)
    if engine == "keras":
        return KerasEngine.of(preset)
    missing = _missing(engine)
    if missing:
        raise ImportError(f"The engine {engine} needs {missing}: pip install 'focalnets[{engine}]'.")
    return ExportEngine(_exported(preset, engine), engine)


def _automatic(preset):
    usable = [engine for engine in _BY_SPEED if not _missing(engine)]
    if usable and not pathlib.Path("/dev/nvidia0").exists() and _has_image_size(preset):
        try:
            return ExportEngine(_exported(preset, usable[0]), usable[0])
        except (OSError, ValueError) as error:  # the cache cannot be written, or the export is wrong
            engine = KerasEngine.of(preset)  # which says the same itself if the preset is damaged
            _log.warning("%s Predicting with Keras.", error)
            return engine
    return KerasEngine.of(preset)


def _missing(engine):
    """Packages that an engine lacks, in words."""
    return " and ".join(name for name in (engine, "onnx") if importlib.util.find_spec(name) is None)


def _as_it_is(image):
    """An array, which a net without preprocessing takes as it comes; a picture has no such numbers."""
    if not isinstance(image, np.ndarray):
        raise ValueError(NO_PREPROCESSING)
    return image


class KerasEngine:
    """Predicts with the classifier itself."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.takes_pictures = classifier.image_converter is not None
        self.channels = classifier.backbone.image_shape[-1]
        self.num_classes, self.class_names = classifier.num_classes, classifier.class_names

    @classmethod
    def of(cls, preset):
        from focalnets.convert.open import open_classifier  # which imports Keras

        return cls(open_classifier(preset))

    def prepare(self, image, crop=True):
        converter = self.classifier.image_converter
        return _as_it_is(image) if converter is None else converter.prepare(image, crop=crop)

    def run(self, images):
        return self.classifier.predict_on_batch(images)


class ExportEngine:
    """Predicts with an export directory, by ONNX Runtime or OpenVINO, in float32 on the CPU."""

    def __init__(self, directory, runtime):
        record = read_export(directory)
        self.channels = record.image_shape[-1]
        self.num_classes, self.class_names = record.num_classes, record.class_names
        self._preprocessing = msgspec.to_builtins(record.preprocessing)
        self.takes_pictures = self._preprocessing is not None
        self.run = _RUNTIMES[runtime](directory / GRAPH)

    def prepare(self, image, crop=True):
        if self._preprocessing is None:
            return _as_it_is(image)
        return resize_and_crop(image, **self._preprocessing, crop=crop)


def _onnxruntime(path):
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # on Windows, its builds send some
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    # Threads that wait by spinning take the cores from whatever else runs: benchmarks/README.md.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def _openvino(path):
    openvino = _import_openvino()
    core = openvino.Core()
    compiled = path.parent / "compiled"
    settings = {
        "INFERENCE_NUM_THREADS": cores(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 where the processor has it
        "CACHE_DIR": str(compiled),
    }
    with checked_files(compiled):  # OpenVINO reads a damaged one without noticing
        request = core.compile_model(path, "CPU", settings).create_infer_request()
    return lambda images: request.infer({0: images})[0].copy()  # the array is the next call's, too


def _import_openvino():
    """OpenVINO without its telemetry, which writes an identifier into the home directory when it is imported.

    OpenVINO itself has a stand-in for where the package `openvino_telemetry` is not installed.
    """
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[name]
    return openvino


_RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def _is_local_preset(preset):
    if str(preset) in CHECKPOINTS:  # names go before directories
        return False
    directory = pathlib.Path(preset)
    return (directory / "config.json").is_file() and (directory / "model.weights.h5").is_file()


def _has_image_size(preset):
    """Whether it is a local classifier's preset whose images have one size; read without Keras."""
    if not _is_local_preset(preset):
        return False
    config, preprocessing, _ = read_preset_files(preset)
    if config["num_classes"] is None:
        return False
    size = None if preprocessing is None else preprocessing.get("image_size")
    return size is not None or None not in config["backbone"].get("image_shape", [None])


def _exported(preset, runtime):
    """The export directory of a preset: from the cache, or made and compared with the network."""
    if not _is_local_preset(preset):
        from focalnets.convert.open import preset_directory  # which imports Keras

        preset = preset_directory(preset)
    preset = pathlib.Path(preset).absolute()
    return cached_export(preset, runtime, lambda *where: _export(preset, runtime, *where))


def _export(preset, runtime, directory, origin):
    from focalnets.convert.open import open_classifier
    from focalnets.export.export import difference, write_export

    classifier = open_classifier(preset)
    write_export(classifier, directory, origin)
    found = difference(classifier, _RUNTIMES[runtime](directory / GRAPH))
    if not found <= _TOLERANCE:  # nor if it is NaN: a wrong export never exists
        raise ValueError(
            f"{runtime} gives other logits than Keras (relative difference {found:.1e}): predict with "
            "--engine keras, and please report this."
        )
