"""Start and end of a run on several processes, and what all of them must have in common."""

import contextlib
import dataclasses
import hashlib
import json
import logging

import keras
import numpy as np

from focalnets.ops import processes as among
from focalnets.ops.processes import ENDED, OtherProcessError
from focalnets.training.launch import needed_launch

_log = logging.getLogger("focalnets")


@contextlib.contextmanager
def joined_processes(distributed, model_parallel=1):
    """Connect to the other processes of a run during the block, see `train`.

    Yields:
        `Processes`, or None to compute alone.

    Raises:
        ValueError: if there is no launcher, or the backend cannot train on several processes.
    """
    if model_parallel < 1:
        raise ValueError(f"model_parallel must be at least 1; got {model_parallel}.")
    if model_parallel > 1 and distributed is None:
        distributed = True
    launch = None
    if distributed is False or not among.is_connected():
        launch = needed_launch(distributed, keras.backend.backend())
    elif distributed is None:
        distributed = True
    if launch is None and not distributed:
        yield None
        return
    if among.current() is not None:
        raise RuntimeError("This process is training already. Train one network at a time.")
    joined = among.start(launch, model_parallel)
    level = _log.level
    if joined.rank > 0:
        _log.setLevel(logging.ERROR)  # process 0 reports
    try:
        yield joined
        try:
            joined.wait()  # until process 0 has written its files
        except OtherProcessError as error:
            if joined.rank:
                raise
            _log.warning("The run is complete. %s", error)
    except Exception as error:
        joined.leave()
        if joined.lost(error):
            raise OtherProcessError(ENDED) from error
        raise
    finally:
        _log.setLevel(level)
        joined.close()


@contextlib.contextmanager
def reporting_to_all(joined):
    """Raise `OtherProcessError` after the block if it failed in another process."""
    if joined is None:
        yield
        return
    try:
        yield
    except Exception:
        joined.gather([1])
        raise
    failed = joined.gather([0])[:, 0]
    if failed.any():
        raise OtherProcessError(f"Process {failed.argmax()} of {joined.count} failed. See its message.")


def check_equal(joined, trainer, fingerprint, snapshot):
    """Raise a ValueError if the processes of a run would not compute the same.

    Args:
        joined: `Processes` or None.
        trainer: `Trainer`.
        fingerprint: str. Result of `trainer.fingerprint`.
        snapshot: `Snapshot` to resume from, or None for a new run.
    """
    if joined is None:
        return
    recipe = dataclasses.replace(trainer.recipe, preset="", data="")  # paths may differ between hosts
    recipe = json.dumps(dataclasses.asdict(recipe), sort_keys=True)
    state = "new" if snapshot is None else _digest(snapshot.arrays, snapshot.epoch, snapshot.batch)
    variables = trainer.classifier.variables  # one at a time: all of them may not fit into memory
    parts = {
        "data": fingerprint,
        "settings": f"{keras.backend.backend()} {keras.__version__} {recipe}",
        "snapshots (or only some resume)": state,
        "initial weights": _digest(array for one in variables for array in joined.fetch([one])),
    }
    for name, text in parts.items():
        if not joined.is_same(text):
            raise ValueError(
                f"The processes have different {name}. Give all of them the same command, files and "
                "versions, and a run directory that all of them see."
            )


def _digest(arrays, *numbers):
    digest = hashlib.sha256(repr(numbers).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
