"""Directories of resized images, stored as memory-mapped uint8 arrays. Training on them decodes nothing."""

import math
import os
import pathlib
from typing import Annotated, Literal

import msgspec
import numpy as np
from PIL import Image, ImageOps

from focalnets.files import reason
from focalnets.images.decode import as_image, as_pixels
from focalnets.output.directories import check_output_directory
from focalnets.output.files import write_json
from focalnets.output.paths import output_path
from focalnets.output.replace import new_directory
from focalnets.progress import progress
from focalnets.schema import read_json, read_record
from focalnets.threads import cores, parallel_map

_INDEX = "cache.json"
_MAX_INDEX = 2**28  # bytes of cache.json, which lists unreadable images
_CHUNK = 64


def square(side):
    """Return a function that resizes the shorter side of an image to `side` and crops the center."""

    def prepare(image):
        image = image if isinstance(image, Image.Image) else as_image(image)
        return as_pixels(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))

    return prepare


def write_cache(dataset, directory, source="", force=False, inputs=()):
    """Write the prepared images of a data set to a directory. Memory use does not depend on its size.

    Args:
        dataset: `ImageDataset`, opened with `prepare=square(side)`, and `cache_images="stream"` if it is
            large.
        directory: str or path. Directory to create. It will hold cache.json, and <split>.images.npy and
            <split>.labels.npy for each split.
        source: str or path. Original data set, recorded in cache.json. Defaults to "".
        force: bool. Replace an existing cache, and keep all other files. Defaults to `False`.
        inputs: Paths from which the data set is read. `force` never replaces them. Defaults to `()`.

    Raises:
        FileExistsError: if `directory` exists, unless `force`.
        ValueError: if images are unreadable (all are listed), or `force` is set and `directory` is not a
            cache.

    >>> import tempfile
    >>> from focalnets.data.cache import square, write_cache
    >>> from focalnets import open_dataset
    >>> folder = tempfile.mkdtemp() + "/digits"
    >>> write_cache(open_dataset("digits", channels=1, prepare=square(16)), folder)
    >>> open_dataset(folder, channels=1).splits["test"].images.shape
    (359, 16, 16, 1)
    """
    check_cache_directory(directory, force, inputs)
    splits = {name: split for name, split in dataset.splits.items() if len(split)}
    with new_directory(directory, "cache", force, inputs) as partial:
        for name, split in splits.items():
            _write_images(partial / f"{name}.images.npy", name, split)
            np.save(partial / f"{name}.labels.npy", split.labels)
        write_json(
            partial / _INDEX,
            {
                "focalnets_cache": 1,
                "source": str(source),
                "class_names": dataset.class_names,
                "images": {name: len(split) for name, split in splits.items()},
                "left_out": dataset.unreadable,
            },
        )


def check_cache_directory(directory, force=False, inputs=()):
    """Raise the errors of `write_cache` about its directory, without changing anything."""
    directory = output_path(directory)
    if directory.is_dir() and not force:
        hint = ", or replace the cache with --force." if is_cache(directory) else "."
        raise FileExistsError(f"{directory} exists already. Choose another --out{hint}")
    check_output_directory(directory, "cache", force, inputs)


def _write_images(path, name, split):
    """Write an .npy file of images after reserving its space.

    The file is not memory-mapped, because SIGBUS would kill the process if the disk were full.
    """
    starts = range(0, len(split), _CHUNK)
    rows = [np.arange(start, min(start + _CHUNK, len(split))) for start in starts]
    batches = parallel_map(split.batch, rows, cores())
    with open(path, "xb") as file:
        for number, batch in enumerate(progress(batches, f"writing {name}", len(rows))):
            if number == 0:
                shape = (len(split), *batch.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                _reserve(file, math.prod(shape), name)
            if batch.shape[1:] != shape[1:]:
                raise ValueError(f"Images of {name} differ in size: {shape[1:]} and {batch.shape[1:]}.")
            file.write(np.ascontiguousarray(batch, "uint8"))


def _reserve(file, size, name):
    """Reserve space for `size` bytes on systems that support it."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), file.tell(), size)
    except OSError as error:
        raise OSError(
            f"Cannot reserve {size:,} bytes for the images of {name} ({reason(error)}). Free some space, or "
            "choose another --out or a smaller --image-size."
        ) from error


def is_cache(directory):
    """Check if a directory was written by `write_cache`."""
    index = pathlib.Path(directory) / _INDEX
    if not index.is_file():
        return False
    content = read_json(index, _MAX_INDEX)
    return isinstance(content, dict) and {"focalnets_cache", "images", "class_names"} <= set(content)


class _Index(msgspec.Struct):
    focalnets_cache: Literal[1]
    images: dict[Literal["train", "val", "test"], Annotated[int, msgspec.Meta(ge=0)]]
    class_names: list[Annotated[str, msgspec.Meta(max_length=10_000)]]


def open_cache(directory):
    """Tuple ({split: (memory-mapped uint8 images, labels)}, class names). ValueError if a file is damaged."""
    hint = "Write the cache again with `focalnets cache`."
    index = read_record(directory / _INDEX, _Index, hint, _MAX_INDEX)
    parts = {}
    for name, count in index.images.items():
        try:  # memory mapping refuses a file that declares more than it holds, without allocating memory
            images, labels = (
                np.load(directory / f"{name}.{kind}.npy", mmap_mode="r") for kind in ("images", "labels")
            )
        except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TypeError) as error:
            raise ValueError(f"{directory / name}.*.npy is damaged: {error}. {hint}") from error
        if images.ndim != 4 or images.dtype != np.uint8 or not len(images) == len(labels) == count:
            raise ValueError(
                f"{directory} is damaged: {_INDEX} declares {count} images of {name}, but the files hold "
                f"{images.shape} {images.dtype} and labels {labels.shape}. {hint}"
            )
        parts[name] = (np.asarray(images), np.array(labels))
    return parts, index.class_names
