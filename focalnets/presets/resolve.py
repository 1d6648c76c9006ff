"""What can be said about the source of a preset without Keras: names, paths and addresses."""

import pathlib
import re

from focalnets._io import expanded
from focalnets.names import did_you_mean, sibling_names, unknown_name
from focalnets.presets.architectures import ALL_NAMES, ARCHITECTURES
from focalnets.presets.checkpoints import CHECKPOINTS


def located(source):
    """The source of a preset with ~ expanded where it is a path. Names and addresses stay as they are.

    Args:
        source: str or path, as for `check_preset`.

    Raises:
        ValueError: if no file can have that name.

    >>> from focalnets.presets.resolve import located
    >>> located("hf://timm/focalnet_tiny_srf.ms_in1k")
    'hf://timm/focalnet_tiny_srf.ms_in1k'
    """
    if "://" in str(source):
        return source
    path = expanded(source)
    return path if str(source).startswith("~") else source


def check_preset(source):
    """Refuse what can be no preset, before anything is imported, downloaded or converted.

    Args:
        source: str. A preset or run directory, a name in `CHECKPOINTS`, a checkpoint file, a URL or
            hf://organization/name.

    Raises:
        ValueError: if it is a path that does not exist, an unknown name, or an architecture, which has no
            trained weights.

    >>> from focalnets.presets.resolve import check_preset
    >>> check_preset("focalnet_tiny_srf_imagenet1k")
    """
    text = str(source)
    if text in CHECKPOINTS or "://" in text:
        return
    if (other := other_kind_of_file(expanded(text))) is not None:
        raise ValueError(other)
    if expanded(text).exists():
        return
    if text in ARCHITECTURES:
        raise ValueError(no_trained_weights(text))
    raise ValueError(missing_preset(text))


def other_kind_of_file(path):
    """The error message for a file that holds a model in another form than a preset; None for others.

    >>> import pathlib, tempfile
    >>> from focalnets.presets.resolve import other_kind_of_file
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.keras")
    >>> path.touch()
    >>> other_kind_of_file(path).endswith("and give the directory.")
    True
    """
    if not path.is_file():
        return None
    for suffix, kind in _OTHER_FILES.items():
        if path.name.lower().endswith(suffix):
            return f"{str(path)!r} is {kind}"
    return None


_KERAS_MODEL = (
    "a model saved by Keras, not a preset. In Python: keras.saving.load_model(path).save_to_preset"
    '("directory"), and give the directory.'
)
_OTHER_FILES = {
    ".weights.h5": "a file of weights alone, without the network that they belong to. Give the preset "
    "directory that it was part of, or, in Python, build the classifier, load_weights(path), save_to_preset.",
    ".keras": _KERAS_MODEL,
    ".h5": _KERAS_MODEL,
    ".hdf5": _KERAS_MODEL,
    ".onnx": "an exported network, not a preset. Give the preset directory that it was exported from.",
    ".tflite": "an exported network, not a preset. Give the preset directory that it was exported from.",
}


def missing_preset(text):
    """The error message for a word that is no name of ours and no path that exists.

    >>> from focalnets.presets.resolve import missing_preset
    >>> missing_preset("weights.pth")
    "File not found: 'weights.pth'. Check the path."
    """
    path = pathlib.Path(text)
    if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):  # not that of focalnet_v1.2
        return f"File not found: {str(path)!r}. Check the path.{did_you_mean(path, sibling_names(path))}"
    if path.name != str(text):
        hint = did_you_mean(path, sibling_names(path))
        return f"There is no preset directory {str(path)!r}; check the path.{hint}"
    listing = f"There is no directory of that name either. {ALL_NAMES}"
    return unknown_name("preset", text, [*CHECKPOINTS, *ARCHITECTURES, *sibling_names(path)], listing)


def no_trained_weights(name):
    """The error message for the name of an architecture where trained weights are needed."""
    trained = [key for key, row in CHECKPOINTS.items() if row.architecture == name]
    hint = f", such as {trained[0]}" if trained else ""
    return (
        f"{name!r} is an architecture: it has no trained weights. Give the name of published weights{hint}, "
        "or the path of a preset or run directory (or, in Python, load_weights=False for random weights)."
    )
