"""Locks and workplaces: one process at a time writes an output directory.

A run, an evaluation or an explanation is written in place, under a lock file inside the directory. A preset
or a cache is made in a workplace beside its name, under a lock file beside it. After locking one file, a
writer checks the other, so that only one of two writers continues. The lock file holds the process ID.

A workplace is a hidden directory in which a file or directory is made before it gets its name. Its name is
random and its mode 0700, so that nobody can plant a link there.

The system frees a lock when its process ends. A workplace whose lock is free was left by a killed process.
The next write in that place removes it.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import shutil
import stat
import tempfile

from focalnets.files import reason
from focalnets.output.paths import PREFIX

LOCK = "lock"  # in a workplace
_IN_USE = PREFIX + "in-use"  # in a directory that is written in place
_PATIENCE = 0.1  # seconds: another process may hold a free lock for an instant, to check it


def tag_for(target):
    """Part of the names of workplace and lock file beside a directory: a short hash of its name."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8] + "-"


def refuse_in_use(directory):
    """Raise FileExistsError if another process writes a directory. Nothing is changed."""
    for path in _lock_files(directory):
        _refuse_locked(directory, path)


@contextlib.contextmanager
def only_writer(directory, in_place):
    """Keep other processes from writing an output directory for the block.

    Args:
        directory: `pathlib.Path`. An existing directory with `in_place`, or a name in an existing directory.
        in_place: bool. Whether files are written into the directory, or it is replaced as a whole.

    Raises:
        FileExistsError: if another process writes it. The text gives the process ID.
        OSError: if the lock file cannot be made.
    """
    own, other = _lock_files(directory)[:: 1 if in_place else -1]
    with _locked(directory, own, on_acquired=_write_holder):
        try:
            _refuse_locked(directory, other)
            yield
        finally:
            _remove(own)


@contextlib.contextmanager
def workplace(parent, tag="", settle=shutil.rmtree):
    """Yield a new directory in `parent` for the block.

    Args:
        parent: Path of an existing directory.
        tag: str. Part of the name, see `tag_for`. Defaults to "".
        settle: Function that removes the directory at the end, also after an error.

    Raises:
        OSError: if the directory cannot be made.
    """
    folder, lock = _locked_folder(parent, tag)
    with lock:
        try:
            yield folder
        finally:
            settle(folder)


def settle_left(parent, tag="", settle=shutil.rmtree):
    """Settle the workplaces and lock files that killed processes of this user left in `parent`."""
    import filelock

    for path in pathlib.Path(parent).glob(f"{PREFIX}{tag}*"):
        with contextlib.suppress(OSError):  # also `filelock.Timeout`: it is in use
            state = path.lstat()
            is_own = not hasattr(os, "geteuid") or state.st_uid == os.geteuid()
            if path.name.endswith("in-use"):
                with _locked(path, path):
                    _remove(path)
            elif stat.S_ISDIR(state.st_mode) and not state.st_mode & 0o077 and is_own:
                with filelock.FileLock(path / LOCK, timeout=0):
                    settle(path)


def _lock_files(directory):
    """Paths of the lock files inside and beside a directory."""
    target = pathlib.Path(directory).resolve()
    return pathlib.Path(directory) / _IN_USE, target.parent / f"{PREFIX}{tag_for(target)}in-use"


def _refuse_locked(directory, path):
    if path.is_file() and not path.is_symlink() and os.access(path, os.W_OK):  # else it is nobody's lock
        with _locked(directory, path):
            pass


def _locked(directory, path, on_acquired=None):
    """Acquire the `filelock.FileLock` of a directory."""
    import filelock  # here, because it takes 0.1 s to import

    try:
        return filelock.FileLock(path, timeout=_PATIENCE, on_acquired=on_acquired).acquire()
    except OSError as error:
        if not isinstance(error, filelock.Timeout) or not path.is_file():
            raise _unwritable(directory, error) from error
    found = re.fullmatch(rb" (\d+ on [\w.-]+)", path.read_bytes()[:300])
    who = f"process {found[1].decode()}" if found else "another process"
    raise FileExistsError(
        f"{directory} is being written by {who}. Wait until it ends, stop it, or choose another directory."
    )


def _write_holder(descriptor):
    if os.fstat(descriptor).st_nlink > 1:  # another name of a user's file
        raise OSError("its lock file is a hard link to another file")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" {os.getpid()} on {platform.node() or 'localhost'}".encode())


def _locked_folder(parent, tag):
    """Make a workplace; returns its path and its acquired lock."""
    import filelock

    while True:
        try:
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{tag}", dir=parent))
        except OSError as error:
            raise _unwritable(parent, error) from error
        # Another process may settle the folder before it is locked.
        with contextlib.suppress(filelock.Timeout, FileNotFoundError):
            lock = filelock.FileLock(folder / LOCK, timeout=0).acquire()
            if (folder / LOCK).is_file():
                return folder, lock
            lock.lock.release()


def _unwritable(directory, error):
    return OSError(
        f"{directory} cannot be written to ({reason(error)}). Choose another place, or make it writable."
    )


def _remove(path):
    with contextlib.suppress(OSError):  # Windows removes no open file, and a free lock does no harm
        path.unlink()
