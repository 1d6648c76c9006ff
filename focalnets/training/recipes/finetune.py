"""Fine-tune a pretrained network on your own classes: a new head, and lower learning rates in early blocks.

focalnets train --data my_images --out runs/mine

`train` uses this recipe by default. It starts from the weights that ship with the package, or from --preset:
a run or any other preset, such as focalnet_tiny_srf_imagenet1k for photographs. Image size and preprocessing
are those of the preset. For few images per class, use --set frozen_stages=1. For rare classes, use --set
class_weights=balanced. docs/finetuning.md has an example with results.
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
