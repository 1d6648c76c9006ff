"""Images of tar files as of WebDataset: the files of an image share a name and differ by suffix."""

import tarfile

import numpy as np

from focalnets.data.files import has_image_suffix
from focalnets.data.shards.image import LABELS, ShardImage
from focalnets.data.shards.rows import ShardRows
from focalnets.files import reason

_MOST_BYTES = 2**28  # of one image file
_MOST_LABEL_BYTES = 1000


def images_of_tar(file):
    """Yield the `ShardImage`s of a tar file in one pass, which may be compressed and needs no seeking."""
    with tarfile.open(fileobj=file, mode="r|*") as archive:

        def read(member):
            if member.size > _MOST_BYTES:
                return None, f"the file has {member.size} bytes; expected at most {_MOST_BYTES}"
            return archive.extractfile(member).read(), None

        for key, (data, problem), label in _samples(archive, read):
            yield ShardImage(key, data, label, problem)


def rows_of_tar(file):
    """`ShardRows` of an uncompressed tar file. Only its headers and labels are read.

    Without files of labels, the name of the folder in the tar file is the label.
    """
    starts, sizes, labels, folders = [], [], [], []
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closing it would close nothing)
    except tarfile.ReadError as error:
        raise ValueError(
            "it is not a tar file, or compressed. Images are read from the middle of a shard: unpack it to a "
            ".tar, which is hardly larger."
        ) from error
    for key, (start, size), label in _samples(archive, lambda member: (member.offset_data, member.size)):
        starts.append(start)
        sizes.append(size)
        labels.append(label)
        folders.append(key.rpartition("/")[0].rpartition("/")[2] or None)
    end = max(np.add(starts, sizes), default=0)
    file.seek(0, 2)
    if file.tell() < end:
        raise ValueError(f"it ends after {file.tell():,} bytes; expected at least {end:,}. Copy it again.")
    if not any(label is not None for label in labels):
        labels = folders
    return ShardRows.of(starts, sizes, labels)


def images_in(data, starts, sizes):
    """Image files in a range of bytes of a tar file, as a list of memoryviews.

    Args:
        data: bytes. The range, which starts with the first image.
        starts, sizes: int arrays (N,). Places in the tar file.
    """
    view = memoryview(data)
    return [view[start : start + size] for start, size in zip(starts - starts[0], sizes, strict=True)]


def _samples(archive, image_of):
    """Yield (name without suffix, `image_of(member)` of the first image, label or None).

    Consecutive members whose names are equal up to the first dot belong together. Those without an image do
    not count.
    """
    key, image, label = None, None, None
    try:
        for member in archive:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            this = f"{folder}/{stem}" if folder else stem
            if this != key:
                if image is not None:
                    yield key, image, label
                key, image, label = this, None, None
            if suffix.lower() in LABELS:
                text = archive.extractfile(member).read(_MOST_LABEL_BYTES)
                label = text.decode("utf-8", "replace").strip()
            elif image is None and has_image_suffix(name):
                image = image_of(member)
            archive.members.clear()  # tarfile collects all members, which no one needs here
    except tarfile.TarError as error:
        raise ValueError(f"the tar file is damaged ({reason(error)})") from error
    if image is not None:
        yield key, image, label
