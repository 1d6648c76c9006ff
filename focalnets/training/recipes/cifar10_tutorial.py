"""Network, data split and hyperparameters of the 2023 Keras tutorial, with its training errors fixed.

focalnets train --recipe cifar10_tutorial --data cifar10 --out runs/cifar10_tutorial

40,000 training and 10,000 validation images are resized to 52 pixels and cropped to 48. AdamW has learning
rate 1e-4, weight decay 1e-4, batches of 1024 images, 25 epochs, 15 % warm-up, and no clipping. Two errors are
fixed: the learning rate reaches 0 after the last step, not 24 steps earlier, and biases and norms do not
decay. AdamW's epsilon is 1e-8 instead of the 1e-7 of Keras. The tutorial reports 68.8 % validation accuracy.
The run takes nine hours on two CPU cores. It has not been run yet.
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
