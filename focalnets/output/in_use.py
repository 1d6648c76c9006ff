"""Locks of output directories: one process at a time writes a directory.

The system frees a lock when its process ends.
A run, an evaluation or an explanation is written in place, under a lock file inside the directory. A preset,
cache or export is made in a workplace beside its name, under a lock file beside it. After locking one file, a
writer checks the other, so that only one of two writers continues. The lock file holds the process ID.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re

from focalnets.files import reason
from focalnets.output.known import PREFIX

_NAME = "in-use"
_PATIENCE = 0.1  # seconds: another process may hold a free lock for an instant, to check it


def tag_for(target):
    """Part of the names of workplaces and lock file beside a directory, short for names of any length."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8] + "-"


def refuse_in_use(directory):
    """Raise FileExistsError if another process writes a directory. Nothing is changed."""
    for path in (_inside(directory), _beside(directory)):
        _refuse_locked(directory, path)


@contextlib.contextmanager
def only_writer(directory, in_place):
    """Keep other processes from writing an output directory for the block.

    Args:
        directory: Path. With `in_place`, of an existing directory, otherwise of one in an existing directory.
        in_place: bool. Whether files are written into the directory, or it is replaced as a whole.

    Raises:
        FileExistsError: if another process writes it. The text gives the process ID.
        OSError: if the lock file cannot be made.
    """
    own, other = _inside(directory), _beside(directory)
    if not in_place:
        own, other = other, own
    with _locked(directory, own, on_acquired=_write_holder):
        try:
            _refuse_locked(directory, other)
            yield
        finally:
            _remove(own)


def remove_left(path):
    """Remove a lock file that a killed process left."""
    with contextlib.suppress(OSError), _locked(path, path):
        _remove(path)


def is_lock(path):
    """Whether a path has the name of a lock file."""
    return path.name.startswith(PREFIX) and path.name.endswith(_NAME)


def _inside(directory):
    return pathlib.Path(directory) / (PREFIX + _NAME)


def _beside(directory):
    target = pathlib.Path(directory).resolve()
    return target.parent / (PREFIX + tag_for(target) + _NAME)


def _refuse_locked(directory, path):
    if not path.is_file() or path.is_symlink() or not os.access(path, os.W_OK):
        return  # not a lock, or one that the writer itself cannot take
    with _locked(directory, path):
        pass


def _locked(directory, path, on_acquired=None):
    """The `filelock.FileLock` of a lock file, acquired."""
    import filelock  # here, because it takes 0.1 s to import

    try:
        lock = filelock.FileLock(path, timeout=_PATIENCE, on_acquired=on_acquired)
        return lock.acquire()
    except filelock.Timeout as error:
        if not path.is_file():
            raise _unwritable(directory, error) from error
        found = re.fullmatch(rb" (\d+ on [\w.-]+)", path.read_bytes()[:300])
        who = f"process {found[1].decode()}" if found else "another process"
        raise FileExistsError(
            f"{directory} is being written by {who}. Wait until it ends, stop it, or choose another "
            "directory."
        ) from None
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory, error):
    return OSError(
        f"{directory} cannot be written to ({reason(error)}). Choose another place, or make it writable."
    )


def _write_holder(descriptor):
    if os.fstat(descriptor).st_nlink > 1:  # another name of a user's file
        raise OSError("its lock file is a hard link to another file")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" {os.getpid()} on {platform.node() or 'localhost'}".encode())


def _remove(path):
    with contextlib.suppress(OSError):  # Windows removes no open file, and a free lock does no harm
        path.unlink()
