"""All architectures by name, as arguments of `FocalNetBackbone`. Free of Keras.

The table has three groups: the 15 published variants, the network of the 2023 Keras tutorial, and small
networks for images of 8 to 64 pixels.

Sources disagree about these rows:

- `focalnet_base_iso` has a norm after modulation. Upstream's released checkpoint contains `modulation.ln.*`,
  but upstream's code omits the norm (upstream issue 23).
- `focalnet_xlarge_fl4` does not normalize the modulator, as in upstream's classification YAML. In upstream's
  detection repository it does. Weights are the same with both, so only an accuracy test can decide.
- timm and transformers never normalize the modulator of `focalnet_large_fl4`, so their outputs differ from
  those of upstream and focalnets.
"""

from dataclasses import dataclass
from typing import Any

from focalnets.names import unknown_name

# Replaces the list of names in error messages, which would be too long.
ALL_NAMES = "`focalnets presets` lists all names."


@dataclass(frozen=True)
class Architecture:
    """One row of `ARCHITECTURES`.

    Attributes:
        backbone: dict. Arguments of `FocalNetBackbone` that differ from the defaults.
        image_size: int. Side in pixels of the square images that the network is designed for.
        num_classes: int. Number of classes of the published or intended head.
        channels: int. Number of channels of the images.
    """

    backbone: dict[str, Any]
    image_size: int
    num_classes: int
    channels: int = 3


def _imagenet(embed_dim, depths, focal_levels, drop_path_rate, **backbone):
    """A published network for images of 224 pixels and the 1000 classes of ImageNet-1k."""
    backbone = {
        "embed_dim": embed_dim,
        "depths": depths,
        "focal_levels": focal_levels,
        "drop_path_rate": drop_path_rate,
        **backbone,
    }
    return Architecture(backbone, image_size=224, num_classes=1000)


def _large(embed_dim, focal_levels, focal_window, image_size=384, **backbone):
    """A published network with overlapping patches and post-norm, for ImageNet-22k."""
    backbone = {
        "embed_dim": embed_dim,
        "depths": (2, 2, 18, 2),
        "focal_levels": focal_levels,
        "focal_window": focal_window,
        "overlap_embed": True,
        "norm_placement": "post",
        "layer_scale_init": 1e-4,
        "drop_path_rate": 0.5,
        **backbone,
    }
    return Architecture(backbone, image_size=image_size, num_classes=21842)


def _small_images(embed_dim, depths, drop_path_rate):
    """A network with overlapping patches of 2 x 2, for the 10 classes of CIFAR-10."""
    backbone = {"embed_dim": embed_dim, "depths": depths, "drop_path_rate": drop_path_rate}
    backbone |= {"mlp_ratio": 2.0, "patch_size": 2, "overlap_embed": True}
    return Architecture(backbone, image_size=32, num_classes=10)


_TINY, _SMALL, _ISO = (2, 2, 6, 2), (2, 2, 18, 2), (12,)

ARCHITECTURES = {
    # Published: srf and lrf mean small and large receptive field, iso isotropic, fl3 and fl4 focal levels.
    "focalnet_tiny_srf": _imagenet(96, _TINY, 2, 0.2),
    "focalnet_tiny_lrf": _imagenet(96, _TINY, 3, 0.2),
    "focalnet_small_srf": _imagenet(96, _SMALL, 2, 0.3),
    "focalnet_small_lrf": _imagenet(96, _SMALL, 3, 0.3),
    "focalnet_base_srf": _imagenet(128, _SMALL, 2, 0.5),
    "focalnet_base_lrf": _imagenet(128, _SMALL, 3, 0.5),
    "focalnet_tiny_iso": _imagenet(192, _ISO, 3, 0.2, patch_size=16),
    "focalnet_small_iso": _imagenet(384, _ISO, 3, 0.2, patch_size=16),
    "focalnet_base_iso": _imagenet(
        768,
        _ISO,
        3,
        0.2,
        patch_size=16,
        norm_placement="post",
        norm_after_modulation=True,
        layer_scale_init=1e-4,
    ),
    "focalnet_large_fl3": _large(192, 3, 5),
    "focalnet_large_fl4": _large(192, 4, 3, normalize_modulator=True),
    "focalnet_xlarge_fl3": _large(256, 3, 5),
    "focalnet_xlarge_fl4": _large(256, 4, 3),
    "focalnet_huge_fl3": _large(352, 3, 3, image_size=224, norm_after_modulation=True),
    "focalnet_huge_fl4": _large(352, 4, 3, image_size=224, norm_after_modulation=True),
    # The network of the 2023 Keras tutorial, which has no norm before modulation.
    "tutorial": Architecture(
        {
            "embed_dim": 256,
            "depths": (2, 3, 2),
            "focal_levels": 2,
            "norm_placement": "mlp_only",
            "dropout_rate": 0.1,
            "mlp_hidden_dropout_rate": 0.0,
            "embedding_norm_epsilon": 1e-7,
            "kernel_initializer": "glorot_uniform",
        },
        image_size=48,
        num_classes=10,
    ),
    # The network of the tutorial with upstream's norms.
    "tutorial_fixed": Architecture(
        {"embed_dim": 256, "depths": (2, 3, 2), "focal_levels": 2, "drop_path_rate": 0.1},
        image_size=48,
        num_classes=10,
    ),
    # Small networks: pico for 8 to 16 pixels, the others for 32 to 64. micro has fewer parameters than
    # nano but twice the MACs, because its largest stride is 4.
    "focalnet_pico": Architecture(
        {"embed_dim": 32, "depths": (2, 2), "patch_size": 1, "focal_window": 3},
        image_size=8,
        num_classes=10,
        channels=1,
    ),
    "focalnet_nano": _small_images(64, (1, 3, 2), 0.05),
    "focalnet_micro": _small_images(96, (3, 3), 0.05),
    "focalnet_mini": _small_images(128, (4, 6), 0.1),
}


def find_architecture(name):
    """The `Architecture` of a name. Raises a ValueError for an unknown name.

    >>> from focalnets.presets.architectures import find_architecture
    >>> find_architecture("focalnet_tiny_lrf").backbone["focal_levels"]
    3
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise ValueError(unknown_name("architecture", name, ARCHITECTURES, ALL_NAMES))
