"""The JAX formulation: a sum of shifted products, with its own gradient.

XLA's grouped convolution runs 30 to 80 times slower than torch's on a CPU, forward and backward. A
depthwise convolution is also k*k elementwise multiply-adds of shifted views, which XLA fuses into one
vectorised loop. Differentiating that sum automatically gives k*k padded full-size maps, so the gradient
is written out: the data gradient is the same sum with the kernel turned by 180 degrees, the weight
gradient a scan over the images.

Measured on CPUs. It is right on every device, but on a GPU the scan is sequential and the barrier keeps
XLA from fusing the sum into what follows: to be measured against cuDNN there before anyone calls it fast.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def depthwise_conv(x, kernel):
    return _shifted_sum(x, kernel)


def _forward(x, kernel):
    return _shifted_sum(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    dx = _shifted_sum(dy, kernel[::-1, ::-1])
    return dx, _weight_gradient(x, dy, kernel.shape[0]).astype(kernel.dtype)


depthwise_conv.defvjp(_forward, _backward)


def _shifted_sum(x, kernel):
    """sum_ij kernel[i,j] * x shifted by (i,j), accumulated in float32 (or wider)."""
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    padded = _pad(x, size)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.zeros(x.shape, wide)
    for i in range(size):
        for j in range(size):
            total += padded[:, i : i + height, j : j + width].astype(wide) * kernel[i, j, :, 0]
    # Without the barrier XLA fuses the k*k products into every consumer and computes them each time.
    return jax.lax.optimization_barrier(total.astype(x.dtype))


def _weight_gradient(x, dy, size):
    """(k, k, C, 1): for each tap, the sum over batch and positions of dy times the shifted x.

    A scan over the images keeps k*k accumulators, each one (H, W, C) map, which XLA updates in one
    vectorised pass: 3 to 10 times faster than reducing each tap over B, H and W on its own, and 2 to 4
    times faster than one stacked accumulator. They take k*k*H*W*C*4 bytes.
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


def gelu(x):
    # jax.nn.gelu(approximate=False) goes through erfc, far slower than erf on XLA's CPU.
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))
