"""`--force` never replaces a directory that contains, is, or lies inside something that is still needed."""

import contextlib
import os
import pathlib

from focalnets.files import expanded


def refuse_inputs(directory, inputs):
    """Refuse an output directory that is entangled with an input, the current or the home directory.

    Directories are compared by device and inode, so that links and other spellings make no difference.

    Args:
        directory: Output directory.
        inputs: Paths of files and directories that are read. Those that don't exist are ignored.

    Raises:
        ValueError: naming the input.
    """
    own, above = _identity(directory), _identities(directory)
    if own is None:
        return
    for path, words in _places():
        if own in _identities(path):
            raise ValueError(
                f"{directory} is or contains {words}, {path}. Its files are not replaced. Choose another "
                "directory."
            )
    seen = set()
    for given in inputs:
        path = pathlib.Path(given)
        if path.is_file() and not path.is_symlink():
            if path.parent in seen:
                continue
            seen.add(path.parent)  # of a million images in a folder, one says it all
        if _identity(path) == own:
            _refuse(directory, "is", given)
        if own in _identities(path):
            _refuse(directory, "contains", given)
        if path.is_dir() and _identity(path) in above:
            _refuse(directory, "lies inside", given)


def refuse_inside(directory, folders):
    """Refuse an output directory, also a new one, below a folder in which images are searched.

    Args:
        directory: Output directory.
        folders: Paths of folders.

    Raises:
        ValueError: naming the folder.
    """
    above = _identities(expanded(directory)) - {_identity(expanded(directory))}
    for folder in folders:
        if _identity(folder) in above:
            raise ValueError(
                f"{directory} lies inside {folder}, where images are read: the files written there would be "
                f"among them the next time. Choose a directory outside of {folder}."
            )


def paths_among(words):
    """Paths of the words of a user that exist; the others are names, addresses, or None.

    >>> from focalnets.output.inputs import paths_among
    >>> paths_among(["/", "hf://timm/focalnet_tiny_srf", None])
    [PosixPath('/')]
    """
    paths = [os.path.expanduser(word) for word in words if word]
    return [pathlib.Path(path) for path in paths if os.path.lexists(path)]


def _refuse(directory, relation, given):
    raise ValueError(
        f"{directory} {relation} the input {given}. Its files are not replaced. Choose another directory."
    )


def _places():
    with contextlib.suppress(OSError):
        yield pathlib.Path.cwd(), "the current directory"
    with contextlib.suppress(RuntimeError):
        yield pathlib.Path.home(), "your home directory"


def _identity(path):
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _identities(path):
    """Of a path and of all directories above it, above the name of a link and above where it leads."""
    paths = {pathlib.Path(path).absolute(), pathlib.Path(path).resolve()}
    return {_identity(one) for path in paths for one in (path, *path.parents)} - {None}
