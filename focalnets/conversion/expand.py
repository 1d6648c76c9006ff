"""Expansion of a trained network to larger focal windows or more focal levels, for larger images."""

import numpy as np
from keras import ops

from focalnets.layers.geometry import per_stage
from focalnets.layers.initializers import skip_initialization
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetImageClassifier


def expand_focal_windows(network, focal_window=None, focal_levels=None):
    """Enlarge focal windows and add focal levels to a trained network.

    Depthwise kernels are padded with zeros. The kernel of a new level is 1 at its center and 0 elsewhere. The
    gates of new levels are 0. If the modulator is normalized, the weights of `h` are multiplied by the ratio
    of the new to the old divisor.

    With larger windows alone, the new network computes the same function up to rounding. A new level changes
    only the global average, which is computed from the last level and so gets one more GELU.

    Args:
        network: `FocalNetImageClassifier` or `FocalNetBackbone`. It is not modified.
        focal_window: int or tuple of int. New kernel size of the first level, also one per stage. Defaults to
            None, unchanged.
        focal_levels: int or tuple of int. New number of levels, also one per stage. Defaults to None,
            unchanged.

    Returns:
        A new network of the same class.

    Raises:
        ValueError: if a window or a number of levels would shrink.

    Source: `load_checkpoint` in `detection/mmcv_custom/checkpoint.py` of microsoft/FocalNet.

    >>> from focalnets import FocalNetBackbone, expand_focal_windows
    >>> net = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    >>> expand_focal_windows(net, focal_window=9).focal_window
    (9, 9)
    """
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
    config = backbone.get_config()
    for name, value in (("focal_window", focal_window), ("focal_levels", focal_levels)):
        if value is None:
            continue
        wanted = per_stage(name, value, backbone.depths)
        if any(new < old for new, old in zip(wanted, config[name], strict=True)):
            raise ValueError(f"{name} must be at least {config[name]}, as in the network; got {wanted}.")
        config[name] = wanted
    with skip_initialization():
        expanded = FocalNetBackbone.from_config(config)
        if isinstance(network, FocalNetImageClassifier):
            expanded = FocalNetImageClassifier.from_config(
                {**network.get_config(), "backbone": expanded, "image_converter": network.image_converter}
            )
    old = {variable.path: ops.convert_to_numpy(variable) for variable in network.weights}
    for variable in expanded.weights:
        variable.assign(_expanded(variable.path, old.get(variable.path), tuple(variable.shape)))
    if backbone.normalize_modulator:
        new = expanded.backbone if isinstance(expanded, FocalNetImageClassifier) else expanded
        for small, large in zip(backbone.blocks, new.blocks, strict=True):
            ratio = (large.modulation.focal_levels + 1) / (small.modulation.focal_levels + 1)
            kernel = large.modulation.h.kernel
            kernel.assign(ops.convert_to_numpy(kernel) * ratio)
    return expanded


def _expanded(path, value, shape):
    if value is None:  # the kernel of a new level
        kernel = np.zeros(shape, "float32")
        kernel[shape[0] // 2, shape[1] // 2] = 1.0
        return kernel
    if value.shape == shape:
        return value
    expanded = np.zeros(shape, value.dtype)
    if "focal_kernel_" in path:
        margin = (shape[0] - value.shape[0]) // 2
        expanded[margin : margin + value.shape[0], margin : margin + value.shape[1]] = value
        return expanded
    # `f` has the columns query, context, gates of the levels, and last the global gate.
    expanded[..., : value.shape[-1] - 1] = value[..., :-1]
    expanded[..., -1] = value[..., -1]
    return expanded
