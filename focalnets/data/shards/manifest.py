"""Lists of shards: manifests, folders, and the splits that the names of shards denote."""

import collections
import glob
import itertools
import os
import pathlib
import re

from focalnets.data.naming import split_folders, split_for
from focalnets.data.shards.stores import is_address
from focalnets.files import expanded

# Suffixes of shards. Only those without compression can be read from the middle.
TARS = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*TARS, ".parquet")

_NUMBER = re.compile(r"[-_.]?\d+(?:[-_.]of[-_.]\d+)?$", re.IGNORECASE)  # train-00003-of-00257
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def read_manifest(path):
    """Read a list of shards.

    Args:
        path: str or `pathlib.Path`. Text file with one path or address per line. Empty lines and lines that
            start with # do not count. `{000..146}` and `{train,val}` are replaced by each value, and
            patterns of paths (`photos/*.tar`) by the files that exist. Relative paths start at the folder of
            the file.

    Returns:
        list of str, without duplicates.

    Raises:
        ValueError: if the file does not exist, lists nothing, or lists a shard twice, or if no file matches
            a pattern.

    >>> import pathlib, tempfile
    >>> from focalnets.data.shards.manifest import read_manifest
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "shards.txt"
    >>> _ = path.write_text("# photos" + chr(10) + "s3://photos/{08..09}.tar")
    >>> read_manifest(path)
    ['s3://photos/08.tar', 's3://photos/09.tar']
    """
    path = expanded(path)
    if not path.is_file():
        raise ValueError(f"Manifest not found: {str(path)!r}. Give a text file with one shard per line.")
    shards = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            shards += [shard for one in _without_braces(text) for shard in _resolved(one, path)]
    if not shards:
        raise ValueError(f"{path} lists no shards. Expected one path or address per line.")
    if twice := [shard for shard, count in collections.Counter(shards).items() if count > 1]:
        raise ValueError(f"{path} lists a shard twice: {', '.join(twice[:3])}.")
    return shards


def _without_braces(text):
    """Every text that a text with braces denotes, as in a shell."""
    if (found := _BRACES.search(text)) is None:
        return [text]
    first, last, words = found.groups()
    if words is None:
        words = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        words = words.split(",")
    before, after = text[: found.start()], text[found.end() :]
    return list(itertools.chain.from_iterable(_without_braces(before + word + after) for word in words))


def _resolved(text, manifest):
    """Shards of one line: an address, a path, or the paths that match a pattern."""
    if is_address(text):
        return [text]
    path = str((manifest.parent / text).resolve())
    if os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    if not (found := sorted(glob.glob(path, recursive=True))):
        raise ValueError(f"{manifest}: no file matches {text!r}. Check the pattern.")
    return found


def shards_in(folder, depth=2):
    """Shards in a folder and its subfolders up to `depth`, as a sorted list of str."""
    found = []
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and depth:
            found += shards_in(path, depth - 1)
        elif path.name.lower().endswith(SUFFIXES):
            found.append(str(path))
    return found


def splits_of_shards(shards):
    """Split of each shard by its name, or by the nearest folder whose name denotes a split.

    Folders that contain all shards do not count: they may be anywhere, such as in `/home/me/test`.

    Args:
        shards: list of str. Paths or addresses.

    Returns:
        list of "train", "val", "test", or None for names that do not denote a split.

    >>> from focalnets.data.shards.manifest import splits_of_shards
    >>> splits_of_shards(["in1k-train-0000.tar", "in1k-validation-0000.tar", "s3://b/test/0000.parquet"])
    ['train', 'val', 'test']
    """
    parts = [re.split(r"[/\\]", shard) for shard in shards]
    stems = [_NUMBER.sub("", part[-1].split(".")[0]) for part in parts]
    known = split_folders(set(stems))
    levels = zip(*(part[:-1] for part in parts), strict=False)
    above = len(list(itertools.takewhile(lambda names: len(set(names)) == 1, levels)))

    def split(stem, folders):
        return known.get(stem) or next(filter(None, map(split_for, reversed(folders))), None)

    return [split(stem, part[above:-1]) for stem, part in zip(stems, parts, strict=True)]
