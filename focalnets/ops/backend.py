"""What else differs between backends: optional functions of `torch_ops.py` and its like."""

import importlib

import keras

# Imported with this file, not in the function: torch's compiler stops at an import.
_OPS = importlib.import_module(f"focalnets.ops.{keras.backend.backend()}_ops")


def backend_ops():
    """The module of the active backend; only one of them can be imported."""
    return _OPS


def fused_adamw():
    """A function that updates all variables together, or None: XLA and TensorFlow fuse the plain loop."""
    return getattr(backend_ops(), "adamw", None)


def accelerator():
    """The name of the device that this process computes on, or None if that is the CPU."""
    return backend_ops().accelerator()


def bfloat16_supported():
    """Whether bfloat16 computes at least as fast as float32; without units for it, torch is 150x slower."""
    return getattr(backend_ops(), "bfloat16_supported", lambda: True)()


def prefer_bfloat16():
    """Whether to train in bfloat16 here unless told otherwise; on a CPU only torch gains by it."""
    return backend_ops().prefer_bfloat16()
