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

_CHUNK = 2**20


def list_tar(path):
    """`Listing` of a tar file. A compressed file is unpacked once, into an unnamed temporary file."""
    try:
        with _unpacking(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            plain = isinstance(stream, io.BufferedReader)
            store = _Store(path.open("rb"), "rb") if plain else _Store(tempfile.TemporaryFile(), "r+b")  # noqa: SIM115
            members, links, folders = _tar_members(archive, None if plain else store)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise ValueError(f"{path} is damaged ({error}). Copy or download it again.") from error
        raise OSError(
            f"{tempfile.gettempdir()} has too little space to unpack {path}. Unpack it to a folder with "
            "enough space, or set TMPDIR."
        ) from error
    except DAMAGED as error:
        raise ValueError(f"{path} is not a tar file, or incomplete. Copy or download it again.") from error
    return list_archive(path, members, links, folders, store.read)


def is_tar(path):
    """Check if a file is a tar file, compressed or not."""
    try:
        with _unpacking(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            return archive.firstmember is not None
    except (*DAMAGED, OSError):
        return False


def _unpacking(path):
    """Binary stream of the decompressed content of a file. A `BufferedReader` if it is not compressed."""
    with path.open("rb") as file:
        head = file.read(6)
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
        if head.startswith(magic):
            return module.open(path, "rb")
    return path.open("rb")


class _Bounded:
    """Stream that limits the size of headers, because `tarfile` reads any declared size into memory."""

    def __init__(self, stream):
        self._stream, self.seek, self.tell, self.seekable = stream, stream.seek, stream.tell, stream.seekable

    def read(self, size):
        if size > archives.MAX_MEMBER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _tar_members(archive, store):
    """Tuple ({parts: (start, size)}, {parts: parts of the target of a link}, list of parts of folders).

    If `store` is not None, images are copied into it, and the size of other members is 0.
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
            head = stream.read(HEAD)  # `seek` would unpack everything again
            if is_image_file(parts[-1], functools.partial(bytes, head)):
                members[parts] = (store.append(head, stream), info.size)
            else:
                members[parts] = (0, 0)
    return members, links, folders


class _Store:
    """File of concatenated members, closed by the garbage collector."""

    def __init__(self, file, mode):
        # The descriptor is duplicated because Python warns if the garbage collector closes a file object.
        with file:
            self._descriptor = os.dup(file.fileno())
        self._file = open(self._descriptor, mode, closefd=False)  # noqa: SIM115
        self._lock = threading.Lock()

    def __del__(self):
        os.close(self._descriptor)

    def append(self, head, stream):
        """Append bytes and the rest of a stream. Returns their offset."""
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(head)
        shutil.copyfileobj(stream, self._file, _CHUNK)
        self._file.flush()
        return start

    def read(self, member, size=None):
        """BytesIO of a member (start, size), or of its first `size` bytes."""
        start, length = member
        length = checked_size(length) if size is None else min(size, length)
        with self._lock:
            self._file.seek(start)
            return io.BytesIO(self._file.read(length))
