"""Layer scale: one learnt factor a channel on a residual branch (Touvron et al., arXiv 2103.17239)."""

import keras


@keras.saving.register_keras_serializable(package="focalnets")
class LayerScale(keras.layers.Layer):
    """Multiply the last axis by a learnt vector.

    Args:
        init_value: starting value of every factor; FocalNets use 1e-4.

    Input and output: any shape (..., C).

    Source: `gamma_1`, `gamma_2` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import LayerScale
    >>> import keras
    >>> keras.ops.convert_to_numpy(LayerScale(init_value=0.5)(np.ones((1, 2), "float32"))).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, init_value=1e-4, **kwargs):
        super().__init__(**kwargs)
        self.init_value = init_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.init_value),
        )
        self.built = True

    def call(self, x):
        return x * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "init_value": self.init_value}
