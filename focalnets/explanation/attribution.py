"""Exact evidence: the logit of a class as a sum over places, and over the focal levels of each block.

The difference between the logits of an image and of a reference image flows through the network by the rules
of `layers/evidence.py`. At every tap of the network, the evidence of a position is

    E(p) = sum over channels of multiplier(p, c) * (value(p, c) - value of the reference(p, c)),

and its sum over the positions is the difference of the logits. The taps are the pixels, the outputs of stem,
blocks and downsampling, and the final normalization, where the evidence is that of CAM.

The evidence of a level answers another question: how much of the logit would be lost without the context of
this block? It is computed against the same image, in which the gated levels of one block are those of the
reference. The evidence of the levels adds up to that loss.
"""

import os
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from focalnets.explanation.maps import blurred, spread
from focalnets.layers.evidence import (
    Pair,
    block_rule,
    dense_rule,
    embedding_rule,
    log_sum_exp_rule,
    norm_rule,
    spatial_mean,
    switched_off_rule,
)
from focalnets.layers.focal_block import FocalBlock
from focalnets.layers.patch_embedding import PatchEmbedding
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.guarded import GuardedModel
from focalnets.names import unknown_name

PIXELS = "pixels"
REFERENCES = ("mean", "blur")
SCALARS = ("logit", "log_probability")

# Estimate of the bytes per position and channel of each block: about 40 float32 maps, which are the pairs and
# slopes that wait for the way back. A batch takes about `_BATCH_BYTES`.
_BYTES = 160
_BATCH_BYTES = 2**29


def taps(classifier):
    """Names of the taps, from the pixels to the final normalization.

    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.attribution import taps
    >>> taps(FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False))[:3]
    ['pixels', 'stem', 'stage1_block1']
    """
    return [PIXELS, *(layer.name for layer in _chain(classifier.backbone))]


def evidence_model(classifier, levels=False, own_reference=False):
    """Build a Keras model that returns the logits and the exact evidence at every tap.

    The model shares the layers of the classifier. It uses no automatic differentiation, so it can be
    compiled, saved, and called from several threads.

    Args:
        classifier: `FocalNetImageClassifier`.
        levels: bool. Also compute the evidence of the levels of every block, which takes as long as two
            to three forward passes per block. Defaults to `False`.
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
        ValueError: if a layer of the classifier is quantized.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.attribution import evidence_model
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> model = evidence_model(net)
    >>> inputs = {"images": np.zeros((1, 8, 8, 1), "uint8"), "targets": np.eye(11)[:1]}
    >>> sorted(model.predict(inputs, verbose=0)["evidence"])[:3]
    ['norm', 'pixels', 'stage1_block1']
    """
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
    shape = classifier.backbone.image_shape
    inputs = {
        "images": keras.Input(shape, name="images"),
        "targets": keras.Input((classifier.num_classes + 1,), name="targets"),
    }
    if own_reference:
        inputs["reference"] = keras.Input(shape, name="reference")
    outputs = _Evidence(classifier, levels, name="exact_evidence")(inputs)
    return GuardedModel(inputs, outputs)


