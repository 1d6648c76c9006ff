"""How the layers apply their `Dense` sub-layers."""

from keras import ops

from focalnets.ops.backend import fused_linear


def pointwise(dense, x):
    """`dense(x)`, with the bias added inside the matrix product where that is faster.

    Keras adds the bias to the finished product: one more pass over the map, which on torch takes longer
    than the product itself where maps are wide and channels few.

    Args:
        dense: a built `keras.layers.Dense` without activation.
        x: tensor (..., C).

    Returns:
        Tensor (..., units), in the compute dtype of the layer that calls.

    >>> import keras, numpy as np
    >>> from focalnets.layers.pointwise import pointwise
    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 2))
    >>> tuple(pointwise(dense, np.ones((5, 2), "float32")).shape)
    (5, 3)
    """
    linear = fused_linear()
    if linear is None or dense.quantization_mode is not None:
        return dense(x)
    # Cast here: where a branch is computed again for its gradient, Keras' own casting is not at work.
    tensors = (ops.convert_to_tensor(value) for value in (x, dense.kernel, dense.bias))
    return linear(*(ops.cast(tensor, dense.compute_dtype) for tensor in tensors))
