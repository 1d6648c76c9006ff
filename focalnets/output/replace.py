"""A preset, cache or export: a whole directory that gets its name when it is complete.

What holds if the process is killed at any moment, or the disk is full:
- On Linux, at the name is the old directory or the new one, each complete. Elsewhere, and on file systems
  that cannot exchange two directories in one step, the name may be missing. The next write to it brings the
  old directory back.
- Files that focalnets did not write move from the old directory to the new one just before the exchange. None
  is ever copied or deleted. If the process is killed within that instant, the next write to that name moves
  them back.
"""

import contextlib
import filecmp
import logging
import os
import shutil
import stat

from focalnets.files import reason
from focalnets.output.in_use import only_writer, refuse_in_use, tag_for
from focalnets.output.inputs import refuse_inputs
from focalnets.output.known import WHOLLY_OURS
from focalnets.output.manifest import (
    MANIFEST,
    Entry,
    Manifest,
    all_files,
    describe_kept,
    is_occupied,
    kept_entries,
    our_files,
    read_manifest,
    remove_files,
    sealed,
    unlisted,
    write_manifest,
)
from focalnets.output.paths import make_directory, output_path, refuse_file, refuse_names
from focalnets.output.rename import exchange, rename_new
from focalnets.output.workplace import LOCK, settle_left, workplace

# What `convert` and `train` replace: networks, in whatever form.
NETWORKS = ("run", "preset", "checkpoint")

_log = logging.getLogger("focalnets")


@contextlib.contextmanager
def new_directory(directory, kind, force=False, inputs=()):
    """Yield an empty directory that becomes `directory` when the block ends without an error.

    Args:
        directory: Path. If it is a link, the directory that it leads to is replaced, and the link stays.
        kind: str. Kind of output, a key of `known.NAMES`.
        force: bool. Replace what focalnets wrote at `directory`, and keep everything else there.
        inputs: Paths that are read; see `refuse_inputs`.

    Raises:
        FileExistsError: if `directory` exists, unless `force`, is made by somebody else meanwhile, or is
            being written by another process.
        ValueError: if `force` has nothing of ours to replace, or would lose what is not ours.
        OSError: if `directory` cannot be written.
    """
    target = output_path(directory).resolve()
    tag = tag_for(target)
    settle_left(target.parent, tag, lambda folder: _settle(folder, target))
    check_new_directory(target, kind, force, inputs)
    make_directory(target.parent)
    with (
        only_writer(target, in_place=False),
        workplace(target.parent, tag, lambda folder: _settle(folder, target)) as folder,
    ):
        new = folder / "new"
        new.mkdir()
        if target.is_dir():
            _take_permissions(new, target)
        yield new
        write_manifest(new, Manifest(kind, sealed(new, {name: Entry(kind) for name in all_files(new)})))
        try:
            _check(target, kind, force, inputs)
            _put(folder, target, kind)
        except (OSError, ValueError) as error:
            known = isinstance(error, FileExistsError | ValueError) and len(error.args) == 1
            text = str(error) if known else f"{target} cannot be written ({reason(error)})."
            place = _set_aside(new, target)
            raise (type(error) if known else OSError)(
                f"{text.rstrip('.')}; what was to be there is complete: {place}"
            ) from error


def check_new_directory(directory, kind, force=False, inputs=()):
    """Raise what `new_directory` would raise now. Nothing is changed."""
    target = output_path(directory).resolve()
    refuse_in_use(target)
    _check(target, kind, force, inputs)


def _check(target, kind, force, inputs):
    """Refuse a target that may not be replaced."""
    if not os.path.lexists(target):
        return
    refuse_file(target)
    occupied = is_occupied(target)
    if occupied:
        refuse_inputs(target, inputs)
    if not force:
        raise FileExistsError(f"{target} exists already; choose another name or remove it.")
    ours = our_files(target, _replaced_by(kind))
    if occupied and not ours:
        words = ("run or preset" if kind in NETWORKS else kind) + unlisted(target)
        raise ValueError(
            f"{target} does not look like a {words}; it will not be replaced, not even with --force. Choose "
            "another name."
        )
    refuse_names(target, kind, ours)


def _replaced_by(kind):
    return NETWORKS if kind in NETWORKS else (kind,)


def _put(folder, target, kind):
    """Give the new directory its name, and move files of others into it."""
    new = folder / "new"
    if not os.path.lexists(target):
        rename_new(new, target)
        return
    if not any(target.iterdir()):
        os.rename(new, target)  # which fails if somebody has just put something there
        return
    settle_left(target)
    before = Manifest(kind, {}) if kind in WHOLLY_OURS else read_manifest(target) or Manifest(kind, {})
    if read_manifest(target) is None or kind in WHOLLY_OURS:
        write_manifest(target, before)  # by which `_settle` knows the files of an earlier focalnets
    ours = our_files(target, _replaced_by(kind))
    files = set(all_files(new))
    clash = [name for name in files - ours if os.path.lexists(target / name) and not _same(new, target, name)]
    if clash:
        refuse_names(target, kind, ours, clash)
    kept = [name for name in kept_entries(target, ours) if name not in files and kind not in WHOLLY_OURS]
    try:
        _move(kept, target, new)
        exchange(new, target, folder / "old")
    except BaseException:
        _move([name for name in kept if os.path.lexists(new / name)], new, target)
        raise
    others = {name: entry for name, entry in before.files.items() if name not in ours | files}
    if others := sealed(target, others):
        write_manifest(target, Manifest(kind, {**read_manifest(target).files, **others}))
    if kept:
        _log.warning(describe_kept(target, kept))


def _same(new, target, name):
    one, other = new / name, target / name
    return other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)


def _take_permissions(directory, of):
    """Group and mode of another directory, before files are made that may inherit the group."""
    state = os.stat(of)
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # of a group that this user is not in
            os.chown(directory, -1, state.st_gid)
    os.chmod(directory, stat.S_IMODE(state.st_mode) | stat.S_IRWXU)


def _move(names, source, target):
    """Rename entries (a folder ends in a slash) from one directory into another; none is replaced."""
    for name in names:
        folder = (target / name).parent
        if not folder.is_dir():
            make_directory(folder)
            _take_permissions(folder, (source / name).parent)
        rename_new(source / name, target / name)


def _settle(folder, target):
    """Remove a workplace: our files in it are deleted, others' go to `target`, an old target goes back."""
    new, old = folder / "new", folder / "old"
    if old.is_dir() and not os.path.lexists(target):
        os.rename(old, target)  # the process was killed between two renames
    for left in (new, old):
        if not left.is_dir():
            continue
        settle_left(left)
        manifest = read_manifest(left)
        if manifest is None or manifest.kind in WHOLLY_OURS:
            shutil.rmtree(left)  # incomplete: only its maker has written into it
            continue
        remove_files(left, our_files(left, None))
        for name in kept_entries(left, ()):
            try:
                if _same(left, target, name):
                    (left / name).unlink()
                else:
                    _move([name], left, target)
            except OSError as error:
                _log.warning("%s could not be moved back to %s (%s)", left / name, target, reason(error))
        if not kept_entries(left, ()):
            (left / MANIFEST).unlink(missing_ok=True)
            left.rmdir()
    if not new.is_dir() and not old.is_dir():
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _set_aside(new, target):
    """Where a complete directory is that could not get its name: beside it, with a number if possible."""
    for number in range(2, 100):
        place = target.with_name(f"{target.name}-{number}")
        with contextlib.suppress(FileExistsError):
            try:
                rename_new(new, place)
            except FileExistsError:
                raise
            except OSError:
                break
            return place
    return new
