"""One process at a time writes an output directory: it holds a lock that the system takes back when it ends.

A run, an evaluation or an explanation is written in place, under a lock file inside the directory. A preset,
cache or export is made in a workplace beside its name, under a lock file beside it. Who has taken one lock
looks at the other, so that of a writer in place and one beside it, at most one continues. A lock file holds
the process ID, for messages.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import stat
import time

from focalnets._io import lock, no_links, reason
from focalnets.output.known import PREFIX

_NAME = "in-use"
_ATTEMPTS, _PAUSE = 3, 0.03  # seconds: another process may hold a free lock for an instant, to look at it


def tag_for(target):
    """Part of the names of workplaces and lock file beside a directory, short whatever its name is."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8] + "-"


def refuse_in_use(directory):
    """Raise FileExistsError if another process writes a directory. Nothing is changed."""
    for path in (_inside(directory), _beside(directory)):
        _refuse_locked(directory, path)


@contextlib.contextmanager
def only_writer(directory, in_place):
    """Keep other processes from writing an output directory for the block.

    Args:
        directory: Path. With `in_place`, of an existing directory, otherwise of one in an existing directory.
        in_place: bool. Whether files are written into the directory, or it is replaced as a whole.

    Raises:
        FileExistsError: if another process writes it, naming that process.
        OSError: if the lock file cannot be made.
    """
    own, other = _inside(directory), _beside(directory)
    if not in_place:
        own, other = other, own
    with _locked_file(directory, own) as file:
        try:
            file.truncate()
            file.write(f" {os.getpid()} on {platform.node() or 'localhost'}".encode())
            _refuse_locked(directory, other)
            yield
        finally:
            _remove(file, own)


def remove_left(path):
    """Remove a lock file that a killed process left."""
    with open(path, "r+b", opener=no_links) as file:
        if lock(file):
            _remove(file, path)


def is_lock(path):
    """Whether a path has the name of a lock file."""
    return path.name.startswith(PREFIX) and path.name.endswith(_NAME)


def _inside(directory):
    return pathlib.Path(directory) / (PREFIX + _NAME)


def _beside(directory):
    target = pathlib.Path(directory).resolve()
    return target.parent / (PREFIX + tag_for(target) + _NAME)


def _refuse_locked(directory, path):
    try:
        file = open(path, "r+b", buffering=0, opener=no_links)  # noqa: SIM115 - closed below
    except OSError:  # there is none, or it cannot be used, which its writer is told
        return
    with file:
        _take(file, directory)


def _locked_file(directory, path):
    while True:
        try:
            file = open(path, "r+b", buffering=0, opener=_create)  # noqa: SIM115 - the caller closes it
        except OSError as error:
            raise OSError(
                f"{directory} cannot be written to ({reason(error)}). Choose another place, or make it "
                "writable."
            ) from error
        try:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:  # it will be written
                raise OSError(f"{path} is not a lock file of focalnets. Move it away.")
            _take(file, directory)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the process that held the lock has just removed the file


def _take(file, directory):
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        if lock(file):
            return
    file.seek(1)  # Windows does not read the byte that is locked
    found = re.fullmatch(rb"\d+ on [\w.-]+", file.read(300))
    who = f"process {found[0].decode()}" if found else "another process"
    raise FileExistsError(
        f"{directory} is being written by {who}. Wait until it ends, stop it, or choose another directory."
    )


def _create(path, flags):
    return no_links(path, flags | os.O_CREAT)


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove(file, path):
    """Remove a lock file that is locked; not that of another process which has its name meanwhile."""
    with contextlib.suppress(OSError):  # Windows removes no open file, and a free lock does no harm
        if _is_at(file, path):
            os.unlink(path)
