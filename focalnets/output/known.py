"""Names of the files of each kind of output, and how to recognize a directory that has no manifest.

Directories that focalnets wrote before it had manifests are recognized by what is in their JSON files. Only
names in this table count as theirs; everything else in such a directory is kept.
"""

import contextlib
import json
import os
import re
import zipfile

# Of the names of workplaces and lock files, which are no output.
PREFIX = ".focalnets-work-"

_BLOCK = r"stage\d+_block\d+"
_PRESET = r"config\.json|model\.weights\.h5|preprocessing\.json|labels\.json"
_EVALUATION = (
    r"evaluation\.json|(confusion|reliability|corruptions|mistakes)\.png|confusion\.csv|evaluation\.html"
)
# What a crash left of a write of an earlier version.
_PARTIAL = r"partial-(last\.npz|best\.npz|history\.csv|model\.weights\.h5|[a-z]+\.json)"
_MONITOR = rf"epoch\d{{4,}}(\.npz|\.{_BLOCK}\.png)|filmstrip\.{_BLOCK}\.png"

# Kind of output -> pattern of the names of its files.
NAMES = {
    "run": rf"{_PRESET}|{_EVALUATION}|(recipe|run)\.json|history\.csv|curves\.png|report\.html"
    rf"|(last|best)\.npz|panels/{_BLOCK}\.png|monitor/({_MONITOR})|tensorboard/events\.out\.tfevents\.[^/]+"
    rf"|{_PARTIAL}",
    "preset": rf"{_PRESET}|conversion\.json",
    "checkpoint": r"config\.json|model\.safetensors|preprocessor_config\.json",
    "evaluation": _EVALUATION,
    "explanation": rf"[^/]+\.{_BLOCK}\.png|[^/]+\.npz",
    "monitor": _MONITOR,
    "cache": r"cache\.json|(train|val|test)\.(images|labels)\.npy",
    "export": r"[^.].*",
    "deployment": r"model\.(onnx|data)|export\.json",
}


# Folders that a run writes into.
FOLDERS = ("panels", "monitor", "tensorboard")

# Directories of this kind are in the cache of one user: whatever lies in one is ours, even if it is damaged.
WHOLLY_OURS = ("export",)


def is_known(kind, name):
    """Whether focalnets gives that name to a file of that kind of output.

    >>> from focalnets.output.known import is_known
    >>> is_known("run", "panels/stage1_block2.png"), is_known("run", "thesis.txt")
    (True, False)
    """
    return kind in NAMES and re.fullmatch(NAMES[kind], name) is not None


def is_partial(name):
    """Whether only a write that a crash cut short has that name: nothing is written under it any more."""
    return re.fullmatch(_PARTIAL, name) is not None


# Fields that all versions without manifests wrote into recipe.json, run.json and evaluation.json. A file with
# some of them may be anybody's.
_RECIPE = frozenset(
    (
        *("name", "data", "architecture", "preset", "image_size", "mean", "std", "interpolation"),
        *("crop_fraction", "epochs", "batch_size", "accumulation", "learning_rate", "final_learning_rate"),
        *("warmup_fraction", "weight_decay", "clip_norm", "layer_decay", "frozen_stages", "ema_decay"),
        *("drop_path_rate", "label_smoothing", "precision", "augmentation", "validation_fraction"),
        *("keep_weights", "seed"),
    )
)
_RUN = frozenset(
    ("data", "keep", "monitor_every", "tensorboard", "backend", "keras", "focalnets", "fingerprint")
)
_FIGURES = frozenset(("data", "split", "images", "top1", "top5", "loss", "per_class"))


def files_of_earlier_version(directory):
    """(kind, names of the files) of a directory without manifest; (None, []) if it is not focalnets'."""
    kind = _kind(directory)
    if kind is None:
        return None, []
    others = _files_not_written(directory)
    names = [name for name in shallow_files(directory) if is_known(kind, name) and name not in others]
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
    """The kind of output. No "checkpoint": transformers keeps our config.json when it saves other weights."""
    recipe, config, run = (_object(directory / f"{name}.json") for name in ("recipe", "config", "run"))
    if set(recipe) >= _RECIPE or set(run) >= _RUN:
        return "run"
    if _is_preset(config):
        return "preset"
    if {"focalnets_cache", "images", "class_names"} <= set(_object(directory / "cache.json")):
        return "cache"
    if _object(directory / "export.json").get("format") == "focalnets export":
        return "export"
    if _is_evaluation(directory):
        return "evaluation"
    if any(_has_gates(path, "images") for path in directory.glob("epoch*.npz")):
        return "monitor"
    if any(_has_gates(path, "image") for path in directory.glob("*.npz")):
        return "explanation"
    return None


def _is_preset(config):
    return config.get("format") == "focalnets preset" and {"format_version", "backbone"} <= set(config)


def _is_evaluation(directory):
    record = set(_object(directory / "evaluation.json"))
    return record >= _FIGURES and bool(record & {"confusion", "reliability"})


def _files_not_written(directory):
    """Names of ours that the JSON file which would list or accompany such a file does not speak of."""
    names, config = set(shallow_files(directory)), _object(directory / "config.json")
    splits = _object(directory / "cache.json").get("images")
    splits = splits if isinstance(splits, dict) else {}
    others = {name for name in names if name.endswith(".npy") and name.split(".")[0] not in splits}
    if not _is_evaluation(directory):
        others |= {name for name in names if re.fullmatch(_EVALUATION, name)}
    if not _is_preset(config):
        return others | ({"config.json"} & names)
    files = config.get("files", ["model.weights.h5", "preprocessing.json"])  # the first versions had no list
    files = (
        {"config.json", *(name for name in files if isinstance(name, str))} if isinstance(files, list) else ()
    )
    return others | {name for name in names - set(files) if re.fullmatch(_PRESET, name)}


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
