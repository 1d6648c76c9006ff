"""Dense operations: matrix multiplications, strided convolution and layer normalization.

`x` may have any number of leading axes. Kernels have Keras' shape (inputs, units). All arguments are tensors
of one dtype.
"""

import itertools

from keras import ops

from focalnets.ops.dispatch import optimized
from focalnets.ops.focal_context import gelu


def linear(x, kernel, bias):
    """Compute x @ kernel + bias: (..., I), (I, O) and (O,) to (..., O).

    >>> from keras import ops
    >>> from focalnets.ops.dense import linear
    >>> ops.convert_to_numpy(linear(ops.ones((1, 2)), ops.ones((2, 3)), ops.ones(3))).tolist()
    [[3.0, 3.0, 3.0]]
    """
    y = optimized("linear", x, kernel, bias)
    return ops.matmul(x, kernel) + bias if y is None else y


def mlp(x, kernel1, bias1, kernel2, bias2):
    """Compute gelu(x @ kernel1 + bias1) @ kernel2 + bias2: (..., I) to (..., O).

    >>> from keras import ops
    >>> from focalnets.ops.dense import mlp
    >>> one, zero = ops.ones((1, 1)), ops.zeros(1)
    >>> round(float(mlp(one, one, zero, one, zero)[0, 0]), 4)
    0.8413
    """
    y = optimized("mlp", x, kernel1, bias1, kernel2, bias2)
    return linear(gelu(linear(x, kernel1, bias1)), kernel2, bias2) if y is None else y


def split(x, sizes):
    """Split the last axis into parts of these sizes: (..., sum of sizes) to a tuple of (..., size).

    >>> from keras import ops
    >>> from focalnets.ops.dense import split
    >>> [tuple(part.shape) for part in split(ops.ones((1, 5)), (2, 3))]
    [(1, 2), (1, 3)]
    """
    parts = optimized("split", x, sizes)
    if parts is not None:
        return parts
    ends = list(itertools.accumulate(sizes))
    return tuple(x[..., end - size : end] for end, size in zip(ends, sizes, strict=True))


def strided_conv(x, kernel, bias, stride, padding):
    """Strided convolution with zero padding.

    Args:
        x: Tensor of shape (B, H, W, I).
        kernel: Tensor of shape (k, k, I, O).
        bias: Tensor of shape (O,).
        stride: int. Stride of both axes.
        padding: ((int, int), (int, int)). Numbers of zeros ((above, below), (left, right)).

    >>> from keras import ops
    >>> from focalnets.ops.dense import strided_conv
    >>> y = strided_conv(ops.ones((1, 4, 4, 1)), ops.ones((3, 3, 1, 1)), ops.zeros(1), 2, ((1, 1), (1, 1)))
    >>> ops.convert_to_numpy(y)[0, ..., 0].tolist()
    [[4.0, 6.0], [6.0, 9.0]]
    """
    y = optimized("strided_conv", x, kernel, bias, stride, padding)
    if y is not None:
        return y
    if any(not isinstance(after, int) or before or after for before, after in padding):
        x = ops.pad(x, [(0, 0), *padding, (0, 0)])
    return ops.conv(x, kernel, strides=stride, padding="valid", data_format="channels_last") + bias


def layer_norm(x, gamma, beta, epsilon):
    """Layer normalization over the last axis, at least in float32: (..., C), (C,) and (C,) to (..., C).

    >>> from keras import ops
    >>> from focalnets.ops.dense import layer_norm
    >>> y = layer_norm(ops.array([[1.0, 3.0]]), ops.ones(2), ops.zeros(2), 0.0)
    >>> ops.convert_to_numpy(y).tolist()
    [[-1.0, 1.0]]
    """
    y = optimized("layer_norm", x, gamma, beta, epsilon)
    return ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=epsilon) if y is None else y
