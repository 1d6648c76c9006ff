"""Parquet files with one row per image of a shard.

A file is complete or absent. Its metadata state where its rows come from, and counts of them, so that a
summary of many files reads no rows.
"""

import contextlib
import itertools
import json

from focalnets.files import reason
from focalnets.output.files import writing

_ORIGIN, _COUNTS = b"focalnets", b"focalnets_counts"
_ROWS = 4096  # of a row group

COUNTS = ("images", "unreadable", "labeled", "right")


def shard_file(out, index):
    """Path of the results of a shard, by its place in the manifest."""
    return out / f"shard-{index:06}.parquet"


def write_rows(path, columns, rows, origin):
    """Write the results of a shard.

    Args:
        path: Path of the file.
        columns: list of (name, type of pyarrow).
        rows: iterable of (dict, class or None): the values of an image, and its predicted class. Rows have a
            `label` and a `problem`.
        origin: dict of JSON values, see `check_origin`.
    """
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(columns, metadata={_ORIGIN: json.dumps(origin).encode()})
    counts = dict.fromkeys(COUNTS, 0)
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(writing(path, own=False))
        writer = stack.enter_context(contextlib.closing(parquet.ParquetWriter(partial, schema)))
        rows = iter(rows)
        while group := list(itertools.islice(rows, _ROWS)):
            for row, decided in group:
                labeled = decided is not None and row["label"] is not None
                counts["images"] += 1
                counts["unreadable"] += row["problem"] is not None
                counts["labeled"] += labeled
                counts["right"] += labeled and decided == row["label"]
            writer.write_table(pyarrow.Table.from_pylist([row for row, _ in group], schema))
        writer.add_key_value_metadata({_COUNTS: json.dumps(counts)})


def _metadata(path, key):
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.read_metadata(path).metadata or {}
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is damaged: {reason(error)}. Remove it.") from error
    if key not in found:
        raise ValueError(
            f"{path} is not a complete result of focalnets. Remove it, or choose another folder."
        )
    return json.loads(found[key])


def check_origin(path, expected):
    """Raise ValueError unless the origin of a file has these values.

    Args:
        path: Path of a file of `write_rows`.
        expected: dict. `shard` (address), `job`, and the settings that its rows depend on.
    """
    found = _metadata(path, _ORIGIN)
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path} has results for {name} {found.get(name)!r}; expected {value!r}. Choose another "
                "folder, or remove them."
            )


def counts_of(files):
    """Sums of the counts of files of `write_rows`, as a dict with the keys `COUNTS`."""
    total = dict.fromkeys(COUNTS, 0)
    for path in files:
        for name, value in _metadata(path, _COUNTS).items():
            total[name] += value
    return total


def check_complete(shards, out, settings):
    """Files of all shards of a manifest, in order.

    Raises:
        ValueError: if a file is missing, or belongs to another manifest, network or job.
    """
    files = [shard_file(out, index) for index in range(len(shards))]
    if missing := [path.name for path in files if not path.exists()]:
        listed = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
        raise ValueError(
            f"{len(missing)} of {len(files)} shards are not done: {listed}. Run the command for them first."
        )
    for path, shard in zip(files, shards, strict=True):
        check_origin(path, {"shard": shard, **settings})
    return files


def origin_settings(path):
    """Origin of a file without its shard: the job and its settings."""
    return {name: value for name, value in _metadata(path, _ORIGIN).items() if name != "shard"}


def merge_files(files, path):
    """Write the rows of files to a new file. Only one file is in memory at a time."""
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(writing(path, own=False, replace=False))
        schema = parquet.read_schema(files[0]).remove_metadata()
        writer = stack.enter_context(contextlib.closing(parquet.ParquetWriter(partial, schema)))
        for file in files:
            writer.write_table(parquet.read_table(file).replace_schema_metadata())


def batches_of(files, columns):
    """Yield tables with some columns of the rows of files, a few thousand rows at a time."""
    from pyarrow import parquet

    for path in files:
        yield from parquet.ParquetFile(path).iter_batches(batch_size=2**16, columns=columns)
