"""Reading of checkpoint files and directories of other libraries to named arrays."""

import contextlib
import json
import mmap
import pathlib
import struct
from dataclasses import dataclass, field

import numpy as np

from focalnets.conversion.unpickle import damaged, read_pickle
from focalnets.conversion.wrappers import Chosen, chosen_tensors, flattened, is_tensor, members
from focalnets.names import listed
from focalnets.presets.resolve import SUFFIXES
from focalnets.schema import checked, read_json

# Files that are searched for in a directory, best first.
_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"  # of weights in several files

# Number formats that NumPy does not have: name in .safetensors -> name in `ml_dtypes`.
_MORE_FORMATS = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_MOST_NUMBERS = 2**28  # limit for an array that is stored in a sparse form


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint of another library.

    Attributes:
        tensors: dict of key without prefix -> array. Views of the file where possible.
        config: dict. Content of the config.json of timm or transformers beside the file, or {}.
        preprocessing: dict. Content of transformers' preprocessor_config.json beside the file, or {}.
        notes: list of str. Lines of the report.
        prefix: str. Prefix of the keys in the file.
        left: list of str. Names of the other contents of the file.
        stored: dict. Other contents of the file by name: settings, versions, objects as dicts.
    """

    tensors: dict[str, np.ndarray]
    config: dict = field(default_factory=dict)
    preprocessing: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prefix: str = ""
    left: list[str] = field(default_factory=list)
    stored: dict = field(default_factory=dict)


def read_source(path, entry=None):
    """Read a `.pth` or `.safetensors` file, a directory with such a file, or weights in several files.

    Args:
        path: str or path. File or directory.
        entry: str or None. See `chosen_tensors`.

    Returns:
        `LoadedCheckpoint`.

    Raises:
        ValueError: if the file is damaged, has another format, or holds no weights.
        ImportError: if a required package is not installed.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.is_file():
        raise ValueError(f"Checkpoint not found: {str(path)!r}. Check the path.")
    content = _read_shards(path) if path.name.endswith(_INDEX) else _read_file(path)
    chosen = _chosen(path, content, entry)
    tensors = {key: _array(f"{chosen.prefix}{key}", value, path) for key, value in chosen.tensors.items()}
    beside = {
        name: read_json(path.parent / name)
        for name in ("config.json", "preprocessor_config.json")
        if (path.parent / name).is_file()
    }
    config = beside.get("config.json", {})
    if not isinstance(config, dict) or not ("model_type" in config or "architecture" in config):
        config = {}
    preprocessing = beside.get("preprocessor_config.json", {}) if config else {}
    stored = {str(key): value for key, value in members(content).items() if not is_tensor(value)}
    return LoadedCheckpoint(tensors, config, preprocessing, chosen.notes, chosen.prefix, chosen.left, stored)


def _chosen(path, content, entry):
    if members(content) is None or not members(content):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict of tensors.")
    flat = flattened(content)
    if not any(is_tensor(value) for value in flat.values()):
        names = sorted({key.rpartition(".")[2] for key in flat})
        raise ValueError(f"{path} holds no tensors, only {listed(names)}. Expected a dict of tensors.")
    try:
        chosen = chosen_tensors(flat, entry)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if chosen.tensors:
        return chosen
    return Chosen({key: value for key, value in flat.items() if is_tensor(value)}, "", [], [])


def _file_in(directory):
    for name in _FILES:
        for found in (directory / name, directory / (name + _INDEX)):
            if found.is_file():
                return found
    found = sorted(path for path in directory.iterdir() if path.name.lower().endswith(SUFFIXES))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"Found {names} in {directory}; expected one checkpoint ({', '.join(SUFFIXES)}). Give the "
            "path of a file."
        )
    return found[0]


