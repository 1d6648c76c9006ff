"""Drop path, or stochastic depth (Huang et al., arXiv 1603.09382): skip a residual branch for some images."""

import keras
from keras import ops

from focalnets.layers.seeds import resolve_seed
from focalnets.ops.dispatch import optimized


@keras.saving.register_keras_serializable(package="focalnets")
class DropPath(keras.layers.Layer):
    """Zero whole images of a batch with probability `rate` while training; scale the others by 1/(1-rate).

    Args:
        rate: probability in [0, 1) that an image's branch is dropped.
        seed: integer, or None to draw one.

    Input and output: (B, H, W, C).

    Raises:
        ValueError: if `rate` is outside [0, 1).

    >>> import numpy as np
    >>> from focalnets import DropPath
    >>> x = np.ones((2, 1, 1, 3), "float32")
    >>> bool((DropPath(rate=0.5, seed=0)(x, training=False) == x).all())
    True
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"DropPath rate must be in [0, 1); got {rate}.")
        self.rate = rate
        self.seed = resolve_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def mask(self, x, training):
        """The factors (B, 1, ...) for one call, or None when nothing can be dropped.

        Drawn apart from the product so that a rematerialized branch never draws twice.
        """
        if not training or self.rate == 0.0:
            return None
        ones = ops.ones((ops.shape(x)[0], *(1,) * (len(x.shape) - 1)), dtype=x.dtype)
        return keras.random.dropout(ones, self.rate, seed=self.seed_generator)

    def call(self, x, training=None):
        mask = self.mask(x, training)
        return x if mask is None else x * mask

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def dropout_mask(dropout, shape, dtype):
    """The factors that a `keras.layers.Dropout` multiplies a tensor of this shape with while training."""
    mask = optimized("dropout_mask", shape, dropout.rate, dropout.seed_generator.state.value)
    if mask is None:
        return dropout(ops.ones(shape, dtype=dtype), training=True)
    dropout.seed_generator.next()
    return ops.cast(mask, dtype)
