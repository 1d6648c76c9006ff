"""Trained weights by name, with their addresses and accuracy. Free of Keras.

The package ships with two networks in `bundled/`, with model cards. The other weights are published by the
authors of the paper and loaded from timm's copies on the Hugging Face hub, whose client verifies each file.
The authors' own files can be given by URL or path.

The authors' links to the isotropic networks have been dead since May 2023, and no copy is known.
"""

import pathlib
from dataclasses import dataclass

# The preset that `predict`, `explain` and the recipe `finetune` use by default.
DEFAULT = "focalnet_micro_cifar10"

BUNDLED = pathlib.Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Checkpoint:
    """One row of `CHECKPOINTS`.

    Attributes:
        architecture: str. Name in `ARCHITECTURES`.
        source: str or None. Address of the weights. None if they are bundled, or no copy is known.
        data: str. Name of the training data.
        published_top1: float or None. Top-1 accuracy on the validation images of ImageNet-1k in percent, as
            published by the authors. None if not published.
        measured_top1: float or None. Top-1 accuracy on the test images of `data` in percent, as measured with
            focalnets. None if not measured.
        license: str. License of the weights.
    """

    architecture: str
    source: str | None
    data: str
    published_top1: float | None = None
    measured_top1: float | None = None
    license: str = "MIT"


def bundled_directory(name):
    """The preset directory that ships with the package under this name, or None.

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
