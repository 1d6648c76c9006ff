"""Images of Parquet files: a column of image files, as bytes or as of Hugging Face."""

import contextlib
import itertools
import json

import numpy as np

from focalnets.data.shards.image import IMAGES, KEYS, LABELS, ShardImage
from focalnets.data.shards.rows import ShardRows
from focalnets.files import reason

_NO_PYARROW = "Parquet files need pyarrow: pip install 'focalnets[bulk]'."


def images_of_parquet(file):
    """Yield the `ShardImage`s of a Parquet file in order. About 64 rows are in memory at a time."""
    table, columns = _open(file)
    row = 0
    with _damage_explained():
        for batch in table.iter_batches(batch_size=64, columns=[name for name in columns.values() if name]):
            for values in batch.to_pylist():
                yield _image_of_row(values, columns, row)
                row += 1


def rows_of_parquet(file):
    """`ShardRows` of a Parquet file. Only its footer and labels are read."""
    table, columns = _open(file)
    groups, sizes = [], []
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        leaves = [group.column(index) for index in range(group.num_columns)]
        own = [leaf for leaf in leaves if leaf.path_in_schema.split(".")[0] == columns["image"]]
        size = sum(leaf.total_uncompressed_size for leaf in own) // max(1, group.num_rows)
        groups += [number] * group.num_rows
        sizes += [size] * group.num_rows
    if columns["label"] is None:
        labels = [None] * len(groups)
    else:
        with _damage_explained():
            found = table.read(columns=[columns["label"]]).column(0).to_pylist()
        labels = [None if one is None else str(one) for one in found]
    return ShardRows.of(groups, sizes, labels, _class_names(table.schema_arrow, columns["label"]))


def images_of_group(file, number):
    """Image files of a row group, as a list of memoryviews, or None for rows without an image."""
    import pyarrow

    table, columns = _open(file)
    with _damage_explained():  # other threads compute meanwhile
        group = table.read_row_group(number, [columns["image"]], use_threads=False)
    images = []
    for array in group.column(0).chunks:
        missing = array.is_null().to_numpy(zero_copy_only=False)
        if pyarrow.types.is_struct(array.type):
            array = array.field("bytes")
            missing = missing | array.is_null().to_numpy(zero_copy_only=False)
        array = array.cast(pyarrow.large_binary())
        _, ends, data = array.buffers()
        ends = np.frombuffer(ends, "int64")[array.offset : array.offset + len(array) + 1].tolist()
        view = memoryview(bytes(data or b""))  # a copy, because the buffer of Arrow is up to twice as large
        images += [
            None if gone else view[start:end]
            for gone, (start, end) in zip(missing, itertools.pairwise(ends), strict=True)
        ]
    return images


def _open(file):
    """Tuple (`pyarrow.parquet.ParquetFile`, dict of the columns of images, keys and labels)."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(_NO_PYARROW) from error
    with _damage_explained("it is not a Parquet file, or damaged"):
        table = parquet.ParquetFile(file)
    names = table.schema_arrow.names
    columns = {
        kind: next((name for name in wanted if name in names), None)
        for kind, wanted in (("image", IMAGES), ("key", KEYS), ("label", LABELS))
    }
    if columns["image"] is None:
        raise ValueError(
            f"no column of images among {', '.join(names)}; expected one of {', '.join(IMAGES)}."
        )
    return table, columns


@contextlib.contextmanager
def _damage_explained(what="the file is damaged"):
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"{what} ({reason(error)})") from error


def _image_of_row(values, columns, row):
    value, key = values[columns["image"]], values.get(columns["key"])
    if isinstance(value, dict):
        key = key or value.get("path")
    data = _data(value)
    label = values.get(columns["label"])
    key = str(row) if key is None else str(key)
    problem = None if data is not None else "the row has no image"
    return ShardImage(key, data, None if label is None else str(label), problem)


def _data(value):
    """Bytes of a cell, which is bytes or, as of Hugging Face, a dict. None if it has none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _class_names(schema, column):
    """Names of the labels 0, 1, ... that Hugging Face's `datasets` writes, or an empty tuple."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()
