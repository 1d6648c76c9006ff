"""The source that a word of the user's means: a name, folder, archive, table, arrays, or another library."""

import functools
import os
import shlex
import zipfile

from focalnets.data import arrays, cache, files, libraries, tars, zips
from focalnets.data.names import NAMES, TABLE_SUFFIXES, TAR_SUFFIXES, kind_of_data_file
from focalnets.data.tables import list_table
from focalnets.files import expanded
from focalnets.names import did_you_mean, sibling_names

_EXPECTED = (
    f"give {', '.join(NAMES)}, a folder, zip or tar of train/<class>/<image> and test/<class>/<image> (or "
    "of <class>/<image>), a .csv of path,label, an .npz, a directory that `focalnets cache` wrote, "
    "hf://<name> or tfds:<name>."
)


def read_source(spec):
    """Read what a data set is listed in, but no images yet.

    Args:
        spec: str or path, as in `open_dataset`.

    Returns:
        A `files.Listing`, or an `arrays.ArraySource`.

    Raises:
        TypeError: if `spec` is not a str or path.
        ValueError: if there is no such source, or it cannot be read. The nearest names are suggested.
    """
    if not isinstance(spec, str | os.PathLike):
        shape = f" of shape {spec.shape}" if hasattr(spec, "shape") else ""
        raise TypeError(
            f"A data set is opened by its name or path, a str; got {type(spec).__name__}{shape}. Pass arrays "
            "to `fit`, `evaluate` and `predict` as they are, or save them with numpy.savez as x_train and "
            "y_train."
        )
    path, suffix = expanded(spec), os.fspath(spec).lower()
    if spec == "digits":
        return arrays.digits()
    if spec in NAMES:
        return arrays.keras_dataset(spec)
    if suffix.startswith("hf://"):
        return libraries.list_hugging_face(spec)
    if suffix.startswith("tfds:"):
        return libraries.list_tensorflow_datasets(spec)
    if cache.is_cache(path):
        return arrays.ArraySource(*cache.open_cache(path))
    if (path / "run.json").is_file():
        raise ValueError(f"{path} is a run of `focalnets train`, not a data set.")
    if path.is_dir():
        return files.list_folder(path)
    if not path.is_file():
        raise ValueError(f"{os.fspath(spec)!r} is not a data set: {_missing(spec, path)}")
    if suffix.endswith(".npz"):
        return arrays.npz(path)
    if suffix.endswith(TABLE_SUFFIXES):
        return list_table(path)
    if zipfile.is_zipfile(path) or suffix.endswith(".zip"):
        return zips.list_zip(path)
    if suffix.endswith(TAR_SUFFIXES) or tars.is_tar(path):
        return tars.list_tar(path)
    if files.is_image_file(path.name, functools.partial(files.head_of_file, path)):
        raise ValueError(
            f"{os.fspath(spec)!r} is a single image, not a data set. Expected a folder with a subfolder of "
            "images for each class. To classify the image: focalnets predict PRESET "
            f"{shlex.quote(os.fspath(spec))}."
        )
    raise ValueError(
        f"{os.fspath(spec)!r} is not a data set: files of this kind are not read. Unpack it if it is an "
        f"archive, or {_EXPECTED}"
    )


def _missing(spec, path):
    """What to say of a path that does not exist."""
    text = os.fspath(spec)
    if text.startswith(("http://", "https://")):
        return f"addresses are not downloaded. Download it first, or {_EXPECTED}"
    if path.exists() or path.is_symlink():
        return "it is a link that leads nowhere." if path.is_symlink() else "it is not a regular file."
    if not path.parent.is_dir():
        while not path.parent.is_dir():
            path = path.parent
        return f"there is no folder {os.fspath(path)!r}.{_meant(path)} Check the path, or {_EXPECTED}"
    return f"there is no such file or folder.{_meant(path)} Check the path, or {_EXPECTED}"


def _meant(path):
    """Names, folders and files that hold data sets, as far as they are near."""
    beside = [name for name in sibling_names(path) if kind_of_data_file(name) or os.path.isdir(name)]
    return did_you_mean(path, [*NAMES, *beside])
