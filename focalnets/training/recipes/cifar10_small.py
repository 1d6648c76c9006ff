"""CIFAR-10 with a small net, on a folder or zip of train/<class>/* and test/<class>/*.

focalnets train --recipe cifar10_small --data cifar10.zip --out runs/cifar10_small

On two cores that tests were sharing, torch, JPEG-recompressed CIFAR-10, 2026-11-24: 68.8 % of the validation
images after 21 minutes (epoch 5), 81 % after an hour (epoch 13); 175 to 205 images/s.
"""

from focalnets.data.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="cifar10_small",
    architecture="focalnet_nano",
    image_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.2435, 0.2616),
    epochs=20,
    batch_size=128,
    learning_rate=3e-3,
    warmup_fraction=0.05,
    label_smoothing=0.1,
    ema_decay=0.998,
    augmentation=Augmentation(pad_crop=4, flip=True),
)
