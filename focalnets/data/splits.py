"""`Split`: images and labels in a fixed order, in memory, memory-mapped, or decoded on demand."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from focalnets.data.file_images import FileImages, spread
from focalnets.data.shards.images import ShardImages
from focalnets.images.decode import as_image, as_pixels
from focalnets.names import plural


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
        source: uint8 array (M, H, W, C), in memory or memory-mapped, `JoinedArrays`, `FileImages` or
            `ShardImages`.
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

        Files contribute their names relative to their common folder, shards the sizes of their images, and
        both the start of 32 files. Arrays contribute the pixels of 256 images. The fingerprint does not
        change if the folder is moved.
        """
        found = hashlib.sha256(self.labels.tobytes() + str(len(self)).encode())
        rows = self._rows()
        if isinstance(self.source, FileImages):
            for part in self.source.identity(rows):
                found.update(part)
        else:
            for row in spread(rows, 256):
                found.update(self.source[row].tobytes())
        return found.hexdigest()

    def order(self, batch_size, generator=None):
        """Order of the images of an epoch, int array (N,).

        Args:
            batch_size: int. Images per batch of all processes.
            generator: NumPy generator. Draws a random order. Defaults to `None`, the stored order, except
                that the images of shards are in `shards.order.lane_order`.
        """
        if self.reads_ahead:
            return self.source.order(self._rows(), batch_size, generator)
        return np.arange(len(self)) if generator is None else generator.permutation(len(self))

    @property
    def reads_ahead(self):
        """True if `reading` speeds up batches, because images are read in chunks."""
        return isinstance(self.source, ShardImages)

    def reading(self, indices, batches):
        """`shards.images.Reading` of images.

        Args:
            indices, batches: int arrays (M,). Images in the order of use, and the batch of each.
        """
        return self.source.reading(self._rows()[indices], batches)

    def _rows(self):
        return np.arange(len(self)) if self.rows is None else self.rows

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
