"""Listings of the members of zip and tar files.

Members are read into memory. Nothing is unpacked to a path from an archive, and links can only refer to
members.
"""

import lzma
import struct
import tarfile
import zipfile
import zlib

from focalnets.data.files import has_image_suffix, list_tree
from focalnets.data.left_out import LINKS, LeftOutCounter
from focalnets.images.formats import HEAD

# Bytes of one unpacked member. The largest image that is decoded has 64 million pixels of up to 8 bytes.
MAX_MEMBER = 512 * 2**20

# Length of a chain of links, as in Linux, and number of members that all links together may add.
_MAX_LINKS, _MAX_LINKED = 40, 1_000_000

DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(RuntimeError, ValueError, OverflowError),  # encrypted, an unknown compression, or invalid numbers
)


def checked_size(size):
    """Return the size of a member. OSError if it exceeds the limit."""
    if size > MAX_MEMBER:
        raise OSError(f"unpacks to {size / 1e6:,.0f} MB; the limit is {MAX_MEMBER / 1e6:,.0f} MB")
    return size


def link_target(folder, target):
    """Parts of the target of a link in `folder`, or None if the target is outside of the archive."""
    parts = list(folder)
    if target.startswith("/"):
        return None
    for part in target.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def list_archive(path, members, links, folders, read):
    """`Listing` of an archive.

    Args:
        path: Path of the archive.
        members: dict. Parts of a name -> argument of `read`, or None if the member is not a regular file.
        links: dict. Parts of a name -> parts of the target, or None if it is outside of the archive.
        folders: list of parts.
        read: Function (value of `members`, size=None) that returns a BytesIO.
    """
    left_out, folders = LeftOutCounter(), [folder for folder in folders if folder]
    members = {**members, **_linked(members, links, left_out)}
    filled = {parts[:depth] for parts in members for depth in range(len(parts))}
    members |= {folder: None for folder in folders if folder not in filled and has_image_suffix(folder[-1])}
    by_name = {"/".join(parts): member for parts, member in members.items() if parts}

    def opener(name, size=None):
        if by_name[name] is None:
            raise OSError("not a regular file")
        return read(by_name[name], size)

    def head(name):
        return opener(name, HEAD).getvalue()

    found = [(parts, "/".join(parts)) for parts in members if parts]
    return list_tree(str(path), found, head, opener, folders, left_out)


def _linked(members, links, left_out):
    """Members that links to files and folders add: parts -> member."""
    found = {}
    for link, target in links.items():
        for _ in range(_MAX_LINKS):
            target = links.get(target, target)
        if target in members:
            found[link] = members[target]
            continue
        invalid = target is None or target == link[: len(target)]
        inside = [] if invalid else [parts for parts in members if parts[: len(target)] == target]
        if not inside:
            left_out.add(LINKS, "/".join(link))
        if len(found) + len(inside) > _MAX_LINKED:
            raise ValueError(
                f"The links of the archive refer to more than {_MAX_LINKED:,} members. Pack files, not links."
            )
        for parts in inside:
            found[(*link, *parts[len(target) :])] = members[parts]
    return found
