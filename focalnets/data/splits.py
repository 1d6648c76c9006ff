"""`Split`: images and labels in a fixed order, in memory, memory-mapped, or decoded on demand."""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from focalnets.data.find import describe_unreadable
from focalnets.files import reason
from focalnets.images.decode import as_image, as_pixels, check_image, open_image
from focalnets.names import plural
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

    def _stream(self, index):
        try:
            return self.opener(self.names[index])
        except (OSError, ValueError) as error:  # ValueError: the name contains a NUL
            raise ValueError(f"{self.names[index]}: {reason(error)}") from error

    @functools.cached_property
    def problems(self):
        """Dict index -> error of all unreadable images. Every image is decoded to find them."""

        def problem(index):
            try:
                self.read(index)
            except ValueError as error:
                return str(error)

        found = parallel_map(problem, range(len(self)), cores())
        found = enumerate(progress(found, "looking for unreadable images", len(self)))
        return {index: text for index, text in found if text is not None}

    def read_or_list_unreadable(self, index, smallest=None):
        """`read`, with an error that lists all unreadable images instead of only the first."""
        try:
            return self.read(index, smallest)
        except ValueError as error:
            with self._lock:
                raise ValueError(describe_unreadable(list(self.problems.values()) or [str(error)])) from error


class JoinedArrays:
    """Concatenation of arrays (N, ...) that does not copy them."""

    def __init__(self, arrays):
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, rows):
        """Images, uint8 (rows, H, W, C), or (H, W, C) for one row."""
        chosen = np.atleast_1d(rows)
        indices = np.searchsorted(self._ends, chosen, side="right")
        images = [self._arrays[i][row - self._ends[i]] for i, row in zip(indices, chosen, strict=True)]
        return images[0] if np.ndim(rows) == 0 else np.stack(images)


@dataclass(frozen=True, repr=False)
class Split:
    """Images with labels.

    Attributes:
        source: uint8 array (M, H, W, C), in memory or memory-mapped, `JoinedArrays`, or `FileImages`.
        labels: int32 array (N,).
        rows: int array (N,) of indices into `source`. Defaults to `None`, all images in order.
        prepare: Function PIL image -> uint8 array (H, W, C), applied to each image. Defaults to `None`, which
            returns images in their stored size.

    >>> import numpy as np
    >>> from focalnets.data.splits import Split
    >>> split = Split(np.zeros((4, 8, 8, 1), "uint8"), np.array([0, 1, 0, 1]))
    >>> split.take([1, 3]).images.shape
    (2, 8, 8, 1)
    """

    source: np.ndarray | JoinedArrays | FileImages
    labels: np.ndarray
    rows: np.ndarray | None = None
    prepare: Callable | None = None

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        where = "in memory" if self.in_memory else "prepared on demand"
        return f"Split({len(self)} {plural(len(self), 'image')}, {where})"

    @property
    def in_memory(self):
        """True if batches need no decoding or resizing."""
        return not isinstance(self.source, FileImages) and self.prepare is None

    @property
    def images(self):
        """All prepared images, uint8 (N, H, W, C). Images in files are decoded at each access."""
        if self.in_memory and self.rows is None and isinstance(self.source, np.ndarray):
            return self.source
        return self.batch(np.arange(len(self)))

    def take(self, indices):
        """Split of the given images. Images are shared, not copied."""
        rows = np.asarray(indices) if self.rows is None else self.rows[indices]
        return replace(self, labels=self.labels[indices], rows=rows)

    def one_of_each(self, most):
        """Split of the first image of each class, for up to `most` classes."""
        return self.take(np.unique(self.labels, return_index=True)[1][:most])

    def fingerprint(self):
        """Hexadecimal hash of the labels in order, and of the images.

        Files contribute their names relative to their common folder, and the start of 32 files. Arrays
        contribute the pixels of 256 images. The fingerprint does not change if the folder is moved.
        """
        found = hashlib.sha256(self.labels.tobytes() + str(len(self)).encode())
        rows = np.arange(len(self)) if self.rows is None else self.rows
        if isinstance(self.source, FileImages):
            names, common = [self.source.names[row] for row in rows], ""
            with contextlib.suppress(ValueError):  # different drives on Windows
                common = os.path.commonpath(map(os.path.dirname, names))
            found.update(os.fsencode("\n".join(name[len(common) :] for name in names)))
            for row in _spread(rows, 32):
                found.update(self.source.beginning(row))
        else:
            for row in _spread(rows, 256):
                found.update(self.source[row].tobytes())
        return found.hexdigest()

    def batch(self, indices):
        """Prepared images, uint8 (B, H, W, C).

        Raises:
            ValueError: if an image is unreadable (all unreadable files are listed), or image sizes differ.
        """
        if self.in_memory:
            return self.source[indices if self.rows is None else self.rows[indices]]
        prepare = as_pixels if self.prepare is None else self.prepare
        images = [prepare(self.image(index)) for index in indices]
        shapes = sorted({image.shape for image in images})
        if len(shapes) > 1:
            raise ValueError(
                f"Images differ in size, for example {shapes[:3]}; expected one size. Set an image size."
            )
        return np.stack(images)

    def image(self, index, smallest=None):
        """PIL image before `prepare`. See `decode.open_image` for `smallest`."""
        row = index if self.rows is None else self.rows[index]
        if isinstance(self.source, FileImages):
            return self.source.read_or_list_unreadable(row, smallest)
        return as_image(self.source[row])


