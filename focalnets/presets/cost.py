"""Parameters and multiply-accumulates of a network by closed formula, without building it.

MACs are those of matrix products, convolutions, the gated sum over levels and the product with the
query: what the paper calls "GFLOPs", to the digit that it prints (one multiply-accumulate is two
floating-point operations). Norms, activations and residual sums are not counted.
"""

from focalnets.layers.geometry import kernel_sizes, per_stage, stem_kernel_size


def count_parameters(architecture):
    """Trainable parameters of a backbone with its head.

    Args:
        architecture: an `Architecture`.

    >>> from focalnets import ARCHITECTURES, count_parameters
    >>> count_parameters(ARCHITECTURES["tutorial"])
    39023903
    """
    return sum(parameters for parameters, _ in _parts(architecture, architecture.image_size))


def count_macs(architecture, image_size=None):
    """Multiply-accumulates of one forward pass of one square image.

    Args:
        architecture: an `Architecture`.
        image_size: side in pixels; None for the architecture's own.

    >>> from focalnets import ARCHITECTURES, count_macs
    >>> round(count_macs(ARCHITECTURES["focalnet_tiny_srf"]) / 1e9, 1)
    4.4
    """
    return sum(macs for _, macs in _parts(architecture, image_size or architecture.image_size))


def _parts(architecture, size):
    """(parameters, MACs) of each layer in order."""
    net = architecture.backbone
    depths = net["depths"]
    patch = net.get("patch_size", 4)
    overlap = net.get("overlap_embed", False)
    levels = per_stage("focal_levels", net.get("focal_levels", 2), depths)
    windows = per_stage("focal_window", net.get("focal_window", 3), depths)
    channels = net["embed_dim"]
    size = -(-size // patch)

    yield _embedding(stem_kernel_size(patch, overlap), architecture.channels, channels, size)
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            yield _block(net, channels, levels[stage], windows[stage], size)
        if stage + 1 < len(depths):
            size = -(-size // 2)
            yield _embedding(3 if overlap else 2, channels, 2 * channels, size)
            channels *= 2
    yield 2 * channels, 0  # final norm
    classes = architecture.num_classes
    yield channels * classes + classes, channels * classes


def _embedding(kernel, channels_in, channels_out, size):
    weights = kernel * kernel * channels_in * channels_out
    return weights + 3 * channels_out, weights * size * size


def _block(net, channels, levels, window, size):
    hidden = int(channels * net.get("mlp_ratio", 4.0))
    kernels = kernel_sizes(levels, window, net.get("focal_factor", 2))
    split = 2 * channels + levels + 1
    depthwise = channels * sum(k * k for k in kernels)
    pointwise = channels * split + 2 * channels * channels + 2 * channels * hidden
    biases = split + 2 * channels + hidden + channels
    norms = 1 + (net.get("norm_placement", "pre") != "mlp_only")
    norms += net.get("norm_after_modulation", False)
    scales = 2 if net.get("layer_scale_init") is not None else 0
    parameters = depthwise + pointwise + biases + (2 * norms + scales) * channels
    gating = channels * (levels + 2)  # L + 1 gates, and query * modulator
    return parameters, (depthwise + pointwise + gating) * size * size
