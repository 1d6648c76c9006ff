"""Locks and workplaces: one process at a time writes an output directory.

A run, an evaluation or an explanation is written in place, under a lock file inside the directory. A preset,
cache or export is made in a workplace beside its name, under a lock file beside it. After locking one file,
a writer checks the other, so that only one of two writers continues. The lock file holds the process ID.

A workplace is a hidden directory in which a file or directory is made before it gets its name. Its own name
is random and its mode is 0700, so that nobody can plant a link in it. The system frees a lock when its
process ends. The next write in the same place removes a workplace whose lock is free.
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

LOCK = "lock"  # the lock file of a workplace
_IN_USE = "in-use"  # end of the name of the lock file of an output directory
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
    """Keep other processes from writing an output directory during the block.

    Args:
        directory: Path. It must exist if `in_place`. Otherwise its parent must exist.
        in_place: bool. Whether files are written into the directory, or it is replaced as a whole.

    Raises:
        FileExistsError: if another process writes it. The message contains the process ID.
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
    """Yield a new, locked directory in `parent`. `settle` removes it after the block. See `tag_for`."""
    folder, lock = _locked_folder(parent, tag)
    with lock:
        try:
            yield folder
        finally:
            settle(folder)


def settle_left(parent, tag="", settle=shutil.rmtree):
    """Remove what killed processes of this user left in `parent`, see `workplace`."""
    import filelock

    for path in pathlib.Path(parent).glob(f"{PREFIX}{tag}*"):
        with contextlib.suppress(OSError):  # `filelock.Timeout` is one: it is in use
            state = path.lstat()
            is_own = not hasattr(os, "geteuid") or state.st_uid == os.geteuid()
            if path.name.endswith(_IN_USE):
                with _locked(path, path):
                    _remove(path)
            elif stat.S_ISDIR(state.st_mode) and not state.st_mode & 0o077 and is_own:
                with filelock.FileLock(path / LOCK, timeout=0):
                    settle(path)


def _lock_files(directory):
    """Paths of the lock files inside and beside a directory."""
    directory, target = pathlib.Path(directory), pathlib.Path(directory).resolve()
    return directory / f"{PREFIX}{_IN_USE}", target.parent / f"{PREFIX}{tag_for(target)}{_IN_USE}"


def _refuse_locked(directory, path):
    # A writer cannot hold the lock of a link or of a file that is not writable.
    if path.is_file() and not path.is_symlink() and os.access(path, os.W_OK):
        with _locked(directory, path):
            pass


def _locked(directory, path, on_acquired=None):
    """Acquire the lock of an output directory."""
    import filelock  # here, because it takes 0.1 s to import

    try:
        return filelock.FileLock(path, timeout=_PATIENCE, on_acquired=on_acquired).acquire()
    except OSError as error:
        if not isinstance(error, filelock.Timeout) or not path.is_file():
            raise _unwritable(directory, error) from error
    content = b""
    with contextlib.suppress(OSError):  # the holder has just removed it
        content = path.read_bytes()[:300]
    found = re.fullmatch(rb" (\d+ on [\w.-]+)", content)
    who = f"process {found[1].decode()}" if found else "another process"
    raise FileExistsError(
        f"{directory} is being written by {who}. Wait until it ends, stop it, or choose another directory."
    )


def _locked_folder(parent, tag):
    """Path and acquired lock of a new workplace."""
    import filelock

    while True:
        try:
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{tag}", dir=parent))
        except OSError as error:
            raise _unwritable(parent, error) from error
        try:
            # Another process may settle the folder before it is locked.
            with contextlib.suppress(filelock.Timeout, FileNotFoundError):
                lock = filelock.FileLock(folder / LOCK, timeout=0).acquire()
                if (folder / LOCK).is_file():
                    return folder, lock
                lock.lock.release()
        except BaseException:  # also a signal to stop
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _write_holder(descriptor):
    if os.fstat(descriptor).st_nlink > 1:  # it would overwrite a user's file
        raise OSError("its lock file is a hard link to another file")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" {os.getpid()} on {platform.node() or 'localhost'}".encode())


def _remove(path):
    with contextlib.suppress(OSError):  # Windows does not remove open files. A free lock does no harm.
        path.unlink()


def _unwritable(directory, error):
    return OSError(f"{directory} cannot be written ({reason(error)}). Choose another directory.")
