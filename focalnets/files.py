"""Paths and files of users: how a path is read, how a file is opened safely, and locks of the cache."""

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import stat

_log = logging.getLogger("focalnets")


def reason(error):
    """What went wrong, in words for the person whose file it is."""
    if isinstance(error, FileNotFoundError):
        return "no such file (or a link to one that is gone)"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def expanded(text):
    """The path that a user names: ~ is the home directory, unless there is a file ~, and ~a.jpg is a file.

    Raises:
        TypeError: if it is no path.
        ValueError: if no file can have that name.
        PermissionError: if this user may not look there.

    >>> from focalnets.files import expanded
    >>> expanded("runs/first").as_posix()
    'runs/first'
    """
    if not isinstance(text, str | os.PathLike):
        raise TypeError(f"A path is a str or os.PathLike; got {text!r:.100}.")
    if "\0" in os.fspath(text):
        raise ValueError(f"{_shown(text)} contains a NUL byte. Expected the path of a file or directory.")
    path = pathlib.Path(text)
    if not os.path.lexists(path):
        with contextlib.suppress(RuntimeError):  # there is no user of that name
            path = path.expanduser()
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        file = next(parent for parent in path.parents if parent.exists())
        raise ValueError(f"{path} cannot exist, because {file} is a file. Check the path.") from None
    except PermissionError:
        raise PermissionError(f"No permission to look for {path}. Make the directory readable.") from None
    except OSError as error:  # too long a name, or links in a circle
        words = "its name is too long" if error.errno == errno.ENAMETOOLONG else reason(error)
        raise ValueError(f"{_shown(text)} cannot be a path: {words}. Check the path.") from None
    return path


def _shown(text):
    """A path for a message of one line: unprintable characters escaped, the middle of a long one left out."""
    text = str(text)
    return repr(text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}")


def no_links(path, flags):
    """An `opener` for `open` that refuses a symbolic link: in a shared folder it may lead anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def open_regular(path):
    """Open a user's file to read its bytes: a regular file, or a link to one.

    A named pipe would block, a device may never end, and a socket cannot be opened.

    Args:
        path: str or path.

    Returns:
        A buffered binary file object.

    Raises:
        OSError: if it cannot be opened, or is a pipe, a device or a socket.
        IsADirectoryError: if it is a directory.
    """
    _check_regular(os.stat(path).st_mode, path)
    # Should a pipe take the file's place meanwhile, it is opened without waiting, and refused.
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
    """The hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path, text):
    """Hold a lock file for the block. Waits for the process that holds it.

    Args:
        path: Path of the lock file.
        text: str. What the other process is doing, such as "exporting x". It is logged if the wait takes two
            seconds.
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
