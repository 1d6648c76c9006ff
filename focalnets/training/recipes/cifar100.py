"""CIFAR-100 on one large GPU, in about ten minutes.

focalnets train --recipe cifar100 --out runs/cifar100

Keras downloads the data. This recipe has not been run yet. On two CPU cores, add
--set architecture=focalnet_micro epochs=26 batch_size=128 precision=auto augmentation.cutmix=0.5
"""

from focalnets.images.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="cifar100",
    data="cifar100",
    architecture="focalnet_mini",
    image_size=32,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    epochs=100,
    batch_size=256,
    optimizer="muon",
    learning_rate=3e-3,
    warmup_fraction=0.05,
    label_smoothing=0.1,
    ema_decay=0.999,
    precision="bfloat16",
    augmentation=Augmentation(pad_crop=4, flip=True, erasing=0.25, cutmix=1.0),
    validation_fraction=0.05,
    keep_weights="last",
)
