"""Sources of data sets: names, folders, archives, tables, arrays and other libraries."""

import functools
import os
import shlex
import zipfile

from focalnets.data import arrays, cache, files, libraries, tars, zips
from focalnets.data.names import NAMES, TABLE_SUFFIXES, TAR_SUFFIXES, kind_of_data_file
from focalnets.data.shards.listing import list_shards
from focalnets.data.shards.manifest import read_manifest, shards_in
from focalnets.data.tables import list_table
from focalnets.files import expanded
from focalnets.names import did_you_mean, sibling_names

_EXPECTED = (
    f"give {', '.join(NAMES)}, a folder, zip or tar of train/<class>/<image> and test/<class>/<image> (or "
    "of <class>/<image>), a .csv of path,label, an .npz, a directory that `focalnets cache` wrote, a folder "
    "of shards (train-0000.tar, train-0000.parquet), a .txt that lists shards, "
    "hf://<name> or tfds:<name>."
)


def read_source(spec):
    """Read the list of images or the arrays of a data set. Image files are not decoded.

    Args:
        spec: str or path. See `open_dataset`.

    Returns:
        A `files.Listing`, a `shards.listing.ShardListing` or an `arrays.ArraySource`.

    Raises:
        TypeError: if `spec` is not a str or path.
        ValueError: if the source does not exist (similar names are suggested) or cannot be read.
    """
    if not isinstance(spec, str | os.PathLike):
        shape = f" of shape {spec.shape}" if hasattr(spec, "shape") else ""
        raise TypeError(
            f"Got {type(spec).__name__}{shape}; expected the name or path of a data set, a str. Pass arrays "
            "to `fit`, `evaluate` and `predict` directly, or save them with numpy.savez as x_train and "
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
        raise ValueError(f"{path} is a run directory of `focalnets train`, not a data set.")
    if path.is_dir():
        if not files.holds_images(path) and (shards := shards_in(path)):
            return list_shards(os.fspath(spec), shards, path)
        return files.list_folder(path)
    if not path.is_file():
        raise ValueError(f"{os.fspath(spec)!r} is not a data set: {_missing(spec, path)}")
    if suffix.endswith(".npz"):
        return arrays.npz(path)
    if suffix.endswith(TABLE_SUFFIXES):
        return list_table(path)
    if suffix.endswith(".txt"):
        return list_shards(os.fspath(spec), read_manifest(path), path.parent)
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
        f"{os.fspath(spec)!r} is not a data set: files of this type are not supported. Unpack it if it is an "
        f"archive, or {_EXPECTED}"
    )


def _missing(spec, path):
    """Explain why a path cannot be read."""
    text = os.fspath(spec)
    if text.startswith(("http://", "https://")):
        return f"URLs are not supported. Download the file first, or {_EXPECTED}"
    if path.exists() or path.is_symlink():
        return "it is a broken link." if path.is_symlink() else "it is not a regular file."
    problem = "file or folder not found"
    while not path.parent.is_dir():
        path = path.parent
        problem = f"the folder {os.fspath(path)!r} does not exist"
    return f"{problem}.{_suggestion(path)} Check the path, or {_EXPECTED}"


def _suggestion(path):
    """Question with similar names of data sets, and of folders and files beside the path."""
    beside = [name for name in sibling_names(path) if kind_of_data_file(name) or os.path.isdir(name)]
    return did_you_mean(path, [*NAMES, *beside])
