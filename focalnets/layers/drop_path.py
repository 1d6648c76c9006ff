"""Drop path, also called stochastic depth (Huang et al., arXiv 1603.09382)."""

import keras
from keras import ops

from focalnets.layers.seeds import resolve_seed
from focalnets.ops.backend import from_host, on_host
from focalnets.ops.dispatch import optimized
from focalnets.ops.processes import current, rows_for_process


@keras.saving.register_keras_serializable(package="focalnets")
class DropPath(keras.layers.Layer):
    """Drop path layer.

    During training, the layer sets each image of a batch to zero with probability `rate` and divides the
    other images by 1 - rate. At inference, it returns its input.

    Args:
        rate: float. Probability in [0, 1) that an image is set to zero.
        seed: int. Seed of the random numbers. Defaults to `None`, which draws a seed.

    Input shape:
        (B, ..., C), any rank. The output has the same shape.

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
        with on_host():
            self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def mask(self, x, training):
        """Factors (B, 1, ...) for one call, or None if nothing is dropped.

        Drawn separately from the multiplication, because a rematerialized branch must not draw twice.
        """
        if not training or self.rate == 0.0:
            return None
        rest = (1,) * (len(x.shape) - 1)

        def draw(images):
            ones = ops.ones((images, *rest), dtype=x.dtype)
            return keras.random.dropout(ones, self.rate, seed=self.seed_generator)

        with on_host():
            mask = rows_for_process(draw, ops.shape(x)[0])
        return from_host(mask, x)

    def call(self, x, training=None):
        mask = self.mask(x, training)
        return x if mask is None else x * mask

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="focalnets")
class Dropout(keras.layers.Dropout):
    """Keras' `Dropout` whose processes draw different factors for the parts of a batch."""

    def call(self, inputs, training=False):
        if not training or self.rate == 0 or current() is None:
            return super().call(inputs, training=training)

        def draw(images):
            ones = ops.ones((images, *inputs.shape[1:]), dtype=inputs.dtype)
            return keras.layers.Dropout.call(self, ones, training=True)

        return inputs * rows_for_process(draw, inputs.shape[0])


def dropout_mask(dropout, shape, x):
    """Factors of this shape that a `keras.layers.Dropout` made `on_host` applies to `x` during training."""

    def draw(images):
        whole = (images, *shape[1:])
        mask = optimized("dropout_mask", whole, dropout.rate, dropout.seed_generator.state.value, x)
        if mask is None:
            return dropout(ops.ones(whole, dtype=x.dtype), training=True)
        with on_host():
            dropout.seed_generator.next()
        return ops.cast(mask, x.dtype)

    return rows_for_process(draw, shape[0])
