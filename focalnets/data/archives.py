"""What zip and tar files have in common: members become a `Listing`, links lead to members only.

Nothing is ever unpacked to a path that an archive names: members are read into memory, and their names are
names only.
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

# As many links in a row as Linux follows, and members that all links together may add.
_MOST_LINKS, _MOST_LINKED = 40, 1_000_000

DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(RuntimeError, ValueError, OverflowError),  # encrypted, of an unknown method, or with impossible numbers
)


def checked_size(size):
    """The size of a member; OSError if it is over the limit."""
    if size > MAX_MEMBER:
        raise OSError(f"unpacks to {size / 1e6:,.0f} MB; the limit is {MAX_MEMBER / 1e6:,.0f} MB")
    return size


def link_target(folder, target):
    """The parts of the target of a link in `folder`, None if it leads out of the archive."""
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
    """The `Listing` of an archive.

    Args:
        path: of the archive.
        members: dict parts -> what `read` takes, or None for members that are not regular files.
        links: dict parts -> parts of the target; None for one outside of the archive.
        folders: list of parts.
        read: function (value of `members`, size=None) -> BytesIO.
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
    """What links lead to, files and folders, as if it were there: parts -> member."""
    found = {}
    for link, target in links.items():
        for _ in range(_MOST_LINKS):
            target = links.get(target, target)
        if target in members:
            found[link] = members[target]
            continue
        circle = target is None or target == link[: len(target)]
        inside = [] if circle else [parts for parts in members if parts[: len(target)] == target]
        if not inside:
            left_out.add(LINKS, "/".join(link))
        if len(found) + len(inside) > _MOST_LINKED:
            raise ValueError(
                f"The links of the archive lead to more than {_MOST_LINKED:,} members. Pack files instead of "
                "links."
            )
        for parts in inside:
            found[(*link, *parts[len(target) :])] = members[parts]
    return found
