"""Processes that train one network together, each with its own part of every batch."""

import contextlib
import hashlib
import importlib

import keras
import numpy as np
from keras import ops

_current = None

ENDED = "Another process of the run ended. See its message. Resume the run from its last snapshot."


class OtherProcessError(ConnectionError):
    """Raised in a process of a run when another one failed or ended."""


class Processes:
    """This process among all processes of a run. Without a subclass for the backend, it computes alone.

    Attributes:
        rank: int. Number of this process, from 0. Only process 0 writes files.
        count: int. Number of processes.
        part, parts: int. Number of the part of each batch that this process computes, from 0, and number of
            parts. Processes that share one network compute the same part.
        devices: int. Number of copies of the network in this process, which share its part.
        sums_metrics: bool. Whether each process has its own metrics, which must be added up.
        rows: int or None. Number of images in the current batch of all processes.
    """

    sums_metrics = False
    rows = None

    def __init__(self, rank, count, devices=1, part=None, parts=None):
        self.rank, self.count, self.devices = rank, count, devices
        self.part, self.parts = (rank, count) if part is None else (part, parts)

    def gather(self, values):
        """Numbers of all processes, exact to float32. Every process must call it.

        Args:
            values: sequence of N numbers.

        Returns:
            float64 array of shape (count, N).
        """
        return np.asarray([values], "float64")

    def fetch(self, variables, everywhere=True):
        """Values of variables as NumPy arrays. Every process must call it: they may hold parts of them.

        Args:
            variables: list of Keras variables.
            everywhere: bool. Whether every process needs the values, or only process 0. The others then get
                None for variables that are split. Defaults to `True`.
        """
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    def mean(self, gradients):
        """Averages of gradients over the processes, where the compiler does not compute them."""
        return gradients

    def lost(self, error):
        """Whether an error of the backend says that another process ended."""
        return False

    def leave(self):
        """Let the other processes notice that this one failed."""

    def wait(self):
        """Wait until every process is here."""
        self.gather([0])

    def is_same(self, text):
        """Check whether every process has the same text."""
        words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "uint16")  # exact in float32
        found = self.gather(words)
        return bool((found == found[0]).all())

    def pause(self):
        """Compute alone until `proceed`."""

    def proceed(self):
        """Compute with the other processes again."""

    def close(self):
        """End the connection. Afterwards, this process computes alone."""
        global _current
        _current = None


def current():
    """The `Processes` of this program, or None if it computes alone."""
    return _current


def is_connected():
    """Whether the program itself connected its processes, without a launcher's variables."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return False
    return importlib.import_module(f"focalnets.ops.{backend}_processes").is_connected()


def start(launch, model_parallel=1):
    """Connect to the other processes of a run.

    Args:
        launch: `training.launch.Launch`.
        model_parallel: int. Number of devices that share one copy of the network. Defaults to 1.

    Returns:
        `Processes`.

    Raises:
        ValueError: if the backend cannot train on several processes, or does not split networks.
    """
    global _current
    backend = keras.backend.backend()
    if backend == "tensorflow":
        raise ValueError(
            "TensorFlow cannot train on several processes: MultiWorkerMirroredStrategy does not work with "
            "Keras 3 (keras-team/keras#20585). Use --backend torch or jax."
        )
    module = importlib.import_module(f"focalnets.ops.{backend}_processes")
    _current = module.connect(launch, model_parallel)
    return _current


def fetch(variables, everywhere=True):
    """Values of variables, see `Processes.fetch`, also in a program that computes alone."""
    among = Processes(0, 1) if _current is None else _current
    return among.fetch(variables, everywhere)


def mean_gradients(gradients):
    """Averages of gradients over all processes, or the gradients of a program that computes alone."""
    return gradients if _current is None else _current.mean(gradients)


@contextlib.contextmanager
def alone():
    """Compute without the other processes during the block."""
    among = _current
    if among is not None:
        among.pause()
    try:
        yield
    finally:
        if among is not None:
            among.proceed()


def rows_for_process(draw, rows):
    """Random factors for the images of this process.

    On torch, each process draws the factors of the whole batch and takes its own part, so that any number of
    processes has the same factors. On JAX, the compiler does this.

    Args:
        draw: Function of the number of images. Returns a tensor with that many rows.
        rows: int. Number of images of this process. The last ones may be padding, which gets factors of 1.

    Returns:
        Tensor with `rows` rows.
    """
    if _current is None or _current.rows is None or not _current.sums_metrics:
        return draw(rows)
    first = _current.rank * rows
    own = draw(_current.rows)[first : first + rows]
    missing = rows - own.shape[0]
    return (
        ops.pad(own, [(0, missing)] + [(0, 0)] * (len(own.shape) - 1), constant_values=1) if missing else own
    )
