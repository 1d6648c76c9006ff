"""Paths and files of users: expanding paths, opening files safely, and locks of the cache."""

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import stat

_log = logging.getLogger("focalnets")


def reason(error):
    """The cause of an error, in a few words for the user and without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file, or a broken link"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def expanded(text):
    """A user's path, with ~ expanded unless a file of that name exists.

    Raises:
        TypeError: if `text` is not a str or path.
        ValueError: if it cannot be a path.
        PermissionError: if a directory on the way cannot be searched.

    >>> from focalnets.files import expanded
    >>> expanded("runs/first").as_posix()
    'runs/first'
    """
    if not isinstance(text, str | os.PathLike):
        raise TypeError(f"A path must be a str or os.PathLike; got {text!r:.100}.")
    if "\0" in os.fspath(text):
        raise ValueError(f"{_shown(text)} contains a NUL byte. Expected the path of a file or directory.")
    path = pathlib.Path(text)
    if not os.path.lexists(path):
        with contextlib.suppress(RuntimeError):  # no user has this name
            path = path.expanduser()
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        file = next(parent for parent in path.parents if parent.exists())
        raise ValueError(f"{path} cannot exist, because {file} is a file. Check the path.") from None
    except PermissionError:
        raise PermissionError(f"No permission to access {path}. Make its directory searchable.") from None
    except OSError as error:  # the name is too long, or links form a circle
        words = "its name is too long" if error.errno == errno.ENAMETOOLONG else reason(error)
        raise ValueError(f"{_shown(text)} cannot be a path: {words}. Check the path.") from None
    return path


def _shown(text):
    """A path for a one-line message: escaped, and shortened in the middle."""
    text = str(text)
    return repr(text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}")


def no_links(path, flags):
    """An `opener` for `open` that refuses symbolic links, which may lead anywhere in a shared folder."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def open_regular(path):
    """Open a user's file, or a link to one, for reading bytes.

    A named pipe would block, a device may never end, and a socket cannot be opened.

    Args:
        path: str or path.

    Returns:
        Buffered binary file object.

    Raises:
        OSError: if the file cannot be opened, or is a directory, pipe, device or socket.
    """
    _check_regular(os.stat(path).st_mode, path)
    # O_NONBLOCK: a pipe may have replaced the file since the check, and opening it would wait.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(mode, path):
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise OSError(f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not a regular file")


def file_sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path, text):
    """Hold a lock file during the block. Wait for a process that holds it.

    Args:
        path: Path of the lock file.
        text: str. Activity of the other process, such as "exporting x". Logged after two seconds of waiting.
    """
    import filelock  # here, because it takes 0.1 s to import

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=2)
    except filelock.Timeout:
        _log.warning("waiting for another process that is %s", text)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
