"""Files and images that a data set does not use, counted and logged by reason."""

import logging
from dataclasses import dataclass

from focalnets.names import printable

_log = logging.getLogger("focalnets")

_EXAMPLES = 3


@dataclass(frozen=True)
class Reason:
    """Reason why files are left out, as a phrase in the singular and in the plural."""

    one: str
    several: str
    verb: str = "Left out"


SYSTEM = Reason("hidden or system file or folder", "hidden or system files and folders")
NOT_IMAGES = Reason("file that is not an image", "files that are not images")
UNREADABLE = Reason("folder that cannot be read", "folders that cannot be read")
LINKS = Reason("broken or circular link", "broken or circular links")
MASKS = Reason("segmentation mask", "segmentation masks")
OUTSIDE = Reason("image outside the split folders", "images outside the split folders")
NO_CLASS = Reason("image outside the class folders", "images outside the class folders")
NO_LABEL = Reason("image without a label", "images without a label")
REPEATED = Reason("line that repeats an image", "lines that repeat an image")
NO_CONTENT = Reason("row without an image", "rows without an image")
OTHER_SPLITS = Reason("split other than train, val and test", "splits other than train, val and test")
EMPTY = Reason("folder without images", "folders without images")
DEEPER = Reason(
    "image in a subfolder as an image of the class folder above it",
    "images in subfolders as images of the class folders above them",
    verb="Counted",
)


@dataclass(frozen=True)
class LeftOut:
    """Files, folders or images that are left out for the same reason.

    Attributes:
        reason: `Reason`.
        count: int. Number of files, folders or images.
        examples: tuple of str. Their first names.

    >>> from focalnets.data.left_out import NOT_IMAGES, LeftOut
    >>> print(LeftOut(NOT_IMAGES, 5, ("labels.csv", "notes.txt")))
    Left out 5 files that are not images: labels.csv, notes.txt and 3 more.
    """

    reason: Reason
    count: int
    examples: tuple[str, ...]

    def __str__(self):
        what = self.reason.one if self.count == 1 else self.reason.several
        shown = ", ".join(printable(name) for name in self.examples)
        more = self.count - len(self.examples)
        return f"{self.reason.verb} {self.count:,} {what}: {shown}" + (
            f" and {more:,} more." if more else "."
        )


class LeftOutCounter:
    """Counter of files and images that are left out, with a few names for each reason."""

    def __init__(self):
        self._found = {}

    def add(self, reason, name):
        """Count a name for a `Reason`."""
        count, examples = self._found.get(reason, (0, ()))
        examples = (*examples, name) if len(examples) < _EXAMPLES else examples
        self._found[reason] = (count + 1, examples)

    def result(self):
        """Tuple of `LeftOut`, one per reason, in the order of the first `add`."""
        return tuple(LeftOut(reason, count, examples) for reason, (count, examples) in self._found.items())


def count(reason, names):
    """Tuple of one `LeftOut` for all names, or an empty tuple without names."""
    counter = LeftOutCounter()
    for name in names:
        counter.add(reason, name)
    return counter.result()


def report(left_out):
    """Log one line per reason. By default, Python's logging writes them to standard error."""
    for entry in left_out:
        _log.warning("%s", entry)
