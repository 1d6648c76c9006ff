"""Formats of exports: how each is written, and how its own runtime opens it."""

import importlib.util
import logging
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from focalnets.deployment.onnx_evidence import onnx_evidence_model
from focalnets.deployment.onnx_graph import onnx_model
from focalnets.deployment.record import GRAPH, IR_GRAPH, WEIGHTS, Explained
from focalnets.deployment.runtimes import RUNTIMES, usable_runtimes, write_openvino
from focalnets.layers.geometry import receptive_fields
from focalnets.models.evidence import strides, taps
from focalnets.names import unknown_name
from focalnets.ops import exported
from focalnets.web.folder import write_folder
from focalnets.web.runtime import Node, missing_programs

_LARGEST_MESSAGE = 2**31 - 2**26  # limit of protobuf, minus space for the graph


class Format(NamedTuple):
    """A format of exports.

    Attributes:
        write: Function (classifier, shape, directory) that writes the files. shape is (height, width,
            channels), where height and width are None for any size.
        open: Function (directory, runtime, cached) that returns a function from images to a dict of outputs.
            runtime and cached are for ONNX graphs, see `runtimes.RUNTIMES`.
        backends: tuple of str. Backends that can write it, or () for all.
        packages: tuple of str. Modules that it needs.
        install: str. What to install for them.
        reason: str. Why the other backends cannot, or "".
        any_size: bool. Whether images of any size are possible.
        open_evidence: Function (directory) that returns a function from the inputs of explain.onnx to its
            outputs, if the evidence is always in the export. None if it is in explain.onnx, on request.
    """

    write: Callable
    open: Callable
    backends: tuple = ()
    packages: tuple = ()
    install: str = ""
    reason: str = ""
    any_size: bool = False
    open_evidence: Callable | None = None


def check_format(name):
    """`Format` of this name, if this environment can write and verify it.

    Raises:
        ValueError: if the format is unknown, or the active backend cannot write it.
        ImportError: if a package is missing.

    >>> from focalnets.deployment.formats import check_format
    >>> check_format("keras").any_size
    True
    """
    if name not in FORMATS:
        raise ValueError(unknown_name("format", str(name), list(FORMATS)))
    found, backend = FORMATS[name], keras.backend.backend()
    if found.backends and backend not in found.backends:
        raise ValueError(
            f"The format {name} cannot be written with the backend {backend}: {found.reason} Use --backend "
            f"{' or '.join(found.backends)} (KERAS_BACKEND in Python)."
        )
    if name == "web" and (programs := missing_programs()):
        raise ImportError(
            f"The format web needs {programs}, to fetch and to run ONNX Runtime Web: install Node.js."
        )
    missing = [one for one in found.packages if importlib.util.find_spec(one) is None]
    if missing:
        raise ImportError(f"The format {name} needs {' and '.join(missing)}: pip install {found.install}.")
    if name == "onnx" and not usable_runtimes():
        raise ImportError(f"An ONNX export is verified with a runtime: pip install {found.install}.")
    return found


def save_onnx(model, path, weights, parameters):
    """Write an ONNX model, with its weights in a second file if they exceed the limit of the format."""
    import onnx

    onnx.save(model, path, save_as_external_data=4 * parameters > _LARGEST_MESSAGE, location=weights)


def _write_onnx(classifier, shape, directory):
    model = onnx_model(classifier, *shape[:2])
    save_onnx(model, directory / GRAPH, WEIGHTS, classifier.count_params())


def _open_onnx(directory, runtime, cached):
    run = RUNTIMES[runtime or usable_runtimes()[0]](directory / GRAPH, cached)
    return lambda images: run({"images": images})


def _write_openvino(classifier, shape, directory):
    _write_onnx(classifier, shape, directory)
    onnx_to_openvino(directory)


def onnx_to_openvino(directory):
    """Replace the ONNX graph of an export directory by the files of OpenVINO."""
    write_openvino(directory / GRAPH, directory / IR_GRAPH)
    for name in (GRAPH, WEIGHTS):
        (directory / name).unlink(missing_ok=True)


def _open_openvino(directory, runtime, cached):
    run = RUNTIMES["openvino"](directory / IR_GRAPH, False)
    return lambda images: run({"images": images})


