"""Cache of exports, one per preset and runtime.

The path of the preset selects an export, and the hashes of its files decide whether the export is valid. Only
the user can write to the folder. Owner and hash of each cached file are checked before use: a file that
another user planted, or that is damaged, is exported again.
"""

import hashlib
import os
import shutil

from focalnets import __version__
from focalnets.deployment.cached_files import HASHES, own_sha256, remember_files
from focalnets.deployment.record import read_export
from focalnets.files import file_sha256, locked
from focalnets.hub import private_directory
from focalnets.output.replace import new_directory
from focalnets.presets.files import CONFIG, LABELS, PREPROCESSING, WEIGHTS
from focalnets.schema import read_record


def cached_export(preset, runtime, export):
    """Export directory of a local preset, exported if the cache has no valid one.

    Args:
        preset: `pathlib.Path`. Absolute path of a preset directory.
        runtime: str. Runtime that verifies the export.
        export: function (directory, origin). Writes the export, and raises ValueError if its logits differ
            from those of the network.

    Returns:
        `pathlib.Path`.

    Raises:
        OSError: if the cache cannot be written.
        ValueError: from `export`.
    """
    present = [name for name in (CONFIG, PREPROCESSING, LABELS, WEIGHTS) if (preset / name).is_file()]
    origin = {
        "preset": str(preset),
        "runtime": runtime,
        "files": {name: file_sha256(preset / name) for name in present},
        "focalnets_version": __version__,
        "outputs": ["probabilities", "logits", "features"],  # exports without features are made again
    }
    key = hashlib.sha256(os.fsencode(f"{preset}\n{runtime}")).hexdigest()[:12]
    directory = private_directory("exports") / f"{preset.name}-{key}"
    if not _is_export_for(directory, origin):
        lock = directory.with_name(f".{directory.name}.lock")
        with locked(lock, f"exporting {preset.name}"):
            if not _is_export_for(directory, origin):
                shutil.rmtree(directory, ignore_errors=True)  # of other weights, or damaged
                with new_directory(directory, "export") as partial:
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
