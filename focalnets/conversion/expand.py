"""A trained network with larger windows or more focal levels, as detectors and larger images want it."""

import numpy as np
from keras import ops

from focalnets.layers.geometry import per_stage
from focalnets.layers.initializers import skip_initialization
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetImageClassifier


def expand_focal_windows(network, focal_window=None, focal_levels=None):
    """Enlarge windows and add levels, keeping what was learnt.

    Depthwise kernels are padded with zeros. In `f`, query and context are copied, the gates of the levels
    that there are come first, those of new ones are zero, and the gate of the global average stays last.
    The kernel of a new level has a one in its center and zeros elsewhere. Where the modulator is normalized,
    by the number of levels, `h` makes up for it.

    With larger windows alone, the new network computes the same function, up to rounding. A new level cannot
    leave it quite the same: the global average is that of the last level, which is now another one, with one
    more GELU. All else is the same, and so is the whole where the global gate is zero.

    Args:
        network: a `FocalNetImageClassifier` or `FocalNetBackbone`, built; it stays as it is.
        focal_window: new size of the first window, one integer or one a stage; None to keep it.
        focal_levels: new number of levels, likewise.

    Returns:
        A new network of the same class.

    Raises:
        ValueError: if a window or a number of levels would shrink.

    LoadedCheckpoint: `load_checkpoint` in `detection/mmcv_custom/checkpoint.py` of microsoft/FocalNet.

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
            raise ValueError(f"{name} {config[name]} can only grow; got {wanted}.")
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
        blocks = (
            expanded.backbone.blocks if isinstance(expanded, FocalNetImageClassifier) else expanded.blocks
        )
        for small, large in zip(backbone.blocks, blocks, strict=True):
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
    # f: query and context, gates of the old levels; new gates; the global gate.
    expanded[..., : value.shape[-1] - 1] = value[..., :-1]
    expanded[..., -1] = value[..., -1]
    return expanded
