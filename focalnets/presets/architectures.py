"""Every network by name: a row of constructor arguments, free of keras so that listing is instant.

Three groups: the 15 published variants, under upstream's names; `tutorial`, the net of the 2023 Keras
tutorial, exactly; and small ones of ours for images of 8 to 64 pixels.

Notes on single rows, where sources disagree:

- `focalnet_base_iso` has a norm after modulation: upstream's code omits it, but its released checkpoint
  contains `modulation.ln.*` (upstream issue 23).
- `focalnet_xlarge_fl4` does not normalize the modulator, as in upstream's classification YAML; its
  detection repository says it does. The flag has no weights, so only an accuracy check can tell.
- timm and transformers never normalize the modulator of `focalnet_large_fl4`: their outputs differ from
  upstream's, and from ours, for that reason.
"""

from dataclasses import dataclass
from typing import Any

from focalnets.names import unknown_name

# Too many names for an error message.
ALL_NAMES = "`focalnets presets` lists all names."


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        backbone: arguments of `FocalNetBackbone` that differ from its defaults.
        image_size: side of the square images that the net was made for, in pixels; others work.
        num_classes: logits of the published or intended head.
        channels: channels of those images.
    """

    backbone: dict[str, Any]
    image_size: int
    num_classes: int
    channels: int = 3


def _imagenet(embed_dim, depths, focal_levels, drop_path_rate, **backbone):
    """A published 224 px net for the 1000 classes of ImageNet-1k."""
    backbone = {
        "embed_dim": embed_dim,
        "depths": depths,
        "focal_levels": focal_levels,
        "drop_path_rate": drop_path_rate,
        **backbone,
    }
    return Architecture(backbone, image_size=224, num_classes=1000)


def _large(embed_dim, focal_levels, focal_window, image_size=384, **backbone):
    """A published net with overlapping patches and post-norm, for ImageNet-22k."""
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


_TINY, _SMALL, _ISO = (2, 2, 6, 2), (2, 2, 18, 2), (12,)

ARCHITECTURES = {
    # Published: srf and lrf are small and large receptive field, iso isotropic, fl3 and fl4 focal levels.
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
    # The 2023 Keras tutorial's net, its missing norm before modulation included.
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
    # The same shape as upstream would build it.
    "tutorial_fixed": Architecture(
        {"embed_dim": 256, "depths": (2, 3, 2), "focal_levels": 2, "drop_path_rate": 0.1},
        image_size=48,
        num_classes=10,
    ),
    # Ours: pico for 8 to 16 pixels, the others for 32 to 64. micro has fewer parameters than nano and does
    # twice the work, because none of its maps is smaller than a quarter of the image's side.
    "focalnet_pico": Architecture(
        {"embed_dim": 32, "depths": (2, 2), "patch_size": 1, "focal_window": 3},
        image_size=8,
        num_classes=10,
        channels=1,
    ),
    "focalnet_nano": Architecture(
        {
            "embed_dim": 64,
            "depths": (1, 3, 2),
            "mlp_ratio": 2.0,
            "patch_size": 2,
            "overlap_embed": True,
            "drop_path_rate": 0.05,
        },
        image_size=32,
        num_classes=10,
    ),
    "focalnet_micro": Architecture(
        {
            "embed_dim": 96,
            "depths": (3, 3),
            "mlp_ratio": 2.0,
            "patch_size": 2,
            "overlap_embed": True,
            "drop_path_rate": 0.05,
        },
        image_size=32,
        num_classes=10,
    ),
    "focalnet_mini": Architecture(
        {
            "embed_dim": 128,
            "depths": (4, 6),
            "mlp_ratio": 2.0,
            "patch_size": 2,
            "overlap_embed": True,
            "drop_path_rate": 0.1,
        },
        image_size=32,
        num_classes=10,
    ),
}


def find_architecture(name):
    """The row of `name`; ValueError with the nearest names if there is none.

    >>> from focalnets.presets.architectures import find_architecture
    >>> find_architecture("focalnet_tiny_lrf").backbone["focal_levels"]
    3
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise ValueError(unknown_name("architecture", name, ARCHITECTURES, ALL_NAMES))
