"""A preset, cache or export: a whole directory that gets its name when it is complete.

These guarantees hold if the process is killed at any moment, and if the disk is full:

- On Linux, the name leads to the old directory or to the new one, each complete. On other systems, and on
  file systems that cannot exchange two directories in one step, the name may be missing. The next write to
  it then restores the old directory.
- Files that focalnets did not write move from the old directory to the new one just before the exchange. They
  are never copied or deleted. If the process is killed at that moment, the next write to that name moves them
  back.
"""

import contextlib
import itertools
import logging
import os
import shutil
import stat

from focalnets.files import reason
from focalnets.output.directories import check_output_directory, refuse_target
from focalnets.output.locks import LOCK, only_writer, settle_left, tag_for, workplace
from focalnets.output.manifest import MANIFEST, Entry, Manifest, all_files, log_kept
from focalnets.output.paths import make_directory, output_path
from focalnets.output.rename import exchange, rename_new

_log = logging.getLogger("focalnets")


@contextlib.contextmanager
def new_directory(directory, kind, force=False, inputs=()):
    """Yield an empty directory. It becomes `directory` when the block ends without an error.

    Args:
        directory: Path. If it is a symbolic link, its target is replaced and the link stays.
        kind: str. Kind of output, a key of `paths.NAMES`.
        force: bool. Replace what focalnets wrote at `directory`. Defaults to `False`.
        inputs: Paths that the command reads, see `refuse_inputs`. Defaults to `()`.

    Raises:
        FileExistsError: if `directory` exists, unless `force`. If another process creates or writes it.
        ValueError: if there is nothing to replace, or `directory` overlaps with an input.
        OSError: if `directory` cannot be written.
    """
    target = output_path(directory).resolve()
    beside = (target.parent, tag_for(target), lambda folder: _settle(folder, target))
    settle_left(*beside)
    check_output_directory(target, kind, force, inputs)
    make_directory(target.parent)
    with only_writer(target, in_place=False), workplace(*beside) as folder:
        new = folder / "new"
        new.mkdir()
        if target.is_dir():
            _take_permissions(new, target)
        yield new
        Manifest(new).seal({name: Entry(kind) for name in all_files(new)}, kind)
        try:
            refuse_target(target, kind, force, inputs)
            _put(new, target, kind, aside=folder / "old")
        except (OSError, ValueError) as error:
            known = len(error.args) == 1  # not from the system: a sentence for the user
            text = str(error) if known else f"{target} cannot be written ({reason(error)})."
            text += f" The complete output is at: {_set_aside(new, target)}"
            raise (type(error) if known else OSError)(text) from error


def _put(new, target, kind, aside):
    """Give the new directory its name, and move files of others into it."""
    if not os.path.lexists(target):
        rename_new(new, target)
        return
    if not any(target.iterdir()):
        os.rename(new, target)  # fails if the directory is not empty any more
        return
    settle_left(target)
    old = Manifest(target)
    old.write(old.files, old.kind or kind)  # `_settle` deletes a directory without a manifest
    ours = old.ours(kind)
    old.refuse_clashes(kind, ours, all_files(new))
    kept = old.kept(ours)
    try:
        _move(kept, target, new)
        exchange(new, target, aside)
    except BaseException:
        _move([name for name in kept if os.path.lexists(new / name)], new, target)
        raise
    others = {name: entry for name, entry in old.files.items() if name not in ours}
    manifest = Manifest(target)
    manifest.seal({**others, **manifest.files})
    log_kept(target, kept)


def _take_permissions(directory, source):
    """Copy group and mode of a directory to a new one, before files in it inherit the group."""
    state = os.stat(source)
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # the user is not in this group
            os.chown(directory, -1, state.st_gid)
    os.chmod(directory, stat.S_IMODE(state.st_mode) | stat.S_IRWXU)


def _move(names, source, target):
    """Rename files and whole folders from one directory into another. Nothing is replaced."""
    for name in names:
        folder = (target / name).parent
        if not folder.is_dir():
            make_directory(folder)
            _take_permissions(folder, (source / name).parent)
        rename_new(source / name, target / name)


def _settle(folder, target):
    """Remove a workplace: delete our files, and move an old directory and files of others to `target`."""
    new, old = folder / "new", folder / "old"
    if old.is_dir() and not os.path.lexists(target):
        os.rename(old, target)  # the process was killed between two renames
    for left in (new, old):
        if not left.is_dir():
            continue
        settle_left(left)
        manifest = Manifest(left)
        if manifest.kind is None:
            shutil.rmtree(left)  # incomplete: only the killed process has written into it
            continue
        manifest.remove(manifest.ours())
        for name in manifest.kept():
            try:
                _move([name], left, target)
            except OSError as error:
                _log.warning("%s could not be moved back to %s (%s)", left / name, target, reason(error))
        if not manifest.kept():
            (left / MANIFEST).unlink(missing_ok=True)
            left.rmdir()
    if not new.is_dir() and not old.is_dir():
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _set_aside(new, target):
    """Move a complete directory that could not get its name to that name with a number."""
    for number in itertools.count(2):
        place = target.with_name(f"{target.name}-{number}")
        with contextlib.suppress(FileExistsError):
            rename_new(new, place)
            return place
