"""Search and decoding of images from files, folders, patterns, and a list on standard input."""

import glob
import logging
import pathlib
import shlex
import sys
from dataclasses import dataclass

import numpy as np

from focalnets.data.files import has_image_suffix, head_of_file, sort_out, walk
from focalnets.data.left_out import LeftOutCounter, report
from focalnets.data.names import kind_of_data_file
from focalnets.files import expanded
from focalnets.images.decode import as_pixels, open_image
from focalnets.names import did_you_mean, plural, printable, sibling_names
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map

_log = logging.getLogger("focalnets")

# Number of unreadable images that an error lists by name.
LISTED = 20

# Error for images and a preset without a `FocalNetImageConverter`.
NO_PREPROCESSING = (
    "The preset has no preprocessing, so images cannot be converted to model inputs. Build the classifier "
    "with a FocalNetImageConverter and save it again."
)


@dataclass(frozen=True)
class FoundImage:
    """Name and uint8 pixels (H, W, channels) of an image. If it is unreadable, `problem` is its error."""

    name: str
    pixels: np.ndarray | None
    problem: str | None = None


def find_images(inputs, stdin=None):
    """Find images. Returns a list of paths in the order of the inputs. Images of a folder are sorted.

    Args:
        inputs: list of str. Each is a file, a folder (including subfolders), a pattern such as
            "photos/*.jpg", or "-" for a list on standard input with one path per line.
        stdin: Text stream to read for "-". Defaults to `sys.stdin`.

    Raises:
        ValueError: if an input matches no image (all are listed), or is a file that may hold a data set.

    >>> from focalnets.data.find import find_images
    >>> find_images(["nowhere/*.jpg"])
    Traceback (most recent call last):
        ...
    ValueError: No image found at: nowhere/*.jpg. Pass files, folders or patterns.
    """
    if not inputs:
        raise ValueError(
            "No image given. Pass files, folders or patterns, or - for a list on standard input."
        )
    found, missing = [], []
    for text in inputs:
        if text == "-":
            lines = (sys.stdin if stdin is None else stdin).read().splitlines()
            paths = [pathlib.Path(line.strip()) for line in lines if line.strip()]
        else:
            paths = _expand(text)
        if not paths:
            missing.append(text)
        found += paths
    if missing:
        hint = _suggestion(missing[0]) if len(missing) == 1 else ""
        raise ValueError(f"No image found at: {', '.join(missing)}. Pass files, folders or patterns.{hint}")
    return found


def _expand(text):
    path = expanded(text)
    if path.is_dir():
        left_out = LeftOutCounter()
        images, _ = sort_out(walk(path, left_out=left_out), head_of_file, left_out)
        report(left_out.result())
        return [pathlib.Path(name) for _, name in images]
    if path.is_file() and (kind := kind_of_data_file(path)):
        raise ValueError(
            f"{path} is {kind}, not an image. Expected images, folders of images or patterns. "
            + "Unpack it to classify its images. " * (kind == "an archive")
            + f"To evaluate its labeled images: focalnets evaluate PRESET --data {shlex.quote(str(path))}."
        )
    if path.exists() or path.is_symlink():  # a broken link is an unreadable image, not a missing one
        return [path]
    return sorted(pathlib.Path(match) for match in glob.glob(str(path), recursive=True))


def _suggestion(text):
    """Question with similar names of images and folders, or "" for an existing folder without images."""
    path = expanded(text)
    if path.exists():
        return ""
    return did_you_mean(text, [name for name in sibling_names(path) if _may_hold_images(name)])


def _may_hold_images(name):
    return has_image_suffix(name) or pathlib.Path(name).is_dir()


def read_images(files, channels=3, prepare=None):
    """Yield a `FoundImage` for each path, in order. Threads decode a few images in advance.

    Args:
        files: list of paths.
        channels: int. 3 for RGB, 1 for grayscale. See `decode.read_image`. Defaults to 3.
        prepare: Function PIL image -> uint8 array (H, W, C), called in the threads. Defaults to `None`.
    """

    def read(path):
        try:
            image = open_image(path, channels)
        except ValueError as error:
            return FoundImage(str(path), None, str(error))
        try:
            return FoundImage(str(path), as_pixels(image) if prepare is None else prepare(image))
        except ValueError as error:
            return FoundImage(str(path), None, f"{path}: {error}")

    threads = cores() if len(files) > 1 else 0
    yield from progress(parallel_map(read, files, threads), "reading images", len(files))


def describe_unreadable(problems, skip="--on-bad-image skip"):
    """Error text for a list of unreadable images: the first `LISTED`, the number of others, and a fix."""
    lines = [f"  {printable(problem)}" for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  and {len(problems) - LISTED} more")
    return (
        f"{len(problems)} unreadable {plural(len(problems), 'image')}:\n"
        + "\n".join(lines)
        + f"\nRepair or remove them, or skip them with {skip}."
    )


def report_skipped(problems):
    """Log a list of unreadable images that are left out."""
    if problems:
        lines = "".join(f"\n  {printable(problem)}" for problem in problems)
        _log.warning("Skipped %d unreadable %s:%s", len(problems), plural(len(problems), "image"), lines)
