"""Focal context aggregation: the one expensive operation of a focal modulation network.

Shapes: B batch, H height, W width, C channels, L focal levels.

Equations 4 to 6 of the paper (arXiv 2203.11926, section 3.2), with the context Z_0 (B, H, W, C) and the raw
gates G (B, H, W, L + 1):

    Z_l   = GELU(depthwise_conv(Z_{l-1}, kernel_l))             l = 1..L     hierarchical contextualization
    Z_out = sum_l G_l * Z_l  +  G_{L+1} * GELU(mean_HW(Z_L))                 gated aggregation

`focal_context` is this definition. Each backend implements two operations by hand, in `torch_ops.py`,
`jax_ops.py` and `tensorflow_ops.py`:

- `depthwise_conv`. Keras on torch copies the feature map twice, XLA's grouped convolution is 30 to 80 times
  slower than necessary on a CPU, and TensorFlow has no gradient of a grouped `Conv2D` on a CPU.
- `gelu`, the exact one with erf. `keras.ops.gelu` defaults to the tanh approximation.

Both take a `keras.KerasTensor`, too, and then give the symbolic operation of Keras, for conversion to ONNX.

`dispatch.optimized` selects a fused implementation of the whole operation where the backend has one.
"""

import keras
from keras import ops

from focalnets.ops.backend import backend_ops
from focalnets.ops.dispatch import optimized


def focal_context(context, gates, kernels):
    """Aggregate a context over the focal levels and the global level.

    Args:
        context: Tensor of shape (B, H, W, C). Initial context Z_0.
        gates: Tensor of shape (B, H, W, L + 1). Raw gates. The last gate is that of the global average.
        kernels: List of L tensors of shape (k_l, k_l, C, 1), k_l odd. Depthwise kernels, applied with zero
            padding.

    Returns:
        Tensor of shape (B, H, W, C). Aggregated context Z_out, not divided by L + 1.

    Raises:
        ValueError: if the number of gates is not the number of kernels plus one.

    Source: paper, equations 4 to 6; `FocalModulation.forward` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import focal_context
    >>> context = np.ones((1, 5, 7, 4), "float32")
    >>> gates = np.ones((1, 5, 7, 3), "float32")
    >>> kernels = [np.ones((k, k, 4, 1), "float32") for k in (3, 5)]
    >>> tuple(focal_context(context, gates, kernels).shape)
    (1, 5, 7, 4)
    """
    if gates.shape[-1] != len(kernels) + 1:
        raise ValueError(
            f"focal_context got {gates.shape[-1]} gates for {len(kernels)} kernels; expected "
            f"{len(kernels) + 1}: one gate per kernel and one for the global average."
        )
    context, gates = ops.convert_to_tensor(context), ops.convert_to_tensor(gates)
    kernels = [ops.convert_to_tensor(kernel) for kernel in kernels]
    aggregated = optimized("focal_context", context, gates, kernels, required=True)
    if aggregated is not None:
        return aggregated
    total = 0.0
    for level, kernel in enumerate(kernels):
        context = gelu(depthwise_conv(context, kernel))
        total = total + context * gates[..., level : level + 1]
    mean = optimized("spatial_mean", context)
    global_context = gelu(ops.mean(context, axis=(1, 2), keepdims=True) if mean is None else mean)
    return total + global_context * gates[..., len(kernels) :]


def depthwise_conv(x, kernel):
    """Depthwise convolution with zero padding: (B, H, W, C) and (k, k, C, 1), k odd, to (B, H, W, C).

    >>> import numpy as np
    >>> from focalnets.ops.focal_context import depthwise_conv
    >>> box = np.ones((3, 3, 1, 1), "float32")
    >>> float(depthwise_conv(np.ones((1, 4, 4, 1), "float32"), box)[0, 0, 0, 0])
    4.0
    """
    if isinstance(x, keras.KerasTensor):
        return ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last")
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    y = optimized("depthwise_conv", x, kernel)
    return backend_ops().depthwise_conv(x, kernel) if y is None else y


def gelu(x):
    """Exact GELU, x * (1 + erf(x / sqrt 2)) / 2, of a tensor of any shape and in its dtype.

    >>> import numpy as np
    >>> from focalnets.ops.focal_context import gelu
    >>> round(float(gelu(np.float32(1.0))), 4)
    0.8413
    """
    if isinstance(x, keras.KerasTensor):
        return ops.gelu(x, approximate=False)
    return backend_ops().gelu(ops.convert_to_tensor(x))
