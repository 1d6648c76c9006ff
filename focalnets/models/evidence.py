"""Exact evidence as a Keras model: the logit of a class as a sum over places, at every depth.

The difference between the logits of an image and of a reference image flows through the network by the rules
of `layers/evidence.py`. At every tap of the network, the evidence of a position is

    E(p) = sum over channels of multiplier(p, c) * (value(p, c) - value of the reference(p, c)),

and its sum over the positions is the difference of the logits. The taps are the pixels, the outputs of stem,
blocks and downsampling, and the final normalization, where the evidence is that of CAM.

The evidence of a level answers another question: how much of the logit would be lost without the context of
this block? It is computed against the same image, in which the gated levels of one block are those of the
reference. The evidence of the levels adds up to that loss.
"""

import keras
import numpy as np
from keras import ops

from focalnets.layers.evidence import (
    Pair,
    block_rule,
    block_rule_with_levels,
    dense_rule,
    embedding_rule,
    log_sum_exp_rule,
    norm_rule,
    spatial_mean,
)
from focalnets.layers.focal_block import FocalBlock
from focalnets.layers.patch_embedding import PatchEmbedding
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.guarded import GuardedModel
from focalnets.names import unknown_name

PIXELS = "pixels"
SCALARS = ("logit", "log_probability")


def taps(classifier):
    """Names of the taps, from the pixels to the final normalization.

    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.models.evidence import taps
    >>> taps(FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False))[:3]
    ['pixels', 'stem', 'stage1_block1']
    """
    return [PIXELS, *(layer.name for layer in chain(classifier.backbone))]


def evidence_model(classifier, levels=False, own_reference=False):
    """Build a Keras model that returns the logits and the exact evidence at every tap.

    The model shares the layers of the classifier. It uses no automatic differentiation, so it can be
    compiled, saved, and called from several threads.

    Args:
        classifier: `FocalNetImageClassifier`.
        levels: bool, or list of str. Also compute the evidence of the levels of every block, or of the blocks
            with these names. This takes as long as two forward passes per block. Defaults to `False`.
        own_reference: bool. Add an input "reference" with one reference image per image. Defaults to `False`,
            the mean color of `image_converter`, which is zero after normalization.

    Returns:
        Keras model. It takes a dict of "images" (B, H, W, channels), "targets" (B, num_classes + 1), and with
        `own_reference` also "reference" (B, H, W, channels). See `target_vector` for the targets. It returns
        the dict
        {"logits": (B, num_classes), "reference_logits": (B, num_classes),
         "evidence": {tap: (B, H', W')},
         "levels": {block name: (B, H', W', L + 1)}}.

    Raises:
        TypeError: if `classifier` is not a `FocalNetImageClassifier`.
        ValueError: if a block does not exist, or a layer of the classifier is quantized.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.models.evidence import evidence_model
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> model = evidence_model(net)
    >>> inputs = {"images": np.zeros((1, 8, 8, 1), "uint8"), "targets": np.eye(11)[:1]}
    >>> sorted(model.predict(inputs, verbose=0)["evidence"])[:3]
    ['norm', 'pixels', 'stage1_block1']
    """
    check_explainable(classifier)
    shape = classifier.backbone.image_shape
    inputs = {
        "images": keras.Input(shape, name="images"),
        "targets": keras.Input((classifier.num_classes + 1,), name="targets"),
    }
    if own_reference:
        inputs["reference"] = keras.Input(shape, name="reference")
    blocks = [block.name for block in classifier.backbone.blocks]
    chosen = (blocks if levels else []) if isinstance(levels, bool) else list(levels)
    for name in chosen:
        if name not in blocks:
            raise ValueError(unknown_name("block", name, blocks))
    outputs = _Evidence(classifier, chosen, name="exact_evidence")(inputs)
    return GuardedModel(inputs, outputs)


def check_explainable(classifier):
    """Raise an error if the rules of evidence do not cover the classifier, see `evidence_model`."""
    if not isinstance(classifier, FocalNetImageClassifier):
        raise TypeError(
            f"evidence_model takes a FocalNetImageClassifier; got {type(classifier).__name__}. Build a "
            "FocalNetImageClassifier from a backbone first."
        )
    for layer in _dense_layers(classifier):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"{layer.path} is quantized ({layer.quantization_mode}); expected exact weights. "
                "Explain the network before its quantization."
            )


@keras.saving.register_keras_serializable(package="focalnets")
class _Evidence(keras.layers.Layer):
    """Layer from images and targets to logits and evidence, see `evidence_model`."""

    def __init__(self, classifier, levels=(), **kwargs):
        dtype = "float64" if classifier.backbone.compute_dtype == "float64" else "float32"
        super().__init__(**{"dtype": dtype, "autocast": False, **kwargs})
        self.classifier = classifier
        self.levels = list(levels)
        self.built = True

    def call(self, inputs):
        dtype, reference = self.compute_dtype, inputs.get("reference")
        x = normalized(self.classifier, inputs["images"], dtype)
        # The mean color is zero after normalization. One such image broadcasts over the batch.
        mean_color = ops.zeros_like(x[:1])
        reference = mean_color if reference is None else normalized(self.classifier, reference, dtype)
        targets = ops.cast(inputs["targets"], dtype)
        found = evidence_of(self.classifier, Pair(x, reference[None]), targets, self.levels)
        found.pop("gates", None)  # `modulation_model` returns them
        return found

    def compute_output_spec(self, inputs):
        batch, height, width, _ = inputs["images"].shape
        evidence, levels = {PIXELS: (batch, height, width)}, {}
        for layer in chain(self.classifier.backbone):
            if isinstance(layer, PatchEmbedding):
                height, width = (None if n is None else -(-n // layer.patch_size) for n in (height, width))
            evidence[layer.name] = (batch, height, width)
            if layer.name in self.levels:
                levels[layer.name] = (batch, height, width, layer.modulation.focal_levels + 1)
        logits = (batch, self.classifier.num_classes)
        shapes = {"logits": logits, "reference_logits": logits, "evidence": evidence}
        shapes |= {"levels": levels} if self.levels else {}
        return _map_shapes(lambda shape: keras.KerasTensor(shape, dtype=self.compute_dtype), shapes)

    def get_config(self):
        classifier = keras.saving.serialize_keras_object(self.classifier)
        return {**super().get_config(), "classifier": classifier, "levels": self.levels}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "classifier": keras.saving.deserialize_keras_object(config["classifier"])})


