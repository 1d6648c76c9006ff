"""FocalNetBackbone: image -> feature map, with the feature pyramid that detectors and segmenters need.

Differences from upstream's `classification/focalnet.py`: channels-last (B, H, W, C) throughout, no
flattened token axis; sizes that the strides do not divide are padded, not cropped (`PatchEmbedding`);
`norm_placement="mlp_only"`, separate dropout after the MLP's GELU and two norm epsilons exist so that
the 2023 Keras tutorial's net can be built exactly; the patch size of an overlapping stem is free.
"""

import itertools

import keras

from focalnets.layers.focal_block import FocalBlock
from focalnets.layers.geometry import per_stage, stem_kernel_size
from focalnets.layers.patch_embedding import PatchEmbedding
from focalnets.layers.seeds import child_seed, resolve_seed
from focalnets.models.guarded import GuardedModel, in_h5_files


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class FocalNetBackbone(GuardedModel):
    """A focal modulation network without its head.

    Args:
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: number of blocks of each stage.
        focal_levels, focal_window: of every block, or one value a stage.
        focal_factor, normalize_modulator, norm_after_modulation: see `FocalModulation`.
        patch_size: stride of the stem; each later stage halves the map.
        overlap_embed: overlapping patches: kernel 2 * patch_size - 1 (at least 3) in the stem, 3 for
            down-sampling.
        stem_padding: zeros around the image before an overlapping stem; None for upstream's
            classification nets (2 at patch size 4), 3 for its detection backbones.
        mlp_ratio, norm_placement, layer_scale_init, dropout_rate, mlp_hidden_dropout_rate: see
            `FocalBlock`; `dropout_rate` also applies after the stem.
        drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
        norm_epsilon: epsilon of the norms in the blocks.
        embedding_norm_epsilon: epsilon of the patch embeddings' norms and of the final one; None for
            `norm_epsilon`.
        pyramid_norm: a norm for each stage's output in the pyramid, as upstream's detection and
            segmentation backbones have; that of the last stage is the final norm.
        rematerialize: see `FocalBlock`.
        kernel_initializer: Keras initializer without a seed, for every kernel; None for upstream's rule.
        seed: integer from which all dropout and drop path streams derive, or None to draw one.
        image_shape: (height, width, channels); height and width may be None for any size.
        activation: string. Activation function of the MLPs, see `FocalBlock`. Defaults to "gelu".

    Input: (B, H, W, channels), already normalized. Output: (B, ceil(H/s), ceil(W/s), C_last), after the
    final norm, with s the product of all strides (each stage rounds up on its own).

    Attributes:
        pyramid_outputs: dict "P<n>" -> symbolic output of each stage at stride 2**n, before any
            down-sampling, without norm unless `pyramid_norm`;
            `keras.Model(net.inputs, net.pyramid_outputs)` computes them. A patch size that is no power
            of two rounds n down.

    Raises:
        ValueError: if a per-stage list has another length than `depths`, or an argument of the layers is
            out of range.

    Source: paper section 3.3 and table 1; `FocalNet` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalNetBackbone
    >>> net = FocalNetBackbone(embed_dim=8, depths=(1, 1), focal_levels=(2, 3))
    >>> tuple(net(np.ones((1, 37, 50, 3), "float32")).shape)
    (1, 5, 7, 16)
    >>> sorted(net.pyramid_outputs)
    ['P2', 'P3']
    """

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
            raise ValueError(f"depths needs at least one block in each of its stages; got {depths}.")
        if len(image_shape) != 3 or image_shape[-1] is None:
            raise ValueError(
                "image_shape must be (height, width, channels), of which height and width may be None; got "
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
        stem_dropout = keras.layers.Dropout(
            dropout_rate, seed=child_seed(seed, 0), dtype=dtype, name="stem_dropout"
        )
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
        last = len(depths) if pyramid_norm else 1  # stages before it have a norm of their own
        stage_norms = [norm_layer(f"stage{stage}_norm") for stage in range(1, last)]

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
        if dtype is not None:  # Keras' functional models ignore the argument
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
        self.stage_norms = stage_norms  # they stand beside the way from input to output
        # A tuple: Keras would wrap a dict, and JAX then refuses it as the outputs of a model.
        self._pyramid_outputs = tuple(pyramid_outputs.items())

    @property
    def pyramid_outputs(self):
        """Symbolic output of each stage by name; see the class."""
        return dict(self._pyramid_outputs)

    @property
    def blocks(self):
        """Focal blocks in order. They are named "stage<i>_block<j>", counted from 1."""
        return [layer for layer in self.layers if isinstance(layer, FocalBlock)]

    @property
    def stages(self):
        """Focal blocks of each stage: a list of lists."""
        blocks = iter(self.blocks)
        return [list(itertools.islice(blocks, depth)) for depth in self.depths]

    @property
    def strides(self):
        """Side in pixels of the square of the image that one position of each stage stands for."""
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
        """The backbone of a preset directory (also a classifier's), or of another source.

        See `FocalNetImageClassifier.from_preset`; of its arguments, those of the backbone.
        """
        from focalnets.conversion.open import open_backbone

        return open_backbone(preset, load_weights, **kwargs)

    def save_to_preset(self, directory):
        """Write config and weights as a preset directory, atomically; FileExistsError if it is there."""
        from focalnets.presets import store

        store.save_preset(self, directory)
