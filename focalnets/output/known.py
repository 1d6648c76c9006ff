"""Names of the files of each kind of output, and how to recognize a directory that has no manifest.

Directories that focalnets wrote before it had manifests are recognized by what is in their JSON files. Only
names in this table count as theirs; everything else in such a directory is kept.
"""

import contextlib
import json
import os
import re
import zipfile

_BLOCK = r"stage\d+_block\d+"
_PRESET = r"config\.json|model\.weights\.h5|preprocessing\.json|labels\.json"
_EVALUATION = (
    r"evaluation\.json|(confusion|reliability|corruptions|mistakes)\.png|confusion\.csv|evaluation\.html"
)
_MONITOR = rf"epoch\d{{4,}}(\.npz|\.{_BLOCK}\.png)|filmstrip\.{_BLOCK}\.png"

# Kind of output -> pattern of the names of its files.
NAMES = {
    "run": rf"{_PRESET}|{_EVALUATION}|(recipe|run)\.json|history\.csv|curves\.png|report\.html"
    rf"|(last|best)\.npz|panels/{_BLOCK}\.png|monitor/({_MONITOR})|tensorboard/events\.out\.tfevents\.[^/]+"
    r"|partial-(last\.npz|best\.npz|history\.csv|model\.weights\.h5|[a-z]+\.json)",
    "preset": rf"{_PRESET}|conversion\.json",
    "checkpoint": r"config\.json|model\.safetensors|preprocessor_config\.json",
    "evaluation": _EVALUATION,
    "explanation": rf"[^/]+\.{_BLOCK}\.png|[^/]+\.npz",
    "monitor": _MONITOR,
    "cache": r"cache\.json|(train|val|test)\.(images|labels)\.npy",
    "export": r"[^.].*",
}


# Directories of this kind are in the cache of one user: whatever lies in one is ours, even if it is damaged.
WHOLLY_OURS = ("export",)


def is_known(kind, name):
    """Whether focalnets gives that name to a file of that kind of output.

    >>> from focalnets.output.known import is_known
    >>> is_known("run", "panels/stage1_block2.png"), is_known("run", "thesis.txt")
    (True, False)
    """
    return kind in NAMES and re.fullmatch(NAMES[kind], name) is not None


def files_of_earlier_version(directory):
    """(kind, names of the files) of a directory without manifest; (None, []) if it is not focalnets'."""
    kind = _kind(directory)
    if kind is None:
        return None, []
    names = [name for name in shallow_files(directory) if is_known(kind, name)]
    if kind == "explanation":
        names = [name for name in names if _is_explained(directory, name)]
    return kind, sorted(names)


def shallow_files(directory):
    """Names of what lies in a directory and in its folders, folders and links to folders not followed."""
    names = []
    for entry in _entries(directory):
        if entry.is_dir(follow_symlinks=False):
            names += [f"{entry.name}/{inner.name}" for inner in _entries(entry.path)]
        else:
            names.append(entry.name)
    return names


def _entries(directory):
    try:
        return sorted(os.scandir(directory), key=lambda entry: entry.name)
    except PermissionError:
        return []


def _kind(directory):
    recipe, config, run = (_object(directory / f"{name}.json") for name in ("recipe", "config", "run"))
    if {"architecture", "augmentation"} <= set(recipe) or {"fingerprint", "backend"} <= set(run):
        return "run"
    if config.get("format") == "focalnets preset":
        return "preset"
    if "focalnets_version" in config:
        return "checkpoint"
    if {"focalnets_cache", "images", "class_names"} <= set(_object(directory / "cache.json")):
        return "cache"
    if _object(directory / "export.json").get("format") == "focalnets export":
        return "export"
    if {"top1", "per_class", "split"} <= set(_object(directory / "evaluation.json")):
        return "evaluation"
    if any(_has_gates(path, "images") for path in directory.glob("epoch*.npz")):
        return "monitor"
    if any(_has_gates(path, "image") for path in directory.glob("*.npz")):
        return "explanation"
    return None


def _is_explained(directory, name):
    stem = name.removesuffix(".npz") if name.endswith(".npz") else re.sub(rf"\.{_BLOCK}\.png$", "", name)
    return _has_gates(directory / f"{stem}.npz", "image")


def _has_gates(path, images):
    """Whether an archive of arrays has gates of blocks, and images under that name."""
    with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return f"{images}.npy" in names and any(re.fullmatch(rf"{_BLOCK}\.gates\.npy", one) for one in names)
    return False


def _object(path):
    """The dict in a JSON file, empty if there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return content if isinstance(content, dict) else {}
    return {}
