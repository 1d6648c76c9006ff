"""How focalnets computes: by the plain definition of an operation, or by a fused version of it.

A fused version gives the same numbers (1e-5 in float32) in fewer passes over memory. The environment
variable FOCALNETS_FUSED (auto, 1 or 0) sets the start; `set_fused` overrides it.
"""

import collections
import os

_SETTINGS = {"auto": None, "1": True, "0": False}
_fused = "unread"

# (operation, version) -> how often it was chosen. Under a compiler a choice is made once, while tracing.
_dispatches = collections.Counter()


def set_fused(fused):
    """Choose how the expensive operations are computed from now on.

    Args:
        fused: None for the fused version wherever there is one that is known to pay (the default); True
            for the same, but with an error where there is none; False for the plain definition.

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
