"""Files and directories of other libraries -> named arrays, and nothing but arrays: no pickle is trusted."""

import json
import pathlib
import struct
import zipfile
from dataclasses import dataclass, field

import numpy as np

from focalnets._io import listed, read_json
from focalnets.convert.mapping import FORMATS, our_path

# What a directory is searched for, best first.
_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# Where checkpoints keep their weights among optimiser states and the like.
_CONTAINERS = ("model", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class Source:
    """A checkpoint of another library.

    Attributes:
        tensors: key -> array, as the file has them; views into the file where that is possible.
        config: the config.json beside it, if timm or transformers wrote it, or {}.
        preprocessing: transformers' preprocessor_config.json beside it, or {}.
        notes: what the reader of a report should know.
    """

    tensors: dict[str, np.ndarray]
    config: dict = field(default_factory=dict)
    preprocessing: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_source(path):
    """Read a `.pth` or `.safetensors` file, or a directory that holds one.

    Args:
        path: file or directory. Pickles are read with torch's `weights_only=True` and never freely;
            `.safetensors` needs no torch.

    Returns:
        A `Source`.

    Raises:
        ValueError: if the file is damaged, cut short, of another kind, or holds more than tensors.
        ImportError: naming what to install.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {str(path)!r}; check the path.")
    tensors, notes = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    beside = {
        name: read_json(path.parent / name)
        for name in ("config.json", "preprocessor_config.json")
        if (path.parent / name).is_file()
    }
    config = beside.get("config.json", {})
    if not isinstance(config, dict) or not ("model_type" in config or "architecture" in config):
        config = {}
    preprocessing = beside.get("preprocessor_config.json", {}) if config else {}
    return Source(tensors, config, preprocessing, notes)


def _file_in(directory):
    for name in _FILES:
        if (directory / name).is_file():
            return directory / name
    found = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"{directory} should hold one checkpoint ({', '.join(_SUFFIXES)}); found: {names}. Name the file."
        )
    return found[0]


def _is_safetensors(path):
    with path.open("rb") as file:
        head = file.read(9)
    if path.suffix == ".safetensors":
        return True
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size


def _read_safetensors(path):
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"{path} needs safetensors: pip install 'focalnets[hub]'.") from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, []  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
        raise _damaged(path, error) from error
    except TypeError as error:  # NumPy has no bfloat16
        raise ValueError(
            f"{path} holds numbers that NumPy does not know ({error}); save it in float32."
        ) from error


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is torch's format: pip install torch (the result runs on any backend), or get the "
            ".safetensors form of the checkpoint."
        ) from error
    import pickle

    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip and (bad := zipfile.ZipFile(path).testzip()):  # torch itself does not look
            raise ValueError(f"{path} is damaged: checksum of {bad}. Download or copy it anew.")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # torch's word for what is no tensor
            raise _damaged(path, error) from error
        raise ValueError(
            f"{path} holds Python objects beside its tensors. To load those could run anybody's code, so "
            "focalnets does not. If you trust the file, keep its tensors alone: "
            f"torch.save({{'model': torch.load('{path.name}', weights_only=False)['model']}}, 'weights.pth')."
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise _damaged(path, error) from error
    return _arrays(path, content)


def _damaged(path, error):
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(
        f"{path} is damaged, cut short, or no checkpoint ({reason}). Download or copy it anew; "
        "a .pth or .safetensors file is expected."
    )


def _arrays(path, content):
    """(arrays by key, notes) of what torch found in a file."""
    notes = []
    if isinstance(content, dict):
        for name in _CONTAINERS:
            if isinstance(content.get(name), dict):
                others = sorted(str(key) for key in content if key != name)
                if others:
                    notes.append(f"took the entry {name!r} of the file, not {listed(others)}")
                content = content[name]
                break
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors by name.")
    strange = sorted(str(key) for key, value in content.items() if not hasattr(value, "numpy"))
    if strange:
        raise ValueError(f"{path} holds entries that are no tensors: {listed(strange)}.")
    half = {"torch.bfloat16"}  # NumPy has no such type
    arrays = {
        str(key): (value.float() if str(value.dtype) in half else value).detach().numpy()
        for key, value in content.items()
    }
    return arrays, notes


def with_standard_keys(tensors):
    """Bring the keys of one library to the form of the table.

    Takes off what wrappers put before each key ("module.", a detector's "backbone."), and gives a bare
    `FocalNetModel` of transformers and upstream's detection backbones the names of the classifiers.

    Args:
        tensors: key -> array.

    Returns:
        (format, tensors by key, notes).

    Raises:
        ValueError: if the keys are of no format that is known, listing some.
    """
    notes = []
    for prefix in ("module.", "backbone."):
        chosen = {key.removeprefix(prefix): a for key, a in tensors.items() if key.startswith(prefix)}
        if chosen:
            if rest := sorted({key.split(".")[0] for key in tensors if not key.startswith(prefix)}):
                notes.append(f"took what stands under {prefix!r}, left {listed(rest)}")
            tensors = chosen
    if any(key.startswith("embeddings.") for key in tensors):
        tensors = {f"focalnet.{key}": array for key, array in tensors.items()}
    known = {source: sum(our_path(source, key) is not None for key in tensors) for source in FORMATS}
    source = max(FORMATS, key=known.get)
    if known[source] < len(tensors) / 2:
        raise ValueError(
            "These are not the weights of a FocalNet that focalnets knows (official, timm or transformers): "
            f"{listed(sorted(tensors))}."
        )
    if source == "official":
        stages = [key.split(".")[0].removeprefix("norm") for key in tensors if key.startswith("norm")]
        if numbers := [int(number) for number in stages if number]:
            last = f"norm{max(numbers)}."  # the norm of the last stage is the classifiers' final one
            tensors = {
                f"norm.{key.removeprefix(last)}" if key.startswith(last) else key: array
                for key, array in tensors.items()
            }
            notes.append("detection or segmentation backbone: a norm for each stage, no head")
    return source, tensors, notes