@keras.saving.register_keras_serializable(package="focalnets")
class _Evidence(keras.layers.Layer):
    """Layer from images and targets to logits and evidence, see `evidence_model`."""

    def __init__(self, classifier, levels=False, **kwargs):
        dtype = "float64" if classifier.backbone.compute_dtype == "float64" else "float32"
        super().__init__(**{"dtype": dtype, "autocast": False, **kwargs})
        self.classifier = classifier
        self.levels = levels
        self.built = True

    def call(self, inputs):
        classifier = self.classifier
        images, reference = inputs["images"], inputs.get("reference")

        def normalized(x):
            x = x if classifier.image_converter is None else classifier.image_converter(x)
            return ops.cast(x, self.compute_dtype)

        x = normalized(images)
        # The reference is the mean color: zero after normalization. One image broadcasts over the batch.
        x = Pair(x, ops.zeros_like(x[:1]) if reference is None else normalized(reference))
        values, backs = [x], []
        for layer in _chain(classifier.backbone):
            x, back = _rule(layer, x)
            values.append(x)
            backs.append(back)
        logits, head_back = _head_rule(classifier, x)
        targets = ops.cast(inputs["targets"], self.compute_dtype)

        m = head_back(_logit_weights(targets, logits))
        evidence = {}
        for name, value in zip(reversed(taps(classifier)), reversed(values), strict=True):
            evidence[name] = ops.sum(m * value.difference, axis=-1)
            m = backs.pop()(m) if backs else m
        outputs = {
            "logits": logits.value,
            "reference_logits": logits.reference + ops.zeros_like(logits.value),
            "evidence": dict(reversed(evidence.items())),
        }
        if self.levels:
            outputs["levels"] = self._levels(values, targets)
        return outputs

    def _levels(self, values, targets):
        chain, found = _chain(self.classifier.backbone), {}
        for place, block in enumerate(chain):
            if not isinstance(block, FocalBlock):
                continue
            x, levels_back = switched_off_rule(block, values[place])
            backs = []
            for layer in chain[place + 1 :]:
                x, back = _rule(layer, x)
                backs.append(back)
            logits, head_back = _head_rule(self.classifier, x)
            m = head_back(_logit_weights(targets, logits))
            for back in reversed(backs):
                m = back(m)
            found[block.name] = levels_back(m)
        return found

    def compute_output_spec(self, inputs):
        batch, height, width, _ = inputs["images"].shape
        evidence, levels = {PIXELS: (batch, height, width)}, {}
        for layer in _chain(self.classifier.backbone):
            if isinstance(layer, PatchEmbedding):
                height, width = (None if n is None else -(-n // layer.patch_size) for n in (height, width))
            evidence[layer.name] = (batch, height, width)
            if isinstance(layer, FocalBlock):
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


def _map_shapes(function, shapes):
    if isinstance(shapes, dict):
        return {name: _map_shapes(function, one) for name, one in shapes.items()}
    return function(shapes)


def _dense_layers(classifier):
    for block in classifier.backbone.blocks:
        yield from (block.modulation.f, block.modulation.h, block.modulation.proj, block.fc1, block.fc2)
    yield classifier.head


def _chain(backbone):
    """Layers from the normalized image to the features: stem, blocks, downsampling, final normalization."""
    kinds = (PatchEmbedding, FocalBlock, keras.layers.LayerNormalization)
    return [
        layer for layer in backbone.layers if isinstance(layer, kinds) and layer not in backbone.stage_norms
    ]


def _rule(layer, x):
    rules = {PatchEmbedding: embedding_rule, FocalBlock: block_rule}
    return rules.get(type(layer), norm_rule)(layer, x)


def _head_rule(classifier, x):
    """Rule of global average pooling and head."""
    shape = ops.shape(x.value)
    pooled = x.map(lambda one: spatial_mean(one)[:, 0, 0])
    logits, back = dense_rule(classifier.head, pooled)

    def pull_back(m):
        return ops.broadcast_to(back(m)[:, None, None] / (shape[1] * shape[2]), shape)

    return logits, pull_back


def _logit_weights(targets, logits):
    """Multipliers (B, num_classes) of the logits for targets (B, num_classes + 1)."""
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

    >>> from focalnets.explanation.attribution import target_vector
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


@dataclass(frozen=True)
class Evidence:
    """Exact evidence of N images.

    Attributes:
        logits: float32 array (N, num_classes). Logits of the images.
        total: float64 array (N,). Difference of the explained scalar between the image and its reference, or
            the mean of this difference over references.
        taps: dict of tap -> float32 array (N, H', W'). Evidence of each position. Its sum is `total`.
        levels: dict of block name -> float32 array (N, H', W', L + 1), or {}. Evidence of each focal level
            and of the global level, at the position that gathers it.
        size: (H, W) of the images.
        strides: dict of tap -> int. Pixels per position.
    """

    logits: np.ndarray
    total: np.ndarray
    taps: dict
    levels: dict
    size: tuple
    strides: dict

    def at(self, tap):
        """(N, H, W) Evidence per pixel of a tap, spread over the pixels of each position. Sums are kept.

        Raises:
            ValueError: if the tap does not exist.
        """
        if tap not in self.taps:
            raise ValueError(unknown_name("tap", tap, list(self.taps)))
        return spread(self.taps[tap], self.size, self.strides[tap])

    def map(self):
        """(N, H, W) Evidence per pixel, the mean over all taps. Its sum is `total`.

        The mean over depths is as faithful as the best single tap, and localizes better
        (docs/explanation.md).
        """
        return np.mean([self.at(tap) for tap in self.taps], axis=0)


def evidence(classifier, images, targets, reference="mean", levels=False, batch_size=None, models=None):
    """Compute the exact evidence of images.

    Args:
        classifier: `FocalNetImageClassifier`.
        images: array of shape (N, H, W, channels). Inputs of the classifier.
        targets: array of shape (N, num_classes + 1). Scalars to explain, see `target_vector`.
        reference: "mean" for the mean color, "blur" for each image blurred by a Gaussian of an eighth of
            its shorter side, or an array of shape (H, W, channels) or (R, H, W, channels). The evidence is
            the mean over R references. Defaults to "mean".
        levels: bool. Also compute the evidence of the levels. Defaults to `False`.
        batch_size: int. Number of images per batch. Defaults to a number that bounds the memory.
        models: dict. Models of earlier calls for this classifier, which are used, and to which new ones are
            added. Defaults to `None`.

    Returns:
        `Evidence`.

    Raises:
        ValueError: if `reference` is unknown or has another shape than the images, or an image needs more
            memory than this machine has.

    Source: docs/explanation.md has the proof.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.attribution import evidence, target_vector
    >>> net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    >>> image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype("uint8")
    >>> found = evidence(net, image, target_vector(10, 3)[None])
    >>> bool(np.isclose(found.taps["stage1_block1"].sum(), found.total[0], atol=1e-4))
    True
    """
    size, targets = tuple(images.shape[1:3]), np.asarray(targets, "float32")
    batch_size = _batch_size(classifier, size) if batch_size is None else batch_size
    references = _references(reference, images)
    models = {} if models is None else models
    key = (levels, references is not None)
    if key not in models:
        models[key] = evidence_model(classifier, *key)
    runs = []
    for one in [None] if references is None else references:
        inputs = {"images": images, "targets": targets}
        if one is not None:
            inputs["reference"] = np.broadcast_to(one, images.shape)
        run = models[key].predict(inputs, batch_size=batch_size, verbose=0)
        total = scalars(run["logits"], targets) - scalars(run["reference_logits"], targets)
        runs.append({**run, "total": total})
    found = runs[0]
    if len(runs) > 1:
        found = keras.tree.map_structure(lambda *ones: np.mean(ones, axis=0), *runs)
    names = taps(classifier)
    return Evidence(
        logits=found["logits"],
        total=found["total"],
        taps={name: found["evidence"][name] for name in names},
        levels={name: found["levels"][name] for name in names if name in found.get("levels", {})},
        size=size,
        strides=dict(zip(names, _strides(classifier.backbone), strict=True)),
    )


def switch_off(classifier, images, targets, block, levels):
    """Loss of the scalar when levels of a block are replaced by those of the mean color.

    Unlike the evidence of the levels, this is an intervention on these levels alone.

    Args:
        classifier: `FocalNetImageClassifier`.
        images: array of shape (N, H, W, channels). Inputs of the classifier.
        targets: array of shape (N, num_classes + 1). Scalars, see `target_vector`.
        block: str. Name of a block.
        levels: list of int. Levels to replace, counted from 0. The global level comes last.

    Returns:
        float64 array of shape (N,).

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.attribution import switch_off, target_vector
    >>> net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    >>> gray = np.full((1, 32, 32, 3), 120, "uint8")
    >>> switch_off(net, gray, target_vector(10, 3)[None], "stage2_block1", [0]).shape
    (1,)
    """
    size, found = _batch_size(classifier, images.shape[1:3]), []
    for start in range(0, len(images), size):
        x = images[start : start + size]
        x = ops.convert_to_tensor(x) if classifier.image_converter is None else classifier.image_converter(x)
        x = ops.stop_gradient(ops.cast(x, "float32"))
        x = Pair(x, ops.zeros_like(x[:1]))
        for layer in _chain(classifier.backbone):
            x = switched_off_rule(layer, x, levels)[0] if layer.name == block else _rule(layer, x)[0]
            x = x.map(ops.stop_gradient)  # without the graph that torch keeps for a gradient
        logits = _head_rule(classifier, x)[0].map(ops.convert_to_numpy)
        found.append([scalars(one, targets[start : start + size]) for one in logits])
    value, reference = np.concatenate(found, axis=1)
    return value - reference


def scalars(logits, targets):
    """Scalars (N,) of logits (N, num_classes) for targets (N, num_classes + 1), in float64."""
    logits = np.float64(logits)
    largest = logits.max(axis=-1)
    partition = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
    return np.sum(logits * targets[:, :-1], axis=-1) + partition * targets[:, -1]


def _strides(backbone):
    """Pixels per position at each tap."""
    strides = [1]
    for layer in _chain(backbone):
        strides.append(strides[-1] * getattr(layer, "patch_size", 1))
    return strides


def _batch_size(classifier, size):
    """Number of images per batch that bounds the memory."""
    backbone = classifier.backbone
    needed = 0
    for stage, (blocks, stride) in enumerate(zip(backbone.stages, backbone.strides, strict=True)):
        positions = -(-size[0] // stride) * -(-size[1] // stride)
        needed += _BYTES * len(blocks) * positions * backbone.embed_dim * 2**stage
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else np.inf
    if needed > memory:
        raise ValueError(
            f"The evidence of an image of {size[0]} x {size[1]} pixels needs about {needed / 2**30:.0f} GiB; "
            f"this machine has {memory / 2**30:.0f} GiB. Explain a smaller image."
        )
    return max(1, int(_BATCH_BYTES // needed))


def _references(reference, images):
    """References that broadcast to the images, as a list of arrays. None for the mean color."""
    if isinstance(reference, str):
        if reference not in REFERENCES:
            raise ValueError(
                f"reference must be {' or '.join(map(repr, REFERENCES))}, or an array; got {reference!r}."
            )
        return None if reference == "mean" else [blurred(images, min(images.shape[1:3]) / 8)]
    array = np.asarray(reference)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1:] != images.shape[1:] or len(array) == 0:
        raise ValueError(
            f"reference has the shape {np.shape(reference)}; expected {images.shape[1:]}, or several such "
            "images."
        )
    return list(array)
