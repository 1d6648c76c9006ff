"""The manifest: a JSON file in every directory that focalnets writes. It lists the files written there.

`--force` removes or replaces these files and no others. An entry holds size and SHA-256 of a file. It is
written before the file gets its name, and also holds size and SHA-256 of the file that is replaced, so that
one of the two matches whenever the process is killed. A file that matches neither was changed by somebody
else and is not touched.

An entry without a size belongs to a file that was listed in advance (`explain`) or that a library writes, in
a process that was killed before it could add the size. Such an entry is valid only for a name that focalnets
gives (`paths.NAMES`). The manifest of a downloaded directory cannot make focalnets remove anything else.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import stat
from dataclasses import asdict, dataclass, replace
from typing import Literal

from focalnets.files import file_sha256
from focalnets.names import listed, printable
from focalnets.output.locks import workplace
from focalnets.output.paths import NETWORKS, PREFIX, is_known, refuse_link
from focalnets.schema import read_record

MANIFEST = ".focalnets-files.json"
_HASHED_BYTES = 2**28  # larger files (image caches, snapshots of large models) are compared by size alone
_LARGEST = 2**28  # bytes of a manifest: `explain` of a million images

_log = logging.getLogger("focalnets")


@dataclass(frozen=True)
class Content:
    """Size of a file in bytes, and its SHA-256 in hexadecimal, which is None for files over 256 MiB."""

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Entry:
    """A file that focalnets wrote.

    Attributes:
        kind: str. Kind of output, a key of `paths.NAMES`.
        size: int or None. Bytes. `None` until the file is complete.
        sha256: str or None. `None` until the file is complete, and for files over 256 MiB.
        previous: `Content` or None. Content of the file that this file replaces.
    """

    kind: str
    size: int | None = None
    sha256: str | None = None
    previous: Content | None = None


@dataclass(frozen=True)
class _Record:
    format: Literal["focalnets files"]
    format_version: Literal[1]
    kind: str
    files: dict[str, Entry]


class Manifest:
    """The files of a directory: those that focalnets wrote ("ours"), and all others.

    Args:
        directory: Path. The directory may be missing.

    Attributes:
        directory: `pathlib.Path`.
        kind: str or None. Kind of output of the directory. `None` without a valid manifest.
        files: dict of name -> `Entry`. Methods replace it and never change it.
    """

    def __init__(self, directory):
        self.directory, self.kind, self.files = pathlib.Path(directory), None, {}
        path = self.directory / MANIFEST
        with contextlib.suppress(OSError, ValueError):
            state = os.lstat(path)
            if stat.S_ISREG(state.st_mode):
                self.kind, self.files = _read(path, state.st_ino, state.st_mtime_ns, state.st_size)

    def write(self, files, kind=None):
        """Write a manifest with these entries (name -> `Entry`). `kind` defaults to the present kind."""
        if (kind or self.kind, files) == (self.kind, self.files):
            return
        self.kind, self.files = kind or self.kind, files
        rows = [(name, asdict(entry)) for name, entry in sorted(files.items())]
        value = {
            "format": "focalnets files",
            "format_version": 1,
            "about": "The files that focalnets wrote here. --force replaces these and keeps all others.",
            "kind": self.kind,
            "files": {name: {k: v for k, v in row.items() if v or k != "previous"} for name, row in rows},
        }
        text = json.dumps(value, indent=1) + "\n"  # ASCII: names may have any bytes
        with workplace(self.directory) as folder:
            (folder / MANIFEST).write_text(text, encoding="ascii")
            os.replace(folder / MANIFEST, self.directory / MANIFEST)

    def claim(self, files, kind=None):
        """List files that are about to be written. Refuse links, and files of others.

        Args:
            files: dict of name -> path of the complete file, or None if it is not complete yet.
            kind: str. Kind of output. Defaults to the kind of the file that is replaced, or of the directory.
        """
        claimed = {}
        for name, new in files.items():
            path, entry = self.directory / name, self.files.get(name)
            for step in self._steps(name):
                refuse_link(step)
            if entry is None and os.path.lexists(path):
                raise FileExistsError(f"{path} exists, and focalnets did not write it. Move it away.")
            if entry is not None and entry.size is None:
                continue  # claimed before
            claimed[name] = Entry(kind or (entry or self).kind)
            if new is not None:
                previous = _content(path) if entry is not None and self._is_ours(name) else None
                claimed[name] = replace(claimed[name], **asdict(_content(new)), previous=previous)
        if claimed:
            self.write({**self.files, **claimed})

    def seal(self, files=None, kind=None, finished=True):
        """Add size and hash to entries without them, so that later changes are noticed.

        Args:
            files: dict of name -> `Entry`. Defaults to the present entries.
            kind: str. Kind of output of the directory. Defaults to the present kind.
            finished: bool. Drop entries of files that do not exist. Defaults to `True`.
        """
        sealed = {}
        for name, entry in (self.files if files is None else files).items():
            path = self.directory / name
            if path.is_file():
                sealed[name] = replace(entry, **asdict(_content(path))) if entry.size is None else entry
            elif not finished:
                sealed[name] = entry
        self.write(sealed, kind)

    def ours(self, kind=None):
        """Names of our unchanged files that a kind of output may replace. Defaults to all kinds."""
        kinds = NETWORKS if kind in NETWORKS else (kind,)
        names = [name for name, entry in self.files.items() if kind is None or entry.kind in kinds]
        return {name for name in names if self._is_ours(name)}

    def kept(self, ours=()):
        """Names of everything but `ours`. A folder with none of `ours` is one name, with a slash."""
        folders, kept = _folders(ours), []
        for folder in folders:
            for one in os.scandir(self.directory / folder):
                name = str(pathlib.PurePosixPath(folder, one.name))
                if name in ours or name == MANIFEST or one.name.startswith(PREFIX):
                    continue
                if not one.is_dir(follow_symlinks=False):
                    kept.append(name)
                elif name not in folders:
                    kept.append(f"{name}/")
        return sorted(kept)

    def remove(self, names):
        """Delete files, and folders that become empty. config.json goes first: a preset needs it."""
        for name in sorted(names, key=lambda name: (name != "config.json", name)):
            (self.directory / name).unlink(missing_ok=True)
        for folder in sorted(_folders(names) - {"."}, reverse=True):
            with contextlib.suppress(OSError):  # of a folder that is not empty
                (self.directory / folder).rmdir()

    def refuse_clashes(self, kind, ours, names=None):
        """Refuse files, except `ours`, that have one of `names`, or any name of this kind of output."""
        if names is None:
            paths = [path for pattern in ("*", "*/*") for path in self.directory.glob(pattern)]
            names = [path.relative_to(self.directory).as_posix() for path in paths]
            names = [name for name in names if is_known(kind, name)]
        clash = sorted(name for name in set(names) - set(ours) if os.path.lexists(self.directory / name))
        if clash:
            raise FileExistsError(
                f"{self.directory} holds files with names of output files. focalnets did not write them, "
                f"wrote them for another command, or they were changed since: {listed(clash)}. Move them "
                "away, or choose another directory."
            )

    def _is_ours(self, name):
        path, entry = self.directory / name, self.files[name]
        if any(step.is_symlink() for step in self._steps(name)) or not path.is_file():
            return False
        if entry.size is None:
            return True
        size = path.stat().st_size
        digests = [one.sha256 for one in (entry, entry.previous) if one is not None and one.size == size]
        return None in digests or (bool(digests) and file_sha256(path) in digests)

    def _steps(self, name):
        """Paths of the folders between the directory and a file, and of the file."""
        return [self.directory / one for one in (*pathlib.PurePosixPath(name).parents[-2::-1], name)]


@functools.lru_cache(maxsize=4)  # `explain` reads a manifest once per file
def _read(path, *_):
    record = read_record(path, _Record, limit=_LARGEST)
    return record.kind, {name: entry for name, entry in record.files.items() if _is_valid(name, entry)}


def _is_valid(name, entry):
    inside = name != MANIFEST and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))
    if os.name == "nt" and set("\\:") & set(name):
        return False
    return inside and (entry.size is not None or is_known(entry.kind, name))


def _content(path):
    size = path.stat().st_size
    return Content(size, file_sha256(path) if size <= _HASHED_BYTES else None)


def _folders(names):
    """Names of all folders that contain files. "." is the directory itself."""
    direct = {pathlib.PurePosixPath(name.rpartition("/")[0]) for name in names}
    return {".", *(str(folder) for one in direct for folder in (one, *one.parents))}


def all_files(directory):
    """Names of all files below a directory, without manifest and workplaces. Links are not followed."""
    paths = [path for path in pathlib.Path(directory).rglob("*") if path.is_symlink() or not path.is_dir()]
    names = sorted(path.relative_to(directory).as_posix() for path in paths)
    return [name for name in names if name != MANIFEST and f"/{PREFIX}" not in f"/{name}"]


def log_kept(directory, kept):
    """Log the files of others that remain in a directory."""
    if kept:
        names = listed([printable(name) for name in kept], most=20)
        _log.warning("Kept files in %s that focalnets did not write: %s", printable(directory), names)
