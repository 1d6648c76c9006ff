"""How the layers apply their `Dense` and norm sub-layers: by the operations of `ops/`, not by calling them.

A call of a Keras layer costs 0.1 ms of bookkeeping on torch, as much as the work itself for one image, and
Keras' own `Dense` adds the bias in a pass of its own.
"""

from keras import ops

from focalnets.ops import dense as dense_ops

# Activation functions of the MLP, by the name that the argument `activation` takes.
_ACTIVATIONS = {
    "gelu": dense_ops.gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


def activate(activation, x):
    """The activation function of that name, one of `ACTIVATIONS`, of a tensor of any shape.

    >>> from focalnets.layers.pointwise import activate
    >>> float(activate("relu", -1.0))
    0.0
    """
    return _ACTIVATIONS[activation](ops.convert_to_tensor(x))


def pointwise(dense, x):
    """`dense(x)`, with the product and the bias computed as is best on the backend.

    Args:
        dense: a built `keras.layers.Dense` without activation.
        x: tensor (..., C) in the compute dtype.

    Returns:
        Tensor (..., units) of the dtype of x.

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
    """dense2(activation(dense1(x))): tensor (..., C) to (..., units of `dense2`).

    The fused versions are for the exact GELU, as every published network has it.
    """
    quantized = dense1.quantization_mode is not None or dense2.quantization_mode is not None
    if quantized or activation != "gelu":
        return pointwise(dense2, activate(activation, pointwise(dense1, x)))
    return dense_ops.mlp(x, *tensors_like(x, dense1.kernel, dense1.bias, dense2.kernel, dense2.bias))


def normalize(norm, x):
    """`norm(x)` for a built `keras.layers.LayerNormalization` over the last axis."""
    return dense_ops.layer_norm(x, *tensors_like(x, norm.gamma, norm.beta), norm.epsilon)


def tensors_like(x, *variables):
    """The values of variables in the dtype of `x`.

    Cast here: where a branch is computed again for its gradient, Keras' own casting is not at work.
    """
    values = [getattr(variable, "value", variable) for variable in variables]
    return [value if value.dtype == x.dtype else ops.cast(value, x.dtype) for value in values]
