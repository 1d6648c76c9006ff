"""Listings of tar files, with or without compression."""

import bz2
import errno
import functools
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import threading

from focalnets.data import archives
from focalnets.data.archives import DAMAGED, checked_size, link_target, list_archive
from focalnets.data.files import has_image_suffix, is_image_file, path_parts
from focalnets.images.formats import HEAD

_STEP = 2**20


def list_tar(path):
    """The images of a tar file. A compressed one is unpacked once, into a temporary file without a name."""
    try:
        with _unpacking(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            plain = isinstance(stream, io.BufferedReader)
            store = _Store(path.open("rb"), "rb") if plain else _Store(tempfile.TemporaryFile(), "r+b")  # noqa: SIM115
            members, links, folders = _tar_members(archive, None if plain else store)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise ValueError(f"{path} is damaged ({error}): copy or download it anew.") from error
        raise OSError(
            f"{path} does not fit into {tempfile.gettempdir()} when it is unpacked; unpack it to a folder "
            "with enough space, or set TMPDIR."
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"{path} is not a tar file, or an incomplete one: copy or download it anew."
        ) from error
    return list_archive(path, members, links, folders, store.read)


def is_tar(path):
    """Whether a file is a tar file, compressed or not."""
    try:
        with _unpacking(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            return archive.firstmember is not None
    except (*DAMAGED, OSError):
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
        if size > archives.MAX_MEMBER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _tar_members(archive, store):
    """({parts: (start, bytes)}, {parts: parts of the target of a link}, parts of folders).

    Images are copied into `store`, unless it is None; other members then have no bytes.
    """
    members, links, folders = {}, {}, []
    for info in archive:
        parts = path_parts(info.name)
        if info.isdir():
            folders.append(parts)
        elif info.issym():
            links[parts] = link_target(parts[:-1], info.linkname)
        elif info.islnk():
            links[parts] = path_parts(info.linkname)
        elif not info.isreg() or info.issparse():
            members[parts] = None
        elif store is None:
            members[parts] = (info.offset_data, info.size)
        elif info.size > archives.MAX_MEMBER:
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

    def __init__(self, file, mode):
        # A descriptor of its own, because Python warns of files that are closed by nobody but the collector.
        with file:
            self._descriptor = os.dup(file.fileno())
        self._file = open(self._descriptor, mode, closefd=False)  # noqa: SIM115
        self._lock = threading.Lock()

    def __del__(self):
        os.close(self._descriptor)

    def append(self, head, stream):
        """Copy some bytes and the rest of a stream to the end. Returns where they start."""
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(head)
        shutil.copyfileobj(stream, self._file, _STEP)
        self._file.flush()
        return start

    def read(self, member, size=None):
        """BytesIO of a member (start, bytes), or of its first `size` bytes."""
        start, length = member
        length = checked_size(length) if size is None else min(size, length)
        with self._lock:
            self._file.seek(start)
            return io.BytesIO(self._file.read(length))
