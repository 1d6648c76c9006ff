"""Adapt a trained network to your own classes: a new head, earlier blocks learning more slowly.

focalnets train --data my_images --out runs/mine

Used when no recipe is named. It starts from the weights that ship with focalnets, or from those that
--preset names: focalnet_tiny_srf_imagenet1k for photographs, or any preset or run. Image size and
preprocessing are those of the preset. With few images per class, use --set frozen_stages=1; if some classes
are rare, --set class_weights=balanced. docs/finetuning.md has an example with figures.
"""

from focalnets.images.augment import Augmentation
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
