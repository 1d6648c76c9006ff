"""Properties of the active backend, from its module `<backend>_ops.py`."""

import contextlib
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


def on_host():
    """Context in which Keras computes on the host, on torch. It changes nothing on other backends.

    Torch starts operations of a GPU ahead of time. To create a tensor from a number, or to read one, it waits
    until all of them are finished. Counters, rates and seeds therefore stay on the host.

    >>> from keras import ops
    >>> from focalnets.ops.backend import on_host
    >>> with on_host():
    ...     step = ops.ones(())
    """
    return getattr(backend_ops(), "on_host", contextlib.nullcontext)()


def from_host(x, like):
    """Copy a tensor of the host to the device of another tensor, without waiting for the device."""
    return getattr(backend_ops(), "from_host", lambda x, like: x)(x, like)


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
