"""Files in directories that focalnets shares with its user: runs, evaluations, explanations.

A file is written in a workplace, listed in the manifest, and renamed when it is complete. A process that is
killed leaves the old file or the new one. A link in the place of a file is never followed.
"""

import contextlib
import json
import os
import pathlib

from focalnets.output.locks import workplace
from focalnets.output.manifest import Entry, Manifest, all_files
from focalnets.output.paths import PREFIX, make_directory, refuse_link
from focalnets.output.rename import rename_new


def shared_directory(directory, kind):
    """Make a directory for files of `writing`: a subdirectory of an output, or an output of its own."""
    directory = make_directory(directory)
    if Manifest(directory.parent).kind is not None:
        refuse_link(directory)
    elif (manifest := Manifest(directory)).kind is None:
        manifest.write({}, kind)
    return directory


def list_files(paths):
    """List files in the manifest that a library writes under names of its own."""
    for path in paths:
        manifest = Manifest(_root(path))
        name = path.relative_to(manifest.directory).as_posix()
        manifest.write({**manifest.files, name: Entry(manifest.kind)})


@contextlib.contextmanager
def filling(directory, kind):
    """Yield an empty directory. After the block, its files replace the files of that kind in `directory`.

    Args:
        directory: Path that `new_output_directory` yielded.
        kind: str. Kind of output, a key of `paths.NAMES`.
    """
    with workplace(directory) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        manifest, names = Manifest(directory), all_files(new)
        ours = manifest.ours(kind)
        manifest.refuse_clashes(kind, ours, names)
        manifest.claim({name: new / name for name in names}, kind)
        for name in names:
            make_directory((directory / name).parent)
            os.replace(new / name, directory / name)
        manifest.remove(ours - set(names))
    manifest.seal()


@contextlib.contextmanager
def writing(path, own=True, replace=True):
    """Yield a temporary path. The file written there becomes `path` when the block ends without an error.

    Args:
        path: Path of the file, in an existing directory. If this directory or its parent has a manifest, the
            file is listed there.
        own: bool. Whether the file belongs to the output in its directory. `False` for a file that the user
            named, which is not listed. Defaults to `True`.
        replace: bool. Replace an existing file. Defaults to `True`.

    Raises:
        FileExistsError: if the file exists and `replace` is `False`, or the directory has a manifest that
            does not list it.
        OSError: if the file cannot be written.

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
            Manifest(root).claim({path.relative_to(root).as_posix(): folder / path.name})
        (os.replace if replace else rename_new)(folder / path.name, path)


def write_json(path, value):
    """Write `value` as indented JSON, see `writing`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path, text):
    """Write a text file in UTF-8, see `writing`."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names that are not UTF-8


def _root(path):
    """The directory whose manifest lists a file, or None: in a workplace, or without a manifest."""
    for parent in (path.parent, path.parent.parent):
        if parent.name.startswith(PREFIX):
            return None
        if Manifest(parent).kind is not None:
            return parent
    return None
