"""The manifest: a JSON file in every directory that focalnets writes, listing the files that it wrote there.

`--force` removes or replaces these files and no others. An entry has the kind of output that the file
belongs to, its size and its SHA-256. It is written before the file gets its name, and also has the content
that the new one replaces: at whatever moment the process is killed, the file has one of the two. A file that
has neither was edited or replaced by somebody: it is theirs, and is kept.

An entry without a size is a file of `explain`, which lists many in advance, or one that a library writes
itself, and the process was killed before it could add the size. Such a file is ours whatever it holds, if it
has a name that focalnets gives (`known.NAMES`), so that the manifest of a downloaded directory cannot make us
remove anything else.
"""

import contextlib
import functools
import json
import os
import pathlib
import stat
from dataclasses import asdict, dataclass, replace

from focalnets.files import file_sha256
from focalnets.names import listed, printable
from focalnets.output.known import PREFIX, WHOLLY_OURS, is_known
from focalnets.output.workplace import workplace
from focalnets.schema import read_record

MANIFEST = ".focalnets-files.json"
FORMAT, FORMAT_VERSION = "focalnets files", 1

# Larger files (image caches, snapshots of large models) are compared by size alone.
_HASHED_BYTES = 2**28

_LARGEST = 2**28  # bytes of a manifest: `explain` of a million images


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        size: int. Bytes.
        sha256: str. Hexadecimal. None for files over 256 MiB.
    """

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Entry:
    """A file that focalnets wrote.

    Attributes:
        kind: str. Kind of output, a key of `known.NAMES`.
        size: int. Bytes. None until they are known.
        sha256: str. Hexadecimal. None until it is known, and for files over 256 MiB.
        previous: `Content` that the file had before it was written last. None if there was no file of ours.
    """

    kind: str
    size: int | None = None
    sha256: str | None = None
    previous: Content | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest file: the kind of the directory, and name -> `Entry`."""

    kind: str
    files: dict[str, Entry]


@dataclass(frozen=True)
class _Record(Manifest):
    """What a manifest file holds."""

    format: str
    format_version: int


def read_manifest(directory):
    """The `Manifest` of a directory. None if it has none, or a damaged one."""
    path = pathlib.Path(directory) / MANIFEST
    try:
        state = os.lstat(path)
        if not stat.S_ISREG(state.st_mode):
            return None
        return _parsed(path, state.st_ino, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError):
        return None


@functools.lru_cache(maxsize=4)  # `explain` looks into it once per file
def _parsed(path, *_):
    record = read_record(path, _Record, limit=_LARGEST)
    if (record.format, record.format_version) != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"{path} has another format.")
    return Manifest(record.kind, {name: entry for name, entry in record.files.items() if _is_inside(name)})


def _is_inside(name):
    """Whether a name from a file is that of a file below the directory."""
    if not name or name == MANIFEST or "\0" in name or (os.name == "nt" and set("\\:") & set(name)):
        return False
    return not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def write_manifest(directory, manifest):
    """Write the manifest of a directory, by write-then-rename."""
    files = {name: asdict(entry) for name, entry in sorted(manifest.files.items())}
    for entry in files.values():
        if entry["previous"] is None:
            del entry["previous"]
    value = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "about": "The files that focalnets wrote here: --force replaces these, and keeps all others.",
        "kind": manifest.kind,
        "files": files,
    }
    text = json.dumps(value, indent=1) + "\n"  # ASCII: names may have any bytes
    with workplace(directory) as folder:
        (folder / MANIFEST).write_text(text, encoding="ascii")
        os.replace(folder / MANIFEST, pathlib.Path(directory) / MANIFEST)


def our_files(directory, kinds):
    """Names of the files in a directory that focalnets wrote and nobody has changed since.

    Args:
        directory: Path.
        kinds: Kinds of output to look for. None for all.
    """
    directory, manifest = pathlib.Path(directory), read_manifest(directory)
    if kinds is not None and set(kinds) <= set(WHOLLY_OURS):
        return set(all_files(directory)) if directory.is_dir() else set()
    if manifest is None:
        return set()
    return {
        name
        for name, entry in manifest.files.items()
        if (kinds is None or entry.kind in kinds) and _is_ours(directory, name, entry)
    }


