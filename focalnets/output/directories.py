"""Directories that one process at a time writes in place: runs, evaluations, explanations.

Their files are replaced one by one, see `files`. Files of others stay.
"""

import contextlib
import os

from focalnets.output.inputs import refuse_inputs
from focalnets.output.locks import only_writer, refuse_in_use, settle_left
from focalnets.output.manifest import Entry, Manifest, all_files, is_occupied, log_kept
from focalnets.output.paths import (
    NETWORKS,
    RUN_FOLDERS,
    is_known,
    make_directory,
    output_path,
    refuse_file,
    refuse_link,
)

# Kind of output -> what `--force` does with a directory of files that are written in place.
_IN_PLACE = {"run": "replace it", "evaluation": "write into it", "explanation": "write into it"}


def check_output_directory(directory, kind, force=False, inputs=(), names=None):
    """Raise what `new_output_directory` or `new_directory` would raise now. Nothing is changed.

    Args:
        directory: Path.
        kind: str. Kind of output, a key of `paths.NAMES`.
        force: bool. Replace what focalnets wrote there. Defaults to `False`.
        inputs: Paths that are read; see `refuse_inputs`.
        names: Names of the files to be written. Defaults to all names of this kind of output.
    """
    directory = output_path(directory)
    refuse_in_use(directory)
    refuse_target(directory if kind in _IN_PLACE else directory.resolve(), kind, force, inputs, names)


def refuse_target(directory, kind, force, inputs, names=None):
    """`check_output_directory` for the process that holds the lock of the directory."""
    refuse_file(directory)
    occupied = directory.is_dir() and is_occupied(directory)
    if not occupied and (kind in _IN_PLACE or not os.path.lexists(directory)):
        return
    if occupied:
        refuse_inputs(directory, inputs)
    if not force and kind in _IN_PLACE:
        raise FileExistsError(
            f"{directory} is not empty; give another --out, or --force to {_IN_PLACE[kind]}."
        )
    if not force:
        raise FileExistsError(f"{directory} exists already; choose another name or remove it.")
    manifest = Manifest(directory)
    ours = manifest.ours(replaced_kinds(kind))
    if occupied and not ours and kind not in ("evaluation", "explanation"):
        words = "run or preset" if kind in NETWORKS else kind
        if manifest.kind is None:
            words += (
                " (it has no list of files that focalnets wrote; if it is yours to replace, move it away)"
            )
        raise ValueError(
            f"{directory} does not look like a {words}; it will not be replaced, not even with --force. "
            "Choose another name."
        )
    manifest.refuse_clashes(kind, ours, names)
    if kind == "run":
        _refuse_folders(directory)


def replaced_kinds(kind):
    """The kinds of output whose files a kind of output replaces."""
    return NETWORKS if kind in NETWORKS else (kind,)


def _refuse_folders(directory):
    """Refuse links and files in the place of folders that a run writes into, before it trains for days."""
    for folder in RUN_FOLDERS:
        refuse_link(directory / folder)
        refuse_file(directory / folder)


@contextlib.contextmanager
def new_output_directory(directory, kind, force=False, inputs=(), names=None):
    """Make a directory for files that are written in place, by no other process during the block.

    In a directory that exists, a run removes the files of the run or preset before it, and an evaluation or
    explanation replaces files one by one. Everything else is kept.

    Args:
        directory: Path. Its parents are made.
        kind: str. "run", "evaluation" or "explanation".
        force: bool. Accept a directory that is not empty. Defaults to `False`.
        inputs: Paths that are read; see `refuse_inputs`.
        names: Names of the files to be written. Defaults to all names of this kind of output.

    Yields:
        `pathlib.Path`.

    Raises:
        FileExistsError: if the directory is not empty, unless `force`; if it holds files of others with the
            names of files to be written; or if another process writes it.
        ValueError: if `force` has no run to replace, or an input is involved.
    """
    check_output_directory(directory, kind, force, inputs, names)
    directory = make_directory(output_path(directory))
    settle_left(directory)
    with only_writer(directory, in_place=True):
        manifest = Manifest(directory)
        ours = manifest.ours(NETWORKS if kind == "run" else None)
        log_kept(directory, manifest.kept(ours))
        if kind == "run":
            manifest.remove(ours)
            manifest.seal(kind="run")
        else:
            manifest.write(manifest.files, manifest.kind or kind)
        if names is not None:
            manifest.claim(dict.fromkeys(names), kind)
        yield directory


@contextlib.contextmanager
def resumed_directory(directory):
    """Yield a run directory, into which no other process writes during the block.

    A run without a manifest, such as a copy without hidden files, gets a new one.
    """
    settle_left(directory)
    with only_writer(directory, in_place=True):
        manifest = Manifest(directory)
        if manifest.kind is None:
            names = [name for name in all_files(directory) if is_known("run", name)]
            manifest.write({name: Entry("run") for name in names}, "run")
        manifest.refuse_clashes("run", [n for n in manifest.files if not (directory / n).is_symlink()])
        _refuse_folders(directory)
        yield directory
