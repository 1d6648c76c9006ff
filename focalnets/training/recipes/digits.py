"""Handwritten digits of 8 x 8 pixels, the smallest real data set. `make demo` runs this recipe.

focalnets train --recipe digits --out runs/digits
"""

from focalnets.images.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="digits",
    data="digits",
    architecture="focalnet_pico",
    image_size=8,
    mean=(0.3,),
    std=(0.37,),
    epochs=60,
    batch_size=64,
    learning_rate=3e-3,
    label_smoothing=0.1,
    augmentation=Augmentation(pad_crop=1),
)
