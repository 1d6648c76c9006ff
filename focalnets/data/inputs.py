"""What a data set is read from, so that no output is written into or over it."""

import os

from focalnets.data.cache import is_cache
from focalnets.data.names import NAMES, TABLE_SUFFIXES
from focalnets.data.tables import list_table
from focalnets.files import expanded


def data_paths(spec):
    """Paths on this machine that `open_dataset(spec)` reads.

    Args:
        spec: as for `open_dataset`.

    Returns:
        List of paths: the file or folder itself, the folders of the images that a table lists, and links to
        folders in a folder. Empty for data sets of libraries.

    >>> from focalnets.data.inputs import data_paths
    >>> data_paths("digits")
    []
    """
    if not spec or spec in NAMES or str(spec).lower().startswith(("hf://", "tfds:")):
        return []
    path = expanded(spec)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return [path, *sorted({os.path.dirname(name) for *_, name in list_table(path).rows})]
    return [path, *_links(path, 2)] if path.is_dir() else [path]


def searched_folders(paths):
    """The folders in which images are searched.

    Args:
        paths: What `data_paths` returned.

    Returns:
        List of paths. Empty for tables and caches, which list their files, and for files.

    >>> import tempfile
    >>> from focalnets.data.inputs import searched_folders
    >>> folder = tempfile.mkdtemp()
    >>> searched_folders([folder]) == [folder], searched_folders([f"{folder}/table.csv", folder])
    (True, [])
    """
    return paths if paths and os.path.isdir(paths[0]) and not is_cache(paths[0]) else []


def _links(folder, depth):
    """Links to folders, down to the classes of a split."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                continue
            if entry.is_symlink():
                yield entry.path
            elif depth > 1:
                yield from _links(entry.path, depth - 1)
