"""Start and end of a run on several processes, and what all of them must have in common."""

import contextlib
import hashlib
import logging

import keras

from focalnets.ops import processes as among
from focalnets.ops.processes import OtherProcessError
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
    launch = needed_launch(distributed, keras.backend.backend())
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
        joined.wait()  # until process 0 has written its files
    except Exception as error:
        if joined.lost(error):
            raise OtherProcessError(f"Another process of the run ended ({error}).") from error
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


def check_equal(joined, trainer, fingerprint):
    """Raise a ValueError if the processes of a run have different data or different initial weights."""
    if joined is None:
        return
    if not joined.is_same(fingerprint):
        raise ValueError(
            "The processes read different data. Give every process the same files, and the same settings."
        )
    digest = hashlib.sha256()
    for array in joined.fetch(trainer.classifier.variables):
        digest.update(array.tobytes())
    if not joined.is_same(digest.hexdigest()):
        raise ValueError(
            "The processes start from different weights. Use the same machine type and versions everywhere."
        )
