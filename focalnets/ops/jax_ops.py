"""Operations for JAX: a depthwise convolution and a GELU with gradients of their own.

On a CPU, XLA's grouped convolution is 30 to 80 times slower than torch's, forward and backward. There, a
depthwise convolution is a sum of k*k elementwise multiply-adds of shifted views, which XLA fuses into one
vectorized loop. Automatic differentiation of that sum would create k*k padded maps, so the gradient is
explicit: the input gradient is the same sum with the kernel rotated by 180 degrees, and the kernel gradient
is a scan over the images.

On an H200, the grouped convolution of cuDNN takes 0.6 of the time of the sum forward, and a quarter with the
gradients (`benchmarks/results`), so accelerators use it.
"""

import math

import jax
import jax.numpy as jnp


def depthwise_conv(x, kernel):
    return shifted_conv(x, kernel) if accelerator() is None else grouped_conv(x, kernel)


def grouped_conv(x, kernel):
    """Convolution of the compiler: cuDNN on a GPU."""
    return jax.lax.conv_general_dilated(
        x,
        kernel.reshape(*kernel.shape[:2], 1, -1),
        (1, 1),
        "SAME",
        feature_group_count=x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def shifted_conv(x, kernel):
    """Sum of shifted products, with its own gradient."""
    return _shifted_sum(x, kernel)


def _forward(x, kernel):
    return _shifted_sum(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    dx = _shifted_sum(dy, kernel[::-1, ::-1])
    return dx, _weight_gradient(x, dy, kernel.shape[0]).astype(kernel.dtype)


shifted_conv.defvjp(_forward, _backward)


def _shifted_sum(x, kernel):
    """Sum over i and j of kernel[i, j] * x shifted by (i, j), accumulated at least in float32."""
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    padded = _pad(x, size)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.zeros(x.shape, wide)
    for i in range(size):
        for j in range(size):
            total += padded[:, i : i + height, j : j + width].astype(wide) * kernel[i, j, :, 0]
    # Without the barrier, XLA fuses the k*k multiplications into every consumer and repeats them there. A
    # barrier after the GELU, in the same loop, would save nothing.
    return jax.lax.optimization_barrier(total.astype(x.dtype))


def _weight_gradient(x, dy, size):
    """Kernel gradient (k, k, C, 1): sum over batch and positions of dy times the shifted x.

    A scan over the images updates k*k accumulators of shape (H, W, C) in one vectorized loop. This is 3 to
    10 times faster than a separate reduction for each tap, and 2 to 4 times faster than one stacked
    accumulator. The accumulators take k*k*H*W*C*4 bytes.
    """
    height, width = x.shape[1:3]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = [(i, j) for i in range(size) for j in range(size)]

    def add_image(sums, image):
        padded, dy_image = image
        dy_image = dy_image.astype(wide)
        sums = [
            total + padded[i : i + height, j : j + width].astype(wide) * dy_image
            for total, (i, j) in zip(sums, taps, strict=True)
        ]
        return sums, None

    start = [jnp.zeros(x.shape[1:], wide) for _ in taps]
    sums, _ = jax.lax.scan(add_image, start, (_pad(x, size), dy))
    return jnp.stack([total.sum(axis=(0, 1)) for total in sums]).reshape(size, size, -1, 1)


def _pad(x, size):
    margin = size // 2
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


# Chebyshev fit in float64 of erf(z) / z for 0 <= z <= 3.8, as a polynomial of s = 2 (z / 3.8)^2 - 1 with the
# highest power last. The error in float32 is at most 2.4e-7. Beyond 3.8, erf differs from 1 by at most 8e-8.
_ERF_END = 3.8
_ERF_COEFFICIENTS = (
    0.3721076250076294,
    -0.18564116954803467,
    0.13773922622203827,
    -0.11118672788143158,
    0.09083803743124008,
    -0.07250513136386871,
    0.05502116307616234,
    -0.038979072123765945,
    0.02680395543575287,
    -0.018261125311255455,
    0.009772511199116707,
    -0.003362330375239253,
    0.002506387885659933,
    -0.002674839925020933,
    0.0009793848730623722,
)


def _erf(z):
    """erf without division and exponential, three times as fast as XLA's on a CPU."""
    if z.dtype != jnp.float32:
        return jax.lax.erf(z)
    s = jnp.square(z) * (2 / _ERF_END**2) - 1
    ratio = jnp.full_like(z, _ERF_COEFFICIENTS[-1])
    for coefficient in _ERF_COEFFICIENTS[-2::-1]:
        ratio = ratio * s + coefficient
    return jnp.where(jnp.abs(z) < _ERF_END, z * ratio, jnp.sign(z))


@jax.custom_vjp
def gelu(x):
    return x * _normal_distribution(x)


def _gelu_forward(x):
    return gelu(x), x  # saves only the input for the backward pass


def _gelu_backward(x, dy):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * math.pi) ** -0.5
    return ((_normal_distribution(wide) + wide * density).astype(x.dtype) * dy,)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_distribution(x):
    return 0.5 * (1 + _erf(x * 0.5**0.5))


def always(*_):
    return None


def linear(x, kernel, bias):
    """Matrix multiplication of flat rows. For the gradient of a map, XLA would make transposed copies."""
    y = x.reshape(-1, x.shape[-1]) @ kernel + bias
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


IMPLEMENTATIONS = {"linear": (("flat", always, linear),)}  # see `dispatch.optimized`


def value_and_gradient(function, x):
    y, pull_back = jax.vjp(function, x)
    return y, pull_back(jnp.ones_like(y))[0]


def accelerator():
    return None if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def prefer_bfloat16():
    return jax.default_backend() != "cpu"
