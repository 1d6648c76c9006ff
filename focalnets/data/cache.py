"""A data set, resized once: uint8 arrays that are memory-mapped, so that an epoch decodes nothing."""

import math
import os
import pathlib
from typing import Annotated, Literal

import msgspec
import numpy as np
from PIL import Image, ImageOps

from focalnets.files import reason
from focalnets.images.decode import as_image, as_pixels
from focalnets.output.files import write_json
from focalnets.output.paths import output_path
from focalnets.output.replace import check_new_directory, new_directory
from focalnets.progress import progress
from focalnets.schema import read_json, read_record
from focalnets.threads import cores, parallel_map

_INDEX = "cache.json"
_LARGEST_INDEX = 2**28  # bytes: it lists the unreadable images
_CHUNK = 64


def square(side):
    """Function image -> uint8 (side, side, C): the shorter side resized (bicubic), the center kept."""

    def prepare(image):
        image = image if isinstance(image, Image.Image) else as_image(image)
        return as_pixels(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))

    return prepare


def write_cache(dataset, directory, source="", force=False, inputs=()):
    """Write the prepared images of a data set; memory stays bounded whatever its size.

    Args:
        dataset: an `ImageDataset`, best opened with `cache_images="stream"` and `prepare=square(side)`.
        directory: to make: cache.json, and <split>.images.npy and <split>.labels.npy for each split.
        source: what it was made from, for the record.
        force: bool. Replace the cache that is there, and keep all other files. Defaults to `False`.
        inputs: Paths that the data set is read from, which `force` never replaces. Defaults to `()`.

    Raises:
        FileExistsError: if `directory` exists, unless `force`.
        ValueError: if images turn out to be unreadable, listing all; with `force`, if there is
            no cache to replace.

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
                "left_out": dataset.bad,
            },
        )


def check_cache_directory(directory, force=False, inputs=()):
    """Raise what `write_cache` would raise for its directory. Nothing is changed."""
    directory = output_path(directory)
    if directory.is_dir() and not force:
        hint = ", or --force to replace it." if is_cache(directory) else "."
        raise FileExistsError(f"{directory} exists already; give another --out{hint}")
    check_new_directory(directory, "cache", force, inputs)


def _write_images(path, name, split):
    """Write an .npy file of images. Its space is reserved first, and nothing is mapped into memory: on a full
    disk, a mapped page would end the process by SIGBUS."""
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
                raise ValueError(f"The images of {name} differ in size: {shape[1:]} and {batch.shape[1:]}.")
            file.write(np.ascontiguousarray(batch, "uint8"))


def _reserve(file, size, name):
    """Reserve the space of the bytes to be written, where the system can."""
    if not hasattr(os, "posix_fallocate"):  # Linux
        return
    try:
        os.posix_fallocate(file.fileno(), file.tell(), size)
    except OSError as error:
        raise OSError(
            f"The images of {name} take {size:,} bytes, which cannot be written ({reason(error)}). Free some "
            "space, choose another --out, or a smaller --image-size."
        ) from error


def is_cache(directory):
    """Whether `write_cache` made that directory."""
    index = pathlib.Path(directory) / _INDEX
    if not index.is_file():
        return False
    content = read_json(index, _LARGEST_INDEX)
    return isinstance(content, dict) and {"focalnets_cache", "images", "class_names"} <= set(content)


class _Index(msgspec.Struct):
    focalnets_cache: Literal[1]
    images: dict[Literal["train", "val", "test"], Annotated[int, msgspec.Meta(ge=0)]]
    class_names: list[Annotated[str, msgspec.Meta(max_length=10_000)]]


def open_cache(directory):
    """({split: (memory-mapped uint8 images, labels)}, class names); ValueError if a file is damaged."""
    hint = "Write the cache anew with `focalnets cache`."
    index = read_record(directory / _INDEX, _Index, hint, _LARGEST_INDEX)
    parts = {}
    for name, count in index.images.items():
        try:  # mapped, both: a file that declares more than it holds is refused before it is read
            images, labels = (
                np.load(directory / f"{name}.{kind}.npy", mmap_mode="r") for kind in ("images", "labels")
            )
        except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TypeError) as error:
            raise ValueError(f"{directory / name}.*.npy is damaged: {error}. {hint}") from error
        if images.ndim != 4 or images.dtype != np.uint8 or not len(images) == len(labels) == count:
            raise ValueError(
                f"{directory} is damaged: {_INDEX} says {count} images for {name}, the files hold "
                f"{images.shape} {images.dtype} and labels {labels.shape}. {hint}"
            )
        parts[name] = (np.asarray(images), np.array(labels))
    return parts, index.class_names
