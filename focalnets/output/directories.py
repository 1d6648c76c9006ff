"""Directories that are written in place, by one process at a time: runs, evaluations, explanations.

Their files are replaced one by one, see `files`; those of others stay.
"""

import contextlib
import logging

from focalnets.output.files import claim, link_error
from focalnets.output.in_use import only_writer, refuse_in_use
from focalnets.output.inputs import refuse_inputs
from focalnets.output.known import FOLDERS, is_known
from focalnets.output.manifest import (
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
from focalnets.output.replace import NETWORKS
from focalnets.output.workplace import settle_left

_log = logging.getLogger("focalnets")


@contextlib.contextmanager
def new_run_directory(directory, force=False, inputs=()):
    """Make an empty directory for a run, into which no other process writes during the block.

    Args:
        directory: Path; parents are made.
        force: bool. Remove the run or preset that is there, and nothing else.
        inputs: Paths that are read; see `refuse_inputs`.

    Yields:
        `pathlib.Path`.

    Raises:
        FileExistsError: if it exists and is not empty, unless `force`, or another process writes it.
        ValueError: if there is nothing that focalnets wrote, or an input is involved.
    """
    check_run_directory(directory, force, inputs)
    directory, others = make_directory(output_path(directory)), {}
    settle_left(directory)
    with only_writer(directory, in_place=True):
        if _is_occupied(directory):
            ours = our_files(directory, NETWORKS)
            kept = kept_entries(directory, ours)
            before = read_manifest(directory).files
            others = sealed(directory, {name: entry for name, entry in before.items() if name not in ours})
            remove_files(directory, ours)
            if kept:
                _log.warning(describe_kept(directory, kept))
        write_manifest(directory, Manifest("run", others))
        yield directory


def check_run_directory(directory, force=False, inputs=()):
    """Raise what `new_run_directory` would raise. Nothing is changed."""
    directory = output_path(directory)
    refuse_in_use(directory)
    if not _is_occupied(directory):
        return
    refuse_inputs(directory, inputs)
    if not force:
        raise FileExistsError(f"{directory} is not empty; give another --out, or --force to replace it.")
    ours = our_files(directory, NETWORKS)
    if not ours:
        raise ValueError(
            f"{directory} does not look like a run{unlisted(directory)}; --force will not delete it."
        )
    refuse_names(directory, "run", ours)
    _refuse_folders(directory)


def _refuse_folders(directory):
    """Refuse links and files in the place of folders that a run writes into, before it trains for days."""
    for folder in (directory / name for name in FOLDERS):
        if folder.is_symlink():
            raise link_error(folder)
        refuse_file(folder)


@contextlib.contextmanager
def resumed_directory(directory):
    """Yield a run directory, into which no other process writes during the block.

    A run that lost its manifest, such as a copy without hidden files, gets a new one.
    """
    settle_left(directory)
    with only_writer(directory, in_place=True):
        manifest = read_manifest(directory)
        if manifest is None:
            names = [name for name in all_files(directory) if is_known("run", name)]
            manifest = Manifest("run", {name: Entry("run") for name in names})
            write_manifest(directory, manifest)
        listed = {name for name in manifest.files if not (directory / name).is_symlink()}
        refuse_names(directory, "run", listed)
        _refuse_folders(directory)
        yield directory


@contextlib.contextmanager
def new_output_directory(directory, kind, force=False, inputs=(), names=None):
    """Make a directory for results, or take one that exists: its files are replaced one by one.

    No other process writes into it during the block.

    Args:
        directory: Path; parents are made.
        kind: str. Kind of output, a key of `known.NAMES`.
        force: bool. Write into a directory that is not empty.
        inputs: Paths that are read; see `refuse_inputs`.
        names: Names of the files to be written. All that the kind of output may have by default.

    Yields:
        `pathlib.Path`.

    Raises:
        FileExistsError: if it exists and is not empty, unless `force`, holds files of others with the names
            of files to be written, or another process writes it.
        ValueError: if an input is involved.
    """
    check_output_directory(directory, kind, force, inputs, names)
    directory = make_directory(output_path(directory))
    settle_left(directory)
    with only_writer(directory, in_place=True):
        if kept := kept_entries(directory, our_files(directory, None)):
            _log.warning(describe_kept(directory, kept))
        if read_manifest(directory) is None:
            write_manifest(directory, Manifest(kind, {}))
        if names is not None:
            claim(directory, dict.fromkeys(names), kind)
        yield directory


def check_output_directory(directory, kind, force=False, inputs=(), names=None):
    """Raise what `new_output_directory` would raise. Nothing is changed."""
    directory = output_path(directory)
    refuse_in_use(directory)
    if not _is_occupied(directory):
        return
    refuse_inputs(directory, inputs)
    if not force:
        raise FileExistsError(f"{directory} is not empty; give another --out, or --force to write into it.")
    refuse_names(directory, kind, our_files(directory, (kind,)), names)


def _is_occupied(directory):
    refuse_file(directory)
    return directory.is_dir() and is_occupied(directory)