def is_occupied(directory):
    """Whether there is something in a directory, except what a process left that was killed at once."""
    names = (one.name for one in pathlib.Path(directory).iterdir())
    return any(name != MANIFEST and not name.startswith(PREFIX) for name in names)


def unlisted(directory):
    """Words for an error: that a directory has no manifest. Empty if it has one."""
    if read_manifest(directory) is not None:
        return ""
    return " (it has no list of files that focalnets wrote; if it is yours to replace, move it away)"


def _is_ours(directory, name, entry):
    path = directory / name
    if path.is_symlink() or not path.is_file() or linked_parent(directory, name) is not None:
        return False
    if entry.size is None:
        return is_known(entry.kind, name)
    size = path.stat().st_size
    digests = [one.sha256 for one in (entry, entry.previous) if one is not None and one.size == size]
    return None in digests or (bool(digests) and file_sha256(path) in digests)


def remove_files(directory, names):
    """Delete files and the folders that become empty; config.json first, without which no preset is whole."""
    directory, names = pathlib.Path(directory), list(names)
    for name in sorted(names, key=lambda name: (name != "config.json", name)):
        (directory / name).unlink(missing_ok=True)
    for folder in {parent for name in names for parent in pathlib.PurePosixPath(name).parents[:-1]}:
        with contextlib.suppress(OSError):  # of a folder that is not empty
            (directory / folder).rmdir()


def linked_parent(directory, name):
    """The first folder between a directory and a file in it that is a symbolic link. None without one."""
    for parent in reversed(pathlib.PurePosixPath(name).parents[:-1]):
        if (directory / parent).is_symlink():
            return directory / parent
    return None


def sealed(directory, files):
    """The entries of files, with size and hash. Entries of files that do not exist are left out.

    Args:
        directory: Path.
        files: Name -> `Entry`.
    """
    entries = {}
    for name, entry in files.items():
        path = pathlib.Path(directory) / name
        if entry.size is None and path.is_file():
            entry = replace(entry, **asdict(_content(path)))
        if path.is_file():
            entries[name] = entry
    return entries


def next_entry(directory, name, entry, kind, new):
    """The entry of a file that is about to get its name.

    Args:
        directory: Path.
        name: str. Name of the file.
        entry: `Entry` of the file that has this name now. None if there is none.
        kind: str. Kind of output.
        new: Path of the complete file that will have this name. None if it is not known yet.
    """
    if new is None:
        return Entry(kind)
    is_ours = entry is not None and _is_ours(directory, name, entry)
    return Entry(kind, **asdict(_content(new)), previous=_content(directory / name) if is_ours else None)


def _content(path):
    size = path.stat().st_size
    return Content(size, file_sha256(path) if size <= _HASHED_BYTES else None)


def all_files(directory):
    """Names of all files below a directory, links not followed; without manifest and workplaces."""
    directory = pathlib.Path(directory)
    for parent, folders, files in os.walk(directory):
        folders[:] = sorted(one for one in folders if not one.startswith(PREFIX))
        links = [one for one in folders if os.path.islink(os.path.join(parent, one))]
        for name in sorted([*files, *links]):
            relative = os.path.relpath(os.path.join(parent, name), directory)
            if relative != MANIFEST and not name.startswith(PREFIX):
                yield pathlib.PurePath(relative).as_posix()


def kept_entries(directory, ours):
    """What stays in a directory if the files `ours` go: names, folders that stay whole with a slash."""
    return _kept(pathlib.Path(directory), "", ours, {name.rpartition("/")[0] for name in ours} | {""})


def _kept(directory, above, ours, folders_of_ours):
    found = []
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        name = above + entry.name
        if name in ours or name == MANIFEST or entry.name.startswith(PREFIX):
            continue
        if not entry.is_dir(follow_symlinks=False):
            found.append(name)
        elif name in folders_of_ours:
            found += _kept(entry.path, f"{name}/", ours, folders_of_ours)
        else:
            found.append(f"{name}/")
    return found


def describe_kept(directory, kept):
    """A line that lists what `--force` left in a directory."""
    names = listed([printable(name) for name in kept], most=20)
    return f"Kept in {printable(directory)}, because focalnets did not write it: {names}"
