"""Names, records and limits of the files in a preset directory. Free of Keras.

A preset may come from an untrusted source, so all values are checked before a network is built. The largest
published network (750 million parameters, 24 blocks) is well below the limits.
"""

import os
import pathlib
from typing import Annotated, Literal

import msgspec

from focalnets import __version__
from focalnets.names import repeated
from focalnets.presets.architectures import Architecture
from focalnets.presets.cost import count_parameters
from focalnets.resizing import INTERPOLATIONS
from focalnets.schema import checked, read_json, read_record

FORMAT, FORMAT_VERSION = "focalnets preset", 2  # version 1 has no `task`
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
PREPROCESSING, LABELS = "preprocessing.json", "labels.json"
RUN, EXPORT = "run.json", "export.json"  # mark a run and an export

# Value of `task`. None is a backbone without a head.
IMAGE_CLASSIFICATION = "image_classification"

MOST_PARAMETERS = 2_000_000_000  # 8 GB of weights; FOCALNETS_MAX_PARAMETERS sets another limit
_HINT = "Copy or save the preset again."


def _int(least, most):
    return Annotated[int, msgspec.Meta(ge=least, le=most)]


def _float(**limits):
    return Annotated[float, msgspec.Meta(**limits)]


def _list(kind, least, most):
    # Not a tuple: msgspec 0.22 crashes on tuples in a union with constrained numbers.
    return Annotated[list[kind], msgspec.Meta(min_length=least, max_length=most)]


_Rate = _float(ge=0, lt=1)
_Epsilon = _float(gt=0, le=1)
_Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class _Initializer(msgspec.Struct):
    """Output of `keras.initializers.serialize`. Keras refuses unknown and unregistered initializers."""

    class_name: _Text
    config: dict[str, bool | int | float | str | None]
    module: _Text | None = None
    registered_name: _Text | None = None


def _record(name, fields):
    """A struct of optional fields, because presets of earlier versions lack the newest."""
    optional = [(key, kind | msgspec.UnsetType, msgspec.UNSET) for key, kind in fields.items()]
    return msgspec.defstruct(name, optional, forbid_unknown_fields=True)


# Arguments of `FocalNetBackbone`. A test compares the names with the signature. The constructor fills in
# defaults and checks values that depend on each other.
Backbone = _record(
    "Backbone",
    {
        "embed_dim": _int(1, 8192),
        "depths": _list(_int(1, 128), 1, 8),
        "focal_levels": _int(1, 16) | list[_int(1, 16)],
        "focal_window": _int(1, 127) | list[_int(1, 127)],
        "focal_factor": _int(0, 64),
        "normalize_modulator": bool,
        "norm_after_modulation": bool,
        "patch_size": _int(1, 256),
        "overlap_embed": bool,
        "stem_padding": _int(0, 512) | None,
        "mlp_ratio": _float(gt=0, le=64),
        "norm_placement": Literal["pre", "post", "mlp_only"],
        "layer_scale_init": _float(ge=-1e6, le=1e6) | None,
        "dropout_rate": _Rate,
        "mlp_hidden_dropout_rate": _Rate | None,
        "drop_path_rate": _Rate,
        "norm_epsilon": _Epsilon,
        "embedding_norm_epsilon": _Epsilon | None,
        "pyramid_norm": bool,
        "rematerialize": bool,
        "kernel_initializer": _Text | _Initializer | None,
        "seed": _int(0, 2**63 - 1) | None,
        "image_shape": _list(_int(1, 8192) | None, 3, 3),
        "activation": Literal["gelu", "gelu_tanh", "relu", "silu"],
    },
)

_Channels = _list(_float(ge=-1e6, le=1e6), 1, 1024)

# Arguments of `FocalNetImageConverter`.
Preprocessing = _record(
    "Preprocessing",
    {
        "image_size": _int(1, 8192) | _list(_int(1, 8192), 2, 2) | None,
        "crop_fraction": _float(ge=0.01, le=1),
        "interpolation": Literal[tuple(INTERPOLATIONS)],
        "mean": _Channels,
        "std": _Channels,
    },
)


