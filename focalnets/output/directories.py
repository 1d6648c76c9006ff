"""Directories that one process at a time writes in place: runs, evaluations and explanations.

`files.py` replaces their files one by one. Files of others stay.
"""

import contextlib
import os

from focalnets.output import paths
from focalnets.output.inputs import refuse_inputs
from focalnets.output.locks import only_writer, refuse_in_use, settle_left
from focalnets.output.manifest import MANIFEST, Entry, Manifest, all_files, log_kept

_IN_PLACE = ("run", "evaluation", "explanation")


def check_output_directory(directory, kind, force=False, inputs=(), names=None):
    """Raise what `new_output_directory` or `new_directory` would raise now, without changing anything.

    Args:
        directory: Path.
        kind: str. Kind of output, a key of `paths.NAMES`.
        force: bool. Replace what focalnets wrote there. Defaults to `False`.
        inputs: Paths that the command reads, see `refuse_inputs`. Defaults to `()`.
        names: Names of the files to be written. Defaults to all names of this kind of output.
    """
    directory = paths.output_path(directory)
    refuse_in_use(directory)
    refuse_target(directory if kind in _IN_PLACE else directory.resolve(), kind, force, inputs, names)


def refuse_target(directory, kind, force, inputs, names=None):
    """Check an output directory for the process that holds its lock, see `check_output_directory`."""
    paths.refuse_file(directory)
    manifest = Manifest(directory)
    occupied = directory.is_dir() and bool(manifest.kept())
    if not occupied and (kind in _IN_PLACE or not os.path.lexists(directory)):
        return
    if occupied:
        refuse_inputs(directory, inputs)
    if not force and kind in _IN_PLACE:
        advice = "Choose another directory, or use --force to replace the files that focalnets wrote there."
        raise FileExistsError(f"{directory} is not empty. {advice}")
    if not force:
        raise FileExistsError(f"{directory} already exists. Choose another directory, or remove it.")
    ours = manifest.ours(kind)
    if occupied and not ours and kind not in ("evaluation", "explanation"):
        problem = "no" if manifest.kind is None else f"no unchanged file of a {kind} in its"
        raise ValueError(
            f"{directory} cannot be replaced: it has {problem} {MANIFEST}. --force replaces only what "
            "focalnets wrote. Choose another directory, or move this one away."
        )
    manifest.refuse_clashes(kind, ours, names)
    if kind == "run":
        _refuse_folders(directory)


def _refuse_folders(directory):
    """Refuse links and files in the place of a run's subdirectories, before it trains for days."""
    for folder in paths.RUN_FOLDERS:
        paths.refuse_link(directory / folder)
        paths.refuse_file(directory / folder)


@contextlib.contextmanager
def new_output_directory(directory, kind, force=False, inputs=(), names=None):
    """Make a directory for files that are written in place. Only this process writes it during the block.

    In an existing directory, a run first removes the run or preset that is there. An evaluation or
    explanation replaces files one by one.

    Args:
        directory: Path. Its parents are made.
        kind: str. "run", "evaluation" or "explanation".
        force: bool. Accept a directory that is not empty. Defaults to `False`.
        inputs: Paths that the command reads, see `refuse_inputs`. Defaults to `()`.
        names: Names of the files to be written. Defaults to all names of this kind of output.

    Yields:
        `pathlib.Path`.

    Raises:
        FileExistsError: if the directory is not empty, unless `force`. If files of others have the names of
            files to be written. If another process writes the directory.
        ValueError: if there is no run to replace, or the directory overlaps with an input.
    """
    check_output_directory(directory, kind, force, inputs, names)
    directory = paths.make_directory(paths.output_path(directory))
    settle_left(directory)
    with only_writer(directory, in_place=True):
        manifest = Manifest(directory)
        ours = manifest.ours("run" if kind == "run" else None)
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
    """Yield a run directory. Only this process writes it during the block.

    A run without a manifest, such as a copy without hidden files, gets a new one.
    """
    settle_left(directory)
    with only_writer(directory, in_place=True):
        manifest = Manifest(directory)
        if manifest.kind is None:
            names = [name for name in all_files(directory) if paths.is_known("run", name)]
            manifest.write({name: Entry("run") for name in names}, "run")
        manifest.refuse_clashes("run", [n for n in manifest.files if not (directory / n).is_symlink()])
        _refuse_folders(directory)
        yield directory
