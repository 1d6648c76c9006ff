"""Products with a matrix and what stands between them: the other half of a focal modulation network.

`x` has any leading axes; kernels are (inputs, units), as Keras keeps them. All arguments are tensors of
one dtype.
"""

from keras import ops

from focalnets.ops.dispatch import fused
from focalnets.ops.focal_context import gelu


def linear(x, kernel, bias):
    """x @ kernel + bias: (..., I), (I, O) and (O,) to (..., O).

    >>> from keras import ops
    >>> from focalnets.ops.dense import linear
    >>> ops.convert_to_numpy(linear(ops.ones((1, 2)), ops.ones((2, 3)), ops.ones(3))).tolist()
    [[3.0, 3.0, 3.0]]
    """
    y = fused("linear", x, kernel, bias)
    return ops.matmul(x, kernel) + bias if y is None else y


def mlp(x, kernel1, bias1, kernel2, bias2):
    """gelu(x @ kernel1 + bias1) @ kernel2 + bias2: (..., I) to (..., O).

    >>> from keras import ops
    >>> from focalnets.ops.dense import mlp
    >>> one, zero = ops.ones((1, 1)), ops.zeros(1)
    >>> round(float(mlp(one, one, zero, one, zero)[0, 0]), 4)
    0.8413
    """
    y = fused("mlp", x, kernel1, bias1, kernel2, bias2)
    return linear(gelu(linear(x, kernel1, bias1)), kernel2, bias2) if y is None else y


def layer_norm(x, gamma, beta, epsilon):
    """Normalise the last axis, (..., C), then scale and shift it by (C,) each; at least in float32.

    >>> from keras import ops
    >>> from focalnets.ops.dense import layer_norm
    >>> y = layer_norm(ops.array([[1.0, 3.0]]), ops.ones(2), ops.zeros(2), 0.0)
    >>> ops.convert_to_numpy(y).tolist()
    [[-1.0, 1.0]]
    """
    y = fused("layer_norm", x, gamma, beta, epsilon)
    return ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=epsilon) if y is None else y
