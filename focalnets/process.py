"""Signals, pipes, standard streams and memory of the process that runs a command line."""

import contextlib
import ctypes
import io
import logging
import os
import signal
import stat
import sys
import threading

from focalnets.names import printable_lines

# Exit code that a shell reports for a program killed by SIGPIPE: 128 + 13.
READER_LEFT = 141


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM (from a scheduler or `kill`) and SIGHUP (from a closed terminal), as on Ctrl-C.

    Attributes:
        number: int. Number of the signal.
    """

    def __init__(self, number):
        super().__init__(f"signal {number}")
        self.number = number


@contextlib.contextmanager
def stopping_in_order():
    """Raise `Terminated` in the block on SIGTERM and SIGHUP, to write snapshots and remove partial files.

    Only the first of these signals counts: `timeout` and some schedulers send two, and the second would
    interrupt the cleanup. Ctrl-C always acts at once. Ignored signals (`nohup`) stay ignored.
    """
    replaced = {}

    def stop(number, _):
        for one in replaced:
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                replaced[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def open_missing_streams():
    """Open the null device for each closed standard stream (`>&-`, some daemons).

    Python sets a closed stream to None. The next opened file would get its number, so that the output of a
    library would be written to that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends


def prepare_streams(finish):
    """Accept names of any bytes on standard streams, and write UTF-8 to files and pipes on every system.

    Args:
        finish: bool. Whether to continue without output when the reader of a pipe leaves (`| head -1`). With
            `False`, writing raises `BrokenPipeError`.
    """
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not hasattr(stream, "reconfigure"):
            continue
        chosen = stream.isatty() or "PYTHONIOENCODING" in os.environ
        stream.reconfigure(errors="backslashreplace", encoding=None if chosen else "utf-8")
        if finish and stream is getattr(sys, f"__{name}__") and _is_pipe(stream.fileno()):
            stream.flush()
            setattr(sys, name, _tolerant(stream))
    logging.lastResort.setFormatter(_PrintableFormatter())


def keep_freed_memory():
    """Keep freed memory in the process for the next training step. Has an effect on Linux with glibc only.

    A training step frees gigabytes, and the next step allocates them again. If they are returned to the
    system, each page must be mapped and cleared again, which took a third of each step of a small network on
    JAX with two cores. `focalnets train`, `evaluate`, `predict` and `embed` call this function. Your own
    program can call it before the backend computes anything, if other processes do not need the memory.

    Returns:
        bool. Whether it succeeded.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return False
    # Constants of malloc.h: M_ARENA_MAX 1 (other arenas are small), M_MMAP_MAX 0, M_TRIM_THRESHOLD off.
    return all([mallopt(-8, 1), mallopt(-4, 0), mallopt(-1, -1)])


def drop_output():
    """Discard buffered standard output, which would otherwise raise an error when Python exits."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a file
        _drop(sys.stdout.fileno())


class _PipeWriter(io.FileIO):
    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            _drop(self.fileno())
            return len(data)


class _PrintableFormatter(logging.Formatter):
    """Escapes control characters in log lines, which contain names of files and classes."""

    def format(self, record):
        return printable_lines(super().format(record))


def _tolerant(stream):
    raw = _PipeWriter(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _is_pipe(descriptor):
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _drop(descriptor):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
