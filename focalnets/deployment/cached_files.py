"""Verification of cached files: a file is used only if its hash and its owner are correct."""

import contextlib
import hashlib
import os
import stat

from focalnets.files import no_links
from focalnets.output.files import write_json
from focalnets.schema import read_record

HASHES = "sha256.json"  # hashes of the other files of the directory, written last


def remember_files(directory):
    """Write the hashes of the files in a directory, so that damage is detected."""
    names = [path.name for path in sorted(directory.iterdir()) if path.is_file() and path.name != HASHES]
    write_json(directory / HASHES, {name: own_sha256(directory / name) for name in names})


@contextlib.contextmanager
def checked_files(directory):
    """Remove files that changed since their hashes were written, and write new hashes after the block."""
    try:
        hashes = read_record(directory / HASHES, dict[str, str])
    except (OSError, ValueError):
        hashes = {}
    found = {path.name: path for path in directory.iterdir()} if directory.is_dir() else {}
    found.pop(HASHES, None)
    for name, path in found.items():
        if own_sha256(path) != hashes.get(name, ""):
            path.unlink()
    yield
    with contextlib.suppress(OSError):  # the directory is read-only
        if {path.name for path in directory.iterdir()} - {HASHES} != found.keys() & hashes.keys():
            remember_files(directory)


def own_sha256(path):
    """SHA-256 of a regular file of this user, or None for links, missing files and files of other users."""
    try:
        with open(path, "rb", opener=no_links) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or (hasattr(os, "getuid") and state.st_uid != os.getuid()):
                return None
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
