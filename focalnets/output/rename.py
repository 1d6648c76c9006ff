"""Renaming without replacing, and the exchange of two directories in one step: `renameat2` of Linux."""

import ctypes
import errno
import os
import pathlib
import sys

_NO_REPLACE, _EXCHANGE = 1, 2  # <linux/fs.h>
_AT_FDCWD = -100  # <fcntl.h>

# Errors of kernels and file systems without these flags.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def rename_new(source, target):
    """Rename a file or directory. Raise FileExistsError if `target` exists, even as an empty directory."""
    if _renameat2(source, target, _NO_REPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def exchange(directory, target, aside):
    """Exchange the names of two directories on one file system.

    Where the system cannot do it in one step, `target` becomes `aside`, then `directory` becomes `target`. If
    the process is killed between these two steps, `target` is missing.
    """
    if _renameat2(directory, target, _EXCHANGE):
        return
    os.rename(target, aside)
    try:
        os.rename(directory, target)
    except BaseException:
        os.rename(aside, target)
        raise


def _renameat2(source, target, flags):
    """Call `renameat2`. Returns False where it is not supported."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if not hasattr(library, "renameat2"):
        return False
    names = [os.fsencode(pathlib.Path(path)) for path in (source, target)]
    if library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(target))
