"""Shards of a large set of images: tar files as of WebDataset, Parquet files, and folders, local or remote.

A shard is read in order and in one pass. Only a few images are in memory at a time.
"""

import collections
import contextlib
import pathlib
import tarfile
from dataclasses import dataclass

from focalnets.data.files import has_image_suffix
from focalnets.files import expanded, reason

_TARS = (".tar", ".tar.gz", ".tgz")
_LABELS = ("cls", "label")
_KEYS = ("__key__", "key", "id", "path", "filename")
_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes")
_MOST_BYTES = 2**28  # of one image file

# pip install fsspec brings the library; each kind of address needs one more package, which fsspec names.
_NO_FSSPEC = "Addresses such as s3://bucket/shard.tar need fsspec: pip install fsspec. Got: {}"
_NO_PYARROW = "Parquet files need pyarrow: pip install 'focalnets[bulk]'."


@dataclass(frozen=True)
class ShardImage:
    """One image of a shard.

    Attributes:
        key: str. Name of the image in its shard.
        data: bytes or None. The image file. None if it cannot be read.
        label: str or None. Label, as text, if the shard has labels.
        problem: str or None. Why the image cannot be read.
    """

    key: str
    data: bytes | None
    label: str | None = None
    problem: str | None = None


def read_manifest(path):
    """Read a list of shards.

    Args:
        path: str or `pathlib.Path`. Text file with one path or address per line. Empty lines and lines that
            start with # do not count. Relative paths start at the folder of the file.

    Returns:
        list of str, without duplicates.

    Raises:
        ValueError: if the file does not exist, lists nothing, or lists a shard twice.

    >>> import pathlib, tempfile
    >>> from focalnets.data.shards import read_manifest
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "shards.txt"
    >>> _ = path.write_text("# photos" + chr(10) + "s3://photos/00.tar")
    >>> read_manifest(path)
    ['s3://photos/00.tar']
    """
    path = expanded(path)
    if not path.is_file():
        raise ValueError(f"Manifest not found: {str(path)!r}. Give a text file with one shard per line.")
    shards = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            shards.append(text if "://" in text else str((path.parent / text).resolve()))
    if not shards:
        raise ValueError(f"{path} lists no shards. Expected one path or address per line.")
    if twice := [shard for shard, count in collections.Counter(shards).items() if count > 1]:
        raise ValueError(f"{path} lists a shard twice: {', '.join(twice[:3])}.")
    return shards


def read_shard(shard):
    """Yield the `ShardImage`s of a shard, in order.

    Args:
        shard: str. Path or fsspec address of a tar file, in which the files of an image share a name and
            differ by suffix (`0001.jpg`, `0001.cls`); of a Parquet file with a column of image files, as
            bytes or as of Hugging Face, and perhaps columns `key` and `label`; or of a folder of images.

    Raises:
        ValueError: if the shard does not exist, has another format, or is damaged. Images before the damage
            were yielded.
    """
    name = shard.lower()
    try:
        if name.endswith(_TARS):
            with _opened(shard) as file:
                yield from _images_of_tar(file)
        elif name.endswith(".parquet"):
            with _opened(shard) as file:
                yield from _images_of_parquet(file)
        elif "://" not in shard and pathlib.Path(shard).is_dir():
            yield from _images_of_folder(pathlib.Path(shard))
        else:
            known = "a .tar, .tar.gz, .parquet or folder of images"
            missing = "://" not in shard and not pathlib.Path(shard).exists()
            raise ValueError("the file does not exist." if missing else f"expected {known}.")
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise ValueError(f"Shard {shard}: {reason(error)}") from error


@contextlib.contextmanager
def _opened(shard):
    if "://" not in shard:
        with open(shard, "rb") as file:
            yield file
        return
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(_NO_FSSPEC.format(shard)) from error
    with fsspec.open(shard, "rb") as file:
        yield file


def _images_of_tar(file):
    """Groups of consecutive members that share their name up to the first dot."""
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        key, image, label, problem = None, None, None, None
        for member in archive:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            this = f"{folder}/{stem}" if folder else stem
            if this != key:
                if image is not None or problem is not None:
                    yield ShardImage(key, image, label, problem)
                key, image, label, problem = this, None, None, None
            if suffix.lower() in _LABELS:
                label = archive.extractfile(member).read(1000).decode("utf-8", "replace").strip()
            elif image is None and problem is None and has_image_suffix(name):
                if member.size > _MOST_BYTES:
                    problem = f"the file has {member.size} bytes; expected at most {_MOST_BYTES}"
                else:
                    image = archive.extractfile(member).read()
        if image is not None or problem is not None:
            yield ShardImage(key, image, label, problem)


def _images_of_parquet(file):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(_NO_PYARROW) from error
    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise ValueError(f"it is not a Parquet file, or damaged ({reason(error)})") from error
    names = table.schema_arrow.names
    columns = {
        kind: next((name for name in wanted if name in names), None)
        for kind, wanted in (("image", _IMAGES), ("key", _KEYS), ("label", _LABELS))
    }
    if columns["image"] is None:
        raise ValueError(
            f"no column of images among {', '.join(names)}; expected one of {', '.join(_IMAGES)}."
        )
    row = 0
    try:
        for batch in table.iter_batches(batch_size=64, columns=[name for name in columns.values() if name]):
            for values in batch.to_pylist():
                yield _image_of_row(values, columns, row)
                row += 1
    except pyarrow.ArrowException as error:
        raise ValueError(f"damaged after {row} rows ({reason(error)})") from error


def _image_of_row(values, columns, row):
    data, key = values[columns["image"]], values.get(columns["key"])
    if isinstance(data, dict):  # as of Hugging Face
        key = key or data.get("path")
        data = data.get("bytes")
    label = values.get(columns["label"])
    key = str(row) if key is None else str(key)
    problem = None if isinstance(data, bytes) else "the row has no image"
    return ShardImage(key, data if problem is None else None, None if label is None else str(label), problem)


def _images_of_folder(folder):
    for path in sorted(path for path in folder.rglob("*") if has_image_suffix(path.name)):
        key = path.relative_to(folder).as_posix()
        try:
            yield ShardImage(key, path.read_bytes())
        except OSError as error:
            yield ShardImage(key, None, None, reason(error))
