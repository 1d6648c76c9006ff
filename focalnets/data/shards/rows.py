"""`ShardRows`: places and labels of the images of a shard, read once and stored in the cache."""

import contextlib
import hashlib
from dataclasses import dataclass

import numpy as np

from focalnets.data.shards.stores import state
from focalnets.hub import private_directory
from focalnets.npz import read_npz
from focalnets.output.files import writing

_VERSION = 1  # of the stored arrays


@dataclass(frozen=True)
class ShardRows:
    """Places and labels of the images of a shard, in order.

    Attributes:
        starts: int64 array (N,). First byte of each image in a tar file, or its row group in a Parquet file.
        sizes: int64 array (N,). Bytes of each image. In a Parquet file, their mean in the row group.
        codes: int32 array (N,). Indices into `labels`, or -1 for images without a label.
        labels: str array (L,). Different labels, sorted.
        class_names: str array (C,). Names of the labels 0, 1, ..., if the file has them. Otherwise, it is
            empty.
    """

    starts: np.ndarray
    sizes: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    class_names: np.ndarray

    def __len__(self):
        return len(self.starts)

    @classmethod
    def of(cls, starts, sizes, labels, class_names=()):
        """Build it from lists. Labels are str or None.

        >>> from focalnets.data.shards.rows import ShardRows
        >>> ShardRows.of([512, 2048], [900, 900], ["cat", None]).codes.tolist()
        [0, -1]
        """
        known = sorted({label for label in labels if label is not None})
        codes = {label: code for code, label in enumerate(known)} | {None: -1}
        return cls(
            np.array(starts, "int64"),
            np.array(sizes, "int64"),
            np.array([codes[label] for label in labels], "int32"),
            np.array(known, "U"),
            np.array(class_names, "U"),
        )


def stored_rows(shard, read):
    """`ShardRows` of a shard, from the cache if it has not changed.

    Args:
        shard: str. Path or address.
        read: Function without arguments that reads the shard.
    """
    name = hashlib.sha256(f"{_VERSION}\n{shard}\n{state(shard)}".encode()).hexdigest()[:32]
    try:
        path = private_directory("shards") / f"{name}.npz"
    except OSError:  # a cache that cannot be written
        return read()
    if path.is_file():
        with contextlib.suppress(ValueError, TypeError):  # damaged: it is written again
            return ShardRows(**read_npz(path))
    rows = read()
    with contextlib.suppress(OSError), writing(path, own=False) as partial, partial.open("wb") as file:
        np.savez(file, **vars(rows))
    return rows
