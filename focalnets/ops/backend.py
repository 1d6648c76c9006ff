"""Properties of the active backend, from its module `<backend>_ops.py`."""

import importlib

import keras

# Imported here, because torch's compiler cannot trace an import inside a function.
_OPS = importlib.import_module(f"focalnets.ops.{keras.backend.backend()}_ops")


def backend_ops():
    """Module of the active backend. The modules of other backends cannot be imported."""
    return _OPS


def fused_adamw():
    """Function that updates all variables at once, or None where the compiler fuses the plain loop."""
    return getattr(backend_ops(), "adamw", None)


def accelerator():
    """Name of the accelerator that this process computes on, or None on a CPU."""
    return backend_ops().accelerator()


def bfloat16_supported():
    """Check whether bfloat16 is at least as fast as float32. Without support, torch is 150x slower."""
    return getattr(backend_ops(), "bfloat16_supported", lambda: True)()


def prefer_bfloat16():
    """Check whether training uses bfloat16 by default. On a CPU, only torch can be faster with it."""
    return backend_ops().prefer_bfloat16()
