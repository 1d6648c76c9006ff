"""Listings of archives: zip files, and tar files with or without compression.

Nothing is ever unpacked to a path that an archive names: members are read into memory, and their names are
names only.
"""

import bz2
import errno
import functools
import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib

from focalnets.data.files import has_image_suffix, is_image_file, list_tree, parts_of
from focalnets.data.formats import HEAD
from focalnets.data.left_out import LINKS, LeftOutCounter

# Bytes of one unpacked member. The largest image that is decoded has 64 million pixels of up to 8 bytes.
MAX_MEMBER = 512 * 2**20

# Bytes that are unpacked at a time. Python's `zipfile` does not limit what bz2 and lzma make of them: bz2
# packs up to 80 MB into 4 KiB.
_STEP, _CAREFUL_STEP = 2**20, 4096

_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(RuntimeError, ValueError, OverflowError),  # encrypted, of an unknown method, or with impossible numbers
)


def list_zip(path):
    """The images of a zip file."""
    try:
        archive = zipfile.ZipFile(path)
    except (*_DAMAGED, OSError) as error:
        raise ValueError(f"{path} is not a zip, or an incomplete one: copy or download it anew.") from error
    members, links, folders = {}, {}, []
    for info in archive.infolist():
        parts = parts_of(info.filename)
        if info.is_dir():
            folders.append(parts)
        elif stat.S_ISLNK(info.external_attr >> 16):
            target = _read_zip_member(archive, info, HEAD**2).getvalue().decode("utf-8", "replace")
            links[parts] = _joined(parts[:-1], target)
        else:
            members[parts] = info

    def read(info, size=None):
        return _read_zip_member(archive, info, size)

    return _list_archive(path, members, links, folders, read)


def _read_zip_member(archive, info, size=None):
    """BytesIO of the unpacked member, or of its first `size` bytes. OSError if it is damaged or too large."""
    if size is None:
        size = _checked_size(info.file_size)
    step = _STEP if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else _CAREFUL_STEP
    unpacked = io.BytesIO()
    try:
        with archive.open(info) as stream:
            while (missing := size - unpacked.tell()) > 0 and (chunk := stream.read(min(step, missing))):
                unpacked.write(chunk)
    except _DAMAGED as error:
        raise OSError(str(error) or type(error).__name__) from error
    unpacked.seek(0)
    return unpacked


def _checked_size(size):
    if size > MAX_MEMBER:
        raise OSError(f"unpacks to {size / 1e6:,.0f} MB; the limit is {MAX_MEMBER / 1e6:,.0f} MB")
    return size


def list_tar(path):
    """The images of a tar file. A compressed one is unpacked once, into a temporary file without a name."""
    try:
        with _unpacking(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            plain = isinstance(stream, io.BufferedReader)
            store = _Store(path.open("rb") if plain else tempfile.TemporaryFile())  # noqa: SIM115
            members, links, folders = _tar_members(archive, None if plain else store)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise ValueError(f"{path} is damaged ({error}): copy or download it anew.") from error
        raise OSError(
            f"{path} does not fit into {tempfile.gettempdir()} when it is unpacked; unpack it to a folder "
            "with enough space, or set TMPDIR."
        ) from error
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is not a tar file, or an incomplete one: copy or download it anew."
        ) from error
    return _list_archive(path, members, links, folders, store.read)


def is_tar(path):
    """Whether a file is a tar file, compressed or not."""
    try:
        with _unpacking(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            return archive.firstmember is not None
    except (*_DAMAGED, OSError):
        return False


def _unpacking(path):
    """A binary stream of what a file holds, decompressed. A `BufferedReader` if it is not compressed."""
    with path.open("rb") as file:
        head = file.read(6)
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
        if head.startswith(magic):
            return module.open(path, "rb")
    return path.open("rb")


class _Bounded:
    """A stream for `tarfile`, which reads names of any declared length into memory."""

    def __init__(self, stream):
        self._stream, self.seek, self.tell, self.seekable = stream, stream.seek, stream.tell, stream.seekable

    def read(self, size):
        if size > MAX_MEMBER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _tar_members(archive, store):
    """({parts: (start, bytes)}, {parts: parts of the target of a link}, parts of folders).

    Images are copied into `store`, unless it is None; other members then have no bytes.
    """
    members, links, folders = {}, {}, []
    for info in archive:
        parts = parts_of(info.name)
        if info.isdir():
            folders.append(parts)
        elif info.issym():
            links[parts] = _joined(parts[:-1], info.linkname)
        elif info.islnk():
            links[parts] = parts_of(info.linkname)
        elif not info.isreg() or info.issparse():
            members[parts] = None
        elif store is None:
            members[parts] = (info.offset_data, info.size)
        elif info.size > MAX_MEMBER:
            members[parts] = (0, info.size if has_image_suffix(parts[-1]) else 0)
        else:
            stream = archive.extractfile(info)
            head = stream.read(HEAD)  # to seek back would mean to unpack everything again
            if is_image_file(parts[-1], functools.partial(bytes, head)):
                members[parts] = (store.append(head, stream), info.size)
            else:
                members[parts] = (0, 0)
    return members, links, folders


class _Store:
    """A file that holds members one after the other. It is closed with the last reference to it."""

    def __init__(self, file):
        self._file, self._lock = file, threading.Lock()

    def __del__(self):
        self._file.close()

    def append(self, head, stream):
        """Copy some bytes and the rest of a stream to the end. Returns where they start."""
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(head)
        shutil.copyfileobj(stream, self._file, _STEP)
        return start

    def read(self, member, size=None):
        """BytesIO of a member (start, bytes), or of its first `size` bytes."""
        start, length = member
        length = _checked_size(length) if size is None else min(size, length)
        with self._lock:
            self._file.seek(start)
            return io.BytesIO(self._file.read(length))


# === Both ===


def _joined(folder, target):
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


def _list_archive(path, members, links, folders, read):
    """The `Listing` of an archive.

    Args:
        path: of the archive.
        members: dict parts -> what `read` takes, or None for members that are not regular files.
        links: dict parts -> parts of the target; None for one outside of the archive.
        folders: list of parts.
        read: function (value of `members`, size=None) -> BytesIO.
    """
    left_out = LeftOutCounter()
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
    return list_tree(str(path), found, head, opener, [folder for folder in folders if folder], left_out)


def _linked(members, links, left_out):
    """What links lead to, files and folders, as if it were there: parts -> member."""
    found = {}
    for link, target in links.items():
        for _ in range(len(links)):  # chains of links
            if target not in links or target is None:
                break
            target = links[target]
        if target in members:
            found[link] = members[target]
            continue
        circle = target is None or target == link[: len(target)]
        inside = [] if circle else [parts for parts in members if parts[: len(target)] == target]
        if not inside:
            left_out.add(LINKS, "/".join(link))
        for parts in inside:
            found[(*link, *parts[len(target) :])] = members[parts]
    return found
