"""Resolution of names, paths and addresses of networks. Free of Keras."""

import os
import pathlib
import re
from dataclasses import dataclass

from focalnets.files import expanded
from focalnets.names import did_you_mean, sibling_names, unknown_name
from focalnets.presets.architectures import ALL_NAMES, ARCHITECTURES
from focalnets.presets.checkpoints import BUNDLED, CHECKPOINTS
from focalnets.presets.files import CONFIG, EXPORT, RUN, WEIGHTS

# Suffixes of files with weights of other libraries.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
_INDEX = ".index.json"  # of weights in several files


@dataclass(frozen=True)
class Source:
    """Result of `resolve`.

    Attributes:
        kind: str. "preset" (a preset or run directory), "checkpoint" (weights of another library), "export"
            (a directory of `focalnets.export`) or "architecture" (a name without weights).
        place: `pathlib.Path`, str or None. Path of a file or directory, or an address (hf://, https://,
            http://). None for an architecture, and for published weights without a known copy.
        architecture: str or None. Name in `ARCHITECTURES`, if the source is a name.
    """

    kind: str
    place: pathlib.Path | str | None
    architecture: str | None = None

    @property
    def is_local(self):
        """Whether the source is a path."""
        return isinstance(self.place, pathlib.Path)


def resolve(source):
    """Find the kind and place of a network. Reads directory listings, but no files.

    Published names take precedence over addresses, addresses over paths, and paths over architectures.

    Args:
        source: str or path. A name in `CHECKPOINTS` or `ARCHITECTURES`, a preset, run or export directory, or
            a checkpoint of another library: a file, directory, URL or hf://organization/name.

    Returns:
        `Source`.

    Raises:
        ValueError: if `source` is none of these.

    >>> from focalnets.presets.resolve import resolve
    >>> resolve("focalnet_pico")
    Source(kind='architecture', place=None, architecture='focalnet_pico')
    >>> resolve("focalnet_tiny_srf_imagenet1k").place
    'hf://timm/focalnet_tiny_srf.ms_in1k'
    """
    text = os.fspath(source) if isinstance(source, os.PathLike) else str(source)
    if text in CHECKPOINTS:
        row, bundled = CHECKPOINTS[text], BUNDLED / text
        if bundled.is_dir():
            return Source("preset", bundled, row.architecture)
        return Source("checkpoint", row.source, row.architecture)
    if "://" in text:
        return Source("checkpoint", text)
    path = expanded(source)
    architecture = text if text in ARCHITECTURES else None
    if path.is_dir() and (kind := _kind(path)):
        return Source(kind, path, architecture)
    if path.is_file() and is_checkpoint_name(path):
        return Source("checkpoint", path)
    if architecture:
        return Source("architecture", None, architecture)
    raise ValueError(_problem(text, path))


def resolve_weights(source):
    """`resolve` for a network with weights that Keras can load.

    Raises:
        ValueError: also if `source` is an architecture, an exported network, or published weights without a
            known copy.
    """
    found = resolve(source)
    if found.kind == "architecture":
        raise ValueError(no_trained_weights(found.architecture))
    if found.place is None:
        raise ValueError(
            f"The authors removed the weights of {source}, and no copy is known. If you have the file, run: "
            f"focalnets convert FILE OUT --variant {found.architecture}."
        )
    if found.kind == "export":
        raise ValueError(
            f"{str(source)!r} is an exported network, which only `focalnets predict` can use. Give the "
            "preset that it was exported from."
        )
    return found


def is_checkpoint_name(path):
    """Whether a file has the suffix of a checkpoint of another library.

    >>> from focalnets.presets.resolve import is_checkpoint_name
    >>> is_checkpoint_name("runs/model_best.pth.tar"), is_checkpoint_name("photos.tar")
    (True, False)
    """
    name = pathlib.Path(path).name.lower()
    return name.endswith(SUFFIXES) or name.endswith(tuple(suffix + _INDEX for suffix in SUFFIXES))


def no_trained_weights(name):
    """Error message for the name of an architecture where trained weights are required."""
    trained = [key for key, row in CHECKPOINTS.items() if row.architecture == name]
    hint = f", such as {trained[0]}" if trained else ""
    return (
        f"{name!r} is an architecture and has no trained weights. Give the name of published weights{hint}, "
        "or the path of a preset or run directory. In Python, load_weights=False gives random weights."
    )


def _kind(directory):
    if (directory / EXPORT).is_file():
        return "export"
    is_ours = (directory / WEIGHTS).is_file() or (directory / RUN).is_file()
    if not is_ours and any(is_checkpoint_name(one) for one in directory.iterdir()):
        return "checkpoint"
    return "preset" if (directory / CONFIG).is_file() else None


_KERAS_MODEL = (
    "a model saved by Keras, not a preset. In Python: keras.saving.load_model(path).save_to_preset"
    '("directory"). Then give the directory.'
)
_OTHER_FILES = {
    ".weights.h5": "a file of weights without the network. Give the preset directory that it belongs to. Or, "
    "in Python, build the classifier, call load_weights(path) and then save_to_preset.",
    ".keras": _KERAS_MODEL,
    ".h5": _KERAS_MODEL,
    ".hdf5": _KERAS_MODEL,
    ".onnx": "an exported network, not a preset. Give the preset directory that it was exported from.",
    ".tflite": "an exported network, not a preset. Give the preset directory that it was exported from.",
}


def _problem(text, path):
    """Error message for a text that does not name a network."""
    if path.is_file():
        for suffix, kind in _OTHER_FILES.items():
            if path.name.lower().endswith(suffix):
                return f"{str(path)!r} is {kind}"
        return (
            f"{text!r} is a file, not a preset. Expected a preset directory or a file of weights "
            f"({', '.join(SUFFIXES)})."
        )
    if path.exists():
        return (
            f"{text!r} is not a preset directory: it holds no {CONFIG}. A run gets this file at the end of "
            "training."
        )
    hint = did_you_mean(path, sibling_names(path))
    if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):  # not a version, as in focalnet_v1.2
        return f"File not found: {str(path)!r}. Check the path.{hint}"
    if path.name != text:
        return f"Preset directory not found: {str(path)!r}. Check the path.{hint}"
    listing = f"There is no directory of that name either. {ALL_NAMES}"
    return unknown_name("preset", text, [*CHECKPOINTS, *ARCHITECTURES, *sibling_names(path)], listing)


def not_a_classifier(value):
    """Text of the error for a value that is neither a preset nor a classifier.

    >>> from focalnets.presets.resolve import not_a_classifier
    >>> not_a_classifier(3)[:65]
    'Expected a preset name, a path or a FocalNetImageClassifier; got '
    """
    return (
        f"Expected a preset name, a path or a FocalNetImageClassifier; got {type(value).__name__}. Give the "
        "classifier: other models lack labels and preprocessing."
    )
