"""Focal modulation: the layer that gives the network its name. Read this file first.

Legend of the shape suffixes: B batch, H height, W width, C channels, L focal levels.

Equations of the paper (arXiv 2203.11926, section 3), with x the input map:

    query, context, gates = f(x)                     one pointwise projection, C -> 2C + L + 1
    Z_l   = GELU(depthwise_conv_l(Z_{l-1}))          Z_0 = context, l = 1..L; window sizes increase with l
    Z_out = sum_l gates_l * Z_l + gates_{L+1} * GELU(mean_HW(Z_L))
    m     = h(Z_out)                                 the modulator, pointwise C -> C
    y     = proj(query * m)                          pointwise C -> C

Gates are raw linear outputs: neither softmax nor sigmoid. Unlike attention, aggregation comes first and
the interaction (the product with the query) last; the cost is linear in the number of positions.
"""

import keras

from focalnets.layers import geometry
from focalnets.layers.initializers import conv_initializers, dense_initializers, depthwise_initializer
from focalnets.layers.pointwise import normalize, pointwise, tensors_like
from focalnets.ops.dense import split
from focalnets.ops.focal_context import focal_context


@keras.saving.register_keras_serializable(package="focalnets")
class FocalModulation(keras.layers.Layer):
    """Focal modulation layer.

    The layer multiplies a query at each position by a modulator. The modulator is a gated sum of the context
    around the position, aggregated by depthwise convolutions of increasing kernel size.

    Args:
        focal_levels: int. Number of focal levels L, one depthwise convolution each. Defaults to 2.
        focal_window: int. Kernel size of the first depthwise convolution, odd. Defaults to 3.
        focal_factor: int. Increase of the kernel size from one level to the next, even. Defaults to 2.
        normalize_modulator: bool. Divide the aggregated context by L + 1. Defaults to `False`.
        norm_after_modulation: bool. Apply layer normalization to query * modulator
            (`use_postln_in_modulation` in the original code). Defaults to `False`.
        norm_epsilon: float. Epsilon of that layer normalization. Defaults to 1e-5.
        kernel_initializer: Keras initializer, or its name, for all kernels. Defaults to the initializers of
            the original code (`layers/initializers.py`).

    Input shape:
        (B, H, W, C).

    Output shape:
        (B, H, W, C). With `return_modulation=True`, the call returns a tuple: output (B, H, W, C), gates
        (B, H, W, L + 1) and modulator (B, H, W, C).

    Raises:
        ValueError: if a kernel size would be even, or `focal_levels` is less than 1.

    Source: paper section 3.2; `FocalModulation` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalModulation
    >>> y, gates, modulator = FocalModulation(focal_levels=2)(
    ...     np.ones((1, 5, 7, 8), "float32"), return_modulation=True)
    >>> tuple(y.shape), tuple(gates.shape), tuple(modulator.shape)
    ((1, 5, 7, 8), (1, 5, 7, 3), (1, 5, 7, 8))
    """

    def __init__(
        self,
        focal_levels=2,
        focal_window=3,
        focal_factor=2,
        normalize_modulator=False,
        norm_after_modulation=False,
        norm_epsilon=1e-5,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if focal_levels < 1:
            raise ValueError(f"focal_levels must be at least 1; got {focal_levels}.")
        if focal_window % 2 == 0 or focal_factor % 2:
            raise ValueError(
                "Kernel sizes focal_window + focal_factor * level must be odd, so focal_window must be odd "
                f"and focal_factor even; got focal_window={focal_window}, focal_factor={focal_factor}."
            )
        self.focal_levels = focal_levels
        self.focal_window = focal_window
        self.focal_factor = focal_factor
        self.normalize_modulator = normalize_modulator
        self.norm_after_modulation = norm_after_modulation
        self.norm_epsilon = norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        channels = input_shape[-1]
        custom = self.kernel_initializer

        def dense(name, units, initializers):
            kernel, bias = initializers
            layer = keras.layers.Dense(
                units, kernel_initializer=kernel, bias_initializer=bias, dtype=self.dtype_policy, name=name
            )
            layer.build(input_shape)
            return layer

        self.f = dense("f", 2 * channels + self.focal_levels + 1, dense_initializers(custom))
        self.h = dense("h", channels, conv_initializers(custom, fan_in=channels))
        self.proj = dense("proj", channels, dense_initializers(custom))
        self.kernels = [
            self.add_weight(
                name=f"focal_kernel_{level}",
                shape=(size, size, channels, 1),
                initializer=depthwise_initializer(custom, size),
            )
            for level, size in enumerate(self.kernel_sizes)
        ]
        self.norm = None
        if self.norm_after_modulation:
            self.norm = keras.layers.LayerNormalization(
                epsilon=self.norm_epsilon, dtype=self.dtype_policy, name="norm"
            )
            self.norm.build(input_shape)
        self.built = True

    @property
    def kernel_sizes(self):
        """Sizes of the L depthwise kernels, smallest first."""
        return geometry.kernel_sizes(self.focal_levels, self.focal_window, self.focal_factor)

    def call(self, x_BHWC, return_modulation=False):
        channels = x_BHWC.shape[-1]
        projected = pointwise(self.f, x_BHWC)
        query_BHWC, context_BHWC, gates_BHWL = split(projected, (channels, channels, self.focal_levels + 1))

        aggregated_BHWC = focal_context(context_BHWC, gates_BHWL, tensors_like(x_BHWC, *self.kernels))
        if self.normalize_modulator:
            aggregated_BHWC = aggregated_BHWC / (self.focal_levels + 1)
        modulator_BHWC = pointwise(self.h, aggregated_BHWC)

        y_BHWC = query_BHWC * modulator_BHWC
        if self.norm is not None:
            y_BHWC = normalize(self.norm, y_BHWC)
        y_BHWC = pointwise(self.proj, y_BHWC)
        return (y_BHWC, gates_BHWL, modulator_BHWC) if return_modulation else y_BHWC

    def compute_output_spec(self, x_BHWC, return_modulation=False):
        y = keras.KerasTensor(x_BHWC.shape, dtype=self.compute_dtype)
        if not return_modulation:
            return y
        gates = keras.KerasTensor((*x_BHWC.shape[:-1], self.focal_levels + 1), dtype=self.compute_dtype)
        # A new tensor instead of `y`, because Keras distinguishes outputs by identity.
        return y, gates, keras.KerasTensor(x_BHWC.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "focal_levels": self.focal_levels,
            "focal_window": self.focal_window,
            "focal_factor": self.focal_factor,
            "normalize_modulator": self.normalize_modulator,
            "norm_after_modulation": self.norm_after_modulation,
            "norm_epsilon": self.norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
