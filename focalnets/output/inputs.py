"""Protection of inputs: `--force` never replaces a directory that is, contains or lies inside an input.

Directories are compared by device and inode, because one directory may have several paths.
"""

import contextlib
import os
import pathlib

from focalnets.files import expanded


def refuse_inputs(directory, inputs):
    """Raise ValueError for an output directory that must not be replaced.

    Args:
        directory: Path. Refused if it contains the current or the home directory, or overlaps with an input.
        inputs: Paths of files and directories that the command reads. Missing ones are ignored.
    """
    own, above = _identity(directory), _identities(directory)
    if own is None:
        return
    advice = "Files there are not replaced. Choose another directory."
    for name, find in (("current", pathlib.Path.cwd), ("home", pathlib.Path.home)):
        with contextlib.suppress(OSError, RuntimeError):  # it does not exist
            if own in _identities(path := find()):
                raise ValueError(f"{directory} is or contains your {name} directory, {path}. {advice}")
    folders = set()
    for path in map(pathlib.Path, inputs):
        if path.is_file() and not path.is_symlink():
            if path.parent in folders:
                continue
            folders.add(path.parent)  # of a million images in a folder, one is enough
        if _identity(path) == own:
            relation = "is"
        elif own in _identities(path):
            relation = "contains"
        elif path.is_dir() and _identity(path) in above:
            relation = "lies inside"
        else:
            continue
        raise ValueError(f"{directory} {relation} the input {path}. {advice}")


def refuse_inside(directory, folders):
    """Raise ValueError for an output directory, old or new, below a folder that is searched for images."""
    above = _identities(expanded(directory)) - {_identity(expanded(directory))}
    for folder in folders:
        if _identity(folder) in above:
            raise ValueError(
                f"{directory} lies inside {folder}, which is searched for images. Files written there would "
                f"be read as images the next time. Choose a directory outside {folder}."
            )


def paths_among(words):
    """Paths of existing files and directories among words. Drops names, addresses and None.

    >>> from focalnets.output.inputs import paths_among
    >>> paths_among(["/", "hf://timm/focalnet_tiny_srf", None])
    [PosixPath('/')]
    """
    paths = [os.path.expanduser(word) for word in words if word]
    return [pathlib.Path(path) for path in paths if os.path.lexists(path)]


def _identity(path):
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _identities(path):
    """Identities of a path and of all directories above it: above a link, and above its target."""
    paths = {pathlib.Path(path).absolute(), pathlib.Path(path).resolve()}
    return {_identity(one) for path in paths for one in (path, *path.parents)} - {None}
