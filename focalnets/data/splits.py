"""Split: images and labels in a fixed order, in memory, memory-mapped, or read when they are asked for."""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from focalnets.data.find import describe_bad
from focalnets.files import reason
from focalnets.images.decode import as_image, as_pixels, check_image, open_image
from focalnets.names import plural
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map


class FileImages:
    """Images in files or archive members, decoded one at a time, by as many threads as ask.

    Args:
        names: one an image.
        opener: function name -> binary stream.
        channels: 3 for RGB, 1 for gray.
    """

    def __init__(self, names, opener, channels):
        self.names = names
        self.opener = opener
        self.channels = channels
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def read(self, index, smallest=None):
        """A PIL image; see `decode.open_image`. ValueError that begins with the name if it is bad."""
        with self._stream(index) as stream:
            return open_image(stream, self.channels, self.names[index], smallest)

    def check(self, index):
        """ValueError if head or end of the file tells that it is bad; see `decode.check_image`."""
        with self._stream(index) as stream:
            check_image(stream, self.names[index])

    def beginning(self, index):
        """The first 64 KiB of the file, no bytes if it cannot be read."""
        try:
            with self._stream(index) as stream:
                return stream.read(65_536)
        except (OSError, ValueError):
            return b""

    def _stream(self, index):
        try:
            return self.opener(self.names[index])
        except (OSError, ValueError) as error:  # a ValueError for a NUL in a name
            raise ValueError(f"{self.names[index]}: {reason(error)}") from error

    @functools.cached_property
    def problems(self):
        """What is wrong with each unreadable image, by index: all are decoded."""

        def problem(index):
            try:
                self.read(index)
            except ValueError as error:
                return str(error)

        found = parallel_map(problem, range(len(self)), cores())
        found = enumerate(progress(found, "looking for unreadable images", len(self)))
        return {index: text for index, text in found if text is not None}

    def read_or_name_all_bad(self, index, smallest=None):
        """`read`, but its error names every unreadable image, not only the first one met."""
        try:
            return self.read(index, smallest)
        except ValueError as error:
            with self._lock:
                raise ValueError(describe_bad(list(self.problems.values()) or [str(error)])) from error


class JoinedArrays:
    """Arrays (N, ...) behind each other, indexed as one without a copy of all of them."""

    def __init__(self, arrays):
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, rows):
        """uint8 (rows, H, W, C), or (H, W, C) for one row."""
        chosen = np.atleast_1d(rows)
        of = np.searchsorted(self._ends, chosen, side="right")
        images = [self._arrays[i][row - self._ends[i]] for i, row in zip(of, chosen, strict=True)]
        return images[0] if np.ndim(rows) == 0 else np.stack(images)


@dataclass(frozen=True, repr=False)
class Split:
    """Images with labels.

    Attributes:
        source: uint8 (M, H, W, C), in memory or memory-mapped, `JoinedArrays`, or `FileImages`.
        labels: int32 (N,).
        rows: (N,) places in `source`; None if they are all, in their order.
        prepare: function PIL image -> uint8 (H, W, C) that each image still has to pass; None if they
            have their size already.

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
        where = "in memory" if self.in_memory else "prepared when they are used"
        return f"Split({len(self)} {plural(len(self), 'image')}, {where})"

    @property
    def in_memory(self):
        """Whether a batch is a look-up, with nothing to decode or resize."""
        return not isinstance(self.source, FileImages) and self.prepare is None

    @property
    def images(self):
        """All of them, uint8 (N, H, W, C); read now if they lie in files."""
        if self.in_memory and self.rows is None and isinstance(self.source, np.ndarray):
            return self.source
        return self.batch(np.arange(len(self)))

    def take(self, indices):
        """The split of those rows only; the images are shared, not copied."""
        rows = np.asarray(indices) if self.rows is None else self.rows[indices]
        return replace(self, labels=self.labels[indices], rows=rows)

    def one_of_each(self, most):
        """The split of the first image of each class, for up to `most` classes."""
        return self.take(np.unique(self.labels, return_index=True)[1][:most])

    def fingerprint(self):
        """Hexadecimal digits that change with the labels, their order, and the images: by the names of all
        files within their common folder and the beginnings of 32 of them, or by the pixels of 256 images
        throughout the split. Moving the folder changes nothing."""
        found = hashlib.sha256(self.labels.tobytes() + str(len(self)).encode())
        rows = np.arange(len(self)) if self.rows is None else self.rows
        if isinstance(self.source, FileImages):
            names, common = [self.source.names[row] for row in rows], ""
            with contextlib.suppress(ValueError):  # different drives
                common = os.path.commonpath(map(os.path.dirname, names))
            found.update(os.fsencode("\n".join(name[len(common) :] for name in names)))
            for row in _spread(rows, 32):
                found.update(self.source.beginning(row))
        else:
            for row in _spread(rows, 256):
                found.update(self.source[row].tobytes())
        return found.hexdigest()

    def batch(self, indices):
        """uint8 (B, H, W, C), prepared.

        Raises:
            ValueError: naming all unreadable images of the files if one of these is bad, or if sizes differ.
        """
        if self.in_memory:
            return self.source[indices if self.rows is None else self.rows[indices]]
        prepare = as_pixels if self.prepare is None else self.prepare
        images = [prepare(self.image(index)) for index in indices]
        shapes = sorted({image.shape for image in images})
        if len(shapes) > 1:
            raise ValueError(
                f"Images differ in size, for instance {shapes[:3]}; choose a size to bring them to."
            )
        return np.stack(images)

    def image(self, index, smallest=None):
        """One image as a PIL image, before `prepare`; `smallest` as in `decode.open_image`."""
        row = index if self.rows is None else self.rows[index]
        if isinstance(self.source, FileImages):
            return self.source.read_or_name_all_bad(row, smallest)
        return as_image(self.source[row])


def join(splits):
    """One `Split` of the images of several, in their order. All must have the same `prepare`.

    Raises:
        ValueError: if their images differ in size and are not resized.

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
        raise ValueError(f"Images differ in size, for instance {sorted(shapes)[:3]}; choose one size.")
    images = JoinedArrays([split.source for split in splits])
    starts = np.cumsum([0, *(len(split.source) for split in splits[:-1])])
    rows = np.concatenate([start + part for start, part in zip(starts, rows, strict=True)])
    return Split(images, labels, rows, first.prepare)


def _spread(rows, most):
    """Up to `most` of the rows, evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]


def split_validation(split, fraction, seed):
    """Take `fraction` of a split for validation, the same share of every class, by a seeded draw.

    Returns:
        (train, validation), two `Split`s without a common row.
    """
    chosen = stratified_draw(split.labels, fraction, seed)
    return split.take(np.setdiff1d(np.arange(len(split)), chosen)), split.take(chosen)


def stratified_draw(labels, fraction, seed=0, names=None):
    """Sorted indices of `fraction` of every class.

    Args:
        labels: (N,) integers.
        fraction: 0 to 1. At least one image of each class is left.
        seed: of the draw, where there are no names.
        names: one an image. Those whose names have the smallest hashes are drawn: when images come or go,
            the draw of the others stays, but for as many as the share grows or shrinks by.

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
        # Small classes, too, are worth one image, as long as another one remains.
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1) if fraction > 0 else 0
        chosen.append(rows[:count])
    # The type is given because an empty list has none: a class with one image may give no row.
    return np.sort(np.concatenate([np.asarray(rows, "int64") for rows in chosen] or [np.zeros(0, "int64")]))