def join(splits):
    """Concatenate splits that have the same `prepare`.

    Raises:
        ValueError: if arrays of images differ in size and are not resized.

    >>> import numpy as np
    >>> from focalnets.data.splits import Split, join
    >>> split = Split(np.arange(3, dtype="uint8").reshape(3, 1, 1, 1), np.array([0, 1, 0]))
    >>> join([split.take([2]), split.take([0, 1])]).images.ravel().tolist()
    [2, 0, 1]
    """
    first, labels = splits[0], np.concatenate([split.labels for split in splits])
    rows = [np.arange(len(split)) if split.rows is None else split.rows for split in splits]
    if all(split.source is first.source for split in splits):
        return Split(first.source, labels, np.concatenate(rows), first.prepare)
    shapes = {split.source.shape[1:] for split in splits}
    if len(shapes) > 1 and first.prepare is None:
        raise ValueError(f"Images differ in size, for example {sorted(shapes)[:3]}; expected one size.")
    images = JoinedArrays([split.source for split in splits])
    starts = np.cumsum([0, *(len(split.source) for split in splits[:-1])])
    rows = np.concatenate([start + part for start, part in zip(starts, rows, strict=True)])
    return Split(images, labels, rows, first.prepare)


def _spread(rows, most):
    """Up to `most` of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]


def split_validation(split, fraction, seed):
    """Draw a random fraction of each class for validation.

    Returns:
        Tuple (train, validation) of two disjoint `Split`s.
    """
    chosen = stratified_draw(split.labels, fraction, seed)
    return split.take(np.setdiff1d(np.arange(len(split)), chosen)), split.take(chosen)


def stratified_draw(labels, fraction, seed=0, names=None):
    """Draw a fraction of each class. Returns sorted indices.

    Args:
        labels: int array (N,).
        fraction: float. 0 to 1. At least one image of each class is not drawn.
        seed: int. Seed of the random draw, used without `names`. Defaults to 0.
        names: list of str, one per image. The images whose names have the smallest hashes are drawn, so
            adding or removing images changes the draw of few other images. Defaults to `None`.

    >>> import numpy as np
    >>> from focalnets.data.splits import stratified_draw
    >>> stratified_draw(np.array([0, 0, 1, 1, 1, 1]), 0.5, names=list("abcdef")).tolist()
    [1, 3, 5]
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if names is None:
            rows = generator.permutation(rows)
        else:
            rows = sorted(rows, key=lambda row: hashlib.sha256(os.fsencode(names[row])).digest())
        # At least one image of each class is drawn if another image remains.
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1) if fraction > 0 else 0
        chosen.append(rows[:count])
    # Without the dtype, the empty list of a class with one image would become a float array.
    return np.sort(np.concatenate([np.asarray(rows, "int64") for rows in chosen] or [np.zeros(0, "int64")]))