class Config(msgspec.Struct):
    """Fields of config.json."""

    files: list[Literal[WEIGHTS, PREPROCESSING, LABELS]]
    task: Literal[IMAGE_CLASSIFICATION] | None
    num_classes: _int(1, 10_000_000) | None
    backbone: Backbone
    focalnets_version: _Text = "unknown"


def read_preset_files(directory):
    """Read and check the JSON files of a preset directory.

    Args:
        directory: str or path. Preset directory.

    Returns:
        (config, preprocessing, class names). dict, dict or None, and list of str or None.

    Raises:
        ValueError: if a file is missing, damaged or of another format, or a value is out of its limits.

    >>> from focalnets.presets.checkpoints import bundled_directory
    >>> from focalnets.presets.files import read_preset_files
    >>> config, preprocessing, names = read_preset_files(bundled_directory("focalnet_micro_cifar10"))
    >>> config["num_classes"], preprocessing["image_size"], names[:2]
    (10, [32, 32], ['airplane', 'automobile'])
    """
    directory = pathlib.Path(directory)
    path = directory / CONFIG
    config = _checked_config(read_json(path), path)
    missing = [name for name in config["files"] if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"The preset {directory} lacks {', '.join(missing)}. {_HINT}")
    preprocessing = names = None
    if PREPROCESSING in config["files"]:
        path = directory / PREPROCESSING
        preprocessing = read_json(path)
        checked(preprocessing, Preprocessing, path, _HINT)
    if LABELS in config["files"]:
        names = read_record(directory / LABELS, list[_Text], _HINT)
        if len(set(names)) < len(names):
            path, twice = directory / LABELS, repeated(names)
            raise ValueError(
                f"{path} holds {twice[0]!r} twice; expected different names. Rename one of them."
            )
    return config, preprocessing, names


def _checked_config(config, path):
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by focalnets. Expected the config.json of a preset.")
    version, wrote = config.get("format_version"), str(config.get("focalnets_version", "unknown"))[:40]
    if version not in (1, FORMAT_VERSION):
        raise ValueError(
            f"{path} has preset format version {str(version)[:40]}; focalnets {__version__} reads versions 1 "
            f"and {FORMAT_VERSION}. Install the version of focalnets that wrote the preset: {wrote}."
        )
    if version == 1 and "num_classes" in config:
        config["task"] = None if config["num_classes"] is None else IMAGE_CLASSIFICATION
    known = {WEIGHTS, PREPROCESSING, LABELS}
    files = config.get("files")
    names_known = isinstance(files, list) and all(isinstance(name, str) and name in known for name in files)
    if not names_known or not {"num_classes", "backbone", "task"} <= set(config):
        raise ValueError(
            f"{path} is damaged; expected the fields files (of {', '.join(sorted(known))}), task, "
            f"num_classes and backbone. {_HINT}"
        )
    checked(config, Config, path, f"It was written by focalnets {wrote}. {_HINT}")
    check_size(config["backbone"], config["num_classes"], path)
    return config


def check_size(backbone, num_classes, name):
    """Number of parameters of a network, computed without building it.

    Raises:
        ValueError: if it exceeds `MOST_PARAMETERS` or the environment variable FOCALNETS_MAX_PARAMETERS.
    """
    channels = backbone.get("image_shape", (None, None, 3))[-1]
    if channels is None:
        raise ValueError(f"{name}: `backbone.image_shape[2]` is null, expected the number of channels.")
    try:
        parameters = count_parameters(Architecture(backbone, 1, num_classes, channels))
    except ValueError as error:  # a list without one value per stage
        raise ValueError(f"{name}: {error}") from error
    most = os.environ.get("FOCALNETS_MAX_PARAMETERS", str(MOST_PARAMETERS))
    if not most.isdecimal():
        raise ValueError(
            f"FOCALNETS_MAX_PARAMETERS must be an integer such as {MOST_PARAMETERS}; got {most!r}."
        )
    if parameters > int(most):
        raise ValueError(
            f"{name} describes a network of {parameters:,} parameters, more than the limit of {int(most):,}. "
            "To build it, set the environment variable FOCALNETS_MAX_PARAMETERS to a higher limit."
        )
    return parameters