def _read_shards(path):
    """Tensors of the files that an index of `save_pretrained` lists."""
    index = read_json(path)
    if not isinstance(index, dict) or not index.get("weight_map"):
        raise ValueError(f"{path} is not an index of weights: it has no weight_map.")
    files = checked(index["weight_map"], dict[str, str], path)
    tensors = {}
    for name in sorted(set(files.values())):
        if pathlib.PurePath(name).name != name or not (path.parent / name).is_file():
            raise ValueError(
                f"{path} lists the file {name!r}, which is not in the same directory. Copy all files."
            )
        tensors.update(_read_file(path.parent / name))
    if missing := sorted(set(files) - set(tensors)):
        raise ValueError(f"The files of {path} lack {listed(missing)}. Copy or download them again.")
    return tensors


def _read_file(path):
    if _is_safetensors(path):
        return _read_safetensors(path)
    content, size = read_pickle(path), path.stat().st_size
    for key, tensor in flattened(content).items():
        with contextlib.suppress(AttributeError, RuntimeError):  # not a tensor, or a tensor without storage
            if not tensor.is_meta and tensor.untyped_storage().nbytes() > size:
                raise ValueError(f"{key} in {path} is larger than the file. Download or copy it again.")
    return content


def _is_safetensors(path):
    with path.open("rb") as file:
        head = file.read(9)
    if path.suffix == ".safetensors":
        return True
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size


def _read_safetensors(path):
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(f"Reading {path} needs safetensors: pip install 'focalnets[hub]'.") from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # checks the header
            keys = list(file.keys())
            formats = {key: file.get_slice(key).get_dtype() for key in keys}
            odd = {key: formats[key] for key in keys if formats[key] in _MORE_FORMATS}
            tensors = _odd_arrays(path, odd) if odd else {}
            return {key: tensors[key] if key in odd else file.get_tensor(key) for key in keys}
    except TypeError as error:
        raise ValueError(f"{path} has numbers in an unknown format ({error}). Save it as float32.") from error
    except MemoryError:
        raise
    except Exception as error:  # its own error, or errors of any type for a damaged header
        raise damaged(path, error) from error


def _odd_arrays(path, formats):
    """Arrays in `_MORE_FORMATS` of a checked .safetensors file, as float32."""
    import ml_dtypes  # Keras depends on it

    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = struct.unpack("<Q", data[:8])[0]
    header, arrays = json.loads(data[8 : 8 + size]), {}
    for key, name in formats.items():
        kind, (start, stop) = np.dtype(getattr(ml_dtypes, _MORE_FORMATS[name])), header[key]["data_offsets"]
        raw = np.frombuffer(data, kind, offset=8 + size + start, count=(stop - start) // kind.itemsize)
        arrays[key] = raw.reshape(header[key]["shape"]).astype("float32")
    return arrays


def _array(key, tensor, path):
    """NumPy array of a tensor from torch or safetensors."""
    array = tensor if isinstance(tensor, np.ndarray) else _torch_array(key, tensor, path)
    if array.dtype.kind != "f":
        raise ValueError(
            f"{key} in {path} has the type {array.dtype}; expected floating-point numbers. Save a quantized "
            "network before the quantization."
        )
    return array


def _torch_array(key, tensor, path):
    import torch

    def refused(what, repair):
        return ValueError(f"{key} in {path} is {what}; expected a dense tensor of real numbers. {repair}")

    tensor = tensor.detach()
    if tensor.is_meta:
        raise refused("a tensor without values (device meta)", "Save the model after loading its weights.")
    if tensor.is_nested:
        raise refused("a nested tensor", "Save it with torch.nested.to_padded_tensor.")
    if tensor.is_complex():
        raise refused("a tensor of complex numbers", "A FocalNet has real weights.")
    strided = tensor.layout is torch.strided
    stored = max(tensor.untyped_storage().nbytes(), 2**24) if strided else _MOST_NUMBERS
    if tensor.numel() > stored:  # an expanded view, or a sparse tensor that is nearly empty
        raise refused(f"of shape {tuple(tensor.shape)} but stores fewer values", "Save a contiguous copy.")
    try:
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if not strided:
            tensor = tensor.to_dense()
        known = (torch.float16, torch.float32, torch.float64)
        if tensor.dtype.is_floating_point and tensor.dtype not in known:
            tensor = tensor.float()  # NumPy has no bfloat16 and no float8
        return tensor.resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise refused(f"a tensor that cannot be read ({reason})", "Save it as float32.") from error
