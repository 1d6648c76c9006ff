"""Paths from which a data set is read. Outputs must not replace them."""

import os

from focalnets.data.cache import is_cache
from focalnets.data.names import NAMES, TABLE_SUFFIXES
from focalnets.data.shards.manifest import read_manifest
from focalnets.data.shards.stores import is_address
from focalnets.data.tables import list_table
from focalnets.files import expanded


def data_paths(spec):
    """Local paths that `open_dataset(spec)` reads.

    Args:
        spec: str or path. See `open_dataset`.

    Returns:
        List of paths: the file or folder, the folders of the images in a table or of listed shards, and
        linked folders inside a folder. The list is empty for data sets of libraries.

    >>> from focalnets.data.inputs import data_paths
    >>> data_paths("digits")
    []
    """
    if not spec or spec in NAMES or str(spec).lower().startswith(("hf://", "tfds:")):
        return []
    path = expanded(spec)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return [path, *sorted({os.path.dirname(name) for *_, name in list_table(path).rows})]
    if path.is_file() and path.suffix.lower() == ".txt":
        shards = [shard for shard in read_manifest(path) if not is_address(shard)]
        return [path, *sorted(set(map(os.path.dirname, shards)))]
    return [path, *_links(path, 2)] if path.is_dir() else [path]


def searched_folders(paths):
    """Folders that are searched for images.

    Args:
        paths: list. Result of `data_paths`.

    Returns:
        List of paths. It is empty for files, and for tables and caches, which list their files.

    >>> import tempfile
    >>> from focalnets.data.inputs import searched_folders
    >>> folder = tempfile.mkdtemp()
    >>> searched_folders([folder]) == [folder], searched_folders([f"{folder}/table.csv", folder])
    (True, [])
    """
    return paths if paths and os.path.isdir(paths[0]) and not is_cache(paths[0]) else []


def _links(folder, depth):
    """Yield links to folders, in a folder and its subfolders up to `depth`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                continue
            if entry.is_symlink():
                yield entry.path
            elif depth > 1:
                yield from _links(entry.path, depth - 1)
