"""Exact rules for differences: the difference between two inputs of a layer as that of its outputs.

Each rule takes a `Pair`: the value of an image, and its values for R references. It returns the pair of the
outputs and the transposed map `pull_back`, which takes multipliers of the outputs to multipliers of the
inputs, for each reference:

    sum(multipliers of y * difference of y) = sum(multipliers of x * difference of x)

A linear map is its own rule, without its bias. For the other operations, with d for a difference, a bar for
the mean of value and reference, and r for the reference:

    function       d f(x) = s dx, with s = (f(x) - f(r)) / (x - r)                          secant rule
    product        d (u v) = mean(v) du + mean(u) dv                                        midpoint rule
    normalization  p = x - mean(x), s = 1 / sqrt(mean(p^2) + epsilon):
                   d (p s) = mean(s) dp + mean(p) ds
                   ds = -(s s_r)^2 / (s + s_r) * mean over channels of (p + p_r) dp

The rules contain no approximation, so a sum of evidence equals the difference of the logits up to rounding.

Source: the secant rule is the rescale rule of DeepLIFT (Shrikumar et al., arXiv 1704.02685). The midpoint
rule is the Shapley value of a product of two factors. The rule of normalization follows from both.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from focalnets.layers.pointwise import activate, pointwise, tensors_like
from focalnets.ops.dense import split
from focalnets.ops.focal_context import depthwise_conv, gelu

# Distance of inputs below which the secant is computed over this distance around their midpoint. With the
# rounding error e, the error of the slope is about e / distance + distance^2 / 24, least at (24 e)^(1/3).
_SMALL = {"float64": 1.4e-5, "float32": 1.1e-2}


class Pair(NamedTuple):
    """Values of images, (B, ...), and of their references, (R, B, ...) or (R, 1, ...).

    All references share the computation for the image.
    """

    value: Any
    reference: Any

    @property
    def difference(self):
        return self.value - self.reference

    @property
    def mean(self):
        return (self.value + self.reference) * 0.5

    def map(self, function):
        """Pair of `function` of both tensors. For functions that are linear, or whose rule is separate."""
        return Pair(function(self.value), function(self.reference))


def dense_rule(layer, x):
    """Rule of a `Dense` layer: (..., C) to (..., units)."""
    (kernel,) = tensors_like(x.value, layer.kernel)
    return x.map(lambda one: pointwise(layer, one)), lambda m: m @ ops.transpose(kernel)


def function_rule(function, x):
    """Rule of an elementwise function, by the secant."""
    y = x.map(function)
    difference, middle = x.difference, x.mean
    small = _SMALL[keras.backend.standardize_dtype(difference.dtype)]
    is_small = ops.abs(difference) < small
    around = (function(middle + small / 2) - function(middle - small / 2)) / small
    slope = ops.where(is_small, around, y.difference / ops.where(is_small, 1.0, difference))
    return y, lambda m: m * slope


def product_rule(u, v):
    """Rule of the product of two tensors that broadcast. `pull_back` returns the multipliers of both."""
    u_mean, v_mean = u.mean, v.mean
    return Pair(u.value * v.value, u.reference * v.reference), lambda m: (m * v_mean, m * u_mean)


def norm_rule(layer, x):
    """Rule of a `LayerNormalization` over the last axis."""
    gamma, beta = tensors_like(x.value, layer.gamma, layer.beta)
    centered = x.map(lambda one: one - _mean(one))
    scale = centered.map(lambda p: ops.rsqrt(_mean(ops.square(p)) + layer.epsilon))
    y = Pair(*(p * s * gamma + beta for p, s in zip(centered, scale, strict=True)))
    total, scale_mean = centered.value + centered.reference, scale.mean
    weight = -0.5 * ops.square(scale.value * scale.reference) / (scale.value + scale.reference)

    def pull_back(m):
        m = m * gamma
        m = m * scale_mean + total * (weight * _mean(m * total))
        return m - _mean(m)

    return y, pull_back


def log_sum_exp_rule(x):
    """Rule of log(sum(exp(x))) over the last axis: (B, K) to (B, 1)."""
    largest = ops.maximum(*(ops.max(one, axis=-1, keepdims=True) for one in x))
    exponentials = x.map(lambda one: ops.exp(one - largest))
    sums = exponentials.map(lambda one: ops.sum(one, axis=-1, keepdims=True))
    _, exp_back = function_rule(lambda one: ops.exp(one - largest), x)
    y, log_back = function_rule(ops.log, sums)
    return y.map(lambda one: one + largest), lambda m: exp_back(log_back(m))


def embedding_rule(layer, x):
    """Rule of a `PatchEmbedding`: a strided convolution and a normalization."""
    size = x.value.shape[-3:-1]
    y, norm_back = norm_rule(layer.norm, x.map(lambda one: _by_image(layer.project, one)))
    return y, lambda m: _by_image(lambda one: layer.project_transposed(one, size), norm_back(m))


def block_rule(layer, x):
    """Rule of a `FocalBlock`."""
    query, gated, _, gated_back = _gated_rule(layer, x)
    y, rest_back = _rest_of_block_rule(layer, x, query, _sums(gated))

    def pull_back(m):
        m_x, m_query, m_total = rest_back(m)
        return m_x + gated_back(m_query, m_total)

    return y, pull_back


def block_rule_with_levels(layer, x):
    """Rule of a `FocalBlock` that adds a reference: the same image without the context of this block.

    The new reference has the input and query of the image, and the gated levels of the first reference. The
    difference to it comes from the levels alone.

    Args:
        layer: `FocalBlock`.
        x: `Pair` of tensors (B, H, W, C) and (R, B or 1, H, W, C).

    Returns:
        Tuple of `Pair`, with R + 1 references, the gates of the image (B, H, W, L + 1), and `pull_back`. It
        takes multipliers (R + 1, B, H, W, C), and returns those of the input (R, B, H, W, C) and the evidence
        of the levels (B, H, W, L + 1). The global level comes last.
    """
    query, gated, gates, gated_back = _gated_rule(layer, x)
    total = _sums(gated)
    without = total.reference[0]
    x, query = (_with_reference(pair, pair.value) for pair in (x, query))
    total = _with_reference(total, without)
    y, rest_back = _rest_of_block_rule(layer, x, query, total)

    def pull_back(m):
        m_x, m_query, m_total = rest_back(m)
        levels = [_over_channels(m_total[-1] * (one.value - one.reference[0])) for one in gated]
        m_x = m_x[:-1, ...] + gated_back(m_query[:-1, ...], m_total[:-1, ...])
        return m_x, ops.concatenate(levels, axis=-1)

    return y, gates, pull_back


def _with_reference(pair, reference):
    """Pair with one more reference, a tensor (B or 1, ...)."""
    whole = ops.zeros_like(pair.value)  # an explicit batch, because tensors are not broadcast when joined
    references = (pair.reference + whole, reference[None, ...] + whole)
    return Pair(pair.value, ops.concatenate(references, axis=0))


def switched_off(layer, x, levels):
    """Output of a `FocalBlock`, and its output with some gated levels of the first reference.

    Args:
        layer: `FocalBlock`.
        x: `Pair` of tensors (B, H, W, C) and (R, B or 1, H, W, C).
        levels: list of int. Levels to replace, where L is the global one.

    Returns:
        `Pair` with one reference.
    """
    query, gated, _, _ = _gated_rule(layer, x)
    value = _sums(gated).value
    without = value - sum(gated[level].value - gated[level].reference[0] for level in levels)
    same = (Pair(one, one[None]) for one in (x.value, query.value))
    return _rest_of_block_rule(layer, *same, Pair(value, without[None]))[0]


def _gated_rule(block, x):
    """Rule from the input of a `FocalBlock` to its query, its gated levels, and the gates of the image.

    Returns:
        Tuple: `Pair`, list of `Pair`, tensor (B, H, W, L + 1), and `pull_back`.
    """
    x, norm_back = norm_rule(block.norm1, x) if block.norm_placement == "pre" else (x, _unchanged)
    layer = block.modulation
    channels, levels = x.value.shape[-1], layer.focal_levels
    projected, f_back = dense_rule(layer.f, x)
    parts = [split(one, (channels, channels, levels + 1)) for one in projected]
    query, context, gates = (Pair(*pair) for pair in zip(*parts, strict=True))
    gates_of_image = gates.value
    gates = [gates.map(lambda one, level=level: one[..., level : level + 1]) for level in range(levels + 1)]

    gated, gate_backs, context_backs = [], [], []
    for kernel, gate in zip(layer.kernels, gates, strict=False):
        context, context_back = _level_rule(*tensors_like(x.value, kernel), context)
        product, gate_back = product_rule(context, gate)
        gated.append(product)
        gate_backs.append(gate_back)
        context_backs.append(context_back)
    mean, mean_back = function_rule(gelu, context.map(spatial_mean))
    product, global_back = product_rule(mean, gates[-1])
    gated.append(product)
    positions = x.value.shape[-3] * x.value.shape[-2]

    def pull_back(m_query, m_total):
        m_mean, m_gate = global_back(m_total)
        m_gates = [_over_channels(m_gate)]
        m_context = mean_back(ops.sum(m_mean, axis=(-3, -2), keepdims=True)) / positions
        for gate_back, context_back in zip(reversed(gate_backs), reversed(context_backs), strict=True):
            m_level, m_gate = gate_back(m_total)
            m_gates.insert(0, _over_channels(m_gate))
            m_context = context_back(m_context + m_level)
        return norm_back(f_back(ops.concatenate([m_query, m_context, *m_gates], axis=-1)))

    return query, gated, gates_of_image, pull_back


def _level_rule(kernel, context):
    """Depthwise convolution and GELU. The transposed convolution has the kernel turned by 180 degrees."""
    turned = ops.flip(kernel, axis=(0, 1))

    def conv(one, kernel):
        return _by_image(lambda maps: depthwise_conv(maps, kernel), one)

    context, gelu_back = function_rule(gelu, context.map(lambda one: conv(one, kernel)))
    return context, lambda m: conv(gelu_back(m), turned)


def _by_image(function, x):
    """Apply a function of maps (N, H, W, C) to a tensor with any leading axes."""
    if len(x.shape) == 4:
        return function(x)
    y = function(ops.reshape(x, (-1, *x.shape[-3:])))
    return ops.reshape(y, (x.shape[0], -1, *y.shape[-3:]))


def _modulated_rule(layer, query, total):
    """Rule from query and sum of the gated levels to the output of `FocalModulation`."""
    share = 1 / (layer.focal_levels + 1) if layer.normalize_modulator else 1.0
    modulator, h_back = dense_rule(layer.h, total.map(lambda one: one * share))
    y, product_back = product_rule(query, modulator)
    y, norm_back = (y, _unchanged) if layer.norm is None else norm_rule(layer.norm, y)
    y, proj_back = dense_rule(layer.proj, y)

    def pull_back(m):
        m_query, m_modulator = product_back(norm_back(proj_back(m)))
        return m_query, h_back(m_modulator) * share

    return y, pull_back


def _rest_of_block_rule(layer, x, query, total):
    """Rule from input, query and sum of the gated levels to the output of a `FocalBlock`."""
    is_post = layer.norm_placement == "post"
    branch, modulated_back = _modulated_rule(layer.modulation, query, total)
    branch, norm1_back = norm_rule(layer.norm1, branch) if is_post else (branch, _unchanged)
    branch, scale1_back = _scale_rule(layer.scale1, branch)
    middle = _sums([x, branch])

    branch, before_back = (middle, _unchanged) if is_post else norm_rule(layer.norm2, middle)
    branch, fc1_back = dense_rule(layer.fc1, branch)
    branch, activation_back = function_rule(lambda one: activate(layer.activation, one), branch)
    branch, fc2_back = dense_rule(layer.fc2, branch)
    branch, after_back = norm_rule(layer.norm2, branch) if is_post else (branch, _unchanged)
    branch, scale2_back = _scale_rule(layer.scale2, branch)

    def pull_back(m):
        m = m + before_back(fc1_back(activation_back(fc2_back(after_back(scale2_back(m))))))
        return m, *modulated_back(norm1_back(scale1_back(m)))

    return _sums([middle, branch]), pull_back


def _scale_rule(layer, x):
    if layer is None:
        return x, _unchanged
    (gamma,) = tensors_like(x.value, layer.gamma)
    return x.map(lambda one: one * gamma), lambda m: m * gamma


def _sums(pairs):
    """Pair of the sums of several pairs."""
    return Pair(*(sum(ones[1:], ones[0]) for ones in zip(*pairs, strict=True)))


def spatial_mean(x):
    """Mean over the positions of a map: (..., H, W, C) to (..., 1, 1, C)."""
    return ops.sum(x, axis=(-3, -2), keepdims=True) / (x.shape[-3] * x.shape[-2])


def _mean(x):
    """Mean over channels. `ops.mean` computes float64 in float32 on torch."""
    return ops.sum(x, axis=-1, keepdims=True) / x.shape[-1]


def _over_channels(x):
    return ops.sum(x, axis=-1, keepdims=True)


def _unchanged(m):
    return m
