"""Batches of a split, in an order and with changes that depend on seed, epoch and index alone."""

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

    Args:
        split: a `Split`.
        task: The task, which makes targets of labels, such as `training.task.ImageClassification`.
        batch_size: images a batch; the last one of an epoch may be smaller.
        shuffle: a new order every epoch.
        augmentation: an `Augmentation`; None for none.
        image_size: (height, width), which an augmentation that crops or resizes has to deliver.
        seed: of order and augmentation.
        threads: compute batches ahead of their turn in so many threads; 0 to compute each when it is
            asked for; None to choose. The batches are the same.

    Set `epoch` before each epoch: order and augmentation are functions of (seed, epoch, index), so a
    resumed run sees what an uninterrupted one would have seen. Set `first_batch` to leave out the batches
    before it: the loader is then shorter by so many. `problem` is the error that a batch ended with, or None.

    Keras' own queue of a PyDataset is not used: it starts before the epoch is known, and keeps left-over
    batches for the next one. At most `threads + 1` batches wait here.
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
            raise ValueError("An augmentation that crops or resizes needs image_size.")
        if threads is None:
            threads = 1 if split.in_memory and not self.augmentation.changes_images else cores()
        self.threads = threads
        self.first_batch = 0
        self.problem = None
        self._ahead = {}
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
            order=generator.permutation(count) if self.shuffle else np.arange(count),
            offsets=augment.crop_offsets(self.seed, epoch, count, self.augmentation.pad_crop),
            flips=augment.flips(self.seed, epoch, count),
        )
        with self._lock:
            self._draws = draws
            self._forget(self._ahead)

    @property
    def batches(self):
        """Batches of a whole epoch."""
        return -(-len(self.split) // self.batch_size)

    def __len__(self):
        return self.batches - self.first_batch

    def __getitem__(self, index):
        try:
            return self._get(index + self.first_batch)
        except Exception as error:
            self.problem = error
            raise

    def _get(self, index):
        if self._pool is None:
            return self._batch(self._draws, index)
        with self._lock:
            window = range(index, min(index + self.threads + 1, self.batches))
            self._forget(set(self._ahead) - set(window))
            for later in window:
                if later not in self._ahead:
                    self._ahead[later] = self._pool.submit(self._batch, self._draws, later)
            batch = self._ahead.pop(index)
        return batch.result()

    def _forget(self, indices):
        for index in list(indices):
            self._ahead.pop(index).cancel()

    def _batch(self, draws, index):
        rows = draws.order[index * self.batch_size : (index + 1) * self.batch_size]
        changes = self.augmentation
        images = self._varied(draws.epoch, rows) if changes.changes_images else self.split.batch(rows)
        if changes.pad_crop:
            images = augment.crop(images, draws.offsets[rows], changes.pad_crop)
        if changes.flip:
            images = augment.flip(images, draws.flips[rows])
        if changes.erasing:
            images = np.stack([self._erased(draws.epoch, *item) for item in zip(rows, images, strict=True)])
        targets = self.task.targets(self.split.labels[rows])
        if changes.mixup or changes.cutmix:
            generator = augment.generator_for(self.seed, draws.epoch, "mix", index)
            images, targets = augment.mix(images, targets, changes.mixup, changes.cutmix, generator)
        weights = self.task.sample_weights(targets)
        return (images, targets) if weights is None else (images, targets, weights)

    def _varied(self, epoch, rows):
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
    """What is drawn for a whole epoch at once; each of the arrays is indexed by the row of the split."""

    epoch: int
    order: np.ndarray
    offsets: np.ndarray
    flips: np.ndarray
