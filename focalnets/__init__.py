"""Focal Modulation Networks (Yang et al., NeurIPS 2022) for Keras 3.

Everything public is on this page and is imported when it is used. `import focalnets` itself chooses an
installed Keras backend and registers everything that Keras can save (layers, models, optimizers), so that
`keras.saving.load_model` knows it; the command line skips that, so that every `--help` is instant.

>>> import focalnets
>>> focalnets.ARCHITECTURES["focalnet_tiny_srf"].backbone["embed_dim"]
96
"""

import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import sys

__version__ = "0.1.0"

_PUBLIC = {
    "FocalNetBackbone": "models.backbone",
    "FocalNetImageClassifier": "models.classifier",
    "FocalNetImageConverter": "models.image_converter",
    "FocalBlock": "layers.focal_block",
    "FocalModulation": "layers.focal_modulation",
    "PatchEmbedding": "layers.patch_embedding",
    "LayerScale": "layers.layer_scale",
    "DropPath": "layers.drop_path",
    "focal_context": "ops.focal_context",
    "ARCHITECTURES": "presets.architectures",
    "CHECKPOINTS": "presets.checkpoints",
    "count_parameters": "presets.cost",
    "count_macs": "presets.cost",
    "cache": "data.resize",
    "convert": "conversion.job",
    "expand_focal_windows": "conversion.expand",
    "open_dataset": "data.datasets",
    "evidence": "explanation.attribution",
    "evidence_model": "models.evidence",
    "modulation_model": "models.modulation",
    "evaluate": "prediction.evaluate",
    "explain": "explanation.explain",
    "export": "deployment.export",
    "predict": "prediction.predict",
    "Predictor": "prediction.predictor",
    "Recipe": "training.recipe",
    "AdamW": "training.adamw",
    "Muon": "training.muon",
    "TrainMonitor": "training.callbacks",
    "resume": "training.train",
    "train": "training.train",
}
__all__ = ["__version__", *_PUBLIC]


# Everything with `register_keras_serializable`; tests/models/test_saving.py looks for more.
_SERIALIZABLE = (
    "models.backbone",  # and the layers
    "models.classifier",
    "models.evidence",
    "models.former_names",
    "models.image_converter",
    "models.modulation",
    "training.adamw",
    "training.muon",
)

_BACKENDS = ("torch", "jax", "tensorflow")

# What Keras writes into keras.json by itself when it is imported for the first time: nobody's choice.
_UNTOUCHED_KERAS_JSON = {
    "floatx": "float32",
    "epsilon": 1e-07,
    "backend": "tensorflow",
    "image_data_format": "channels_last",
}


def _choose_backend():
    """Point Keras at an installed backend, unless the user has already chosen one.

    Keras falls back to TensorFlow when nothing is chosen, so that `import keras` fails in an
    environment that holds only torch or only JAX.
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    keras_json = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras"), "keras.json").expanduser()
    installed = [name for name in _BACKENDS if importlib.util.find_spec(name) is not None]
    if keras_json.is_file():
        with contextlib.suppress(ValueError):  # Keras ignores a file that is not JSON, too
            config = json.loads(keras_json.read_text())
            backend = config.get("backend", "tensorflow")
            # Someone who edited another line of that file has not chosen TensorFlow either.
            by_default = backend == "tensorflow" and backend not in installed
            if config != _UNTOUCHED_KERAS_JSON and not by_default:
                return
    if installed:
        os.environ["KERAS_BACKEND"] = installed[0]


def _is_command_line():
    """Whether this import was made by the `focalnets` script or `python -m focalnets`."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # Python is looking for what it is to run
        return "focalnets" in sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]
    path = pathlib.Path(program)  # that of __main__.py in the processes that `serve` starts
    return path.stem == "focalnets" or (path.name, path.parent.name) == ("__main__.py", "focalnets")


def _has_backend():
    return any(importlib.util.find_spec(name) for name in _BACKENDS)


def _register_with_keras():
    for module in _SERIALIZABLE:
        importlib.import_module(f"focalnets.{module}")


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'focalnets' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"focalnets.{_PUBLIC[name]}"), name)
    except ImportError as error:
        if _has_backend():
            raise
        raise ImportError(
            "focalnets needs a Keras backend, and none is installed: pip install 'focalnets[torch]', "
            "'focalnets[jax]' or 'focalnets[tensorflow]'."
        ) from error
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)


_choose_backend()
# Workers of `prediction.ray_pool` load what they need, like the command line. `focalnets.serving` needs none.
if not _is_command_line() and "FOCALNETS_WORKER" not in os.environ and _has_backend():
    _register_with_keras()
