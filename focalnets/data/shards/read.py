"""`read_shard`, which reads a shard of any kind once and in order, for predictions."""

import pathlib
import tarfile

from focalnets.data.files import has_image_suffix
from focalnets.data.shards.image import ShardImage
from focalnets.data.shards.manifest import TARS
from focalnets.data.shards.parquet import images_of_parquet
from focalnets.data.shards.stores import is_address, opened
from focalnets.data.shards.tars import images_of_tar
from focalnets.files import reason


def read_shard(shard):
    """Yield the `ShardImage`s of a shard, in order. Only a few images are in memory at a time.

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
        if name.endswith(TARS):
            with opened(shard) as file:
                yield from images_of_tar(file)
        elif name.endswith(".parquet"):
            with opened(shard) as file:
                yield from images_of_parquet(file)
        elif not is_address(shard) and pathlib.Path(shard).is_dir():
            yield from _images_of_folder(pathlib.Path(shard))
        else:
            known = "a .tar, .tar.gz, .parquet or folder of images"
            missing = not is_address(shard) and not pathlib.Path(shard).exists()
            raise ValueError("the file does not exist." if missing else f"expected {known}.")
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise ValueError(f"Shard {shard}: {reason(error)}") from error


def _images_of_folder(folder):
    for path in sorted(path for path in folder.rglob("*") if has_image_suffix(path.name)):
        key = path.relative_to(folder).as_posix()
        try:
            yield ShardImage(key, path.read_bytes())
        except OSError as error:
            yield ShardImage(key, None, None, reason(error))
