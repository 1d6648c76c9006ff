"""Other maps of an image, to compare with exact evidence.

Each function takes a classifier, images (N, H, W, channels) in pixels 0..255, and targets (N, num_classes +
1), see `attribution.target_vector`. It returns float32 maps (N, H, W). They are the maps that users know, and
controls that know nothing of the network.
"""

import functools

import numpy as np
from keras import ops

from focalnets.maps import channel_norm, upsample
from focalnets.models.modulation import modulation_model
from focalnets.ops.backend import value_and_gradient

_BATCH = 32


def grad_cam(classifier, images, targets):
    """Grad-CAM of the output of the last block (Selvaraju et al., arXiv 1610.02391).

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.models.evidence import target_vector
    >>> from focalnets.explanation.comparison import grad_cam
    >>> net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    >>> grad_cam(net, np.zeros((1, 32, 32, 3), "uint8"), target_vector(10, 3)[None]).shape
    (1, 32, 32)
    """
    backbone = classifier.backbone
    norm, before = backbone.get_layer("norm"), _without_norm(backbone)

    def one_batch(x, weights):
        features = ops.stop_gradient(before(_normalized(classifier, x)))
        _, gradient = value_and_gradient(lambda f: _scalar(classifier.classify(norm(f)), weights), features)
        importance = ops.mean(gradient, axis=(1, 2), keepdims=True)
        return ops.relu(ops.sum(importance * features, axis=-1, keepdims=True))

    maps = _in_batches(one_batch, images, targets)
    return _at_image_size(classifier, images, maps)


def integrated_gradients(classifier, images, targets, steps=32):
    """Integrated gradients from the mean color, by the midpoint rule (Sundararajan et al., arXiv 1703.01365).

    Args:
        steps: int. Number of gradients per image. Defaults to 32.
    """

    def one_batch(x, weights):
        x = ops.stop_gradient(_normalized(classifier, x))  # the mean color is zero

        def scalar(one):
            return _scalar(classifier.classify(classifier.backbone(one)), weights)

        total = 0.0
        for step in range(steps):
            total = total + value_and_gradient(scalar, x * ((step + 0.5) / steps))[1]
        return ops.sum(total * x, axis=-1) / steps

    return _in_batches(one_batch, images, targets)


def occlusion(classifier, images, targets, cells=8):
    """Loss of the scalar when a cell is replaced by the mean color (Zeiler and Fergus, arXiv 1311.2901).

    Args:
        cells: int. Number of cells along each side, so `cells`^2 passes per image. Defaults to 8.
    """
    height, width = images.shape[1:3]
    rows, columns = (np.arange(n) * cells // n for n in (height, width))

    def one_batch(x, weights):
        x = _normalized(classifier, x)

        def scalar(one):  # without the graph that torch keeps for a gradient
            return ops.stop_gradient(_scalar(classifier.classify(classifier.backbone(one)), weights))

        whole, found = scalar(x), []
        for cell in range(cells * cells):
            outside = np.logical_or.outer(rows != cell // cells, columns != cell % cells)
            masked = x * ops.cast(ops.convert_to_tensor(outside[None, ..., None]), x.dtype)
            found.append(whole - scalar(masked))
        return ops.stack(found, axis=1)

    lost = _in_batches(one_batch, images, targets).reshape(-1, cells, cells)
    return lost[:, rows][:, :, columns]


def modulator_norm(classifier, images, targets=None):
    """Norm of the modulator of the last block, the figure of the paper. Does not depend on the class."""
    modulators = _last_block(classifier, images, "modulators")
    return _at_image_size(classifier, images, channel_norm(modulators)[..., None])


def last_gate(classifier, images, targets=None):
    """Mean of the gates of the last block, over its levels. Does not depend on the class."""
    gates = _last_block(classifier, images, "gates")
    return _at_image_size(classifier, images, gates.mean(axis=-1, keepdims=True))


def center(classifier, images, targets=None):
    """Closeness to the center of the image: a control that sees nothing."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in images.shape[1:3]), indexing="ij")
    return np.broadcast_to(-np.hypot(*grids).astype("float32"), images.shape[:3])


def random(classifier, images, targets=None):
    """Random numbers: a control."""
    return np.random.default_rng(0).normal(size=images.shape[:3]).astype("float32")


COMPARISONS = {
    "Grad-CAM": grad_cam,
    "integrated gradients": integrated_gradients,
    "occlusion": occlusion,
    "modulator norm": modulator_norm,
    "mean gate": last_gate,
    "center": center,
    "random": random,
}


def _last_block(classifier, images, output):
    found = _modulation_model(classifier).predict(images, batch_size=_BATCH, verbose=0)
    return found[output][classifier.backbone.blocks[-1].name]


@functools.lru_cache(maxsize=1)  # `score` calls the maps batch by batch, and JAX compiles each new model
def _modulation_model(classifier):
    return modulation_model(classifier)


def _at_image_size(classifier, images, maps):
    """Map (N, H, W) from one of the last block (N, h, w, 1)."""
    return upsample(maps, images.shape[1:3], classifier.backbone.strides[-1])[..., 0]


def _without_norm(backbone):
    """The backbone up to the last block."""

    def before(x):
        for layer in backbone.layers[1:-1]:
            if layer is not backbone.get_layer("norm") and layer not in backbone.stage_norms:
                x = layer(x)
        return x

    return before


def _normalized(classifier, images):
    images = ops.convert_to_tensor(images)
    return images if classifier.image_converter is None else classifier.image_converter(images)


def _scalar(logits, targets):
    partition = ops.logsumexp(logits, axis=-1)
    return ops.sum(logits * targets[:, :-1], axis=-1) + partition * targets[:, -1]


def _in_batches(function, images, targets):
    found = []
    for start in range(0, len(images), _BATCH):
        rows = slice(start, start + _BATCH)
        weights = ops.convert_to_tensor(np.asarray(targets[rows], "float32"))
        found.append(ops.convert_to_numpy(function(images[rows], weights)))
    return np.concatenate(found)
