"""Renaming that replaces nothing, or exchanges two directories in one step. Linux offers both since 3.15."""

import ctypes
import errno
import os
import pathlib
import sys

_NO_REPLACE, _EXCHANGE = 1, 2  # <linux/fs.h>
_AT_FDCWD = -100  # <fcntl.h>

# What kernels and file systems without these flags answer.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def rename_new(source, target):
    """Rename a directory; FileExistsError if `target` exists, also if it is an empty directory."""
    if _renameat2(source, target, _NO_REPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def exchange(directory, target, aside):
    """Put `directory` in the place of the directory `target`, which becomes `directory`, or `aside`.

    In one step where the system can: at every moment, `target` is one of the two. Elsewhere in two renames:
    if the process is killed between them, `target` is missing, and is `aside`.

    Args:
        directory, target: Paths of directories on one file system.
        aside: Path that doesn't exist.
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
    """Whether the system did it; OSError if it can, and failed."""
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
