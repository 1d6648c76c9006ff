"""Layer scale: one trainable factor per channel on a residual branch (Touvron et al., arXiv 2103.17239)."""

import keras


@keras.saving.register_keras_serializable(package="focalnets")
class LayerScale(keras.layers.Layer):
    """Layer that multiplies the last axis by a trainable vector.

    Args:
        init_value: float. Initial value of all factors. Defaults to 1e-4, as in the published FocalNets.

    Input shape:
        (..., C), any rank. The output has the same shape.

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
        initializer = keras.initializers.Constant(self.init_value)
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer)
        self.built = True

    def call(self, x):
        return x * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "init_value": self.init_value}
