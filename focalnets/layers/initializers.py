"""Initial values, upstream's by default: they differ between products and convolutions.

Upstream draws the kernels of its `nn.Linear` modules (f, proj, MLP, head) with deviation 0.02 and zeroes
their biases (its `trunc_normal_` cuts at +-2, a hundred deviations out, so it is a plain normal), and
leaves its `nn.Conv2d` modules (patch embeddings, depthwise kernels, h) at torch's default, uniform within
+-1/sqrt(fan_in), biases included.

The values are drawn on the host: JAX would compile a program for every shape (13 s for tiny_srf instead
of 1), and one seed gives the same network on every backend.

Each function takes the user's `kernel_initializer`, which wins over upstream's rule when it is not
None, and returns fresh initializers: a Keras initializer gives the same values each time it is called.
"""

import contextlib
import contextvars

import keras
import numpy as np
from keras import ops

from focalnets.layers.seeds import resolve_seed

_DRAW = contextvars.ContextVar("draw", default=True)


@contextlib.contextmanager
def skip_initialization():
    """In this block `HostInitializer` gives zeros: weights will be loaded, and drawing takes seconds."""
    token = _DRAW.set(False)
    try:
        yield
    finally:
        _DRAW.reset(token)


@keras.saving.register_keras_serializable(package="focalnets")
class HostInitializer(keras.initializers.Initializer):
    """Random values of mean 0 drawn with NumPy.

    Args:
        distribution: "normal" (`scale` is the deviation) or "uniform" (`scale` is the bound).
        scale: see above.
        seed: integer, or None to draw one.

    >>> from focalnets.layers.initializers import HostInitializer
    >>> tuple(HostInitializer("uniform", 0.1, seed=0)((2, 3), "float32").shape)
    (2, 3)
    """

    def __init__(self, distribution, scale, seed=None):
        self.distribution = distribution
        self.scale = scale
        self.seed = resolve_seed(seed)

    def __call__(self, shape, dtype=None):
        if not _DRAW.get():
            return ops.convert_to_tensor(np.zeros(shape, "float32"), dtype=dtype)
        generator = np.random.default_rng(self.seed)
        if self.distribution == "normal":
            values = generator.standard_normal(shape, dtype="float32")
        else:
            values = 2.0 * generator.random(shape, dtype="float32") - 1.0
        return ops.convert_to_tensor(np.float32(self.scale) * values, dtype=dtype)

    def get_config(self):
        return {"distribution": self.distribution, "scale": self.scale, "seed": self.seed}


def dense_initializers(custom):
    """Kernel and bias initializer of a pointwise product."""
    if custom is not None:
        return _fresh(custom), "zeros"
    return HostInitializer("normal", 0.02), "zeros"


def conv_initializers(custom, fan_in):
    """Kernel and bias initializer of a convolution with `fan_in` inputs a value."""
    if custom is not None:
        return _fresh(custom), "zeros"
    bound = fan_in**-0.5
    return HostInitializer("uniform", bound), HostInitializer("uniform", bound)


def depthwise_initializer(custom, size):
    """Initializer of a (size, size, C, 1) depthwise kernel.

    A fan-based initializer would read C inputs a value from that shape where there is one, so a custom
    one sees the kernel as the grouped convolution (size, size, 1, C) that it is.
    """
    if custom is None:
        return conv_initializers(None, fan_in=size * size)[0]
    initializer = _fresh(custom)

    def draw(shape, dtype=None):
        height, width, channels, _ = shape
        return ops.transpose(initializer((height, width, 1, channels), dtype=dtype), (0, 1, 3, 2))

    return draw


def _fresh(initializer):
    config = initializer.get_config()
    if config.get("seed") is not None:
        raise ValueError(
            "kernel_initializer serves many kernels, and with a seed it would give equal ones: leave its "
            "seed out and call keras.utils.set_random_seed instead."
        )
    return initializer.__class__.from_config(config)
