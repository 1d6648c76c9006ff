"""Safe reading of torch's pickled files: no code that a file refers to is run.

torch reads the files with `weights_only=True`, which calls only torch's own functions that rebuild tensors.
timm, mmengine, yacs and Lightning save other objects beside the weights: settings, logs, a whole model. Empty
objects that only store contents replace these, and nothing is imported. A file that refers to functions of
Python's standard library is refused, because no training script saves functions such as `io.open`.
"""

import collections
import contextlib
import io
import pickle
import pickletools
import sys
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING

from focalnets.names import listed

# Modules and names of the standard library that are data.
_DATA_MODULES = {"argparse", "collections", "datetime", "decimal", "enum", "fractions", "pathlib", "uuid"}
_BUILT_IN = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range",
    "set", "slice", "str", "tuple",
)  # fmt: skip
_DATA = {
    *(f"builtins.{name}" for name in _BUILT_IN),
    "copyreg._reconstructor",
    "functools.partial",
    "types.SimpleNamespace",
    "_codecs.encode",
}
# Classes whose instances are filled after their creation. torch fills only dicts and lists.
_FILLED = {"collections.defaultdict": collections.OrderedDict, "collections.deque": list}


class _Object:
    """Replacement for an object that a file creates by a call, such as a date. It stores nothing."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass


class _Named:
    """Replacement for a class or function that a file refers to."""

    def __init__(self, makes):
        self.makes = makes
        # torch calls `cls.__new__(cls, ...)`. Instances of all classes become dicts with attributes.
        self.__dict__["__new__"] = lambda *_: collections.OrderedDict()

    def __call__(self, *_, **__):
        return self.makes()


def read_pickle(path):
    """Content of a file of `torch.save`: dicts, lists, tensors, and objects without behavior.

    Args:
        path: `pathlib.Path`. A file in torch's zip format or in the older format.

    Returns:
        The content, usually a dict. Objects are `OrderedDict`s with their attributes in `__dict__`.

    Raises:
        ValueError: if the file is damaged, is a TorchScript program, or refers to functions of Python.
        ImportError: if torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs torch: pip install torch. The converted preset runs on any backend. A "
            ".safetensors file needs no torch."
        ) from error
    is_zip = zipfile.is_zipfile(path)
    try:
        names = _names_in(_pickle_in_zip(path) if is_zip else path.open("rb"), path)
        if acting := sorted(name for name in names if _acts(name)):
            raise _RefusedError(_refusal(torch, path, is_zip, names, acting))
        return _load(torch, path, is_zip, names)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        if "Can only" not in str(error):  # torch's message about an object that it cannot fill
            raise damaged(path, error) from error
        others = sorted(name for name in names if not name.startswith(("torch.", "collections.")))
        raise ValueError(_refusal(torch, path, is_zip, names, others)) from None
    except Exception as error:  # torch and pickle raise errors of any type for damaged bytes
        raise damaged(path, error) from error


class _RefusedError(Exception):
    """A file that is refused although it is not damaged."""


class DamagedError(ValueError):
    """A damaged or truncated file. Another copy may be intact."""


def damaged(path, error):
    """The error to raise for a file that cannot be read."""
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return ValueError(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull`.")
    return DamagedError(
        f"{path} is damaged, truncated, or not a checkpoint ({reason}). Expected a .pth or .safetensors "
        "file. Download or copy it again."
    )


def _pickle_in_zip(path):
    """The pickle in a zip, after checks of sizes and checksums, which torch omits."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise _RefusedError(
                f"{path} is a TorchScript program; expected a file of weights. Save the weights with "
                f"torch.save(torch.jit.load({path.name!r}, 'cpu').state_dict(), 'weights.pth')."
            )
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise _RefusedError(f"{path} is larger after unpacking; expected a file that torch.save wrote.")
        if bad := archive.testzip():
            raise _RefusedError(
                f"{path} is damaged: the checksum of {bad} is wrong. Download or copy it again."
            )
        (pickled,) = [m for m in members if m.filename == "data.pkl" or m.filename.endswith("/data.pkl")]
        return io.BytesIO(archive.read(pickled))


def _names_in(file, path):
    """All "module.name" in the pickles of a file: one pickle in a zip, four at the start of older files."""
    names = set()
    with file:
        for _ in range(4):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    module, _, name = argument.partition(" ")
                    names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
                elif operation.name == "STACK_GLOBAL":
                    raise _RefusedError(
                        f"{path} is a pickle that torch.save did not write. Save the tensors with torch.save "
                        "or as .safetensors."
                    )
            if file.read(1) != b"\x80":  # no further pickle starts here
                break
            file.seek(-1, io.SEEK_CUR)
    return names


def _load(torch, path, is_zip, names):
    if not is_zip and tarfile.is_tarfile(path):
        raise _RefusedError(f"{path} is a tar archive; expected a file of weights. Unpack it first.")
    stubs = [(_Named(_FILLED.get(name, _Object)), name) for name in names]
    with warnings.catch_warnings(), torch.serialization.safe_globals([*stubs, _Object]):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)


def _acts(name):
    """Whether a name is a function of the standard library, which no checkpoint needs."""
    module = name.split(".")[0]
    return module in sys.stdlib_module_names and module not in _DATA_MODULES and name not in _DATA


def _refusal(torch, path, is_zip, names, acting):
    """Error message for a file that refers to functions, with a statement that extracts its tensors."""
    load, content = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)", None
    with contextlib.suppress(Exception):
        content = _load(torch, path, is_zip, names)
    entry = ""
    if content is None:  # unknown, but usually a dict of dicts and objects
        load = f"{{key: value for key, value in {load}.items() if hasattr(value, 'keys')}}"
    elif isinstance(content, dict) and content:
        dicts = [key for key, value in content.items() if isinstance(value, dict) and value]
        chosen = next((key for key in ("state_dict", "model") if key in dicts), (dicts or [None])[0])
        entry = "" if chosen is None else f"[{chosen!r}]"
    else:
        load += ".state_dict()"
    return (
        f"{path} holds Python objects beside the tensors: {listed(acting, 4)}. Loading them could run "
        "arbitrary code, so the file is refused. If you trust it, save only the tensors: "
        f"torch.save({load}{entry}, 'weights.pth')."
    )
