"""The manifest: a JSON file in every directory that focalnets writes, with the files that it wrote there.

`--force` removes or replaces these files and no others. An entry has the kind of output that the file
belongs to, its size and its SHA-256. It is written before the file gets its name, and also has the content
that the new file replaces: whenever the process is killed, the file has one of the two contents. A file that
has neither was changed by somebody else, and is kept.

An entry without a size is a file of `explain`, which lists many in advance, or a file that a library writes,
and the process was killed before it could add the size. Such a file is ours whatever it holds, if it has a
name that focalnets gives (`paths.NAMES`). The manifest of a downloaded directory cannot make us remove
anything else.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import stat
from dataclasses import asdict, dataclass, replace

from focalnets.files import file_sha256
from focalnets.names import listed, printable
from focalnets.output.locks import workplace
from focalnets.output.paths import PREFIX, is_known, refuse_link
from focalnets.schema import read_record

MANIFEST = ".focalnets-files.json"
FORMAT, FORMAT_VERSION = "focalnets files", 1

# Larger files (image caches, snapshots of large models) are compared by size alone.
_HASHED_BYTES = 2**28

_LARGEST = 2**28  # bytes of a manifest: `explain` of a million images

_log = logging.getLogger("focalnets")


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
        kind: str. Kind of output, a key of `paths.NAMES`.
        size: int. Bytes. None until they are known.
        sha256: str. Hexadecimal. None until it is known, and for files over 256 MiB.
        previous: `Content` that the file had before it was written last. None if there was no file of ours.
    """

    kind: str
    size: int | None = None
    sha256: str | None = None
    previous: Content | None = None


@dataclass(frozen=True)
class _Record:
    format: str
    format_version: int
    kind: str
    files: dict[str, Entry]


class Manifest:
    """The files in a directory, told apart by its manifest: ours, and those of others.

    Args:
        directory: Path. It need not exist.

    Attributes:
        directory: `pathlib.Path`.
        kind: str. Kind of output of the directory. None if its manifest does not exist or is damaged.
        files: dict. Name -> `Entry`. It is replaced, not changed.
    """

    def __init__(self, directory):
        self.directory, self.kind, self.files = pathlib.Path(directory), None, {}
        path = self.directory / MANIFEST
        with contextlib.suppress(OSError, ValueError):
            state = os.lstat(path)
            if stat.S_ISREG(state.st_mode):
                self.kind, self.files = _read(path, state.st_ino, state.st_mtime_ns, state.st_size)

    def write(self, files, kind=None):
        """Replace the manifest, unless nothing changes.

        Args:
            files: dict. Name -> `Entry`.
            kind: str. New kind of the directory. Defaults to the present kind.
        """
        if (kind or self.kind, files) == (self.kind, self.files):
            return
        self.kind, self.files = kind or self.kind, files
        rows = {name: asdict(entry) for name, entry in sorted(files.items())}
        for row in rows.values():
            if row["previous"] is None:
                del row["previous"]
        value = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "about": "The files that focalnets wrote here: --force replaces these, and keeps all others.",
            "kind": self.kind,
            "files": rows,
        }
        text = json.dumps(value, indent=1) + "\n"  # ASCII: names may have any bytes
        with workplace(self.directory) as folder:
            (folder / MANIFEST).write_text(text, encoding="ascii")
            os.replace(folder / MANIFEST, self.directory / MANIFEST)

    def claim(self, files, kind=None):
        """List files that are about to be written.

        Args:
            files: dict. Name -> path of the complete file, or None if it does not exist yet.
            kind: str. Kind of output. Defaults to the kind of the file that is replaced, or of the directory.

        Raises:
            OSError: if a file, or a folder in which it lies, is a symbolic link.
            FileExistsError: if a file exists and is not listed.
        """
        claimed = {}
        for name, new in files.items():
            for path in self._steps(name):
                refuse_link(path)
            path, entry = self.directory / name, self.files.get(name)
            if entry is None and os.path.lexists(path):
                raise FileExistsError(f"{path} is not a file of focalnets. Move it away.")
            if entry is not None and entry.size is None:
                continue  # claimed before
            claimed[name] = Entry(kind or (entry or self).kind)
            if new is not None:
                previous = _content(path) if entry is not None and self._is_ours(name) else None
                claimed[name] = replace(claimed[name], **asdict(_content(new)), previous=previous)
        if claimed:
            self.write({**self.files, **claimed})

    def seal(self, files=None, kind=None, finished=True):
        """Record size and hash of complete files, to notice later changes.

        Args:
            files: dict. Name -> `Entry`. Defaults to the files of the manifest.
            kind: str. New kind of the directory. Defaults to the present kind.
            finished: bool. Leave out files that do not exist. Defaults to `True`.
        """
        sealed = {}
        for name, entry in (self.files if files is None else files).items():
            path = self.directory / name
            if path.is_file():
                sealed[name] = replace(entry, **asdict(_content(path))) if entry.size is None else entry
            elif not finished:
                sealed[name] = entry
        self.write(sealed, kind)

    def ours(self, kinds=None):
        """Names of the files of these kinds of output (all by default) that nobody has changed."""
        return {
            name
            for name, entry in self.files.items()
            if (kinds is None or entry.kind in kinds) and self._is_ours(name)
        }

    def kept(self, ours=()):
        """What remains if the files `ours` are removed: names of files, and of whole folders with a slash."""
        folders, found = _folders(ours), []
        for folder in folders:
            for one in os.scandir(self.directory / folder):
                name, is_folder = (
                    str(pathlib.PurePosixPath(folder, one.name)),
                    one.is_dir(follow_symlinks=False),
                )
                if name in ours or name == MANIFEST or one.name.startswith(PREFIX):
                    continue
                if not is_folder or name not in folders:
                    found.append(f"{name}/" if is_folder else name)
        return sorted(found)

    def remove(self, names):
        """Delete files, and folders that become empty. config.json goes first: a preset is not whole without."""
        for name in sorted(names, key=lambda name: (name != "config.json", name)):
            (self.directory / name).unlink(missing_ok=True)
        for folder in sorted(_folders(names) - {"."}, reverse=True):
            with contextlib.suppress(OSError):  # of a folder that is not empty
                (self.directory / folder).rmdir()

    def refuse_clashes(self, kind, ours, names=None):
        """Raise FileExistsError if files of others have the names of files to be written.

        Args:
            kind: str. Kind of output, a key of `paths.NAMES`.
            ours: Names of the files that may be replaced.
            names: Names of the files to be written. Defaults to all names of this kind of output.
        """
        if names is None:
            found = (path for pattern in ("*", "*/*") for path in self.directory.glob(pattern))
            names = [path.relative_to(self.directory).as_posix() for path in found]
            names = [name for name in names if is_known(kind, name)]
        clash = sorted(name for name in set(names) - set(ours) if os.path.lexists(self.directory / name))
        if clash:
            raise FileExistsError(
                f"{self.directory} holds files that have the names of output files, and that focalnets did "
                f"not write, wrote for another command, or that were changed since: {listed(clash)}. Move "
                "them away, or choose another directory."
            )

    def _is_ours(self, name):
        path, entry = self.directory / name, self.files[name]
        if any(step.is_symlink() for step in self._steps(name)) or not path.is_file():
            return False
        if entry.size is None:
            return is_known(entry.kind, name)
        size = path.stat().st_size
        digests = [one.sha256 for one in (entry, entry.previous) if one is not None and one.size == size]
        return None in digests or (bool(digests) and file_sha256(path) in digests)

    def _steps(self, name):
        """Paths of the folders between the directory and a file, and of the file."""
        return [self.directory / one for one in (*pathlib.PurePosixPath(name).parents[-2::-1], name)]


