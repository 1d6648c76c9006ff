"""`list_shards`: the labeled images of shards, for training and evaluation."""

import pathlib
import tarfile
from dataclasses import dataclass

import numpy as np

from focalnets.data.left_out import NO_LABEL, LeftOut, LeftOutCounter
from focalnets.data.naming import SPLITS, class_name, distinct_class_names
from focalnets.data.shards.manifest import SUFFIXES, splits_of_shards
from focalnets.data.shards.parquet import rows_of_parquet
from focalnets.data.shards.rows import ShardRows, stored_rows
from focalnets.data.shards.stores import opened
from focalnets.data.shards.tars import rows_of_tar
from focalnets.files import reason
from focalnets.progress import progress
from focalnets.threads import parallel_map

# Files beside shards with one class name per line, in the order of the labels 0, 1, ... The second name is
# that of the WebDataset benchmarks of OpenCLIP.
CLASS_NAMES = ("class_names.txt", "classnames.txt")

_READS = 8  # shards at a time, which hides the latency of stores


@dataclass(frozen=True)
class ShardListing:
    """Labeled images of shards.

    Attributes:
        shards: list of str. Paths and addresses.
        rows: list of `ShardRows`, one per shard.
        splits: int8 array (N,). Index of the split of each image in `naming.SPLITS`, or -1 if the shards have
            no splits.
        labels: int32 array (N,). Index into `names`, or -1 for images without a label.
        names: tuple of str. Names of the labels.
        class_names: tuple of str, or None to sort the classes by name.
        left_out: tuple of `LeftOut`.
    """

    shards: list[str]
    rows: list[ShardRows]
    splits: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    class_names: tuple[str, ...] | None
    left_out: tuple[LeftOut, ...]


def list_shards(source, shards, folder):
    """`ShardListing` of shards. Headers and labels are read once and stored in the cache.

    Args:
        source: str. Name of the data in errors.
        shards: list of str. Paths and addresses.
        folder: path. Folder that may have a file of class names.

    Raises:
        ValueError: if a shard cannot be read, only some shards have a split, or no image has a label.
    """
    splits = splits_of_shards(shards)
    if any(splits) and not all(splits):
        without = shards[splits.index(None)]
        raise ValueError(
            f"{source} has shards with a split in their names and shards without, such as {without}. Name "
            "all of them like train-0000.tar or val/0000.tar, or none."
        )
    read = progress(parallel_map(_rows, shards, _READS), "reading labels", len(shards))
    rows = list(read)
    names = _class_names(source, pathlib.Path(folder), rows)
    texts = sorted({text for one in rows for text in one.labels.tolist()})
    chosen = {text: _name(source, text, names) for text in texts}
    are_numbers = all(map(str.isdecimal, chosen.values()))
    known = tuple(sorted(set(chosen.values()), key=int if are_numbers else None))
    codes, left_out = {name: code for code, name in enumerate(known)}, LeftOutCounter()
    labels = []
    for shard, one in zip(shards, rows, strict=True):
        own = np.array([codes[chosen[text]] for text in one.labels.tolist()] + [-1], "int32")
        labels.append(own[one.codes])
        for row in np.flatnonzero(one.codes < 0):
            left_out.add(NO_LABEL, f"{shard}, image {row}")
    labels = np.concatenate(labels)
    if len(labels) and labels.max() < 0:
        raise ValueError(
            f"None of the images of {source} has a label. Expected a file such as 0001.cls beside 0001.jpg "
            "or a folder for each class in a tar file, or a column label in a Parquet file."
        )
    index = [-1 if split is None else SPLITS.index(split) for split in splits]
    return ShardListing(
        shards,
        rows,
        np.repeat(np.array(index, "int8"), list(map(len, rows))),
        labels,
        known,
        names or (known if are_numbers else None),
        left_out.result(),
    )


def _rows(shard):
    name = shard.lower()
    if not name.endswith(SUFFIXES):
        raise ValueError(f"Shard {shard}: expected a .tar or .parquet file.")
    function = rows_of_parquet if name.endswith(".parquet") else rows_of_tar

    def read():
        with opened(shard) as file:
            return function(file)

    try:
        return stored_rows(shard, read)
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise ValueError(f"Shard {shard}: {reason(error)}") from error


def _class_names(source, folder, rows):
    """Class names from a file, or from the shards, or None."""
    for path in (folder / name for name in CLASS_NAMES):
        if path.is_file():
            return distinct_class_names(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
    found = {tuple(one.class_names.tolist()) for one in rows} - {()}
    if len(found) > 1:
        raise ValueError(f"The shards of {source} have different class names. Give all shards the same.")
    return distinct_class_names(found.pop()) if found else None


def _name(source, text, names):
    """Class name of a label, which is a name or an index."""
    name = class_name(text)
    if names is None or name in names:
        return name
    if text.isdecimal() and int(text) < len(names):
        return names[int(text)]
    raise ValueError(f"{source} has the label {text!r}, which is not one of the {len(names)} class names.")
