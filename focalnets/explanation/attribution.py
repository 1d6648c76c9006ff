"""Exact evidence of images, as arrays. See `models/evidence.py` for its definition."""

import os
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from focalnets.layers.evidence import Pair, switched_off
from focalnets.maps import blurred, spread
from focalnets.models.evidence import (
    chain,
    evidence_model,
    head_rule,
    normalized,
    rule_of,
    strides,
    taps,
)
from focalnets.names import unknown_name

REFERENCES = ("mean", "blur")

# Bytes per position, channel and block, for an image and for each of its references: pairs and slopes that
# wait for the way back. 72 to 92 were measured on torch without levels, and 60 to 107 with levels.
_BYTES = 100
_BATCH_BYTES = 2**30  # of a batch
_IMAGE_BYTES = 2**29  # of one image, if the levels of some blocks can be left to another pass


class EvidenceModels:
    """Evidence models of a classifier, built when they are first used.

    Args:
        classifier: `FocalNetImageClassifier`.
        eager: bool. Do not compile the models, which is faster for a few images. JAX compiles them in any
            case, because it would compile each operation by itself. Defaults to `False`.
    """

    def __init__(self, classifier, eager=False):
        self.classifier, self.eager, self._models = classifier, eager, {}

    def get(self, levels, own_reference):
        """Return the `evidence_model` with these options."""
        key = (tuple(levels), own_reference)
        if key not in self._models:
            self._models[key] = evidence_model(self.classifier, levels, own_reference)
            if self.eager and keras.backend.backend() != "jax":
                self._models[key].compile(run_eagerly=True)
        return self._models[key]


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
        models: `EvidenceModels` of the classifier, to use its models again. Defaults to new ones.

    Returns:
        `Evidence`.

    Raises:
        ValueError: if `reference` is unknown or has another shape than the images, or an image needs more
            memory than this machine has.

    Source: docs/explanation.md has the proof.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.attribution import evidence
    >>> from focalnets.models.evidence import target_vector
    >>> net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    >>> image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype("uint8")
    >>> found = evidence(net, image, target_vector(10, 3)[None])
    >>> bool(np.isclose(found.taps["stage1_block1"].sum(), found.total[0], atol=1e-4))
    True
    """
    size, targets = tuple(images.shape[1:3]), np.asarray(targets, "float32")
    references = _references(reference, images)
    models = EvidenceModels(classifier) if models is None else models
    passes = _passes(classifier, size) if levels else [[]]
    runs = []
    for one in [None] if references is None else references:
        inputs = {"images": images, "targets": targets}
        if one is not None:
            inputs["reference"] = np.broadcast_to(one, images.shape)
        found = {}
        for blocks in passes:
            batch = _batch_size(classifier, size, blocks) if batch_size is None else batch_size
            run = models.get(blocks, one is not None).predict(inputs, batch_size=batch, verbose=0)
            found |= run.pop("levels", {})
        run["levels"] = found
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
        levels={name: found["levels"][name] for name in names if name in found["levels"]},
        size=size,
        strides=dict(zip(names, strides(classifier.backbone), strict=True)),
    )


def switch_off(classifier, images, targets, block, levels, reference="mean"):
    """Loss of the scalar when levels of a block are replaced by those of a reference.

    Unlike the evidence of the levels, this is an intervention on these levels alone.

    Args:
        classifier: `FocalNetImageClassifier`.
        images: array of shape (N, H, W, channels). Inputs of the classifier.
        targets: array of shape (N, num_classes + 1). Scalars, see `target_vector`.
        block: str. Name of a block.
        levels: list of int. Levels to replace, counted from 0. The global level comes last.
        reference: As for `evidence`. The loss is the mean over several references. Defaults to "mean".

    Returns:
        float64 array of shape (N,).

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.attribution import switch_off
    >>> from focalnets.models.evidence import target_vector
    >>> net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    >>> gray = np.full((1, 32, 32, 3), 120, "uint8")
    >>> switch_off(net, gray, target_vector(10, 3)[None], "stage2_block1", [0]).shape
    (1,)
    """
    size, losses = _batch_size(classifier, images.shape[1:3]), []
    for one in _references(reference, images) or [None]:
        whole = None if one is None else np.broadcast_to(one, images.shape)
        losses.append([])
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            x = normalized(classifier, images[part], "float32")
            other = ops.zeros_like(x[:1]) if whole is None else normalized(classifier, whole[part], "float32")
            x = Pair(x, other[None]).map(ops.stop_gradient)
            for layer in chain(classifier.backbone):
                x = switched_off(layer, x, levels) if layer.name == block else rule_of(layer, x)[0]
                x = x.map(ops.stop_gradient)  # without the graph that torch keeps for a gradient
            logits = head_rule(classifier, x)[0].map(ops.convert_to_numpy)
            value, without = (scalars(one, targets[part]) for one in (logits.value, logits.reference[0]))
            losses[-1].append(value - without)
    return np.mean([np.concatenate(one) for one in losses], axis=0)


def scalars(logits, targets):
    """Scalars (N,) of logits (N, num_classes) for targets (N, num_classes + 1), in float64."""
    logits = np.float64(logits)
    largest = logits.max(axis=-1)
    partition = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
    return np.sum(logits * targets[:, :-1], axis=-1) + partition * targets[:, -1]


def _passes(classifier, size):
    """Lists of blocks whose levels are computed in one pass, so that one image takes `_IMAGE_BYTES`."""
    passes = [[]]
    for block in classifier.backbone.blocks:
        if passes[-1] and _bytes(classifier, size, [*passes[-1], block.name]) > _IMAGE_BYTES:
            passes.append([])
        passes[-1].append(block.name)
    return passes


def _batch_size(classifier, size, blocks=()):
    """Number of images per batch that bounds the memory, with the levels of these blocks."""
    needed = _bytes(classifier, size, blocks)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else np.inf
    if needed > memory:
        raise ValueError(
            f"The evidence of an image of {size[0]} x {size[1]} pixels needs about {needed / 2**30:.0f} GiB; "
            f"this machine has {memory / 2**30:.0f} GiB. Explain a smaller image."
        )
    return max(1, int(_BATCH_BYTES // needed))


def _bytes(classifier, size, blocks):
    """Estimated memory for one image. Each block of `blocks` adds a reference to the rest of the network."""
    backbone, rows, needed = classifier.backbone, 1, 0
    for stage, (layers, stride) in enumerate(zip(backbone.stages, backbone.strides, strict=True)):
        positions = -(-size[0] // stride) * -(-size[1] // stride)
        for layer in layers:
            rows += layer.name in blocks
            needed += _BYTES * rows * positions * backbone.embed_dim * 2**stage
    return needed


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
