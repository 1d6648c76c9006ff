"""Application of `Dense` and normalization sublayers through the operations of `ops/`.

Calling a Keras layer costs 0.1 ms of bookkeeping on torch, as much as the computation for one image. Keras'
`Dense` also adds the bias in a separate memory-bound operation.
"""

import keras
from keras import ops

from focalnets.ops import dense as dense_ops

# Values of the argument `activation` of `FocalBlock`.
_ACTIVATIONS = {
    "gelu": dense_ops.gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


def activate(activation, x):
    """Apply the activation function of this name, one of `ACTIVATIONS`, to a tensor of any shape.

    >>> from focalnets.layers.pointwise import activate
    >>> float(activate("relu", -1.0))
    0.0
    """
    x = x if isinstance(x, keras.KerasTensor) else ops.convert_to_tensor(x)
    return _ACTIVATIONS[activation](x)


def pointwise(dense, x):
    """Compute `dense(x)` in the fastest way on the backend.

    Args:
        dense: Built `keras.layers.Dense` without activation.
        x: Tensor of shape (..., C) in the compute dtype.

    Returns:
        Tensor of shape (..., units) and the dtype of `x`.

    >>> import keras, numpy as np
    >>> from focalnets.layers.pointwise import pointwise
    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 2))
    >>> tuple(pointwise(dense, keras.ops.ones((5, 2))).shape)
    (5, 3)
    """
    if dense.quantization_mode is not None:
        return dense(x)
    return dense_ops.linear(x, *tensors_like(x, dense.kernel, dense.bias))


def pointwise_mlp(dense1, dense2, x, activation="gelu"):
    """Compute dense2(activation(dense1(x))): (..., C) to (..., units of `dense2`).

    Only the exact GELU, which all published networks use, has fused implementations.
    """
    quantized = dense1.quantization_mode is not None or dense2.quantization_mode is not None
    if quantized or activation != "gelu":
        return pointwise(dense2, activate(activation, pointwise(dense1, x)))
    return dense_ops.mlp(x, *tensors_like(x, dense1.kernel, dense1.bias, dense2.kernel, dense2.bias))


def normalize(norm, x):
    """Compute `norm(x)` for a built `keras.layers.LayerNormalization` over the last axis."""
    return dense_ops.layer_norm(x, *tensors_like(x, norm.gamma, norm.beta), norm.epsilon)


def tensors_like(x, *variables):
    """Values of variables in the dtype of `x`.

    The cast is explicit because Keras' autocast is not active when a branch is recomputed for its gradient.
    """
    values = [getattr(variable, "value", variable) for variable in variables]
    return [value if value.dtype == x.dtype else ops.cast(value, x.dtype) for value in values]
