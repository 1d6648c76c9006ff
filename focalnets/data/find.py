"""Find and read images that a user names: files, folders, patterns, a list on standard input."""

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

# An error lists so many bad files by name, and counts the rest.
LISTED = 20

# What to say of a preset without a `FocalNetImageConverter` that is to take images.
NO_PREPROCESSING = (
    "The preset has no preprocessing, so that nothing says what numbers an image becomes; give it an "
    "FocalNetImageConverter and save it anew."
)


@dataclass(frozen=True)
class FoundImage:
    """A decoded image: its name and uint8 pixels (H, W, channels), None if `problem` says what is wrong."""

    name: str
    pixels: np.ndarray | None
    problem: str | None = None


def find_images(inputs, stdin=None):
    """Paths of images, in the order given, folders sorted.

    Args:
        inputs: each a file, a folder (its images and those of its subfolders), a pattern such as
            "photos/*.jpg", or "-" for one path a line on standard input.
        stdin: where "-" reads; `sys.stdin` if None.

    Raises:
        ValueError: naming every input that leads to nothing, or a file that holds a data set.

    >>> from focalnets.data.find import find_images
    >>> find_images(["nowhere/*.jpg"])
    Traceback (most recent call last):
        ...
    ValueError: No image found at: nowhere/*.jpg. Give files, folders or patterns.
    """
    if not inputs:
        raise ValueError(
            "No image given. Give files, folders or patterns, or - for a list on standard input."
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
        hint = _near(missing[0]) if len(missing) == 1 else ""
        raise ValueError(f"No image found at: {', '.join(missing)}. Give files, folders or patterns.{hint}")
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
            + "Unpack it to classify what it holds. " * (kind == "an archive")
            + "To compare what it holds with its labels: focalnets evaluate PRESET --data "
            f"{shlex.quote(str(path))}."
        )
    if path.exists() or path.is_symlink():  # a dangling link is an unreadable image, not a missing one
        return [path]
    return sorted(pathlib.Path(match) for match in glob.glob(str(path), recursive=True))


def _near(text):
    """A question with the images and folders that are nearly named so; "" for a folder without images."""
    path = expanded(text)
    if path.exists():
        return ""
    return did_you_mean(text, [name for name in sibling_names(path) if _may_hold_images(name)])


def _may_hold_images(name):
    return has_image_suffix(name) or pathlib.Path(name).is_dir()


def read_images(files, channels=3, prepare=None):
    """Yield a `FoundImage` for each path, in order, read by threads a few ahead of the one that is used.

    Args:
        files: paths.
        channels: see `decode.read_image`, which also has the rules for each kind of image.
        prepare: function PIL image -> uint8 (H, W, C), called in those threads; None to leave it as it is.
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


def describe_bad(bad, skip="--on-bad-image skip"):
    """One text for a list of problems: the first `LISTED` by name, the rest counted, and the fix."""
    lines = [f"  {printable(problem)}" for problem in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  and {len(bad) - LISTED} more")
    return (
        f"{len(bad)} {plural(len(bad), 'image')} cannot be used:\n"
        + "\n".join(lines)
        + f"\nRepair or remove them, or leave them out with {skip}."
    )


def report_skipped(bad):
    """Log which unreadable images were left out."""
    if bad:
        problems = "".join(f"\n  {printable(problem)}" for problem in bad)
        _log.warning("skipped %d unreadable %s:%s", len(bad), plural(len(bad), "image"), problems)
