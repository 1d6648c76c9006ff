"""Listings of zip files. A member that unpacks to gigabytes, declared or not, is refused before it does."""

import bz2
import contextlib
import copy
import io
import stat
import zipfile
import zlib

from focalnets.data.archives import DAMAGED, checked_size, link_target, list_archive
from focalnets.data.files import path_parts

# Bytes that are unpacked at a time. Python's `zipfile` does not limit what lzma makes of them: up to 30 MB of
# 4 KiB.
_STEP, _LZMA_STEP = 2**20, 4096


def list_zip(path):
    """The images of a zip file."""
    try:
        archive = zipfile.ZipFile(path)
    except (*DAMAGED, OSError) as error:
        raise ValueError(f"{path} is not a zip, or an incomplete one: copy or download it anew.") from error
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
        target = _read_zip_member(archive, info, _LZMA_STEP).getvalue()
    except OSError:
        return None
    return link_target(parts[:-1], target.decode("utf-8", "replace"))


def _read_zip_member(archive, info, size=None):
    """BytesIO of the unpacked member, or of its first `size` bytes. OSError if it is damaged or too large."""
    if size is None:
        size = checked_size(info.file_size)
    step = _LZMA_STEP if info.compress_type == zipfile.ZIP_LZMA else _STEP
    unpacked = io.BytesIO()
    try:
        with _zip_stream(archive, info) as stream:
            while (missing := size - unpacked.tell()) > 0 and (chunk := stream.read(min(step, missing))):
                unpacked.write(chunk)
    except DAMAGED as error:
        raise OSError(str(error) or type(error).__name__) from error
    if info.compress_type == zipfile.ZIP_BZIP2 and size >= info.file_size:
        _check_sum(info, unpacked)
    unpacked.seek(0)
    return unpacked


def _check_sum(info, unpacked):
    if zlib.crc32(unpacked.getbuffer()) != info.CRC:
        raise OSError(f"Bad CRC-32 for file {info.filename!r}")


@contextlib.contextmanager
def _zip_stream(archive, info):
    """A binary stream of an unpacked member."""
    if info.compress_type != zipfile.ZIP_BZIP2:
        with archive.open(info) as stream:
            yield stream
        return
    # Python's `zipfile` unpacks a bz2 member at once, gigabytes from a few hundred bytes; `bz2` does not.
    packed = copy.copy(info)
    packed.compress_type, packed.file_size, packed.CRC = zipfile.ZIP_STORED, info.compress_size, None
    with archive.open(packed) as stream, bz2.BZ2File(stream) as unpacked:
        yield unpacked
