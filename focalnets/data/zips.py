"""Listings of zip files. Members that would unpack to gigabytes are refused, even if they declare less."""

import bz2
import contextlib
import copy
import io
import stat
import zipfile
import zlib

from focalnets.data.archives import DAMAGED, checked_size, link_target, list_archive
from focalnets.data.files import path_parts

# Chunk sizes in bytes. Python's `zipfile` does not limit the output of lzma: 4 KiB can expand to 30 MB.
_CHUNK, _LZMA_CHUNK = 2**20, 4096


def list_zip(path):
    """`Listing` of a zip file."""
    try:
        archive = zipfile.ZipFile(path)
    except (*DAMAGED, OSError) as error:
        raise ValueError(f"{path} is not a zip file, or incomplete. Copy or download it again.") from error
    members, links, folders = {}, {}, []
    for info in archive.infolist():
        parts = path_parts(info.filename)
        if info.is_dir():
            folders.append(parts)
        elif stat.S_ISLNK(info.external_attr >> 16):
            links[parts] = _link(archive, info, parts)
        else:
            members[parts] = info

    def read(info, size=None):
        return _read_zip_member(archive, info, size)

    return list_archive(path, members, links, folders, read)


def _link(archive, info, parts):
    try:
        target = _read_zip_member(archive, info, _LZMA_CHUNK).getvalue()
    except OSError:
        return None
    return link_target(parts[:-1], target.decode("utf-8", "replace"))


def _read_zip_member(archive, info, size=None):
    """BytesIO of a member, or of its first `size` bytes. OSError if the member is damaged or too large."""
    if size is None:
        size = checked_size(info.file_size)
    chunk_size = _LZMA_CHUNK if info.compress_type == zipfile.ZIP_LZMA else _CHUNK
    unpacked = io.BytesIO()
    try:
        with _zip_stream(archive, info) as stream:
            while (rest := size - unpacked.tell()) > 0 and (chunk := stream.read(min(chunk_size, rest))):
                unpacked.write(chunk)
    except DAMAGED as error:
        raise OSError(str(error) or type(error).__name__) from error
    complete = size >= info.file_size
    if info.compress_type == zipfile.ZIP_BZIP2 and complete and zlib.crc32(unpacked.getbuffer()) != info.CRC:
        raise OSError(f"Bad CRC-32 for file {info.filename!r}")
    unpacked.seek(0)
    return unpacked


@contextlib.contextmanager
def _zip_stream(archive, info):
    """Binary stream of an unpacked member."""
    if info.compress_type != zipfile.ZIP_BZIP2:
        with archive.open(info) as stream:
            yield stream
        return
    # `zipfile` unpacks a bz2 member at once, up to gigabytes from a few hundred bytes. `bz2` unpacks chunks.
    packed = copy.copy(info)
    packed.compress_type, packed.file_size, packed.CRC = zipfile.ZIP_STORED, info.compress_size, None
    with archive.open(packed) as stream, bz2.BZ2File(stream) as unpacked:
        yield unpacked
