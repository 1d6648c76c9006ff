"""Network of the 2023 Keras tutorial with its errors fixed, at the same size and number of epochs.

focalnets train --recipe cifar10_tutorial_fixed --data cifar10 --out runs/cifar10_tutorial_fixed

Changes from `cifar10_tutorial`: a norm before the modulation, the initializers of the paper, drop path that
drops, one epsilon for all norms, normalized pixels, a higher learning rate and weight decay, batches of 256
(four times as many updates), and gradient clipping at 5. `benchmarks/tutorial_ablation.py` measures each
change at a reduced scale. An epoch takes 20 minutes on two CPU cores. This recipe has not been run yet.
"""

from focalnets.images.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="cifar10_tutorial_fixed",
    architecture="tutorial_fixed",
    image_size=48,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.2435, 0.2616),
    interpolation="bilinear",
    epochs=25,
    batch_size=256,
    learning_rate=1e-3,
    warmup_fraction=0.15,
    augmentation=Augmentation(resize_crop=52, interpolation="bilinear", flip=True),
    validation_fraction=0.2,
    keep_weights="last",
)
