"""Files of shards: local paths, and addresses of fsspec such as s3://bucket/shard.tar."""

import contextlib
import json
import os

# pip install fsspec brings the library; each kind of address needs one more package, which fsspec names.
_NO_FSSPEC = "Addresses such as s3://bucket/shard.tar need fsspec: pip install fsspec. Got: {}"


def is_address(shard):
    """Check if a shard is an address instead of a local path."""
    return "://" in shard


@contextlib.contextmanager
def opened(shard):
    """Binary file of a shard, which can seek."""
    if is_address(shard):
        with _fsspec(shard).open(shard, "rb") as file:
            yield file
    else:
        with open(shard, "rb") as file:
            yield file


def read_range(shard, start, size):
    """Bytes `start` to `start + size` of a shard. OSError if it ends before."""
    if is_address(shard):
        system, path = _fsspec(shard).core.url_to_fs(shard)
        data = system.cat_file(path, start=start, end=start + size)
    else:
        with open(shard, "rb", buffering=0) as file:
            file.seek(start)
            data = file.read(size)
            while len(data) < size and (more := file.read(size - len(data))):
                data += more
    if len(data) < size:
        raise OSError(f"the file ends after {start + len(data):,} bytes; expected {start + size:,}")
    return data


def state(shard):
    """Text that changes when a shard is written again."""
    if is_address(shard):
        system, path = _fsspec(shard).core.url_to_fs(shard)
        return json.dumps(system.info(path), default=str, sort_keys=True)
    found = os.stat(shard)
    return f"{found.st_size} {found.st_mtime_ns}"


def _fsspec(shard):
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(_NO_FSSPEC.format(shard)) from error
    return fsspec
