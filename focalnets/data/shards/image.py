"""`ShardImage`, and the names that labels and images have in shards."""

from dataclasses import dataclass

# Suffixes of label files in a tar file, and names of columns in a Parquet file.
LABELS = ("cls", "label")
KEYS = ("__key__", "key", "id", "path", "filename")
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes")


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
