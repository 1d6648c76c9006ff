"""Batches of a split, whose order and augmentation depend on seed, epoch and index only."""

import concurrent.futures
import functools
import threading
from dataclasses import dataclass

import keras
import numpy as np

from focalnets.images import augment
from focalnets.images.augment import Augmentation
from focalnets.images.decode import as_image, as_pixels
from focalnets.images.transforms import transform
from focalnets.threads import cores


class Loader(keras.utils.PyDataset):
    """Batches (uint8 images (B, H, W, C), float32 targets (B, classes)) for `fit` and `evaluate`.

    Set `epoch` before each epoch. Order and augmentation are functions of (seed, epoch, index), so a resumed
    run gets the batches of an uninterrupted run. Set `first_batch` to skip the batches before it, which also
    reduces the length. `problem` is the error of a failed batch, or None.

    Keras' queue for PyDataset is not used, because it starts before the epoch is set and carries batches over
    to the next epoch. At most `threads + 1` batches are computed in advance.

    Args:
        split: `Split`.
        task: Task that converts labels to targets, such as `training.task.ImageClassification`.
        batch_size: int. Images per batch. The last batch of an epoch may be smaller.
        shuffle: bool. Use a new random order in each epoch. Defaults to `False`.
        augmentation: `Augmentation`. Defaults to `None`, no augmentation.
        image_size: (int, int). Height and width that an augmentation with crops returns. Defaults to `None`.
        seed: int. Seed of order and augmentation. Defaults to 0.
        threads: int. Threads that compute batches in advance, or 0 to compute batches on demand. Batches do
            not depend on it. Defaults to `None`, which selects a number.
        part: `BatchPart` or None. Return only the part of each batch that belongs to one process. Defaults to
            `None`, the whole batch.
    """

    def __init__(
        self,
        split,
        task,
        batch_size,
        shuffle=False,
        augmentation=None,
        image_size=None,
        seed=0,
        threads=None,
        part=None,
    ):
        super().__init__()
        self.split = split
        self.task = task
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augmentation = Augmentation() if augmentation is None else augmentation
        self.image_size = image_size
        self.seed = seed
        if self.augmentation.needs_originals and image_size is None:
            raise ValueError("An augmentation that crops or resizes needs image_size; got None.")
        if threads is None:
            threads = 1 if split.in_memory and not self.augmentation.changes_images else cores()
        self.threads = threads
        self.part = part
        self.first_batch = 0
        self.problem = None
        self._ahead = {}
        self._reading = None
        self._lock = threading.Lock()
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "focalnets-loader") if threads else None
        self.epoch = 0

    @property
    def epoch(self):
        return self._draws.epoch

    @epoch.setter
    def epoch(self, epoch):
        count = len(self.split)
        generator = augment.generator_for(self.seed, epoch, "order")
        draws = _Draws(
            epoch,
            order=self.split.order(self.batch_size, generator if self.shuffle else None),
            offsets=augment.crop_offsets(self.seed, epoch, count, self.augmentation.pad_crop),
            flips=augment.flips(self.seed, epoch, count),
        )
        with self._lock:
            self._draws = draws
            self._forget(self._ahead)
            if self._reading is not None:
                self._reading.close()
            self._reading = None

    @property
    def batches(self):
        """Number of batches of a whole epoch."""
        return -(-len(self.split) // self.batch_size)

    def __len__(self):
        return self.batches - self.first_batch

    def rows_in(self, index):
        """Number of images in a batch of all processes, counted from the start of the epoch."""
        return min(self.batch_size, len(self.split) - index * self.batch_size)

    def __getitem__(self, index):
        try:
            return self._get(index + self.first_batch)
        except Exception as error:
            self.problem = error
            raise

    def _get(self, index):
        if self._pool is None:
            self._read_to(index, index)
            return self._batch(self._draws, index)
        with self._lock:
            window = range(index, min(index + self.threads + 1, self.batches))
            self._read_to(index, window[-1])
            self._forget(set(self._ahead) - set(window))
            for later in window:
                if later not in self._ahead:
                    self._ahead[later] = self._pool.submit(self._batch, self._draws, later)
            batch = self._ahead.pop(index)
        return batch.result()

    def _read_to(self, index, last):
        """Start to read the files of batches, if the split reads in advance."""
        if self._reading is None and self.split.reads_ahead:  # not before, as a resumed epoch starts later
            needed = [self._needed(later) for later in range(index, self.batches)]
            batches = np.repeat(np.arange(index, self.batches), list(map(len, needed)))
            self._reading = self.split.reading(np.concatenate(needed), batches)
        if self._reading is not None:
            self._reading.advance(index, last)

    def _needed(self, index):
        """Rows of the split that this process needs for a batch."""
        rows = self._rows(self._draws, index)
        if self.part is None:
            return rows
        others = [self.part.of(rows[::-1])] if self._mixes else []
        return np.unique(np.concatenate([self.part.of(rows), *others]))

    @property
    def _mixes(self):
        return bool(self.augmentation.mixup or self.augmentation.cutmix)

    def _rows(self, draws, index):
        return draws.order[index * self.batch_size : (index + 1) * self.batch_size]

    def _forget(self, indices):
        for index in list(indices):
            self._ahead.pop(index).cancel()

    def _batch(self, draws, index):
        rows = self._rows(draws, index)
        if self.part is None:
            images, targets = self._prepared(draws, rows)
            images, targets = self._mixed(draws.epoch, index, images, targets, images[::-1], targets[::-1])
            weights = self.task.sample_weights(targets)
            return (images, targets) if weights is None else (images, targets, weights)
        own, others = (self.part.of(one) for one in (rows, rows[::-1]))
        images, targets = self._prepared(draws, own)
        if self._mixes:
            pairs = self._prepared(draws, others)
            images, targets = self._mixed(draws.epoch, index, images, targets, *pairs)
        weights = self.task.sample_weights(targets)
        return images, *self.part.padded(targets, weights, len(rows))

    def _prepared(self, draws, rows):
        """Augmented images and targets of rows of the split."""
        changes = self.augmentation
        images = self._transformed(draws.epoch, rows) if changes.changes_images else self.split.batch(rows)
        if changes.pad_crop:
            images = augment.crop(images, draws.offsets[rows], changes.pad_crop)
        if changes.flip:
            images = augment.flip(images, draws.flips[rows])
        if changes.erasing:
            images = np.stack([self._erased(draws.epoch, *item) for item in zip(rows, images, strict=True)])
        return images, self.task.targets(self.split.labels[rows])

    def _mixed(self, epoch, index, images, targets, others, other_targets):
        """Apply MixUp or CutMix to a batch and its reverse. Shuffled batches make these pairs random."""
        changes = self.augmentation
        if not self._mixes:
            return images, targets
        generator = augment.generator_for(self.seed, epoch, "mix", index)
        return augment.mix(images, targets, others, other_targets, changes.mixup, changes.cutmix, generator)

    def _transformed(self, epoch, rows):
        if self.augmentation.needs_originals:
            opened = [functools.partial(self.split.image, row) for row in rows]
        else:
            opened = [lambda _, image=image: as_image(image) for image in self.split.batch(rows)]
        images = []
        for row, open_one in zip(rows, opened, strict=True):
            generator = augment.generator_for(self.seed, epoch, "picture", row)
            images.append(as_pixels(transform(open_one, self.image_size, self.augmentation, generator)))
        return np.stack(images)

    def _erased(self, epoch, row, image):
        generator = augment.generator_for(self.seed, epoch, "erase", row)
        return augment.erase(image, generator) if generator.random() < self.augmentation.erasing else image


@dataclass(frozen=True)
class _Draws:
    """Random draws for a whole epoch. Arrays are indexed by the row of the split."""

    epoch: int
    order: np.ndarray
    offsets: np.ndarray
    flips: np.ndarray
