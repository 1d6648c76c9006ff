"""Patch embedding: the stem of a FocalNet, and the down-sampling at the end of each stage."""

import keras
from keras import ops

from focalnets.layers.initializers import conv_initializers
from focalnets.layers.pointwise import normalize, tensors_like
from focalnets.ops.dense import linear, strided_conv


@keras.saving.register_keras_serializable(package="focalnets")
class PatchEmbedding(keras.layers.Layer):
    """Strided convolution followed by layer normalization.

    Any input size is accepted. **Sizes that `patch_size` does not divide are padded with zeros at the
    bottom and on the right up to the next multiple**, so no pixel is lost and the output has
    ceil(H / patch_size) x ceil(W / patch_size) positions. (transformers and upstream's detection code pad
    likewise; upstream's classification code and timm silently crop.)

    Args:
        embed_dim: output channels.
        patch_size: stride, and the kernel size unless `kernel_size` is given.
        kernel_size: larger than `patch_size` for overlapping patches.
        padding: zeros on all four sides before the convolution. None chooses
            (kernel_size - patch_size + 1) // 2, which is 0 for plain patches and upstream's 2 for its
            overlapping stem (kernel 7, stride 4) and 1 for its overlapping down-sampling (3, 2).
        norm_epsilon: epsilon of the normalization.
        kernel_initializer: Keras initializer; None for upstream's (`layers/initializers.py`).

    Input: (B, H, W, C_in). Output: (B, ceil(H/p), ceil(W/p), embed_dim).

    Raises:
        ValueError: if `kernel_size` or `padding` would not give that output size.

    Source: `PatchEmbed` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import PatchEmbedding
    >>> tuple(PatchEmbedding(embed_dim=6, patch_size=4)(np.ones((1, 33, 30, 3), "float32")).shape)
    (1, 9, 8, 6)
    """

    def __init__(
        self,
        embed_dim,
        patch_size=4,
        kernel_size=None,
        padding=None,
        norm_epsilon=1e-5,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.kernel_size = patch_size if kernel_size is None else kernel_size
        self.padding = (self.kernel_size - patch_size + 1) // 2 if padding is None else padding
        self.norm_epsilon = norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        overhang = 2 * self.padding - self.kernel_size + patch_size
        if not 0 <= overhang < patch_size or self.padding < 0:
            raise ValueError(
                f"PatchEmbedding with patch_size {patch_size}, kernel_size {self.kernel_size} and padding "
                f"{self.padding} does not give one position a patch: kernel_size must be at least "
                f"patch_size, and 2*padding - kernel_size + patch_size in [0, {patch_size}), got {overhang}. "
                "Leave padding=None to have it chosen."
            )
        self.proj = keras.layers.Conv2D(
            embed_dim,
            self.kernel_size,
            strides=patch_size,
            padding="valid",
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="proj",
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=norm_epsilon, dtype=self.dtype_policy, name="norm"
        )

    def build(self, input_shape):
        fan_in = self.kernel_size**2 * input_shape[-1]
        kernel, bias = conv_initializers(self.kernel_initializer, fan_in)
        self.proj.kernel_initializer, self.proj.bias_initializer = kernel, bias
        self.proj.build((None, None, None, input_shape[-1]))  # any size, also one that only padding makes fit
        self.norm.build((*input_shape[:-1], self.embed_dim))
        self.built = True

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        padding = [(self.padding, self.padding + -size % self.patch_size) for size in (height, width)]
        return normalize(self.norm, self._project(x, padding))

    def _project(self, x, padding):
        kernel, bias = tensors_like(x, self.proj.kernel, self.proj.bias)
        if self.kernel_size != self.patch_size or self.padding or None in x.shape[1:3]:
            return strided_conv(x, kernel, bias, self.patch_size, padding)
        if any(after for _, after in padding):
            x = ops.pad(x, [(0, 0), *padding, (0, 0)])
        height, width, channels = x.shape[1:]
        # Patches that do not overlap are rows of a matrix, and a product is faster than a convolution with
        # strides.
        side = self.patch_size
        high, wide = height // side, width // side
        x = ops.reshape(x, (-1, high, side, wide, side, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, high, wide, side * side * channels))
        return linear(x, ops.reshape(kernel, (-1, self.embed_dim)), bias)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        height, width = (None if s is None else -(-s // self.patch_size) for s in (height, width))
        return (batch, height, width, self.embed_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "norm_epsilon": self.norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
