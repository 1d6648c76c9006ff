"""`Snapshot`: the complete state of a training run in one file, from which it resumes bit for bit.

Keras does not save the states of seed generators, and `keras.callbacks.BackupAndRestore` writes in place, so
that a crash while it writes loses both the old and the new state.
"""

import json
import os
import pathlib
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from focalnets.files import reason
from focalnets.npz import read_npz
from focalnets.ops.processes import fetch
from focalnets.output.files import writing
from focalnets.schema import checked, parse_json
from focalnets.training.task import ImageClassification

_META = "meta"


@dataclass(frozen=True)
class Snapshot:
    """State of a run after a batch.

    Attributes:
        epoch: int. Number of complete epochs.
        batch: int. Number of batches done in the next epoch.
        rows: list of dict. History.
        minutes: float. Training time over all sessions.
        arrays: list of arrays. Values of all variables, in the order of `variables`.
        names: list of str. Paths of the variables.
    """

    epoch: int
    batch: int
    rows: list[dict]
    minutes: float
    arrays: list[np.ndarray]
    names: list[str]


def variables(model):
    """All variables that training changes: weights, seeds, optimizer and metrics."""
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]


def take_snapshot(model, epoch, batch, rows, minutes):
    """Copy the state of a compiled and built model to a `Snapshot` in host memory.

    Every process of a run must call it. In process 0, the snapshot is complete.
    """
    found = variables(model)
    arrays = fetch(found, everywhere=False)
    return Snapshot(epoch, batch, list(rows), minutes, arrays, [variable.path for variable in found])


def restore(snapshot, model):
    """Assign the values of a snapshot to a model that was built and compiled in the same way.

    Raises:
        ValueError: if the number of variables or a shape differs.
    """
    found = variables(model)
    if len(found) != len(snapshot.arrays):
        raise ValueError(
            f"The snapshot has {len(snapshot.arrays)} variables, but the network has {len(found)}. Another "
            f"network, or another version of focalnets or Keras, wrote it. {_HINT}"
        )
    for variable, array, name in zip(found, snapshot.arrays, snapshot.names, strict=True):
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"{name} has shape {array.shape} in the snapshot and {tuple(variable.shape)} in the network. "
                f"{_HINT}"
            )
    for variable, array in zip(found, snapshot.arrays, strict=True):
        variable.assign(array)


def write_snapshot(path, snapshot):
    """Write a snapshot atomically: after a power failure, the old or the new file is complete."""
    meta = {key: getattr(snapshot, key) for key in ("epoch", "batch", "rows", "minutes", "names")}
    arrays = {f"{index:05}": array for index, array in enumerate(snapshot.arrays)}
    _write(path, {_META: np.array(json.dumps(meta)), **arrays})


def read_snapshot(path):
    """The `Snapshot` in a file, or None if the file does not exist. ValueError if it is damaged."""
    if not pathlib.Path(path).exists():
        return None
    arrays = read_npz(path)
    if _META not in arrays:
        raise ValueError(f"{path} is damaged: it is not a snapshot. {_HINT}")
    meta = parse_json(str(arrays.pop(_META)), path, finite=False)  # a loss may be NaN
    checked(meta, _Meta, path, _HINT)
    columns = {frozenset(row) for row in meta["rows"]}
    if len(columns) > 1 or not all(names >= {"epoch", *ImageClassification.monitored} for names in columns):
        raise ValueError(f"{path} is damaged: the rows of its history lack columns. {_HINT}")
    return Snapshot(arrays=[arrays[key] for key in sorted(arrays)], **meta)


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    epoch: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    batch: Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    rows: list[dict[str, int | float]]
    minutes: Annotated[float, msgspec.Meta(ge=0)]
    names: list[str]


_HINT = "Start a new run."


def write_weights(path, arrays):
    """Write a list of arrays atomically."""
    _write(path, {f"{index:05}": array for index, array in enumerate(arrays)})


def read_weights(path):
    """Read the list of arrays that `write_weights` wrote."""
    arrays = read_npz(path)
    return [arrays[key] for key in sorted(arrays)]


def _write(path, arrays):
    path = pathlib.Path(path)
    try:
        with writing(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"Cannot write {path} ({reason(error)}). The previous file is unchanged.") from error
