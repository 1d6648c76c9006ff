"""Listings: the images of a source, their labels, and a function that opens them."""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from focalnets.data.layout import read_layout
from focalnets.data.left_out import LINKS, NOT_IMAGES, SYSTEM, UNREADABLE, LeftOut, LeftOutCounter
from focalnets.data.naming import is_system_name
from focalnets.files import open_regular
from focalnets.images.formats import HEAD, IMAGE_SUFFIXES, is_image

# Common suffixes of files that are not images. These files are not opened to check their content.
_OTHER_SUFFIXES = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf"),
        *(".mat", ".npy", ".npz", ".h5", ".pt", ".pth", ".pkl", ".db", ".py", ".ipynb", ".zip", ".gz"),
    )
)


@dataclass(frozen=True)
class Listing:
    """Labeled images of a source.

    Attributes:
        rows: list of (split, class, name), one per image. The split is "" if the source has no splits.
        opener: Function that returns a binary stream for a name.
        class_names: tuple of str, or `None` to sort the classes by name. Defaults to `None`.
        left_out: tuple of `LeftOut`. Defaults to `()`.
    """

    rows: list[tuple[str, str, str]]
    opener: Callable
    class_names: tuple[str, ...] | None = None
    left_out: tuple[LeftOut, ...] = ()


def path_parts(name):
    """Parts of a name as a relative path, without "..".

    >>> from focalnets.data.files import path_parts
    >>> path_parts("../cat/1.jpg"), path_parts("/cat//1.jpg"), path_parts("cat\\\\1.jpg")
    (('cat', '1.jpg'), ('cat', '1.jpg'), ('cat', '1.jpg'))
    """
    separator = "\\" if "/" not in name else "/"  # archives from Windows may have backslashes
    return tuple(part for part in name.split(separator) if part not in ("", ".", ".."))


def sort_out(found, head, left_out):
    """Divide the files of a tree into images and other files.

    Files with the suffix of an image are images. Files without a suffix, or with an unknown suffix, are
    recognized by their content.

    Args:
        found: iterable of (parts, name). Parts of the name within the tree, and name for `head`.
        head: Function that returns the first bytes of a file by name. It may raise OSError.
        left_out: `LeftOutCounter`.

    Returns:
        Tuple (list of (parts, name) of images, list of parts of other files), both sorted by parts.
    """
    images, others, system = [], [], set()
    for parts, name in sorted(found):
        hidden = next((depth for depth, part in enumerate(parts, 1) if is_system_name(part)), None)
        if hidden is not None:
            if parts[:hidden] not in system:
                left_out.add(SYSTEM, "/".join(parts[:hidden]))
            system.add(parts[:hidden])
        elif is_image_file(parts[-1], functools.partial(head, name)):
            images.append((parts, name))
        else:
            left_out.add(NOT_IMAGES, "/".join(parts))
            others.append(parts)
    return images, others


def is_image_file(name, head):
    """Check if a file is an image, by its suffix or by its first bytes, which the function `head` returns."""
    if has_image_suffix(name):
        return True
    if _suffix(name) in _OTHER_SUFFIXES:
        return False
    try:
        return is_image(head())
    except (OSError, ValueError):  # ValueError: the name contains a NUL
        return False


def has_image_suffix(name):
    """Check if a file name has the suffix of an image."""
    return _suffix(name) in IMAGE_SUFFIXES


def _suffix(name):
    return name[name.rfind(".") :].lower() if "." in name[1:] else ""


def holds_images(folder):
    """Check if a folder or its subfolders contain an image."""
    return any(
        not any(map(is_system_name, parts))
        and is_image_file(parts[-1], functools.partial(head_of_file, name))
        for parts, name in walk(folder)
    )


def list_tree(source, found, head, opener, folders=(), left_out=None):
    """`Listing` of a tree, by the rules of `layout.read_layout`.

    Args:
        source: str. Name of the tree in errors.
        found: iterable of (parts, name). See `sort_out`.
        head: Function. See `sort_out`.
        opener: Function that returns a binary stream for a name.
        folders: list of tuples of str. Existing folders, with or without files. Defaults to `()`.
        left_out: `LeftOutCounter` with earlier counts. Defaults to a new counter.
    """
    left_out = LeftOutCounter() if left_out is None else left_out
    images, others = sort_out(found, head, left_out)
    folders = [folder for folder in folders if not any(map(is_system_name, folder))]
    layout = read_layout([parts for parts, _ in images], others, folders, source)
    rows = [(split, label, images[index][1]) for split, label, index in layout.rows]
    return Listing(rows, opener, left_out=left_out.result() + layout.left_out)


# === Folders ===


def list_folder(folder):
    """`Listing` of a folder. Links are followed."""
    folders, left_out = [], LeftOutCounter()
    found = list(walk(folder, folders, left_out))
    return list_tree(str(folder), found, head_of_file, open_regular, folders, left_out)


def walk(folder, folders=None, left_out=None):
    """Yield (parts, path as str) of the files below a folder, unsorted. Links are followed.

    System folders are yielded but not entered. An empty folder with the suffix of an image is yielded, so
    that it is reported as an unreadable image.

    Args:
        folder: str or path.
        folders: list to which the parts of all folders are appended. Defaults to `None`.
        left_out: `LeftOutCounter` for circular links and unreadable folders. Defaults to `None`.
    """
    waiting = [(os.fspath(folder), (), ())]
    while waiting:
        path, parts, above = waiting.pop()
        if parts and not os.access(path, os.R_OK | os.X_OK):
            if left_out is not None:
                left_out.add(UNREADABLE, "/".join(parts))
            continue
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            if left_out is not None:
                left_out.add(LINKS, "/".join(parts))
            continue
        empty = True
        with os.scandir(path) as entries:
            for entry in entries:
                empty, inside = False, (*parts, entry.name)
                if not is_system_name(entry.name) and entry.is_dir():
                    waiting.append((entry.path, inside, (*above, identity)))
                else:
                    yield inside, entry.path
        if empty and parts and has_image_suffix(parts[-1]):
            yield parts, path
        elif parts and folders is not None:
            folders.append(parts)


def head_of_file(name):
    """First bytes of a regular file."""
    with open_regular(name) as stream:
        return stream.read(HEAD)


def file_name(name):
    """Last part of a path or of the name of a member of an archive."""
    return re.split(r"[/\\]", name)[-1]
