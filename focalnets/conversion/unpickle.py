"""torch's pickled files -> dicts of tensors, without running anything that a file names.

torch reads them with `weights_only=True`, which calls nothing but its own functions that rebuild tensors.
What else a file names (settings, logs, a whole model) is stood in for by empty objects that only store their
contents: timm, mmengine, yacs and Lightning save such objects beside the weights. Nothing is imported for
them. A file that names functions of Python itself is refused: no training script stores `io.open`.
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

# What of Python's own library is data and not a function that acts.
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
# What a call makes that is filled afterwards: torch fills dicts and lists alone.
_FILLED = {"collections.defaultdict": collections.OrderedDict, "collections.deque": list}


class _Object:
    """Stands for what a file makes by a call: an array, a path, a date. It forgets what it is given."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass


class _Named:
    """Stands for a class or function that a file names."""

    def __init__(self, makes):
        self.makes = makes
        # torch asks for `cls.__new__(cls, ...)`: instances of any class become dicts of their attributes.
        self.__dict__["__new__"] = lambda *_: collections.OrderedDict()

    def __call__(self, *_, **__):
        return self.makes()


def read_pickle(path):
    """The content of a file of `torch.save`: dicts, lists, tensors and objects without any behavior.

    Args:
        path: `pathlib.Path`. The file, in torch's zip format or in the older one.

    Returns:
        Usually a dict. Objects are `OrderedDict`s with their attributes in `__dict__`.

    Raises:
        ValueError: if the file is damaged, holds a TorchScript program, or names functions of Python.
        ImportError: if torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is torch's format: pip install torch (the result runs on any backend), or get the "
            ".safetensors form of the checkpoint."
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
        if "Can only" not in str(error):  # torch's words for an object that it does not fill
            raise damaged(path, error) from error
        others = sorted(name for name in names if not name.startswith(("torch.", "collections.")))
        raise ValueError(_refusal(torch, path, is_zip, names, others)) from None
    except Exception as error:  # torch and pickle raise whatever a damaged byte leads to
        raise damaged(path, error) from error


class _RefusedError(Exception):
    """A file that is not damaged and not read."""


class DamagedError(ValueError):
    """A file that is cut short or damaged, so that another copy of it may be whole."""


def damaged(path, error):
    """The ValueError for a file that cannot be read."""
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return ValueError(f"{path} is a pointer of Git LFS, not the file itself. Run `git lfs pull`.")
    return DamagedError(
        f"{path} is damaged, cut short, or no checkpoint ({reason}). Download or copy it anew; "
        "a .pth or .safetensors file is expected."
    )


def _pickle_in_zip(path):
    """The pickle of a zip, after a look at all members: torch itself checks neither sums nor sizes."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise _RefusedError(
                f"{path} is a TorchScript program, expected a file of weights. Save its weights: "
                f"torch.save(torch.jit.load({path.name!r}, 'cpu').state_dict(), 'weights.pth')."
            )
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise _RefusedError(
                f"{path} unpacks to more than its size, expected a file that torch.save wrote."
            )
        if bad := archive.testzip():
            raise _RefusedError(f"{path} is damaged: checksum of {bad}. Download or copy it anew.")
        (pickled,) = [m for m in members if m.filename == "data.pkl" or m.filename.endswith("/data.pkl")]
        return io.BytesIO(archive.read(pickled))


def _names_in(file, path):
    """The "module.name" that a file's pickles look up: one in a zip, four at the start of an older file."""
    names = set()
    with file:
        for _ in range(4):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    module, _, name = argument.partition(" ")
                    names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
                elif operation.name == "STACK_GLOBAL":
                    raise _RefusedError(
                        f"{path} is a pickle that torch.save did not write. Save its tensors with torch.save "
                        "or as .safetensors."
                    )
            if file.read(1) != b"\x80":  # no further pickle begins here
                break
            file.seek(-1, io.SEEK_CUR)
    return names


def _load(torch, path, is_zip, names):
    if not is_zip and tarfile.is_tarfile(path):
        raise _RefusedError(f"{path} is a tar archive, expected a file of weights. Unpack it first.")
    stubs = [(_Named(_FILLED.get(name, _Object)), name) for name in names]
    with warnings.catch_warnings(), torch.serialization.safe_globals([*stubs, _Object]):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)


def _acts(name):
    """Whether it is a function of Python's own library, of which no checkpoint has need."""
    module = name.split(".")[0]
    return module in sys.stdlib_module_names and module not in _DATA_MODULES and name not in _DATA


def _refusal(torch, path, is_zip, names, acting):
    """The message for a file that names functions, with a repair that suits what it holds."""
    load, content = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)", None
    with contextlib.suppress(Exception):
        content = _load(torch, path, is_zip, names)
    entry = ""
    if content is None:  # nothing is known of it but that it is usually a dict of dicts and objects
        load = f"{{key: value for key, value in {load}.items() if hasattr(value, 'keys')}}"
    elif isinstance(content, dict) and content:
        dicts = [key for key, value in content.items() if isinstance(value, dict) and value]
        chosen = next((key for key in ("state_dict", "model") if key in dicts), (dicts or [None])[0])
        entry = "" if chosen is None else f"[{chosen!r}]"
    else:
        load += ".state_dict()"
    return (
        f"{path} holds Python objects beside its tensors: {listed(acting, 4)}. To load those could run "
        "anybody's code, so focalnets does not. If you trust the file, keep its tensors alone: "
        f"torch.save({load}{entry}, 'weights.pth')."
    )
