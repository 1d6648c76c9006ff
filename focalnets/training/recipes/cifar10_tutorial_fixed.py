"""The 2023 Keras tutorial's net with its faults repaired, at the tutorial's size and number of epochs.

focalnets train --recipe cifar10_tutorial_fixed --data cifar10 --out runs/cifar10_tutorial_fixed

Beside `cifar10_tutorial`: a norm before the modulation, the paper's initial values, drop path that drops,
one epsilon, normalized pixels, a rate and a decay that a net with norms can take; also batches of 256, four
times as many updates, whose gradients are clipped at 5. What each repair gives, at
reduced scale: `benchmarks/tutorial_ablation.py`. An epoch of 40,000 images takes 20 minutes on two CPU cores:
this one wants a GPU, and has not been run yet.
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