def explained(classifier):
    """`Explained`: the outputs of the evidence of a classifier."""
    backbone = classifier.backbone
    return Explained(
        taps=dict(zip(taps(classifier), strides(backbone), strict=True)),
        levels={one.name: receptive_fields(one.modulation.kernel_sizes) for one in backbone.blocks},
    )


def _write_web(classifier, shape, directory):
    preprocessing = preprocessing_of(classifier)
    if preprocessing is None or shape[2] not in (1, 3):
        raise ValueError(
            "A web page needs a classifier with preprocessing (image_converter) for images with 1 or 3 "
            f"channels; got image_converter={classifier.image_converter}, {shape[2]} channels."
        )
    graphs = {
        "classify": onnx_model(classifier, *shape[:2]),
        "explain": onnx_evidence_model(classifier, *shape[:2]),
    }
    evidence = explained(classifier)
    settings = {
        "shape": shape,
        "preprocessing": preprocessing,
        "taps": list(evidence.taps),
        "windows": evidence.windows(),
    }
    names = classifier.class_names or [str(index) for index in range(classifier.num_classes)]
    write_folder(directory, {name: one.SerializeToString() for name, one in graphs.items()}, settings, names)


def preprocessing_of(classifier):
    """Preprocessing for export.json: dict, or None without a converter."""
    converter = classifier.image_converter
    if converter is None:
        return None
    return {name: getattr(converter, name) for name in ("image_size", "crop_fraction", "interpolation")}


def _open_web(directory, runtime, cached):
    node = Node(directory)
    return lambda images: node.run("classify", {"images": images})


def _open_web_evidence(directory):
    node = Node(directory)
    return lambda inputs: node.run("explain", inputs)


def _serving_model(classifier, shape):
    """Keras model from images to probabilities and logits."""
    dtype = "float32" if classifier.image_converter is None else "uint8"
    images = keras.Input(shape, dtype=dtype, name="images")
    logits = ops.cast(classifier(images), "float32")
    return keras.Model(images, {"probabilities": ops.softmax(logits), "logits": logits}), dtype


def _export_keras(kind, file, **options):
    def write(classifier, shape, directory):
        model, dtype = _serving_model(classifier, shape)
        signature = [keras.InputSpec(shape=(None, *shape), dtype=dtype, name="images")]
        log = logging.getLogger("absl")  # Keras' exporters repeat its warnings about each variable
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            settings = {key: value() for key, value in options.items()}
            model.export(directory / file, kind, verbose=False, input_signature=signature, **settings)
        finally:
            log.setLevel(level)
        for folder in directory.glob(f"{file}/*/"):  # of assets, which there are none
            if not any(folder.iterdir()):
                folder.rmdir()

    return write


def _open(function, file):
    return lambda directory, runtime, cached: function(directory / file)


def _write_keras(classifier, shape, directory):
    _serving_model(classifier, shape)[0].save(directory / "model.keras")


def _open_keras(path):
    model = keras.saving.load_model(path)
    return lambda images: model.predict_on_batch(images)


FORMATS = {
    "onnx": Format(_write_onnx, _open_onnx, (), ("onnx",), "'focalnets[onnxruntime]'", any_size=True),
    "openvino": Format(
        _write_openvino,
        _open_openvino,
        (),
        ("onnx", "openvino"),
        "'focalnets[openvino]'",
        any_size=True,
    ),
    "web": Format(_write_web, _open_web, (), ("onnx",), "onnx", open_evidence=_open_web_evidence),
    "saved_model": Format(
        _export_keras("tf_saved_model", "saved_model"),
        _open(exported.open_saved_model, "saved_model"),
        ("tensorflow", "jax"),
        ("tensorflow",),
        "tensorflow-cpu",
        "Keras needs torch-xla for it, whose last release is for torch 2.9 (keras#20685).",
    ),
    "litert": Format(
        _export_keras("litert", "model.tflite"),
        _open(exported.open_litert, "model.tflite"),
        ("tensorflow",),
        ("ai_edge_litert",),
        "'focalnets[litert]'",
        "Keras converts from TensorFlow, and from torch only for a fixed batch (keras#22996).",
    ),
    "torch": Format(
        _export_keras("torch", "model.pt2", dynamic_shapes=exported.dynamic_batch),
        _open(exported.open_torch, "model.pt2"),
        ("torch",),
        ("torch",),
        "torch",
        "It is a program of torch.",
    ),
    "keras": Format(_write_keras, _open(_open_keras, "model.keras"), any_size=True),
}
