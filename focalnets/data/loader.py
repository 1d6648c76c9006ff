"""Batches of a split that lies in memory, in an order and with changes that depend on the epoch alone."""

import keras
import numpy as np

from focalnets.data import augment


class Loader(keras.utils.PyDataset):
    """Batches (uint8 images (B, H, W, C), float32 one-hot labels (B, classes)) for `fit` and `evaluate`.

    Args:
        split: a `Split`.
        num_classes: width of the one-hot labels.
        batch_size: images a batch; the last one of an epoch may be smaller.
        shuffle: a new order every epoch.
        crop_padding: shift each image by up to so many pixels; 0 for none.
        flip: mirror half of the images.
        seed: of order and augmentation.

    Set `epoch` before each epoch: order and augmentation are functions of (seed, epoch, index), so a
    resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(self, split, num_classes, batch_size, shuffle=False, crop_padding=0, flip=False, seed=0):
        super().__init__()
        self.split = split
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.crop_padding = crop_padding
        self.flip = flip
        self.seed = seed
        self.epoch = 0

    @property
    def epoch(self):
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch = epoch
        count = len(self.split)
        generator = augment.epoch_generator(self.seed, epoch, "order")
        self._order = generator.permutation(count) if self.shuffle else np.arange(count)
        self._offsets = augment.crop_offsets(self.seed, epoch, count, self.crop_padding)
        self._flips = augment.flips(self.seed, epoch, count)

    def __len__(self):
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, index):
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.split.images[rows]
        if self.crop_padding:
            images = augment.crop(images, self._offsets[rows], self.crop_padding)
        if self.flip:
            images = augment.flip(images, self._flips[rows])
        return images, np.eye(self.num_classes, dtype="float32")[self.split.labels[rows]]
