"""A workplace: a hidden directory of our own in which a file or directory is made before it gets its name.

Nobody can know its name in advance or write into it (mode 0700), so that no planted link is followed. Its
lock file is held as long as the process lives: a workplace whose lock is free was left by a process that was
killed, and the next write in that place removes it.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile

from focalnets.files import reason
from focalnets.output.in_use import is_lock, remove_left
from focalnets.output.known import PREFIX

LOCK = "lock"


@contextlib.contextmanager
def workplace(parent, tag="", settle=shutil.rmtree):
    """Yield a new directory in `parent` for the block.

    Args:
        parent: Existing directory.
        tag: str. Part of the name, to find what a killed process left.
        settle: Function that takes the directory at the end, whatever happened, and removes it.

    Raises:
        OSError: if it cannot be made.
    """
    folder, lock = _locked_folder(parent, tag)
    with lock:
        try:
            yield folder
        finally:
            settle(folder)


def _locked_folder(parent, tag):
    """(folder, its acquired lock)."""
    import filelock  # here, because it takes 0.1 s to import

    while True:
        try:
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{tag}", dir=parent))
        except OSError as error:
            raise OSError(
                f"{parent} cannot be written to ({reason(error)}). Choose another place, or make it writable."
            ) from error
        # Another process may settle the folder before it is locked.
        with contextlib.suppress(filelock.Timeout, FileNotFoundError):
            lock = filelock.FileLock(folder / LOCK, timeout=0).acquire()
            if (folder / LOCK).is_file():
                return folder, lock
            lock.lock.release()


def settle_left(parent, tag="", settle=shutil.rmtree):
    """Settle the workplaces that killed processes left in `parent`. Others' and those in use stay."""
    import filelock

    for folder in pathlib.Path(parent).glob(f"{PREFIX}{tag}*"):
        with contextlib.suppress(OSError):
            if is_lock(folder):
                remove_left(folder)
                continue
            state = os.lstat(folder)
            if folder.is_symlink() or not folder.is_dir() or state.st_mode & 0o077:
                continue
            if hasattr(os, "geteuid") and state.st_uid != os.geteuid():
                continue
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / LOCK, timeout=0):
                settle(folder)
