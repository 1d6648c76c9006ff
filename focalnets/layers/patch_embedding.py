"""Patch embedding: the stem of a FocalNet, and the downsampling after each stage but the last."""

import keras
from keras import ops

from focalnets.layers.initializers import conv_initializers
from focalnets.layers.pointwise import normalize, tensors_like
from focalnets.ops.dense import linear, strided_conv


@keras.saving.register_keras_serializable(package="focalnets")
class PatchEmbedding(keras.layers.Layer):
    """Strided convolution followed by layer normalization.

    **If `patch_size` does not divide the input size, the input is padded with zeros at the bottom and on the
    right**, so no pixel is lost. transformers and upstream's detection code pad in the same way. Upstream's
    classification code and timm crop instead.

    Args:
        embed_dim: int. Number of output channels.
        patch_size: int. Stride of the convolution. Defaults to 4.
        kernel_size: int. Kernel size. Patches overlap if it exceeds `patch_size`. Defaults to `patch_size`.
        padding: int. Rows or columns of zeros added on each side. Defaults to
            (kernel_size - patch_size + 1) // 2. This is 0 for plain patches, 2 for upstream's overlapping
            stem (kernel size 7, stride 4), and 1 for its overlapping downsampling (kernel size 3, stride 2).
        norm_epsilon: float. Epsilon of the layer normalization. Defaults to 1e-5.
        kernel_initializer: Keras initializer, or its name. Defaults to the initializers of the original code
            (`layers/initializers.py`).

    Input shape:
        (B, H, W, C_in), any H and W.

    Output shape:
        (B, ceil(H / patch_size), ceil(W / patch_size), embed_dim).

    Raises:
        ValueError: if `kernel_size` and `padding` do not give this output shape.

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
                f"PatchEmbedding got patch_size={patch_size}, kernel_size={self.kernel_size} and "
                f"padding={self.padding}. kernel_size must be at least patch_size, and 2 * padding - "
                f"kernel_size + patch_size, here {overhang}, must be in [0, {patch_size}). "
                "Use padding=None to choose the padding automatically."
            )
        dtype = self.dtype_policy
        self.proj = keras.layers.Conv2D(
            embed_dim,
            self.kernel_size,
            strides=patch_size,
            padding="valid",
            data_format="channels_last",
            dtype=dtype,
            name="proj",
        )
        self.norm = keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=dtype, name="norm")

    def build(self, input_shape):
        fan_in = self.kernel_size**2 * input_shape[-1]
        kernel, bias = conv_initializers(self.kernel_initializer, fan_in)
        self.proj.kernel_initializer, self.proj.bias_initializer = kernel, bias
        self.proj.build((None, None, None, input_shape[-1]))  # without H and W, which padding may change
        self.norm.build((*input_shape[:-1], self.embed_dim))
        self.built = True

    def call(self, x):
        return normalize(self.norm, self.project(x))

    def project(self, x):
        """Output of the convolution, before the normalization."""
        height, width = ops.shape(x)[1:3]
        padding = [(self.padding, self.padding + -size % self.patch_size) for size in (height, width)]
        kernel, bias = tensors_like(x, self.proj.kernel, self.proj.bias)
        if self.kernel_size != self.patch_size or self.padding or None in x.shape[1:3]:
            return strided_conv(x, kernel, bias, self.patch_size, padding)
        if any(after for _, after in padding):
            x = ops.pad(x, [(0, 0), *padding, (0, 0)])
        height, width, channels = x.shape[1:]
        # For patches without overlap, a matrix multiplication is faster than a strided convolution.
        side = self.patch_size
        high, wide = height // side, width // side
        x = ops.reshape(x, (-1, high, side, wide, side, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, high, wide, side * side * channels))
        return linear(x, ops.reshape(kernel, (-1, self.embed_dim)), bias)

    def project_transposed(self, y, size):
        """Transposed map of `project`, without its bias: (B, h, w, embed_dim) to (B, H, W, C_in).

        Args:
            y: Tensor of shape (B, h, w, embed_dim).
            size: (H, W) of the input of `project`.
        """
        (kernel,) = tensors_like(y, self.proj.kernel)
        side, channels = self.patch_size, kernel.shape[2]
        if self.kernel_size == side and self.padding == 0:
            high, wide = y.shape[1:3]
            x = y @ ops.transpose(ops.reshape(kernel, (-1, self.embed_dim)))
            x = ops.transpose(ops.reshape(x, (-1, high, wide, side, side, channels)), (0, 1, 3, 2, 4, 5))
            x = ops.reshape(x, (-1, high * side, wide * side, channels))
        else:
            x = ops.conv_transpose(y, kernel, strides=side, padding="valid", data_format="channels_last")
        missing = [
            max(0, self.padding + wanted - have) for wanted, have in zip(size, x.shape[1:3], strict=True)
        ]
        if any(missing):
            x = ops.pad(x, [(0, 0), *((0, more) for more in missing), (0, 0)])
        return x[:, self.padding : self.padding + size[0], self.padding : self.padding + size[1]]

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
