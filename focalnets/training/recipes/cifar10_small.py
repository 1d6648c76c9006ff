"""CIFAR-10 in a quarter of an hour on two CPU cores.

focalnets train --recipe cifar10_small --data cifar10.zip --out runs/cifar10_small
"""

from focalnets.data.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="cifar10_small",
    architecture="focalnet_nano",
    image_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.2435, 0.2616),
    epochs=4,
    batch_size=128,
    optimizer="muon",
    learning_rate=3e-3,
    label_smoothing=0.1,
    precision="auto",
    augmentation=Augmentation(pad_crop=4, flip=True),
    keep_weights="last",
)
