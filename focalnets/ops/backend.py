"""Properties of the active backend, from its module `<backend>_ops.py`."""

import importlib

import keras
from keras import ops

# Imported here, because torch's compiler cannot trace an import inside a function.
_OPS = importlib.import_module(f"focalnets.ops.{keras.backend.backend()}_ops")


def backend_ops():
    """Module of the active backend. The modules of other backends cannot be imported."""
    return _OPS


def fused_adamw():
    """Function that updates all variables at once, or None where the compiler fuses the plain loop."""
    return getattr(backend_ops(), "adamw", None)


def value_and_gradient(function, x):
    """Values of a function and the gradient of their sum.

    Args:
        function: Function of a tensor. Returns a tensor.
        x: Tensor.

    Returns:
        Tuple: `function(x)`, and the gradient, of the shape of `x`.

    >>> from keras import ops
    >>> from focalnets.ops.backend import value_and_gradient
    >>> _, gradient = value_and_gradient(ops.square, ops.array([3.0]))
    >>> float(gradient[0])
    6.0
    """
    return backend_ops().value_and_gradient(function, ops.convert_to_tensor(x))


def accelerator():
    """Name of the accelerator that this process computes on, or None on a CPU."""
    return backend_ops().accelerator()


def bfloat16_supported():
    """Check whether bfloat16 is at least as fast as float32. Without support, torch is 150x slower."""
    return getattr(backend_ops(), "bfloat16_supported", lambda: True)()


def prefer_bfloat16():
    """Check whether training uses bfloat16 by default. On a CPU, only torch can be faster with it."""
    return backend_ops().prefer_bfloat16()
