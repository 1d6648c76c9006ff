"""Names of output directories, and names of the files in each kind of output."""

import mimetypes
import os
import pathlib
import re

from focalnets.files import expanded, reason

PREFIX = ".focalnets-work-"  # of the names of workplaces and lock files, which are not output

_BLOCK = r"stage\d+_block\d+"
_PRESET = r"config\.json|model\.weights\.h5|preprocessing\.json|labels\.json"
_EVALUATION = (
    r"evaluation\.json|(confusion|reliability|corruptions|mistakes)\.png|confusion\.csv|evaluation\.html"
)
_MONITOR = rf"epoch\d{{4,}}(\.npz|\.{_BLOCK}\.png)|filmstrip\.({_BLOCK}|evidence)\.png"

# Kind of output -> pattern of the names of its files.
NAMES = {
    "run": rf"{_PRESET}|{_EVALUATION}|(recipe|run)\.json|history\.csv|curves\.png|report\.html"
    rf"|(last|best)\.npz|panels/({_BLOCK}|evidence)\.png|monitor/({_MONITOR})|tensorboard/events\.out\.tfevents\.[^/]+",
    "preset": rf"{_PRESET}|conversion\.json",
    "checkpoint": r"config\.json|model\.safetensors|preprocessor_config\.json",
    "evaluation": _EVALUATION,
    "explanation": rf"[^/]+\.({_BLOCK}|evidence)\.png|[^/]+\.npz|(explorer|scores)\.html|scores\.json"
    r"|epochs\.(levels\.png|gif)",
    "monitor": _MONITOR,
    "cache": r"cache\.json|(train|val|test)\.(images|labels)\.npy",
    "deployment": r"(model|explain)\.(onnx|data)|model\.(xml|bin|pt2|tflite|keras)"
    r"|saved_model/((saved_model|fingerprint)\.pb|variables/variables\.[^/]+)"
    r"|index\.html|(runtime|network)\.js|export\.json|labels\.txt|README\.md",
}
NETWORKS = ("run", "preset", "checkpoint")  # kinds of output that replace each other
RUN_FOLDERS = ("panels", "monitor", "tensorboard")

# Suffixes of files that `mimetypes` does not know: weights and exports, arrays and tables, texts, archives.
_SUFFIXES = (
    ".ckpt .engine .ggml .gguf .hdf5 .joblib .keras .mar .mlmodel .mlpackage .mnn .msgpack .nnef .om .onnx "
    ".ort .param .params .pb .pbtxt .pdmodel .pdparams .pickle .pkl .plan .prototxt .pt .pt2 .ptc .pte .pth "
    ".ptl .safetensors .tflite .torchscript .trt .uff .weights .arrow .feather .mat .npy .npz .parquet "
    ".tfrecord .tfrecords .docx .ipynb .log .md .pptx .rst .toml .xlsx .yaml .yml .7z .lz4 .rar .tbz2 .tgz "
    ".txz .zst"
)
_MIME_TYPES = mimetypes.MimeTypes()  # without the tables of this machine


def is_known(kind, name):
    """True if focalnets gives this name to a file of this kind of output.

    >>> from focalnets.output.paths import is_known
    >>> is_known("run", "panels/stage1_block2.png"), is_known("run", "thesis.txt")
    (True, False)
    """
    return kind in NAMES and re.fullmatch(NAMES[kind], name) is not None


def output_path(text):
    """The path of an output directory, with ~ expanded.

    Raises:
        ValueError: if it cannot be the name of a directory, or has the suffix of a file.
    """
    path = expanded(text)
    if suffix := file_suffix(path):
        raise ValueError(
            f"{str(text)!r} is the name of a {suffix} file. Expected the name of a directory, without "
            "that suffix."
        )
    return path


def file_suffix(path):
    """The known suffix of a file name, such as ".pth.tar". "" for the name of a directory.

    >>> import pathlib
    >>> from focalnets.output.paths import file_suffix
    >>> [file_suffix(pathlib.Path(name)) for name in ("net.pth.tar", "focalnet_v1.2.onnx", "focalnet_v1.2")]
    ['.pth.tar', '.onnx', '']
    """
    found = ""
    for suffix in reversed(path.suffixes[-2:]):
        lower = suffix.lower()
        known = lower in _SUFFIXES.split() or _MIME_TYPES.guess_type(f"x{lower}") != (None, None)
        if not known or len(suffix) == 2:  # `mimetypes` knows .a, which is a version here, as in `first.a`
            break
        found = suffix + found
    return found


def make_directory(directory):
    """Make a directory and its parents. Returns its path."""
    directory = pathlib.Path(directory)
    refuse_file(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{directory} cannot be created ({reason(error)}). Choose another name.") from error
    return directory


def refuse_file(directory):
    """Raise FileExistsError if a path exists and is not a directory."""
    if os.path.lexists(directory) and not directory.is_dir():
        what = "a file" if directory.is_file() else "not a directory"
        raise FileExistsError(f"{directory} exists and is {what}. Choose another name.")


def refuse_link(path):
    """Raise OSError if a path is a symbolic link."""
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link. focalnets does not write through links. Move it away.")
