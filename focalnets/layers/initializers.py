"""Initializers, by default those of the original code.

The original code draws the kernels of its `nn.Linear` modules (f, proj, MLP, head) from a normal
distribution with standard deviation 0.02 and sets their biases to zero. (Its `trunc_normal_` truncates at
+-2, a hundred standard deviations, which has no effect.) Its `nn.Conv2d` modules (patch embeddings,
depthwise kernels, h) keep torch's default: kernels and biases are uniform within +-1/sqrt(fan_in).

Values are drawn on the host. JAX would compile a program for every shape (13 s instead of 1 s for tiny_srf),
and on the host one seed gives the same network on every backend.

Each function takes the user's `kernel_initializer`, which replaces the default unless it is None. Each call
returns new objects, because a Keras initializer object with a seed repeats its values.
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
    """Context in which `HostInitializer` returns zeros. Drawing values takes seconds before weights load."""
    token = _DRAW.set(False)
    try:
        yield
    finally:
        _DRAW.reset(token)


@keras.saving.register_keras_serializable(package="focalnets")
class HostInitializer(keras.initializers.Initializer):
    """Initializer that draws random values of mean 0 with NumPy.

    Args:
        distribution: str. "normal" or "uniform".
        scale: float. Standard deviation of the normal, or bound of the uniform distribution.
        seed: int. Seed of the random numbers. Defaults to `None`, which draws a seed.

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
    """Kernel and bias initializers of a dense layer."""
    if custom is not None:
        return _fresh(custom), "zeros"
    return HostInitializer("normal", 0.02), "zeros"


def conv_initializers(custom, fan_in):
    """Kernel and bias initializers of a convolution with `fan_in` inputs per output value."""
    if custom is not None:
        return _fresh(custom), "zeros"
    bound = fan_in**-0.5
    return HostInitializer("uniform", bound), HostInitializer("uniform", bound)


def depthwise_initializer(custom, size):
    """Initializer of a (size, size, C, 1) depthwise kernel.

    Keras would read a fan-in of size * size * C from that shape. A custom initializer therefore gets the
    shape (size, size, 1, C) of the equivalent grouped convolution.
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
            f"kernel_initializer has the seed {config['seed']}, which would give several kernels the same "
            "values. Leave out the seed and call keras.utils.set_random_seed instead."
        )
    return initializer.__class__.from_config(config)
