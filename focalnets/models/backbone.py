"""FocalNetBackbone: images to a feature map, and to a feature pyramid for detection and segmentation.

Differences from upstream's `classification/focalnet.py`: feature maps are (B, H, W, C) and never flattened.
Sizes that the strides do not divide are padded, not cropped (`PatchEmbedding`). An overlapping stem may have
any patch size. `norm_placement="mlp_only"`, `mlp_hidden_dropout_rate` and `embedding_norm_epsilon` reproduce
the network of the 2023 Keras tutorial exactly.
"""

import itertools

import keras

from focalnets.layers.drop_path import Dropout
from focalnets.layers.focal_block import FocalBlock
from focalnets.layers.geometry import per_stage, stem_kernel_size
from focalnets.layers.patch_embedding import PatchEmbedding
from focalnets.layers.seeds import child_seed, resolve_seed
from focalnets.models.guarded import GuardedModel, in_h5_files
from focalnets.models.presets_property import Presets


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class FocalNetBackbone(GuardedModel):
    """Focal modulation network without a head.

    Args:
        embed_dim: int. Number of channels of the first stage. Each later stage doubles it. Defaults to 96.
        depths: int or tuple of int. Number of blocks of each stage. Defaults to (2, 2, 6, 2).
        focal_levels: int, or one int per stage. Number of focal levels. Defaults to 2.
        focal_window: int, or one int per stage. Kernel size of the first level, odd. Defaults to 3.
        focal_factor: int. Increase of the kernel size from one level to the next, even. Defaults to 2.
        normalize_modulator: bool. See `FocalModulation`. Defaults to `False`.
        norm_after_modulation: bool. See `FocalModulation`. Defaults to `False`.
        patch_size: int. Stride of the stem. Each later stage halves the feature map. Defaults to 4.
        overlap_embed: bool. Use overlapping patches: kernel size 2 * patch_size - 1 (at least 3) in the stem,
            and 3 for downsampling. Defaults to `False`.
        stem_padding: int. Zeros around the image before an overlapping stem. Defaults to that of upstream's
            classification networks, 2 for patch size 4. Upstream's detection backbones use 3.
        mlp_ratio: float. Hidden width of the MLP as a multiple of its input width. Defaults to 4.
        norm_placement: str. "pre", "post" or "mlp_only", see `FocalBlock`. Defaults to "pre".
        layer_scale_init: float. Initial value of layer scales. Defaults to `None`, no layer scale.
        dropout_rate: float. Dropout rate after the stem, and in each `FocalBlock`. Defaults to 0.
        mlp_hidden_dropout_rate: float. See `FocalBlock`. Defaults to `dropout_rate`.
        drop_path_rate: float. Drop path rate of the last block, up to which it increases linearly from 0 at
            the first block. Defaults to 0.
        norm_epsilon: float. Epsilon of the layer normalizations in the blocks. Defaults to 1e-5.
        embedding_norm_epsilon: float. Epsilon of the layer normalizations of the patch embeddings, and of the
            final one. Defaults to `norm_epsilon`.
        pyramid_norm: bool. Normalize the pyramid output of each stage, as upstream's detection and
            segmentation backbones do. The last stage uses the final normalization. Defaults to `False`.
        rematerialize: bool. See `FocalBlock`. Defaults to `False`.
        kernel_initializer: Keras initializer without a seed, or its name, for all kernels. Defaults to the
            initializers of the original code (`layers/initializers.py`).
        seed: int. Seed of dropout and drop path. Defaults to `None`, which draws a seed.
        image_shape: tuple. (height, width, channels) of the images. Height and width may be None, which
            allows any size. Defaults to (None, None, 3).
        activation: str. Activation function of the MLPs, see `FocalBlock`. Defaults to "gelu".

    Input shape:
        (B, H, W, channels), normalized images.

    Output shape:
        (B, ceil(H / s), ceil(W / s), C_last), normalized, where s is the product of all strides.

    Attributes:
        pyramid_outputs: dict. "P<n>" -> symbolic output of the stage with stride 2**n, before downsampling.
            `keras.Model(net.inputs, net.pyramid_outputs)` computes them. If the stride is not a power of two,
            n is rounded down.

    Raises:
        ValueError: if a sequence does not have one value per stage, or an argument is out of range.

    Source: paper section 3.3 and table 1; `FocalNet` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalNetBackbone
    >>> net = FocalNetBackbone(embed_dim=8, depths=(1, 1), focal_levels=(2, 3))
    >>> tuple(net(np.ones((1, 37, 50, 3), "float32")).shape)
    (1, 5, 7, 16)
    >>> sorted(net.pyramid_outputs)
    ['P2', 'P3']
    """

    presets = Presets()

    def __init__(
        self,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        focal_levels=2,
        focal_window=3,
        focal_factor=2,
        normalize_modulator=False,
        norm_after_modulation=False,
        patch_size=4,
        overlap_embed=False,
        stem_padding=None,
        mlp_ratio=4.0,
        norm_placement="pre",
        layer_scale_init=None,
        dropout_rate=0.0,
        mlp_hidden_dropout_rate=None,
        drop_path_rate=0.0,
        norm_epsilon=1e-5,
        embedding_norm_epsilon=None,
        pyramid_norm=False,
        rematerialize=False,
        kernel_initializer=None,
        seed=None,
        image_shape=(None, None, 3),
        activation="gelu",
        dtype=None,
        name=None,
    ):
        seed = resolve_seed(seed)
        depths = (depths,) if isinstance(depths, int) else tuple(depths)
        if not depths or min(depths) < 1:
            raise ValueError(f"depths must have at least one block in each stage; got {depths}.")
        if len(image_shape) != 3 or image_shape[-1] is None:
            raise ValueError(
                "image_shape must be (height, width, channels), where height and width may be None; got "
                f"{tuple(image_shape)}."
            )
        levels = per_stage("focal_levels", focal_levels, depths)
        windows = per_stage("focal_window", focal_window, depths)
        if embedding_norm_epsilon is None:
            embedding_norm_epsilon = norm_epsilon

        # === Layers ===
        def embedding(stage, name, kernel_size, stride, padding):
            return PatchEmbedding(
                embed_dim * 2**stage,
                stride,
                kernel_size=kernel_size,
                padding=padding,
                norm_epsilon=embedding_norm_epsilon,
                kernel_initializer=kernel_initializer,
                dtype=dtype,
                name=name,
            )

        stem = embedding(0, "stem", stem_kernel_size(patch_size, overlap_embed), patch_size, stem_padding)
        stem_dropout = Dropout(dropout_rate, seed=child_seed(seed, 0), dtype=dtype, name="stem_dropout")
        stages, downsamples = [], []
        for stage, depth in enumerate(depths):
            blocks = [
                FocalBlock(
                    focal_levels=levels[stage],
                    focal_window=windows[stage],
                    focal_factor=focal_factor,
                    normalize_modulator=normalize_modulator,
                    norm_after_modulation=norm_after_modulation,
                    mlp_ratio=mlp_ratio,
                    norm_placement=norm_placement,
                    layer_scale_init=layer_scale_init,
                    dropout_rate=dropout_rate,
                    mlp_hidden_dropout_rate=mlp_hidden_dropout_rate,
                    drop_path_rate=drop_path_rate * (sum(depths[:stage]) + index) / max(sum(depths) - 1, 1),
                    norm_epsilon=norm_epsilon,
                    rematerialize=rematerialize,
                    kernel_initializer=kernel_initializer,
                    seed=child_seed(seed, stage + 1, index),
                    activation=activation,
                    dtype=dtype,
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                for index in range(depth)
            ]
            stages.append(blocks)
            if stage + 1 < len(depths):
                kernel = 3 if overlap_embed else 2
                downsamples.append(embedding(stage + 1, f"stage{stage + 1}_downsample", kernel, 2, None))

        def norm_layer(name):
            return keras.layers.LayerNormalization(epsilon=embedding_norm_epsilon, dtype=dtype, name=name)

        norm = norm_layer("norm")
        normalized = range(1, len(depths)) if pyramid_norm else ()  # the last stage has the final norm
        stage_norms = [norm_layer(f"stage{stage}_norm") for stage in normalized]

        # === Functional model ===
        inputs = keras.Input(image_shape, name="images")
        x = stem_dropout(stem(inputs))
        pyramid_outputs = {}
        for stage, blocks in enumerate(stages):
            for block in blocks:
                x = block(x)
            stride = patch_size * 2**stage
            pyramid_outputs[f"P{stride.bit_length() - 1}"] = (
                stage_norms[stage](x) if stage < len(stage_norms) else x
            )
            if stage < len(downsamples):
                x = downsamples[stage](x)
        outputs = norm(x)
        if pyramid_norm:
            pyramid_outputs[f"P{stride.bit_length() - 1}"] = outputs
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        if dtype is not None:  # functional models in Keras ignore the argument
            self.dtype_policy = keras.dtype_policies.get(dtype)

        # === Config ===
        self.embed_dim = embed_dim
        self.depths = depths
        self.focal_levels = levels
        self.focal_window = windows
        self.focal_factor = focal_factor
        self.normalize_modulator = normalize_modulator
        self.norm_after_modulation = norm_after_modulation
        self.patch_size = patch_size
        self.overlap_embed = overlap_embed
        self.stem_padding = stem_padding
        self.mlp_ratio = mlp_ratio
        self.norm_placement = norm_placement
        self.layer_scale_init = layer_scale_init
        self.dropout_rate = dropout_rate
        self.mlp_hidden_dropout_rate = mlp_hidden_dropout_rate
        self.drop_path_rate = drop_path_rate
        self.norm_epsilon = norm_epsilon
        self.embedding_norm_epsilon = embedding_norm_epsilon
        self.pyramid_norm = pyramid_norm
        self.rematerialize = rematerialize
        self.kernel_initializer = kernel_initializer
        self.seed = seed
        self.image_shape = tuple(image_shape)
        self.activation = activation
        self.stage_norms = stage_norms  # tracked here, because they are not on the path to the output
        # A tuple, because Keras wraps a dict, and JAX does not accept the wrapper as outputs of a model.
        self._pyramid_outputs = tuple(pyramid_outputs.items())

    @property
    def pyramid_outputs(self):
        """Dict of "P<n>" -> symbolic output of the stage with stride 2**n."""
        return dict(self._pyramid_outputs)

    @property
    def blocks(self):
        """List of all focal blocks. Their names are "stage<i>_block<j>", counted from 1."""
        return [layer for layer in self.layers if isinstance(layer, FocalBlock)]

    @property
    def stages(self):
        """List of lists of the focal blocks of each stage."""
        blocks = iter(self.blocks)
        return [list(itertools.islice(blocks, depth)) for depth in self.depths]

    @property
    def strides(self):
        """List of the strides of each stage, in pixels of the image per position of the feature map."""
        return [self.patch_size * 2**stage for stage in range(len(self.depths))]

    def get_config(self):
        names = (
            "embed_dim depths focal_levels focal_window focal_factor normalize_modulator "
            "norm_after_modulation patch_size overlap_embed stem_padding mlp_ratio norm_placement "
            "layer_scale_init dropout_rate mlp_hidden_dropout_rate drop_path_rate norm_epsilon "
            "embedding_norm_epsilon pyramid_norm rematerialize seed image_shape activation name trainable"
        )
        initializer = self.kernel_initializer
        if initializer is not None and not isinstance(initializer, str):
            initializer = keras.initializers.serialize(initializer)
        return {
            **{name: getattr(self, name) for name in names.split()},
            "kernel_initializer": initializer,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        trainable = config.pop("trainable", True)
        backbone = cls(**config)
        backbone.trainable = trainable
        return backbone

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Load the backbone of a preset or checkpoint, also from a classifier.

        See `FocalNetImageClassifier.from_preset` for the arguments. Those of the head are not accepted.
        """
        from focalnets.conversion.open import open_backbone

        return open_backbone(preset, load_weights, **kwargs)

    def save_to_preset(self, directory):
        """Write configuration and weights to a preset directory, which must not exist, atomically."""
        from focalnets.presets import store

        store.save_preset(self, directory)
