"""Compact drawing of a tree of files, for errors about its layout."""

import collections

from focalnets.names import plural, printable

_FOLDERS = 6
_DEPTH = 3


def draw_tree(images, others=()):
    """Draw the folders of a tree with the number of images in each.

    Args:
        images: list of tuples of str. Parts of the names of the images.
        others: list of tuples of str. Parts of the names of all other files. Defaults to `()`.

    >>> from focalnets.data.tree import draw_tree
    >>> print(draw_tree([("cat", "1.jpg"), ("cat", "2.jpg"), ("dog", "1.jpg")], [("list.csv",)]))
      cat/  2 images
      dog/  1 image
      1 other file (.csv)
    """
    below, direct, children = collections.Counter(), collections.Counter(), collections.defaultdict(set)
    for parts in images:
        direct[parts[:-1]] += 1
    for folder, count in direct.items():
        for depth in range(1, len(folder) + 1):
            below[folder[:depth]] += count
            children[folder[: depth - 1]].add(folder[:depth])
    lines = _lines((), below, direct, children)
    if others:
        suffixes = collections.Counter(_suffix(parts[-1]) for parts in others)
        kinds = ", ".join(suffix for suffix, _ in suffixes.most_common(4))
        lines.append(f"  {_counted(len(others), 'other file')} ({printable(kinds)})")
    return "\n".join(lines or ["  nothing"])


def _lines(folder, below, direct, children):
    indent, lines = "  " * (len(folder) + 1), []
    if direct[folder] and children[folder]:
        lines.append(f"{indent}{_counted(direct[folder], 'image')} directly in this folder")
    elif direct[folder] and not folder:
        lines.append(f"{indent}{_counted(direct[folder], 'image')}")
    inside = sorted(children[folder])
    for child in inside[:_FOLDERS]:
        lines.append(f"{indent}{printable(child[-1])}/  {_counted(below[child], 'image')}")
        if len(child) < _DEPTH:
            lines += _lines(child, below, direct, children)
        elif children[child]:
            lines.append(f"{indent}  ...")
    if len(inside) > _FOLDERS:
        lines.append(f"{indent}and {_counted(len(inside) - _FOLDERS, 'more folder')}")
    return lines


def _counted(count, noun):
    return f"{count:,} {plural(count, noun)}"


def _suffix(name):
    stem, point, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if point and stem else "no suffix"
