"""Names of output directories: which are refused, and how they are made."""

import os
import pathlib

from focalnets._io import expanded, listed, reason
from focalnets.output.known import is_known, is_partial, shallow_files

# A directory of such a name is a file that was meant.
_FILE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("bin", "ckpt", "engine", "h5", "hdf5", "keras", "mlmodel", "onnx", "pb", "pickle", "pkl", "pt"),
        *("pth", "safetensors", "tflite", "npy", "npz", "zip", "tar", "tgz", "csv", "json", "txt", "html"),
        *("pdf", "xml", "bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"),
    )
)


def output_path(text):
    """The path of an output directory that a user names, ~ expanded.

    Raises:
        ValueError: if no directory can have that name, or the name is that of a file.
    """
    path = expanded(text)
    if path.suffix.lower() in _FILE_SUFFIXES:
        raise ValueError(
            f"{str(text)!r} is the name of a {path.suffix} file. Expected the name of a directory, without "
            "that suffix."
        )
    return path


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
        known = [name for name in shallow_files(directory) if is_known(kind, name)]
        names = [name for name in known if not is_partial(name)]
    clash = sorted(name for name in set(names) - set(ours) if os.path.lexists(directory / name))
    if clash:
        raise FileExistsError(
            f"{directory} holds files that have the names of output files, and that focalnets did not write, "
            f"wrote for another command, or that were changed since: {listed(clash)}. Move them away, or "
            "choose another directory."
        )