def normalized(classifier, images, dtype):
    """Images (N, H, W, channels) as inputs of the backbone, in a floating-point dtype."""
    converter = classifier.image_converter
    return ops.cast(ops.convert_to_tensor(images) if converter is None else converter(images), dtype)


def evidence_of(classifier, x, targets, levels):
    """Logits and evidence of normalized images, as `evidence_model` returns them, and gates.

    Args:
        classifier: `FocalNetImageClassifier`.
        x: `Pair` of tensors (B, H, W, channels) and (1, B or 1, H, W, channels), also `keras.KerasTensor`.
        targets: Tensor of shape (B, num_classes + 1).
        levels: list of str. Names of the blocks whose levels are explained, too. If there are any, the
            result has "gates", a dict of these blocks -> (B, H', W', L + 1).
    """
    values, backs, of_levels, gates = [x], [], {}, {}
    for layer in chain(classifier.backbone):
        if layer.name in levels:
            x, gates[layer.name], back = block_rule_with_levels(layer, x)
        else:
            x, back = rule_of(layer, x)
        values.append(x)
        backs.append(back)
    logits, head_back = head_rule(classifier, x)

    m = head_back(_logit_weights(targets, logits))
    evidence = {}
    for name, value in zip(reversed(taps(classifier)), reversed(values), strict=True):
        evidence[name] = ops.sum(m[0] * (value.value - value.reference[0]), axis=-1)
        m = backs.pop()(m) if backs else m
        if isinstance(m, tuple):
            m, of_levels[name] = m
    outputs = {
        "logits": logits.value,
        "reference_logits": logits.reference[0] + ops.zeros_like(logits.value),
        "evidence": dict(reversed(evidence.items())),
    }
    if levels:
        outputs |= {"levels": dict(reversed(of_levels.items())), "gates": gates}
    return outputs


def _map_shapes(function, shapes):
    if isinstance(shapes, dict):
        return {name: _map_shapes(function, one) for name, one in shapes.items()}
    return function(shapes)


def _dense_layers(classifier):
    for block in classifier.backbone.blocks:
        yield from (block.modulation.f, block.modulation.h, block.modulation.proj, block.fc1, block.fc2)
    yield classifier.head


def chain(backbone):
    """Layers from the normalized image to the features: stem, blocks, downsampling, final normalization."""
    kinds = (PatchEmbedding, FocalBlock, keras.layers.LayerNormalization)
    return [
        layer for layer in backbone.layers if isinstance(layer, kinds) and layer not in backbone.stage_norms
    ]


def rule_of(layer, x):
    rules = {PatchEmbedding: embedding_rule, FocalBlock: block_rule}
    return rules.get(type(layer), norm_rule)(layer, x)


def head_rule(classifier, x):
    """Rule of global average pooling and head. `pull_back` returns multipliers of shape (R, B, 1, 1, C)."""
    height, width = x.value.shape[1:3]
    logits, back = dense_rule(classifier.head, x.map(lambda one: spatial_mean(one)[..., 0, 0, :]))
    return logits, lambda m: back(m)[..., None, None, :] / (height * width)


def _logit_weights(targets, logits):
    """Multipliers (R, B, num_classes) of the logits for targets (B, num_classes + 1)."""
    _, back = log_sum_exp_rule(logits)
    return targets[:, :-1] + back(targets[:, -1:])


def target_vector(num_classes, target, versus=None, scalar="logit"):
    """Weights (num_classes + 1) of a scalar of the logits: those of the logits, and of their log-sum-exp.

    Args:
        num_classes: int.
        target: int. Explained class.
        versus: int or None. The scalar is the logit of `target` minus that of `versus`. Defaults to `None`.
        scalar: str. "logit" or "log_probability". Without effect on a difference of two classes. Defaults to
            "logit".

    >>> from focalnets.models.evidence import target_vector
    >>> target_vector(3, 0, versus=2).tolist()
    [1.0, 0.0, -1.0, 0.0]
    """
    if scalar not in SCALARS:
        raise ValueError(f"scalar must be one of {', '.join(SCALARS)}; got {scalar!r}.")
    vector = np.zeros(num_classes + 1, "float32")
    vector[target] += 1
    if versus is not None:
        vector[versus] -= 1
    elif scalar == "log_probability":
        vector[-1] = -1
    return vector


def strides(backbone):
    """Pixels per position at each tap."""
    found = [1]
    for layer in chain(backbone):
        found.append(found[-1] * getattr(layer, "patch_size", 1))
    return found
