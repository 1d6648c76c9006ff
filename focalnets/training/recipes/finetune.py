"""Adapt a trained network to your own classes: a new head, earlier blocks learning more slowly.

focalnets train --recipe finetune --data my_pictures --out runs/mine

It starts from the weights that come with focalnets; --set preset=focalnet_tiny_srf_imagenet1k, or any other
preset or run, for larger pictures. Image size and preprocessing are the preset's. Few pictures a class:
--set frozen_stages=1. Some classes rare: --set class_weights=balanced. docs/finetuning.md has an example with
figures.
"""

from focalnets.data.augment import Augmentation
from focalnets.presets.checkpoints import DEFAULT
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="finetune",
    preset=DEFAULT,
    epochs=30,
    batch_size=32,
    learning_rate=1e-3,
    layer_decay=0.75,
    label_smoothing=0.1,
    augmentation=Augmentation(random_resized_crop=(0.35, 1.0), flip=True),
    validation_fraction=0.15,
)
