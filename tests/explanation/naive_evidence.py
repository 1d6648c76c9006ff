"""The definition of exact evidence in float64 NumPy: differences are propagated forward, one at a time.

`focalnets.explanation.attribution` pulls multipliers back from the logits. Here, the difference of each
position and channel of a tap is sent forward alone, through the same secants and midpoints. The evidence of a
position is the sum of what arrives at the logit.
"""

import keras
import numpy as np
from reference import Reference

_arithmetic = Reference()


class Difference:
    """Value and reference of a map, each (1, H, W, C), and N parts of their difference, (N, H, W, C)."""

    def __init__(self, value, reference, parts):
        self.value, self.reference, self.parts = value, reference, parts

    def linear(self, function):
        """Apply an affine map. Its offset is what it makes of zeros."""
        parts = function(self.parts) - function(np.zeros_like(self.value))
        return Difference(function(self.value), function(self.reference), parts)

    def function(self, function):
        value, reference = function(self.value), function(self.reference)
        step, middle, h = self.value - self.reference, (self.value + self.reference) / 2, 1e-5
        is_small = abs(step) < 1e-6
        slope = (function(middle + h) - function(middle - h)) / (2 * h)
        slope = np.where(is_small, slope, (value - reference) / np.where(is_small, 1, step))
        return Difference(value, reference, self.parts * slope)

    def __mul__(self, other):
        parts = self.parts * (other.value + other.reference) / 2
        parts = parts + other.parts * (self.value + self.reference) / 2
        return Difference(self.value * other.value, self.reference * other.reference, parts)

    def __add__(self, other):
        values = self.value + other.value, self.reference + other.reference
        return Difference(*values, self.parts + other.parts)

    def __getitem__(self, channels):
        return Difference(*(one[..., channels] for one in (self.value, self.reference, self.parts)))

    def dense(self, layer):
        return self.linear(lambda x: _arithmetic.dense(layer, x))

    def norm(self, layer):
        """p * s with s = (mean(p * p) + epsilon) ** -0.5: two products, a mean and a function."""
        p = self.linear(lambda x: x - x.mean(axis=-1, keepdims=True))
        variance = (p * p).linear(lambda x: x.mean(axis=-1, keepdims=True))
        s = variance.function(lambda v: (v + layer.epsilon) ** -0.5)
        gamma, beta = (np.float64(keras.ops.convert_to_numpy(one)) for one in (layer.gamma, layer.beta))
        return (p * s).linear(lambda x: x * gamma + beta)


def embedding(layer, x):
    class _Identity:  # the convolution of the reference alone
        def norm(self, _, y):
            return y

    return x.linear(lambda one: Reference.embedding(_Identity(), layer, one)).norm(layer.norm)


def block(layer, x):
    placement, scale = layer.norm_placement, _arithmetic.scale
    y = modulation(layer.modulation, x.norm(layer.norm1) if placement == "pre" else x)
    y = y.norm(layer.norm1) if placement == "post" else y
    x = x + y.linear(lambda one: scale(layer.scale1, one))
    y = x if placement == "post" else x.norm(layer.norm2)
    y = y.dense(layer.fc1).function(lambda one: _arithmetic.activate(layer.activation, one)).dense(layer.fc2)
    y = y.norm(layer.norm2) if placement == "post" else y
    return x + y.linear(lambda one: scale(layer.scale2, one))


def modulation(layer, x):
    channels, levels = x.value.shape[-1], layer.focal_levels
    projected = x.dense(layer.f)
    query, context = projected[:channels], projected[channels : 2 * channels]
    gates, total = projected[2 * channels :], None
    for level, kernel in enumerate(layer.kernels):
        kernel = np.float64(keras.ops.convert_to_numpy(kernel))
        context = context.linear(lambda one, k=kernel: _arithmetic.depthwise(one, k)).function(
            _arithmetic.gelu
        )
        gated = context * gates[level : level + 1]
        total = gated if total is None else total + gated
    mean = context.linear(lambda one: one.mean(axis=(1, 2), keepdims=True)).function(_arithmetic.gelu)
    total = total + mean * gates[levels:]
    if layer.normalize_modulator:
        total = total.linear(lambda one: one / (levels + 1))
    y = query * total.dense(layer.h)
    y = y if layer.norm is None else y.norm(layer.norm)
    return y.dense(layer.proj)


def naive_evidence(net, image, reference, weights):
    """Dict of tap -> evidence (H', W') of a scalar of the logits. Image and reference are normalized."""
    layers = [layer for layer in net.backbone.layers if hasattr(layer, "patch_size") or hasattr(layer, "fc1")]
    layers.append(net.backbone.get_layer("norm"))
    x, found = Difference(np.float64(image)[None], np.float64(reference)[None], np.zeros((1, 1, 1, 1))), {}
    for place, name in enumerate(["pixels", *(layer.name for layer in layers)]):
        difference = x.value - x.reference
        basis = np.eye(difference.size).reshape(-1, *difference.shape[1:]) * difference
        y = Difference(x.value, x.reference, basis)
        for layer in layers[place:]:
            y = _apply(layer, y)
        logits = y.linear(lambda one: one.mean(axis=(1, 2), keepdims=True)).dense(net.head).parts[:, 0, 0]
        found[name] = (logits @ weights).reshape(difference.shape[1:]).sum(axis=-1)
        if place < len(layers):
            x = _apply(layers[place], Difference(x.value, x.reference, np.zeros_like(difference)))
    return found


def _apply(layer, x):
    if hasattr(layer, "patch_size"):
        return embedding(layer, x)
    return block(layer, x) if hasattr(layer, "fc1") else x.norm(layer)
