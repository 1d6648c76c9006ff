"""Names of the files of each kind of output."""

import re

# Of the names of workplaces and lock files, which are no output.
PREFIX = ".focalnets-work-"

_BLOCK = r"stage\d+_block\d+"
_PRESET = r"config\.json|model\.weights\.h5|preprocessing\.json|labels\.json"
_EVALUATION = (
    r"evaluation\.json|(confusion|reliability|corruptions|mistakes)\.png|confusion\.csv|evaluation\.html"
)
_MONITOR = rf"epoch\d{{4,}}(\.npz|\.{_BLOCK}\.png)|filmstrip\.{_BLOCK}\.png"

# Kind of output -> pattern of the names of its files.
NAMES = {
    "run": rf"{_PRESET}|{_EVALUATION}|(recipe|run)\.json|history\.csv|curves\.png|report\.html"
    rf"|(last|best)\.npz|panels/{_BLOCK}\.png|monitor/({_MONITOR})|tensorboard/events\.out\.tfevents\.[^/]+",
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
