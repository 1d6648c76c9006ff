"""Names of trained weights: where they are, what belongs to them, and their accuracy. Free of Keras.

Two networks come with focalnets, in `bundled/`, with model cards. The others are published by the authors of
the paper. They are loaded from timm's copies on the Hugging Face hub, whose client checks each file. A name
is one set of weights and one preprocessing on every machine. The authors' own files can be given by URL or
path.

The authors' links to the isotropic networks have been dead since May 2023, and no copy is known.
"""

import pathlib
from dataclasses import dataclass

# What `predict`, `explain` and the recipe `finetune` take when nothing is named.
DEFAULT = "focalnet_micro_cifar10"

BUNDLED = pathlib.Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Checkpoint:
    """One row.

    Attributes:
        architecture: name in `ARCHITECTURES`.
        source: str or None. Address of the weights. None if they are bundled, or no copy is known.
        data: what it was trained on.
        published_top1: percent on ImageNet-1k's validation images, by its authors; None if they gave none.
        measured_top1: percent that we measured, on the test images of `data`; None where we could not.
        license: of the weights.
    """

    architecture: str
    source: str | None
    data: str
    published_top1: float | None = None
    measured_top1: float | None = None
    license: str = "MIT"


def bundled_directory(name):
    """The preset directory that comes with focalnets under this name, or None.

    >>> from focalnets.presets.checkpoints import bundled_directory
    >>> bundled_directory("focalnet_tiny_srf_imagenet1k") is None
    True
    """
    directory = BUNDLED / name
    return directory if name in CHECKPOINTS and directory.is_dir() else None


def _imagenet1k(name, top1):
    return Checkpoint(name, f"hf://timm/{name}.ms_in1k", "ImageNet-1k", top1)


def _imagenet22k(name):
    return Checkpoint(name, f"hf://timm/{name}.ms_in22k", "ImageNet-22k")


CHECKPOINTS = {
    "focalnet_micro_cifar10": Checkpoint("focalnet_micro", None, "CIFAR-10", measured_top1=89.63),
    "focalnet_nano_cifar10": Checkpoint("focalnet_nano", None, "CIFAR-10", measured_top1=88.45),
    "focalnet_tiny_srf_imagenet1k": _imagenet1k("focalnet_tiny_srf", 82.1),
    "focalnet_tiny_lrf_imagenet1k": _imagenet1k("focalnet_tiny_lrf", 82.3),
    "focalnet_small_srf_imagenet1k": _imagenet1k("focalnet_small_srf", 83.4),
    "focalnet_small_lrf_imagenet1k": _imagenet1k("focalnet_small_lrf", 83.5),
    "focalnet_base_srf_imagenet1k": _imagenet1k("focalnet_base_srf", 83.7),
    "focalnet_base_lrf_imagenet1k": _imagenet1k("focalnet_base_lrf", 83.9),
    "focalnet_tiny_iso_imagenet1k": Checkpoint("focalnet_tiny_iso", None, "ImageNet-1k", 74.1),
    "focalnet_small_iso_imagenet1k": Checkpoint("focalnet_small_iso", None, "ImageNet-1k", 80.9),
    "focalnet_base_iso_imagenet1k": Checkpoint("focalnet_base_iso", None, "ImageNet-1k", 82.4),
    "focalnet_large_fl3_imagenet22k": _imagenet22k("focalnet_large_fl3"),
    "focalnet_large_fl4_imagenet22k": _imagenet22k("focalnet_large_fl4"),
    "focalnet_xlarge_fl3_imagenet22k": _imagenet22k("focalnet_xlarge_fl3"),
    "focalnet_xlarge_fl4_imagenet22k": _imagenet22k("focalnet_xlarge_fl4"),
    "focalnet_huge_fl3_imagenet22k": _imagenet22k("focalnet_huge_fl3"),
    "focalnet_huge_fl4_imagenet22k": _imagenet22k("focalnet_huge_fl4"),
}