@functools.lru_cache(maxsize=4)  # `explain` looks into it once per file
def _read(path, *_):
    record = read_record(path, _Record, limit=_LARGEST)
    if (record.format, record.format_version) != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"{path} has another format.")
    return record.kind, {name: entry for name, entry in record.files.items() if _is_inside(name)}


def _is_inside(name):
    """Whether a name from a manifest is that of a file below the directory."""
    if not name or name == MANIFEST or "\0" in name or (os.name == "nt" and set("\\:") & set(name)):
        return False
    return not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def _content(path):
    size = path.stat().st_size
    return Content(size, file_sha256(path) if size <= _HASHED_BYTES else None)


def _folders(names):
    """Names of the folders in which files lie, with all folders above; "." is the directory itself."""
    direct = {pathlib.PurePosixPath(name.rpartition("/")[0]) for name in names}
    return {".", *(str(folder) for one in direct for folder in (one, *one.parents))}


def all_files(directory):
    """Names of all files below a directory, except manifest and workplaces. Links are not followed."""
    names = []
    for path in pathlib.Path(directory).rglob("*"):
        relative = path.relative_to(directory)
        if (path.is_symlink() or not path.is_dir()) and not any(
            part.startswith(PREFIX) for part in relative.parts
        ):
            names.append(relative.as_posix())
    return sorted(set(names) - {MANIFEST})


def log_kept(directory, kept):
    """Log which files of others remain in a directory."""
    if kept:
        names = listed([printable(name) for name in kept], most=20)
        _log.warning("Kept in %s, because focalnets did not write it: %s", printable(directory), names)


def is_occupied(directory):
    """Whether a directory holds anything except what a process left that was killed at once."""
    names = (one.name for one in pathlib.Path(directory).iterdir())
    return any(name != MANIFEST and not name.startswith(PREFIX) for name in names)
