"""Snapshot: all that a training run needs to go on as if it had never stopped, in one file.

Keras saves neither the states of its seed generators nor, with an optimizer, what it does not decay, and
its BackupAndRestore writes in place, so that a crash while it writes loses both the old and the new.
"""

import json
import os
import pathlib
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from keras import ops

from focalnets.files import reason
from focalnets.npz import read_npz
from focalnets.output.files import writing
from focalnets.schema import checked, parse_json
from focalnets.training.task import ImageClassification

_META = "meta"


@dataclass(frozen=True)
class Snapshot:
    """State after some batch.

    Attributes:
        epoch: epochs that are complete.
        batch: batches of the next epoch that are done.
        rows: the rows of the history so far.
        minutes: of training so far, over all sessions.
        arrays: values of all variables, in the order of `variables`.
        names: their paths, to notice another network.
    """

    epoch: int
    batch: int
    rows: list[dict]
    minutes: float
    arrays: list[np.ndarray]
    names: list[str]


def variables(model):
    """All variables that training changes: weights, seeds, optimizer (averages, accumulators), metrics."""
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]


def take_snapshot(model, epoch, batch, rows, minutes):
    """A `Snapshot` of a compiled and built model, with the values copied to the host."""
    found = variables(model)
    arrays = [np.array(ops.convert_to_numpy(variable)) for variable in found]
    return Snapshot(epoch, batch, list(rows), minutes, arrays, [variable.path for variable in found])


def restore(snapshot, model):
    """Put a snapshot's values into a model that was built and compiled in the same way.

    Raises:
        ValueError: naming the first variable that does not fit.
    """
    found = variables(model)
    # The optimizer's paths begin with a name that Keras counts up; the rest must agree.
    if len(found) != len(snapshot.arrays):
        raise ValueError(
            f"The snapshot holds {len(snapshot.arrays)} variables, the network {len(found)}: "
            "it is another network's, or another version of focalnets or Keras wrote it."
        )
    for variable, array, name in zip(found, snapshot.arrays, snapshot.names, strict=True):
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"The snapshot's {name} has shape {array.shape}, the network's {tuple(variable.shape)}."
            )
    for variable, array in zip(found, snapshot.arrays, strict=True):
        variable.assign(array)


def write_snapshot(path, snapshot):
    """Write a snapshot so that, whenever the power fails, either the old file is whole or the new one."""
    meta = {key: getattr(snapshot, key) for key in ("epoch", "batch", "rows", "minutes", "names")}
    arrays = {f"{index:05}": array for index, array in enumerate(snapshot.arrays)}
    _write(path, {_META: np.array(json.dumps(meta)), **arrays})


def read_snapshot(path):
    """The `Snapshot` in a file; None if there is none. ValueError if the file is damaged."""
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
    """Write a list of arrays in the same safe way."""
    _write(path, {f"{index:05}": array for index, array in enumerate(arrays)})


def read_weights(path):
    """The list that `write_weights` wrote."""
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
        raise OSError(f"{path} cannot be written ({reason(error)}); what stood there is whole.") from error
