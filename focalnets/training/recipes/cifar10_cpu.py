"""CIFAR-10 as well as it goes in two hours on two CPU cores.

focalnets train --recipe cifar10_cpu --data cifar10.zip --out runs/cifar10_cpu

Reached on 2026-11-25, on two cores with AVX-512 BF16, torch in bfloat16 (seed 0, images compressed again as
JPEG): 88.75 % of the test images, 88.96 % of the validation images, after 120 minutes at 176 images/s; 68.8 %
were passed after 15 minutes. In float32 it takes half as long again.
"""

from focalnets.data.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="cifar10_cpu",
    architecture="focalnet_micro",
    image_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.2435, 0.2616),
    epochs=26,
    batch_size=128,
    optimizer="muon",
    learning_rate=3e-3,
    warmup_fraction=0.05,
    label_smoothing=0.1,
    precision="auto",
    ema_decay=0.998,
    augmentation=Augmentation(pad_crop=4, flip=True, erasing=0.25, cutmix=0.5),
    validation_fraction=0.05,
    keep_weights="last",
)
