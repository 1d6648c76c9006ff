"""Network of the 2023 Keras tutorial in plain Keras layers, as a baseline for benchmarks.

It has the arithmetic and the expensive layers of the tutorial: grouped `Conv2D` after `ZeroPadding2D`, and
tokens flattened to (B, H*W, C) and back in every block. It was written for Keras 3, without copied code.
"""

import keras
from keras import layers, ops


class TutorialModulation(layers.Layer):
    def __init__(self, dim, levels=2, window=3, dropout=0.1):
        super().__init__()
        self.dim, self.levels = dim, levels
        self.project_in = layers.Dense(2 * dim + levels + 1)
        self.contexts = [
            keras.Sequential(
                [
                    layers.ZeroPadding2D((window + 2 * level) // 2),
                    layers.Conv2D(
                        dim,
                        window + 2 * level,
                        groups=dim,
                        use_bias=False,
                        activation=keras.activations.gelu,
                    ),
                ]
            )
            for level in range(levels)
        ]
        self.pool = layers.GlobalAveragePooling2D(keepdims=True)
        self.modulator = layers.Conv2D(dim, 1)
        self.project_out = layers.Dense(dim)
        self.dropout = layers.Dropout(dropout)

    def call(self, x):
        query, context, gates = ops.split(self.project_in(x), (self.dim, 2 * self.dim), axis=-1)
        total = 0
        for level, focal in enumerate(self.contexts):
            context = focal(context)
            total = total + context * gates[..., level : level + 1]
        total = total + keras.activations.gelu(self.pool(context)) * gates[..., self.levels :]
        return self.dropout(self.project_out(query * self.modulator(total)))


class TutorialBlock(layers.Layer):
    def __init__(self, dim, dropout=0.1):
        super().__init__()
        self.dim = dim
        self.norm = layers.LayerNormalization(epsilon=1e-5)
        self.modulation = TutorialModulation(dim, dropout=dropout)
        self.mlp = keras.Sequential(
            [
                layers.Dense(4 * dim, activation=keras.activations.gelu),
                layers.Dense(dim),
                layers.Dropout(dropout),
            ]
        )

    def call(self, tokens, height, width):
        x = ops.reshape(tokens, (-1, height, width, self.dim))
        x = ops.reshape(self.modulation(x), (-1, height * width, self.dim))
        tokens = tokens + x
        return tokens + self.mlp(self.norm(tokens))


class TutorialNet(keras.Model):
    """Model from images (B, 48, 48, 3) to probabilities (B, 10), with width 256 and depths 2, 3, 2."""

    def __init__(self, dropout=0.1):
        super().__init__()
        dims, depths = (256, 512, 1024), (2, 3, 2)
        self.embeddings = [
            layers.Conv2D(dim, patch, strides=patch) for dim, patch in zip(dims, (4, 2, 2), strict=True)
        ]
        self.norms = [layers.LayerNormalization(epsilon=1e-7) for _ in dims]
        self.dropout = layers.Dropout(dropout)
        self.stages = [
            [TutorialBlock(dim, dropout) for _ in range(depth)]
            for dim, depth in zip(dims, depths, strict=True)
        ]
        self.dims = dims
        self.norm = layers.LayerNormalization(epsilon=1e-7)
        self.pool = layers.GlobalAveragePooling1D()
        self.head = layers.Dense(10, activation="softmax")

    def call(self, x):
        size = 12
        for stage, blocks in enumerate(self.stages):
            x = self.embeddings[stage](x)
            x = self.norms[stage](ops.reshape(x, (-1, size * size, self.dims[stage])))
            if stage == 0:
                x = self.dropout(x)
            for block in blocks:
                x = block(x, height=size, width=size)
            if stage < 2:
                x = ops.reshape(x, (-1, size, size, self.dims[stage]))
                size //= 2
        return self.head(self.pool(self.norm(x)))
