"""Exports kept in the cache: made once for each preset, and used only if every byte is as it was written.

An export is found by the path of its preset and valid for the content of its files, so that other weights of
equal size and time are never answered with old ones. The folder belongs to the user alone, each file's owner
is checked, and its hash is compared: what another user planted, or a disk damaged, is made anew.
"""

import hashlib
import os

from focalnets import __version__
from focalnets.deployment.cached_files import HASHES, own_sha256, remember_files
from focalnets.deployment.record import read_export
from focalnets.files import file_sha256, locked
from focalnets.hub import private_directory
from focalnets.output.replace import new_directory
from focalnets.presets.files import CONFIG, LABELS, PREPROCESSING, WEIGHTS
from focalnets.schema import read_record


def cached_export(preset, runtime, export):
    """The export directory of a local preset.

    Args:
        preset: `pathlib.Path`. Absolute path of a preset directory.
        runtime: str. The runtime with which the export is compared.
        export: function (directory, origin). Writes the export of the preset, and raises ValueError if it
            gives other numbers than the network.

    Returns:
        `pathlib.Path`.

    Raises:
        OSError: if the cache cannot be written.
        ValueError: what `export` raises.
    """
    present = [name for name in (CONFIG, PREPROCESSING, LABELS, WEIGHTS) if (preset / name).is_file()]
    origin = {
        "preset": str(preset),
        "runtime": runtime,
        "files": {name: file_sha256(preset / name) for name in present},
        "focalnets_version": __version__,
    }
    key = hashlib.sha256(os.fsencode(f"{preset}\n{runtime}")).hexdigest()[:12]
    directory = private_directory("exports") / f"{preset.name}-{key}"
    if not _is_export_for(directory, origin):
        lock = directory.with_name(f".{directory.name}.lock")
        with locked(lock, f"exporting {preset.name}"):
            if not _is_export_for(directory, origin):
                with new_directory(directory, "export", force=True) as partial:
                    export(partial, origin)
                    remember_files(partial)
    return directory


def _is_export_for(directory, origin):
    try:
        hashes = read_record(directory / HASHES, dict[str, str])
        is_whole = bool(hashes) and all(own_sha256(directory / name) == hashes[name] for name in hashes)
        return is_whole and read_export(directory).origin == origin
    except (OSError, ValueError):
        return False
