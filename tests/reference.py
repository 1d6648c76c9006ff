"""Reference implementation of a FocalNet in float64 NumPy.

It is written from the paper, independently of the package. It reads only weights and flags from a built
network. `BREAKS` lists deliberate errors that the parity tests must detect.
"""

import math

import keras
import numpy as np

BREAKS = (
    "tanh gelu",
    "softmax gates",
    "gates reversed",
    "no global level",
    "levels not chained",
    "normalized the other way",
    "epsilon 1e-3",
    "norm elsewhere",
)

_erf = np.vectorize(math.erf, otypes=[float])


class Reference:
    """Compute a `FocalNetBackbone` or `FocalNetImageClassifier` in float64 NumPy.

    Args:
        broken: str. One of `BREAKS`, or "" for the correct equations.
        factors: dict. Constants that replace the random masks of training: "modulation" (output of the
            modulation), "hidden" and "output" (of the MLP), "path1" and "path2" (the branches).
    """

    def __init__(self, broken="", factors=None):
        self.broken = broken
        self.factors = dict.fromkeys(("modulation", "hidden", "output", "path1", "path2"), 1.0) | (
            factors or {}
        )

    def classifier(self, net, images):
        """Tuple of the logits and the dict of `backbone`."""
        x = np.float64(images)
        if net.image_converter is not None:
            x = (x / 255 - net.image_converter.mean) / net.image_converter.std
        values = self.backbone(net.backbone, x)
        pooled = values["output"].mean(axis=(1, 2))
        return pooled @ _value(net.head.kernel) + _value(net.head.bias), values

    def backbone(self, net, x):
        """Dict of "output", "P<n>" for each pyramid level, "gates <block>" and "modulator <block>"."""
        values = {}
        x = self.embedding(net.get_layer("stem"), np.float64(x))
        for stage, depth in enumerate(net.depths, start=1):
            for index in range(1, depth + 1):
                name = f"stage{stage}_block{index}"
                x, gates, modulator = self.block(net.get_layer(name), x)
                values[f"gates {name}"], values[f"modulator {name}"] = gates, modulator
            values[f"P{int(math.log2(net.patch_size * 2 ** (stage - 1)))}"] = x
            if stage < len(net.depths):
                x = self.embedding(net.get_layer(f"stage{stage}_downsample"), x)
        values["output"] = self.norm(net.get_layer("norm"), x)
        return values

    def embedding(self, layer, x):
        stride, size, margin = layer.patch_size, layer.kernel_size, layer.padding
        height, width = (-(-n // stride) for n in x.shape[1:3])
        canvas = np.zeros((x.shape[0], height * stride + 2 * margin, width * stride + 2 * margin, x.shape[3]))
        canvas[:, margin : margin + x.shape[1], margin : margin + x.shape[2]] = x
        kernel, bias = _value(layer.proj.kernel), _value(layer.proj.bias)
        y = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
        for i in range(height):
            for j in range(width):
                window = canvas[:, i * stride : i * stride + size, j * stride : j * stride + size]
                y[:, i, j] = np.einsum("nijc,ijco->no", window, kernel) + bias
        return self.norm(layer.norm, y)

    def block(self, layer, x):
        placement = layer.norm_placement
        if self.broken == "norm elsewhere":
            placement = {"pre": "post", "post": "pre", "mlp_only": "mlp_only"}[placement]
        before = self.norm(layer.norm1, x) if placement == "pre" else x
        y, gates, modulator = self.modulation(layer.modulation, before)
        y = y * self.factors["modulation"]
        if placement == "post":
            y = self.norm(layer.norm1, y)
        x = x + self.scale(layer.scale1, y) * self.factors["path1"]
        y = x if placement == "post" else self.norm(layer.norm2, x)
        y = self.dense(
            layer.fc2, self.activate(layer.activation, self.dense(layer.fc1, y)) * self.factors["hidden"]
        )
        y = y * self.factors["output"]
        if placement == "post":
            y = self.norm(layer.norm2, y)
        return x + self.scale(layer.scale2, y) * self.factors["path2"], gates, modulator

    def modulation(self, layer, x):
        channels, levels = x.shape[-1], layer.focal_levels
        query, context, gates = np.split(self.dense(layer.f, x), (channels, 2 * channels), axis=-1)
        used = gates
        if self.broken == "softmax gates":
            used = np.exp(gates) / np.exp(gates).sum(axis=-1, keepdims=True)
        if self.broken == "gates reversed":
            used = gates[..., ::-1]
        total, first = 0, context
        for level in range(levels):
            source = first if self.broken == "levels not chained" else context
            context = self.gelu(self.depthwise(source, _value(layer.kernels[level])))
            total = total + context * used[..., level : level + 1]
        if self.broken != "no global level":
            pooled = self.gelu(context.mean(axis=(1, 2), keepdims=True))
            total = total + pooled * used[..., levels:]
        if layer.normalize_modulator != (self.broken == "normalized the other way"):
            total = total / (levels + 1)
        modulator = self.dense(layer.h, total)
        y = query * modulator
        if layer.norm_after_modulation:
            y = self.norm(layer.norm, y)
        return self.dense(layer.proj, y), gates, modulator

    def depthwise(self, x, kernel):
        size = len(kernel)
        margin = size // 2
        padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        height, width = x.shape[1:3]
        return sum(
            padded[:, i : i + height, j : j + width] * kernel[i, j, :, 0]
            for i in range(size)
            for j in range(size)
        )

    def dense(self, layer, x):
        return x @ _value(layer.kernel) + _value(layer.bias)

    def scale(self, layer, x):
        return x if layer is None else x * _value(layer.gamma)

    def norm(self, layer, x):
        epsilon = 1e-3 if self.broken == "epsilon 1e-3" else layer.epsilon
        centered = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + epsilon)
        return centered / deviation * _value(layer.gamma) + _value(layer.beta)

    def activate(self, name, x):
        if name == "gelu_tanh":
            return _tanh_gelu(x)
        return {
            "gelu": self.gelu,
            "relu": lambda x: np.maximum(x, 0),
            "silu": lambda x: x / (1 + np.exp(-x)),
        }[name](x)

    def gelu(self, x):
        if self.broken == "tanh gelu":
            return _tanh_gelu(x)
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def randomize(model, seed=0):
    """Assign random values of order 1 to all parameters, including biases, norms and layer scales.

    Initial values hide errors, because biases are zero and layer scales are 1e-4. Kernels are divided by the
    square root of their fan-in, which keeps activations of order 1.
    """
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        shape = tuple(variable.shape)
        values = generator.standard_normal(shape)
        if len(shape) == 4 and shape[-1] == 1:  # depthwise (k, k, C, 1)
            values /= shape[0]
        elif len(shape) > 1:
            values /= math.sqrt(math.prod(shape[:-1]))
        variable.assign(values.astype("float32"))


def relative_error(ours, truth):
    """Relative error max |ours - truth| / max |truth|."""
    ours = np.float64(keras.ops.convert_to_numpy(ours))
    truth = np.float64(truth)
    assert ours.shape == truth.shape, (ours.shape, truth.shape)
    return float(np.max(np.abs(ours - truth)) / np.max(np.abs(truth)))


def _value(variable):
    return np.float64(keras.ops.convert_to_numpy(variable))
