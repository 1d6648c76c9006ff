"""Adapt a trained network to your own classes: a new head, earlier blocks learning more slowly.

focalnets train --recipe finetune --data my_pictures --set preset=runs/cifar10 --out runs/mine

Image size and preprocessing are the preset's. With few pictures a class, freeze the first stages:
--set frozen_stages=2.
"""

from focalnets.data.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="finetune",
    epochs=30,
    batch_size=32,
    learning_rate=1e-3,
    layer_decay=0.75,
    label_smoothing=0.1,
    augmentation=Augmentation(random_resized_crop=(0.35, 1.0), flip=True),
    validation_fraction=0.15,
)
