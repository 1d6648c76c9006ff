"""How focalnets computes: by the plain definition of an operation, or by a fused version of it.

A fused version gives the same numbers (1e-5 in float32) in fewer passes over memory. The environment
variable FOCALNETS_FUSED (auto, 1 or 0) sets the start; `set_fused` overrides it.
"""

import collections
import ctypes
import os

_SETTINGS = {"auto": None, "1": True, "0": False}
_fused = "unread"

# (operation, version) -> how often it was chosen. Under a compiler a choice is made once, while tracing.
_dispatches = collections.Counter()


def set_fused(fused):
    """Choose how the expensive operations are computed from now on.

    Args:
        fused: None for the fused version wherever there is one that is known to pay (the default); True
            for any, measured or not, and an error where `focal_context` has none; False for the plain
            definitions.

    Raises:
        ValueError: on any other value.

    >>> from focalnets import config
    >>> config.set_fused(False)
    >>> config.fused()
    False
    >>> config.set_fused(None)
    """
    global _fused
    if fused is not None and not isinstance(fused, bool):
        raise ValueError(f"set_fused takes None, True or False; got {fused!r}.")
    _fused = fused


def fused():
    """The setting: None, True or False."""
    if _fused == "unread":
        word = os.environ.get("FOCALNETS_FUSED", "auto")
        if word not in _SETTINGS:
            raise ValueError(f"FOCALNETS_FUSED must be auto, 1 or 0; got {word!r}.")
        set_fused(_SETTINGS[word])
    return _fused


def count_dispatch(operation, version):
    """Note that `version` of `operation` was chosen; the dispatcher calls this."""
    _dispatches[operation, version] += 1


def dispatches():
    """How often each version of each operation was chosen: a dict (operation, version) -> number.

    A benchmark or test of a fast path that finds no dispatch to it has measured something else.

    >>> from focalnets import config
    >>> isinstance(config.dispatches(), dict)
    True
    """
    return dict(_dispatches)


def keep_freed_memory():
    """Let the process keep the memory that it frees, for its next step; on Linux with glibc only.

    A training step frees gigabytes and asks for them again in the next one. Given back to the system in
    between, each page has to be mapped and cleared anew: on two cores that took a third of a step of a small
    net on JAX. `focalnets train`, `evaluate` and `predict` do this. A program of your own may, before the
    backend has computed anything, if it need not give memory back.

    Returns:
        Whether it was done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return False
    # From malloc.h: one arena (the others are small), no separate mappings, no trimming.
    return all([mallopt(-8, 1), mallopt(-4, 0), mallopt(-1, -1)])
