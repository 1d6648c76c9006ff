"""Focal block: focal modulation and an MLP, each as a residual branch."""

import keras
from keras import ops

from focalnets.layers.drop_path import DropPath, dropout_mask
from focalnets.layers.focal_modulation import FocalModulation
from focalnets.layers.initializers import dense_initializers
from focalnets.layers.layer_scale import LayerScale
from focalnets.layers.pointwise import ACTIVATIONS, activate, normalize, pointwise, pointwise_mlp
from focalnets.layers.seeds import child_seed, resolve_seed
from focalnets.ops.backend import on_host
from focalnets.ops.dispatch import map_chunks

NORM_PLACEMENTS = ("pre", "post", "mlp_only")
_NO_MASKS = dict.fromkeys(("modulation", "hidden", "output", "path1", "path2"))


@keras.saving.register_keras_serializable(package="focalnets")
class FocalBlock(keras.layers.Layer):
    """Focal block layer.

    The layer adds a modulation branch and then an MLP branch to its input. `norm_placement` selects the
    formulas, in which DP is drop path, g1 and g2 are layer scales, and n1 and n2 are layer normalizations:

        "pre"       x += DP(g1 * modulation(n1(x)));   x += DP(g2 * mlp(n2(x)))
        "post"      x += DP(g1 * n1(modulation(x)));   x += DP(g2 * n2(mlp(x)))
        "mlp_only"  x += DP(g1 * modulation(x));       x += DP(g2 * mlp(n2(x)))     as in the 2023 tutorial

    Args:
        focal_levels: int. Number of focal levels L. Defaults to 2.
        focal_window: int. Kernel size of the first level, odd. Defaults to 3.
        focal_factor: int. Increase of the kernel size from one level to the next, even. Defaults to 2.
        normalize_modulator: bool. See `FocalModulation`. Defaults to `False`.
        norm_after_modulation: bool. See `FocalModulation`. Defaults to `False`.
        mlp_ratio: float. Hidden width of the MLP as a multiple of C. Defaults to 4.
        norm_placement: str. "pre", "post" or "mlp_only". Defaults to "pre".
        layer_scale_init: float. Initial value of g1 and g2. Defaults to `None`, no layer scale.
        dropout_rate: float. Dropout rate of the outputs of the modulation and of the MLP. Defaults to 0.
        mlp_hidden_dropout_rate: float. Dropout rate after the activation of the MLP. Defaults to
            `dropout_rate`, as in the original code. The tutorial uses 0.
        drop_path_rate: float. Probability that an image skips a branch. Defaults to 0.
        norm_epsilon: float. Epsilon of all layer normalizations. Defaults to 1e-5.
        rematerialize: bool. Recompute each branch in the backward pass instead of storing its activations.
            This saves memory, takes about a third more time, and gives the same gradients. Defaults to
            `False`.
        kernel_initializer: Keras initializer, or its name. See `FocalModulation`. Defaults to `None`.
        seed: int. Seed of dropout and drop path. Defaults to `None`, which draws a seed.
        activation: str. Activation function of the MLP: "gelu" (exact), "gelu_tanh" (its tanh
            approximation), "relu" or "silu". Focal modulation always uses the exact GELU. Only "gelu" has
            fused implementations. Defaults to "gelu".

    Input shape:
        (B, H, W, C).

    Output shape:
        (B, H, W, C). With `return_modulation=True`, the call returns a tuple: output (B, H, W, C), gates
        (B, H, W, L + 1) and modulator (B, H, W, C).

    Raises:
        ValueError: if `norm_placement` or `activation` is unknown.

    Source: paper section 3.3; `FocalNetBlock` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalBlock
    >>> tuple(FocalBlock(focal_levels=3, layer_scale_init=1e-4)(np.ones((1, 5, 7, 8), "float32")).shape)
    (1, 5, 7, 8)
    """

    def __init__(
        self,
        focal_levels=2,
        focal_window=3,
        focal_factor=2,
        normalize_modulator=False,
        norm_after_modulation=False,
        mlp_ratio=4.0,
        norm_placement="pre",
        layer_scale_init=None,
        dropout_rate=0.0,
        mlp_hidden_dropout_rate=None,
        drop_path_rate=0.0,
        norm_epsilon=1e-5,
        rematerialize=False,
        kernel_initializer=None,
        seed=None,
        activation="gelu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(f"Unknown activation {activation!r}. Expected one of {', '.join(ACTIVATIONS)}.")
        if norm_placement not in NORM_PLACEMENTS:
            raise ValueError(f"norm_placement must be one of {NORM_PLACEMENTS}; got {norm_placement!r}.")
        self.mlp_ratio = mlp_ratio
        self.activation = activation
        self.norm_placement = norm_placement
        self.layer_scale_init = layer_scale_init
        self.dropout_rate = dropout_rate
        self.mlp_hidden_dropout_rate = (
            dropout_rate if mlp_hidden_dropout_rate is None else mlp_hidden_dropout_rate
        )
        self.drop_path_rate = drop_path_rate
        self.norm_epsilon = norm_epsilon
        self.rematerialize = rematerialize
        self.seed = resolve_seed(seed)
        self.modulation = FocalModulation(
            focal_levels,
            focal_window,
            focal_factor,
            normalize_modulator,
            norm_after_modulation,
            norm_epsilon,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="modulation",
        )
        self.norm1 = None if norm_placement == "mlp_only" else self._norm("norm1")
        self.norm2 = self._norm("norm2")
        self.scale1 = self._scale("scale1")
        self.scale2 = self._scale("scale2")
        self.modulation_dropout = self._dropout(dropout_rate, 0)
        self.hidden_dropout = self._dropout(self.mlp_hidden_dropout_rate, 1)
        self.output_dropout = self._dropout(dropout_rate, 2)
        self.drop_path1 = DropPath(drop_path_rate, child_seed(self.seed, 3))
        self.drop_path2 = DropPath(drop_path_rate, child_seed(self.seed, 4))

    def _norm(self, name):
        return keras.layers.LayerNormalization(epsilon=self.norm_epsilon, dtype=self.dtype_policy, name=name)

    def _scale(self, name):
        if self.layer_scale_init is None:
            return None
        return LayerScale(self.layer_scale_init, dtype=self.dtype_policy, name=name)

    def _dropout(self, rate, stream):
        with on_host():
            return keras.layers.Dropout(rate, seed=child_seed(self.seed, stream), dtype=self.dtype_policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        hidden = int(channels * self.mlp_ratio)

        def dense(name, units):
            kernel, bias = dense_initializers(self.modulation.kernel_initializer)
            return keras.layers.Dense(
                units, kernel_initializer=kernel, bias_initializer=bias, dtype=self.dtype_policy, name=name
            )

        self.fc1 = dense("fc1", hidden)
        self.fc2 = dense("fc2", channels)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], hidden))
        for layer in (self.modulation, self.norm1, self.norm2, self.scale1, self.scale2):
            if layer is not None:
                layer.build(input_shape)
        self.built = True

    def call(self, x, training=None, return_modulation=False):
        if not training and not return_modulation:
            return map_chunks(lambda x: self._branches(x, _NO_MASKS, _unchanged)[0], x)
        # Drawn outside the branches: a rematerialized branch runs twice and needs the same masks.
        masks = self._draw_masks(x) if training else _NO_MASKS
        wrap = keras.remat if self.rematerialize and training else _unchanged
        x, gates, modulator = self._branches(x, masks, wrap)
        return (x, gates, modulator) if return_modulation else x

    def _branches(self, x, masks, wrap):
        branch, gates, modulator = wrap(lambda x: self._modulation_branch(x, masks))(x)
        x = x + _apply(masks["path1"], branch)
        x = x + _apply(masks["path2"], wrap(lambda x: self._mlp_branch(x, masks))(x))
        return x, gates, modulator

    def _draw_masks(self, x):
        """Random factors for training by name, None where nothing is dropped."""

        def elementwise(dropout, channels):
            if dropout.rate == 0.0:
                return None
            return dropout_mask(dropout, (*ops.shape(x)[:-1], channels), x)

        channels = x.shape[-1]
        return {
            "modulation": elementwise(self.modulation_dropout, channels),
            "hidden": elementwise(self.hidden_dropout, self.fc1.units),
            "output": elementwise(self.output_dropout, channels),
            "path1": self.drop_path1.mask(x, training=True),
            "path2": self.drop_path2.mask(x, training=True),
        }

    def _modulation_branch(self, x, masks):
        if self.norm_placement == "pre":
            x = normalize(self.norm1, x)
        y, gates, modulator = self.modulation.call(x, return_modulation=True)
        y = _apply(masks["modulation"], y)
        if self.norm_placement == "post":
            y = normalize(self.norm1, y)
        if self.scale1 is not None:
            y = self.scale1(y)
        return y, gates, modulator

    def _mlp_branch(self, x, masks):
        if self.norm_placement != "post":
            x = normalize(self.norm2, x)
        if masks["hidden"] is None:
            x = pointwise_mlp(self.fc1, self.fc2, x, self.activation)
        else:
            x = pointwise(self.fc2, activate(self.activation, pointwise(self.fc1, x)) * masks["hidden"])
        x = _apply(masks["output"], x)
        if self.norm_placement == "post":
            x = normalize(self.norm2, x)
        return x if self.scale2 is None else self.scale2(x)

    def compute_output_spec(self, x, training=None, return_modulation=False):
        y = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        if not return_modulation:
            return y
        _, gates, modulator = self.modulation.compute_output_spec(x, return_modulation=True)
        return y, gates, modulator

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        modulation = self.modulation.get_config()
        shared = (
            "focal_levels focal_window focal_factor normalize_modulator norm_after_modulation norm_epsilon "
            "kernel_initializer"
        )
        own = (
            "mlp_ratio norm_placement layer_scale_init dropout_rate mlp_hidden_dropout_rate drop_path_rate "
            "rematerialize seed activation"
        )
        return {
            **super().get_config(),
            **{name: modulation[name] for name in shared.split()},
            **{name: getattr(self, name) for name in own.split()},
        }


def _apply(mask, x):
    return x if mask is None else x * mask


def _unchanged(function):
    return function
