"""`FileImages`: images in files or members of an archive, decoded on demand."""

import contextlib
import copy
import functools
import os
import threading

import numpy as np

from focalnets.data.find import describe_unreadable
from focalnets.files import reason
from focalnets.images.decode import check_image, open_image
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map


class FileImages:
    """Images in files or members of an archive, decoded on demand. Threads may use it concurrently.

    Args:
        names: list of str, one per image.
        opener: Function that returns a binary stream for a name.
        channels: int. 3 for RGB, 1 for grayscale.
    """

    def __init__(self, names, opener, channels):
        self.names = names
        self.opener = opener
        self.channels = channels
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def read(self, index, smallest=None):
        """Decode an image to a PIL image. Errors and `smallest` are those of `decode.open_image`."""
        with self._stream(index) as stream:
            return open_image(stream, self.channels, self.names[index], smallest)

    def check(self, index):
        """Check the start and end of a file. ValueError if it is damaged, see `decode.check_image`."""
        with self._stream(index) as stream:
            check_image(stream, self.names[index])

    def beginning(self, index):
        """First 64 KiB of a file, or no bytes if it is unreadable."""
        try:
            with self._stream(index) as stream:
                return stream.read(65_536)
        except (OSError, ValueError):
            return b""

    def identity(self, rows):
        """Yield bytes that identify images: names within their common folder, and the start of 32 files."""
        names, common = [self.names[row] for row in rows], ""
        with contextlib.suppress(ValueError):  # different drives on Windows
            common = os.path.commonpath(map(os.path.dirname, names))
        yield os.fsencode("\n".join(name[len(common) :] for name in names))
        for row in spread(rows, 32):
            yield self.beginning(row)

    def _stream(self, index):
        try:
            return self.opener(self.names[index])
        except (OSError, ValueError) as error:  # ValueError: the name contains a NUL
            raise ValueError(f"{self.names[index]}: {reason(error)}") from error

    @functools.cached_property
    def problems(self):
        """Dict index -> error of all unreadable images. Every image is decoded to find them."""

        return self._problems_of(self.read, cores(), "looking for unreadable images")

    @functools.cached_property
    def quick_problems(self):
        """Dict index -> error of the images whose file is damaged at its start or end."""

        return self._problems_of(self.check, 0, "checking images")

    def _problems_of(self, check, threads, text):
        def problem(index):
            try:
                check(index)
            except ValueError as error:
                return str(error)

        found = progress(parallel_map(problem, range(len(self)), threads), text, len(self))
        return {index: problem for index, problem in enumerate(found) if problem is not None}

    def with_channels(self, channels):
        """The same images with another number of channels."""
        other = copy.copy(self)
        other.channels = channels
        return other

    def read_or_list_unreadable(self, index, smallest=None):
        """`read`, with an error that lists all unreadable images instead of only the first."""
        try:
            return self.read(index, smallest)
        except ValueError as error:
            with self._lock:
                raise ValueError(describe_unreadable(list(self.problems.values()) or [str(error)])) from error


def spread(rows, most):
    """Up to `most` of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
