"""The 2023 Keras tutorial's net, data split and hyper-parameters, with its faults in training repaired.

focalnets train --recipe cifar10_tutorial --data cifar10 --out runs/cifar10_tutorial

40,000 images to train on and 10,000 to validate, resized to 52 and cut to 48; AdamW with 1e-4 and weight
decay 1e-4, batch 1024, 25 epochs, 15 % of warm-up, no clipping. Repaired: the rate reaches 0 after the last
step and not 24 before; biases and norms do not decay. (AdamW's epsilon is 1e-8; Keras has 1e-7.) The tutorial
reports 68.8 % on validation. A step of 1024 images takes half a minute on two CPU cores, the run nine hours:
this one wants a GPU, and has not been run yet.
"""

from focalnets.images.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="cifar10_tutorial",
    architecture="tutorial",
    image_size=48,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    interpolation="bilinear",
    epochs=25,
    batch_size=1024,
    learning_rate=1e-4,
    warmup_fraction=0.15,
    weight_decay=1e-4,
    clip_norm=0.0,
    augmentation=Augmentation(resize_crop=52, interpolation="bilinear", flip=True),
    validation_fraction=0.2,
    keep_weights="last",
)
