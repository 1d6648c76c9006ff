"""FocalNets in stock Keras layers, as a baseline for benchmarks.

The networks have the same result and number of parameters as those of focalnets: `DepthwiseConv2D` for focal
levels, `Dense` for pointwise projections, the exact GELU, and drop path as a `Dropout` with a noise shape.
Options that no network for 224 pixels or less needs are not supported.
"""

import functools

import keras
from keras import layers

KNOWN = {
    "embed_dim",
    "depths",
    "focal_levels",
    "focal_window",
    "patch_size",
    "overlap_embed",
    "mlp_ratio",
    "norm_placement",
    "dropout_rate",
    "mlp_hidden_dropout_rate",
    "drop_path_rate",
    "embedding_norm_epsilon",
    "kernel_initializer",
}

gelu = functools.partial(keras.activations.gelu, approximate=False)


def modulation(x, levels, window, initializer):
    """Equations 4 to 8 of the paper for a map (B, H, W, C)."""
    channels = x.shape[-1]
    dense = functools.partial(layers.Dense, kernel_initializer=initializer)
    projected = dense(2 * channels + levels + 1)(x)
    query, context = projected[..., :channels], projected[..., channels : 2 * channels]
    gates = projected[..., 2 * channels :]
    total = 0
    for level in range(levels):
        context = layers.DepthwiseConv2D(
            window + 2 * level,
            padding="same",
            use_bias=False,
            activation=gelu,
            depthwise_initializer=initializer,
        )(context)
        total = total + context * gates[..., level : level + 1]
    total = total + gelu(layers.GlobalAveragePooling2D(keepdims=True)(context)) * gates[..., levels:]
    return dense(channels)(query * dense(channels)(total))


def block(x, levels, window, mlp_ratio, initializer, norm_first, dropout, hidden_dropout, drop_path):
    channels = x.shape[-1]
    dense = functools.partial(layers.Dense, kernel_initializer=initializer)
    norm = functools.partial(layers.LayerNormalization, epsilon=1e-5)

    def branch(y):
        y = layers.Dropout(dropout)(y) if dropout else y
        return layers.Dropout(drop_path, noise_shape=(None, 1, 1, 1))(y) if drop_path else y

    x = x + branch(modulation(norm()(x) if norm_first else x, levels, window, initializer))
    y = dense(int(mlp_ratio * channels), activation=gelu)(norm()(x))
    y = layers.Dropout(hidden_dropout)(y) if hidden_dropout else y
    return x + branch(dense(channels)(y))


def embedding(x, channels, patch, kernel, initializer, epsilon):
    if kernel > patch:
        x = layers.ZeroPadding2D((kernel - patch + 1) // 2)(x)
    x = layers.Conv2D(channels, kernel, strides=patch, kernel_initializer=initializer)(x)
    return layers.LayerNormalization(epsilon=epsilon)(x)


def build(backbone, image_shape, num_classes):
    """Build a model from normalized images (B, H, W, channels) to logits.

    Args:
        backbone: dict. Arguments of `FocalNetBackbone` that differ from the defaults.
        image_shape: tuple (height, width, channels). Height and width are multiples of the stride.
        num_classes: int. Number of classes.
    """
    unknown = set(backbone) - KNOWN
    if unknown or backbone.get("norm_placement") == "post":
        raise ValueError(f"plain_keras does not support {unknown or 'post-norm'}. Use another network.")
    depths, channels = backbone["depths"], backbone["embed_dim"]
    patch, overlap = backbone.get("patch_size", 4), backbone.get("overlap_embed", False)
    initializer = backbone.get("kernel_initializer", keras.initializers.RandomNormal(stddev=0.02))
    epsilon = backbone.get("embedding_norm_epsilon", 1e-5)
    dropout = backbone.get("dropout_rate", 0.0)
    drop_path_rate = backbone.get("drop_path_rate", 0.0)

    inputs = keras.Input(image_shape)
    kernel = max(2 * patch - 1, 3) if overlap else patch
    x = embedding(inputs, channels, patch, kernel, initializer, epsilon)
    x = layers.Dropout(dropout)(x) if dropout else x
    index = 0
    for stage, depth in enumerate(depths):
        if stage:
            channels *= 2
            x = embedding(x, channels, 2, 3 if overlap else 2, initializer, epsilon)
        for _ in range(depth):
            x = block(
                x,
                backbone.get("focal_levels", 2),
                backbone.get("focal_window", 3),
                backbone.get("mlp_ratio", 4.0),
                initializer,
                norm_first=backbone.get("norm_placement", "pre") == "pre",
                dropout=dropout,
                hidden_dropout=backbone.get("mlp_hidden_dropout_rate", dropout),
                drop_path=drop_path_rate * index / max(sum(depths) - 1, 1),
            )
            index += 1
    x = layers.GlobalAveragePooling2D()(layers.LayerNormalization(epsilon=epsilon)(x))
    return keras.Model(inputs, layers.Dense(num_classes, kernel_initializer=initializer)(x))
