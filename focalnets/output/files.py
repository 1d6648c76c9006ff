"""Files in directories that focalnets shares with its user: runs, evaluations, explanations.

A file gets its name when it is complete, so that a process that is killed leaves the old file or the new
one. It is written in a workplace and renamed, so that no link in its place is followed, and is listed in the
manifest before it gets its name.
"""

import contextlib
import json
import os
import pathlib

from focalnets.output.known import PREFIX
from focalnets.output.manifest import (
    Entry,
    Manifest,
    all_files,
    linked_parent,
    next_entry,
    our_files,
    read_manifest,
    remove_files,
    sealed,
    write_manifest,
)
from focalnets.output.paths import make_directory, refuse_names
from focalnets.output.rename import rename_new
from focalnets.output.workplace import workplace


def shared_directory(directory, kind):
    """Make a directory for files of `writing`: a folder of a directory with a manifest, or one of its own."""
    directory = make_directory(directory)
    if read_manifest(directory.parent) is None:
        if read_manifest(directory) is None:
            write_manifest(directory, Manifest(kind, {}))
    elif directory.is_symlink():
        raise link_error(directory)
    return directory


def list_files(paths):
    """List files in the manifest that a library has just written under names of its own."""
    for path in paths:
        root = _root(path)
        manifest = read_manifest(root)
        entry = Entry(manifest.kind)
        name = path.relative_to(root).as_posix()
        write_manifest(root, Manifest(manifest.kind, {**manifest.files, name: entry}))


@contextlib.contextmanager
def filling(directory, kind):
    """Yield an empty directory whose files replace the files of that kind in `directory` at the end.

    Args:
        directory: Path that `new_output_directory` returned.
        kind: str. Kind of output, a key of `known.NAMES`.
    """
    with workplace(directory) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        ours, names = our_files(directory, (kind,)), list(all_files(new))
        refuse_names(directory, kind, ours, names)
        claim(directory, {name: new / name for name in names}, kind)
        for name in names:
            make_directory((directory / name).parent)
            os.replace(new / name, directory / name)
        remove_files(directory, ours - set(names))
    seal(directory)


@contextlib.contextmanager
def writing(path, own=True, replace=True):
    """Yield the path of a file that becomes `path` when the block ends without an error.

    Args:
        path: Path of the file, in an existing directory. If this directory or the one above has a manifest,
            the file is listed there.
        own: bool. Whether the file belongs to the output in its directory. `False` for a file that a user
            named, which is not listed. Defaults to `True`.
        replace: bool. Whether a file that exists is replaced. Defaults to `True`.

    Raises:
        FileExistsError: if the file exists, unless `replace`.
        OSError: if it cannot be written, or is a file of others in a directory that has a manifest.

    >>> import pathlib, tempfile
    >>> from focalnets.output.files import writing
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
    >>> with writing(path) as partial:
    ...     _ = partial.write_text("a,b")
    >>> path.read_text()
    'a,b'
    """
    path = pathlib.Path(path)
    root = _root(path) if own else None
    with workplace(root or path.parent) as folder:
        yield folder / path.name
        if root is not None:
            claim(root, {path.relative_to(root).as_posix(): folder / path.name})
        if replace:
            os.replace(folder / path.name, path)
        else:
            rename_new(folder / path.name, path)


def write_json(path, value):
    """Write `value` as indented JSON, see `writing`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names that are no UTF-8


def seal(directory, finished=True):
    """Record size and hash of the files in a directory that are complete now, to notice later changes.

    Args:
        directory: Path.
        finished: bool. Remove files that do not exist from the list. Defaults to `True`.
    """
    manifest = read_manifest(directory)
    files = sealed(directory, manifest.files)
    if not finished:
        files = {**manifest.files, **files}
    if files != manifest.files:
        write_manifest(directory, Manifest(manifest.kind, files))


def _root(path):
    """The directory whose manifest a file belongs to. None in a workplace, and where there is no manifest."""
    for parent in (path.parent, path.parent.parent):
        if parent.name.startswith(PREFIX):
            return None
        if read_manifest(parent) is not None:
            return parent
    return None


def claim(directory, files, kind=None):
    """List files in the manifest that are about to be written: name -> path of the complete file, or None."""
    manifest, claimed = read_manifest(directory), {}
    for name, new in files.items():
        link = linked_parent(directory, name)
        if link is None and (directory / name).is_symlink():
            link = directory / name
        if link is not None:
            raise link_error(link)
        entry = manifest.files.get(name)
        if entry is None and os.path.lexists(directory / name):
            raise FileExistsError(f"{directory / name} is not a file of focalnets. Move it away.")
        if entry is None or entry.size is not None:
            kind_of_file = kind or (manifest.kind if entry is None else entry.kind)
            claimed[name] = next_entry(directory, name, entry, kind_of_file, new)
    if claimed:
        write_manifest(directory, Manifest(manifest.kind, {**manifest.files, **claimed}))


def link_error(link):
    """The OSError for a symbolic link in the place of something that is to be written."""
    return OSError(f"{link} is a symbolic link, through which nothing is written. Move it away.")
