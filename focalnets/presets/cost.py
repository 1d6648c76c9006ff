"""Weight shapes, parameters and multiply-accumulates (MACs) of a network, without building it.

MACs are those of matrix multiplications, convolutions, the gated sum over levels and the product with the
query. The paper calls their number "GFLOPs", although one MAC is two floating-point operations. Norms,
activations and residual sums are not counted.
"""

import math
import re

from focalnets.layers.geometry import kernel_sizes, per_stage, stem_kernel_size

# Arguments of `FocalNetBackbone` that determine the shapes of its weights, with their defaults.
SHAPE_ARGUMENTS = {
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "focal_levels": 2,
    "focal_window": 3,
    "focal_factor": 2,
    "norm_after_modulation": False,
    "patch_size": 4,
    "overlap_embed": False,
    "mlp_ratio": 4.0,
    "layer_scale_init": None,
}


def count_parameters(architecture):
    """Number of trainable parameters of a backbone with its head.

    Args:
        architecture: `Architecture`.

    >>> from focalnets import ARCHITECTURES, count_parameters
    >>> count_parameters(ARCHITECTURES["tutorial"])
    39023903
    """
    return sum(map(math.prod, _shapes(architecture).values()))


def count_macs(architecture, image_size=None):
    """Number of multiply-accumulates of one forward pass of one square image.

    Args:
        architecture: `Architecture`.
        image_size: int. Side of the image in pixels. Defaults to None, the image size of the architecture.

    >>> from focalnets import ARCHITECTURES, count_macs
    >>> round(count_macs(ARCHITECTURES["focalnet_tiny_srf"]) / 1e9, 1)
    4.4
    """
    net = {**SHAPE_ARGUMENTS, **architecture.backbone}
    sides = [-(-(image_size or architecture.image_size) // net["patch_size"])]
    for _ in net["depths"][1:]:
        sides.append(-(-sides[-1] // 2))
    macs = 0
    for path, shape in _shapes(architecture).items():
        if len(shape) == 1:
            continue
        found = re.match(r"stage(\d+)_(downsample)?", path)
        stage = int(found[1]) - (0 if found[2] else 1) if found else 0
        positions = 1 if path == "head/kernel" else sides[stage] ** 2
        macs += math.prod(shape) * positions
        if path.endswith("/modulation/f/kernel"):
            channels, units = shape  # units are 2 * channels + L + 1
            macs += channels * (units - 2 * channels + 1) * positions  # L + 1 gates, and query * modulator
    return macs


def _shapes(architecture):
    return variable_shapes(architecture.backbone, architecture.channels, architecture.num_classes)


def variable_shapes(backbone, channels, num_classes):
    """Shape of each variable of a network by its path.

    Args:
        backbone: dict. Arguments of `FocalNetBackbone`.
        channels: int. Number of channels of the images.
        num_classes: int or None. Number of classes. None for a backbone without a head.

    Returns:
        dict of path -> tuple of int.

    >>> from focalnets.presets.cost import variable_shapes
    >>> variable_shapes({"embed_dim": 8, "depths": (1,)}, channels=3, num_classes=5)["head/kernel"]
    (8, 5)
    """
    net = {**SHAPE_ARGUMENTS, **backbone}
    depths, width = net["depths"], net["embed_dim"]
    levels = per_stage("focal_levels", net["focal_levels"], depths)
    windows = per_stage("focal_window", net["focal_window"], depths)
    shapes = {}

    def dense(path, inputs, units):
        shapes.update({f"{path}/kernel": (inputs, units), f"{path}/bias": (units,)})

    def norm(path, size):
        shapes.update({f"{path}/gamma": (size,), f"{path}/beta": (size,)})

    def embedding(path, kernel, inputs, units):
        shapes.update({f"{path}/proj/kernel": (kernel, kernel, inputs, units), f"{path}/proj/bias": (units,)})
        norm(f"{path}/norm", units)

    embedding("stem", stem_kernel_size(net["patch_size"], net["overlap_embed"]), channels, width)
    for stage, depth in enumerate(depths):
        hidden = int(width * net["mlp_ratio"])
        kernels = kernel_sizes(levels[stage], windows[stage], net["focal_factor"])
        for block in range(depth):
            path = f"stage{stage + 1}_block{block + 1}"
            dense(f"{path}/modulation/f", width, 2 * width + levels[stage] + 1)
            dense(f"{path}/modulation/h", width, width)
            dense(f"{path}/modulation/proj", width, width)
            for level, size in enumerate(kernels):
                shapes[f"{path}/modulation/focal_kernel_{level}"] = (size, size, width, 1)
            dense(f"{path}/fc1", width, hidden)
            dense(f"{path}/fc2", hidden, width)
            norm(f"{path}/norm2", width)
            if net.get("norm_placement") != "mlp_only":
                norm(f"{path}/norm1", width)
            if net["norm_after_modulation"]:
                norm(f"{path}/modulation/norm", width)
            if net["layer_scale_init"] is not None:
                shapes.update({f"{path}/scale{branch}/gamma": (width,) for branch in (1, 2)})
        if stage + 1 < len(depths):
            if net.get("pyramid_norm"):
                norm(f"stage{stage + 1}_norm", width)
            embedding(f"stage{stage + 1}_downsample", 3 if net["overlap_embed"] else 2, width, 2 * width)
            width *= 2
    norm("norm", width)
    if num_classes is not None:
        dense("head", width, num_classes)
    return shapes
