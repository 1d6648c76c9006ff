"""Names of output directories: which are refused, and how they are made."""

import mimetypes
import os
import pathlib

from focalnets.files import expanded, reason
from focalnets.names import listed
from focalnets.output.known import is_known

# Types of files that Python's table does not have: weights and exports, arrays and tables, texts, archives.
_FILE_TYPES = frozenset(
    f".{suffix}"
    for suffix in (
        *("ckpt", "engine", "ggml", "gguf", "hdf5", "joblib", "keras", "mar", "mlmodel", "mlpackage", "mnn"),
        *("msgpack", "nnef", "om", "onnx", "ort", "param", "params", "pb", "pbtxt", "pdmodel", "pdparams"),
        *("pickle", "pkl", "plan", "prototxt", "pt", "pt2", "ptc", "pte", "pth", "ptl", "safetensors"),
        *("tflite", "torchscript", "trt", "uff", "weights", "arrow", "feather", "mat", "npy", "npz"),
        *("parquet", "tfrecord", "tfrecords", "docx", "ipynb", "log", "md", "pptx", "rst", "toml", "xlsx"),
        *("yaml", "yml", "7z", "lz4", "rar", "tbz2", "tgz", "txz", "zst"),
    )
)
_PYTHONS = mimetypes.MimeTypes()  # without the tables of this machine


def output_path(text):
    """The path of an output directory that a user names, ~ expanded.

    Raises:
        ValueError: if no directory can have that name, or the name is that of a file.
    """
    path = expanded(text)
    if suffix := file_suffix(path):
        raise ValueError(
            f"{str(text)!r} is the name of a {suffix} file. Expected the name of a directory, without "
            "that suffix."
        )
    return path


def file_suffix(path):
    """The suffix by which a name is that of a file, both of `.pth.tar`. Empty for the name of a directory.

    >>> import pathlib
    >>> from focalnets.output.paths import file_suffix
    >>> [file_suffix(pathlib.Path(name)) for name in ("net.pth.tar", "focalnet_v1.2.onnx", "focalnet_v1.2")]
    ['.pth.tar', '.onnx', '']
    """
    found = ""
    for suffix in reversed(path.suffixes[-2:]):
        if not _is_file_type(suffix.lower()):
            break
        found = suffix + found
    return found


def _is_file_type(suffix):
    if len(suffix) == 2:  # of C and its relatives; here a version, as in `first.a`
        return False
    return suffix in _FILE_TYPES or _PYTHONS.guess_type(f"x{suffix}") != (None, None)


def make_directory(directory):
    """Make a directory and those above it; returns its path."""
    directory = pathlib.Path(directory)
    refuse_file(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{directory} cannot be made ({reason(error)}); choose another name.") from error
    return directory


def refuse_file(directory):
    """FileExistsError if there is a file in the place of a directory."""
    if os.path.lexists(directory) and not directory.is_dir():
        what = "a file" if directory.is_file() else "not a directory"
        raise FileExistsError(f"{directory} exists and is {what}; choose another name.")


def refuse_names(directory, kind, ours, names=None):
    """Refuse to write where files of others have the names of files to be written.

    Args:
        directory: Path.
        kind: str. Kind of output, a key of `known.NAMES`.
        ours: Names of the files that may be replaced.
        names: Names of the files to be written. All that the kind of output may have by default.
    """
    if names is None:
        names = [name for name in _shallow_files(directory) if is_known(kind, name)]
    clash = sorted(name for name in set(names) - set(ours) if os.path.lexists(directory / name))
    if clash:
        raise FileExistsError(
            f"{directory} holds files that have the names of output files, and that focalnets did not write, "
            f"wrote for another command, or that were changed since: {listed(clash)}. Move them away, or "
            "choose another directory."
        )


def _shallow_files(directory):
    """Names of what a directory and its subdirectories hold. Links to directories are not followed."""
    return [
        path.relative_to(directory).as_posix()
        for pattern in ("*", "*/*")
        for path in directory.glob(pattern)
        if path.is_symlink() or not path.is_dir()
    ]
