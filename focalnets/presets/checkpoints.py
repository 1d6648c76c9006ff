"""Trained weights by name: where they are, what belongs to them, what they reach. Free of keras.

Two come with focalnets, in `bundled/`, with model cards. The others are published by the authors of the
paper: the names are upstream's with the data added. Of the first source that can be used here the weights
are taken: upstream's own file (a pickle, which needs torch to be read), or timm's copy on the Hugging Face
hub (needs the extra `hub`). Nobody has published hashes of upstream's files; the hub's client checks its own.
What comes is checked in any case by converting it: every array must find its place in the architecture named.

Upstream's links to the isotropic nets have been dead since May 2023, and no copy is known.
"""

import pathlib
from dataclasses import dataclass

# What `predict`, `explain` and the recipe `finetune` take when nothing is named.
DEFAULT = "focalnet_micro_cifar10"

BUNDLED = pathlib.Path(__file__).parent / "bundled"
_RELEASE = "https://github.com/microsoft/FocalNet/releases/download/v1.0.0"


@dataclass(frozen=True)
class Checkpoint:
    """One row.

    Attributes:
        architecture: name in `ARCHITECTURES`.
        sources: URLs and hf:// names, best first; () where no copy is known to be left.
        data: what it was trained on.
        published_top1: percent on ImageNet-1k's validation images, by its authors; None if they gave none.
        measured_top1: percent that we measured, on the test images of `data`; None where we could not.
        license: of the weights.
        sha256: of the first source's file, None where nobody has published it.
    """

    architecture: str
    sources: tuple[str, ...]
    data: str
    published_top1: float | None = None
    measured_top1: float | None = None
    license: str = "MIT"
    sha256: str | None = None


def bundled_directory(name):
    """The preset directory that comes with focalnets under this name, or None.

    >>> from focalnets.presets.checkpoints import bundled_directory
    >>> bundled_directory("focalnet_tiny_srf_imagenet1k") is None
    True
    """
    directory = BUNDLED / name
    return directory if name in CHECKPOINTS and directory.is_dir() else None


def _imagenet1k(name, top1):
    sources = (f"{_RELEASE}/{name}.pth", f"hf://timm/{name}.ms_in1k")
    return Checkpoint(name, sources, "ImageNet-1k", top1)


def _imagenet22k(name, file):
    timm = f"hf://timm/{name}.ms_in22k"
    return Checkpoint(name, (f"{_RELEASE}/{file}.pth", timm) if file else (timm,), "ImageNet-22k")


CHECKPOINTS = {
    "focalnet_micro_cifar10": Checkpoint("focalnet_micro", (), "CIFAR-10", measured_top1=89.63),
    "focalnet_nano_cifar10": Checkpoint("focalnet_nano", (), "CIFAR-10", measured_top1=88.45),
    "focalnet_tiny_srf_imagenet1k": _imagenet1k("focalnet_tiny_srf", 82.1),
    "focalnet_tiny_lrf_imagenet1k": _imagenet1k("focalnet_tiny_lrf", 82.3),
    "focalnet_small_srf_imagenet1k": _imagenet1k("focalnet_small_srf", 83.4),
    "focalnet_small_lrf_imagenet1k": _imagenet1k("focalnet_small_lrf", 83.5),
    "focalnet_base_srf_imagenet1k": _imagenet1k("focalnet_base_srf", 83.7),
    "focalnet_base_lrf_imagenet1k": _imagenet1k("focalnet_base_lrf", 83.9),
    "focalnet_tiny_iso_imagenet1k": Checkpoint("focalnet_tiny_iso", (), "ImageNet-1k", 74.1),
    "focalnet_small_iso_imagenet1k": Checkpoint("focalnet_small_iso", (), "ImageNet-1k", 80.9),
    "focalnet_base_iso_imagenet1k": Checkpoint("focalnet_base_iso", (), "ImageNet-1k", 82.4),
    "focalnet_large_fl3_imagenet22k": _imagenet22k("focalnet_large_fl3", "focalnet_large_lrf_384"),
    "focalnet_large_fl4_imagenet22k": _imagenet22k("focalnet_large_fl4", "focalnet_large_lrf_384_fl4"),
    "focalnet_xlarge_fl3_imagenet22k": _imagenet22k("focalnet_xlarge_fl3", "focalnet_xlarge_lrf_384"),
    "focalnet_xlarge_fl4_imagenet22k": _imagenet22k("focalnet_xlarge_fl4", "focalnet_xlarge_lrf_384_fl4"),
    "focalnet_huge_fl3_imagenet22k": _imagenet22k("focalnet_huge_fl3", None),
    "focalnet_huge_fl4_imagenet22k": _imagenet22k("focalnet_huge_fl4", None),
}
