"""The command line among other processes: requests to stop, and pipes whose reader has left."""

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

# What a shell reports for a program that a closed pipe has ended: 128 + SIGPIPE.
READER_LEFT = 141


class Terminated(KeyboardInterrupt):
    """SIGTERM, from a scheduler or `kill`, or SIGHUP, from a closed terminal: the job stops as for Ctrl-C.

    Attributes:
        number: int. Number of the signal.
    """

    def __init__(self, number):
        super().__init__(f"signal {number}")
        self.number = number


@contextlib.contextmanager
def stopping_in_order():
    """Raise `Terminated` in the block for SIGTERM and SIGHUP, so that snapshots are saved and files removed.

    Only the first of these signals counts: `timeout` and some schedulers send two, and the second would
    interrupt the saving. Ctrl-C still stops at once. A signal that is ignored (`nohup`) stays ignored.
    """
    replaced = {}

    def stop(number, _):
        for one in replaced:
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
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
    """Open the null device for each standard stream that was closed (`>&-`, some daemons).

    Python has None for such a stream, and the next file to be opened would get its number, so that what a
    library prints ends up in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open as long as the process


def prepare_streams(finish):
    """Let the standard streams take names of any bytes, and write UTF-8 to files and pipes on every system.

    Args:
        finish: bool. Whether the job goes on when the reader of its output leaves (`| head -1`). Its further
            output is dropped then. If False, writing raises `BrokenPipeError`.
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
    """Let the process keep the memory that it frees, for its next step; on Linux with glibc only.

    A training step frees gigabytes and asks for them again in the next one. Given back to the system in
    between, each page has to be mapped and cleared anew: on two cores that took a third of a step of a small
    net on JAX. `focalnets train`, `evaluate` and `predict` do this. A program of your own may, before the
    backend has computed anything, if it need not give memory back.

    Returns:
        Whether it was done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return False
    # From malloc.h: one arena (the others are small), no separate mappings, no trimming.
    return all([mallopt(-8, 1), mallopt(-4, 0), mallopt(-1, -1)])


def drop_output():
    """Send what is still to be written to standard output nowhere: Python would fail on it when it exits."""
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
    """Warnings contain names of files and classes, too."""

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
