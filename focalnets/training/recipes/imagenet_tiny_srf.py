"""The paper's recipe for focalnet_tiny_srf on ImageNet-1k, with a published top-1 accuracy of 82.1 %.

focalnets train --recipe imagenet_tiny_srf --data IMAGENET --out runs/tiny_srf

Gradients of eight batches of 128 images are accumulated, because a batch of 1024 needs several devices. 20 of
300 epochs warm up. Weights are not averaged. Upstream's configuration also lists a color jitter of 0.4, which
timm ignores with RandAugment. RandAugment follows its paper: timm adds two operations and applies each with
probability 1/2. This recipe takes days on several GPUs and has not been run yet.

Source: section 4.1 of the paper; `classification/configs` and `data/build.py` of microsoft/FocalNet.
"""

from focalnets.images.augment import Augmentation
from focalnets.training.recipe import Recipe

RECIPE = Recipe(
    name="imagenet_tiny_srf",
    architecture="focalnet_tiny_srf",
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_fraction=0.875,
    epochs=300,
    batch_size=128,
    accumulation=8,
    learning_rate=1e-3,
    final_learning_rate=1e-5,
    warmup_fraction=20 / 300,
    weight_decay=0.05,
    drop_path_rate=0.2,
    precision="auto",
    label_smoothing=0.1,
    augmentation=Augmentation(
        random_resized_crop=(0.08, 1.0),
        interpolation="bicubic",
        flip=True,
        randaugment=2,
        erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
)
