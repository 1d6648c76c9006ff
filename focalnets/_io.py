"""Files, threads, progress: the only helper module. It knows `names` and `schema` only, and no keras."""

import collections
import concurrent.futures
import contextlib
import errno
import itertools
import os
import pathlib
import platform
import stat
import sys
import time

from focalnets.names import say
from focalnets.schema import read_json  # noqa: F401 - many parts take it from here


def reason(error):
    """What went wrong, in words for the person whose file it is."""
    if isinstance(error, FileNotFoundError):
        return "no such file (or a link to one that is gone)"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def listed(names, most=10):
    """The first of some names for a message, the rest counted.

    >>> from focalnets._io import listed
    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def plural(count, one, several=None):
    """The noun for a number of things, without the number.

    Args:
        count: int.
        one: str. The noun for 1.
        several: str or None. The noun for all other numbers. Defaults to None, which adds an s.

    >>> from focalnets._io import plural
    >>> [f"{count} {plural(count, 'class', 'classes')}" for count in (0, 1, 2)]
    ['0 classes', '1 class', '2 classes']
    """
    return one if count == 1 else several or f"{one}s"


def parallel_map(function, items, workers, ahead=None):
    """Yield `function(item)` for each item, in order, computed by threads a bounded number ahead.

    Args:
        function: called in threads; its errors are raised here, at the place of their item.
        items: iterable; it is read no further than `ahead` items before the one that is yielded.
        workers: threads; 0 to compute without any.
        ahead: how many results may wait; twice the threads if None. This bounds the memory.

    >>> from focalnets._io import parallel_map
    >>> list(parallel_map(str.upper, "abc", workers=2))
    ['A', 'B', 'C']
    """
    if workers == 0:
        yield from map(function, items)
        return
    items, waiting = iter(items), collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="focalnets")
    try:
        for item in itertools.islice(items, 2 * workers if ahead is None else ahead):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in itertools.islice(items, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine():
    """A word for the processor and the cores that this process may use: "x86_64-2cores-amx".

    The last part is what decides how fast it multiplies: amx, avx512bf16, avx512 or avx2, nothing if there
    is none of them or nobody says so.
    """
    word = f"{platform.machine()}-{cores()}cores"
    try:
        flags = set(pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    units = {"amx_bf16": "amx", "avx512_bf16": "avx512bf16", "avx512f": "avx512", "avx2": "avx2"}
    unit = next((name for flag, name in units.items() if flag in flags), None)
    return word if unit is None else f"{word}-{unit}"


def progress(items, text, total=None, done=0, size=None):
    """Yield `items`, with a bar on a terminal's standard error once two seconds have passed.

    Args:
        items: iterable.
        text: what is being done, for the bar.
        total: how many items; their length if None. With `size`: how many bytes, None if nobody knows.
        done: how many of them are done already.
        size: function item -> its bytes, where the bar is to count those.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    import rich.console
    import rich.progress

    columns = ()  # rich's own
    if size is None:
        total = len(items) if total is None else total
    else:
        speed = rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn()
        columns = (*rich.progress.Progress.get_default_columns(), *speed)
    bar, task, start = None, None, time.monotonic()
    try:
        for item in items:
            if bar is None and time.monotonic() - start > 2:
                console = rich.console.Console(stderr=True)
                bar = rich.progress.Progress(*columns, console=console, transient=True)
                bar.start()
                task = bar.add_task(text, total=total, completed=done)
            if bar is not None:
                bar.update(task, completed=done)
            yield item
            done += 1 if size is None else size(item)
    finally:
        if bar is not None:
            bar.stop()


@contextlib.contextmanager
def locked(path, text):
    """Hold the lock file `path` for the block, waiting for the process that holds it.

    The system takes a lock back from a process that ends, however it ended. The file stays: were it
    removed, a third process could lock a new one while the second still waits for the old.

    Args:
        path: of the lock file, which is made.
        text: what the other process is doing, for a terminal where the wait takes two seconds.
    """
    with open(path, "ab", opener=no_links) as file:
        start, said = time.monotonic(), not sys.stderr.isatty()
        while not lock(file):
            if not said and time.monotonic() - start > 2:
                said = True
                say(f"waiting for another process that is {text}", file=sys.stderr)
            time.sleep(0.1)
        yield


def lock(file):
    """Whether this process got the lock of an open file. It is given back when `file` is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def expanded(text):
    """The path that a user names: ~ is the home directory, unless there is a file ~, and ~a.jpg is a file.

    Raises:
        TypeError: if it is no path.
        ValueError: if no file can have that name.
        PermissionError: if this user may not look there.

    >>> from focalnets._io import expanded
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
