"""Processes of JAX: `jax.distributed`, and a distribution of Keras over all devices."""

import atexit
import os
import sys

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from focalnets.ops.processes import Processes

# Kernels by path, with the axis that is split. Each pair of matrices is split so that only the result of the
# second one must be added up over the devices: fc1 by columns and fc2 by rows, h by columns and proj by rows.
# The columns of f have several meanings, so it is split by rows.
# Source: Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3.
_SPLIT = {
    r".*/fc1/kernel": (None, "model"),
    r".*/fc1/bias": ("model",),
    r".*/fc2/kernel": ("model", None),
    r".*/modulation/f/kernel": ("model", None),
    r".*/modulation/h/kernel": (None, "model"),
    r".*/modulation/h/bias": ("model",),
    r".*/modulation/proj/kernel": ("model", None),
    r".*downsample/proj/kernel": (None, None, None, "model"),
}


# A process that was killed ends the others after this time at the latest. The default of JAX is 100.
HEARTBEAT_SECONDS = 30


class JaxProcesses(Processes):
    """The compiler averages gradients and metrics, which belong to the global batch."""

    def __init__(self, model_parallel):
        rank, count, local = jax.process_index(), jax.process_count(), jax.local_device_count()
        if (local * count) % model_parallel or (local % model_parallel and model_parallel % local):
            raise ValueError(
                f"model_parallel={model_parallel} does not divide {local * count} devices of {count} "
                "processes into groups. Use a divisor of the devices of a process, or a multiple of them."
            )
        together = max(1, model_parallel // local)  # processes that share one network
        copies = max(1, local // model_parallel)
        super().__init__(rank, count, copies, rank // together, count // together)
        if model_parallel == 1:
            self.distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        else:
            layouts = layout_map(model_parallel)
            self.distribution = keras.distribution.ModelParallel(
                layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
            )
        keras.distribution.set_distribution(self.distribution)

    def gather(self, values):
        mine = np.asarray(values, "float32")  # JAX has no float64
        return np.asarray(multihost_utils.process_allgather(mine), "float64").reshape(self.count, -1)

    def fetch(self, variables, everywhere=True):
        return [self._fetched(variable.value, everywhere or self.rank == 0) for variable in variables]

    def _fetched(self, value, needed):
        if not value.is_fully_addressable and not value.is_fully_replicated:
            value = multihost_utils.process_allgather(value, tiled=True)
            if not needed:  # one variable at a time fits into memory, all of them may not
                return None
        return np.array(value)

    def leave(self):
        # At its end, a process of JAX waits for the others for five minutes, while they wait for it. This
        # function is called before, and lets it end at once.
        if self.count > 1:
            atexit.register(_end)

    def lost(self, error):
        # JAX raises its own errors, or ValueErrors, with the text of the library that lost the connection.
        return any(word in str(error) for word in ("Gloo ", "NCCL ", "UNAVAILABLE: "))

    def pause(self):
        keras.distribution.set_distribution(None)

    def proceed(self):
        keras.distribution.set_distribution(self.distribution)

    def close(self):
        super().close()
        keras.distribution.set_distribution(None)


def _end():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def layout_map(model_parallel):
    """`keras.distribution.LayoutMap` that splits a FocalNet over groups of devices.

    Args:
        model_parallel: int. Number of devices that share one network. It must divide the channels of the
            first stage.
    """
    devices = np.array(keras.distribution.list_devices()).reshape(-1, model_parallel)
    mesh = keras.distribution.DeviceMesh(devices.shape, ["batch", "model"], devices)
    layouts = keras.distribution.LayoutMap(mesh)
    for path, axes in _SPLIT.items():
        layouts[path] = axes
    return layouts


def _local_devices(launch):
    """Numbers of the devices of this process on its host, or None for all that it sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    restricted = seen and "," not in seen
    return None if launch.local_count == 1 or restricted else [launch.local_rank]


def is_connected():
    return jax.distributed.is_initialized()


def connect(launch, model_parallel=1):
    """Join the other processes, unless the program did so itself, and use all devices."""
    if launch is not None and launch.count > 1 and not jax.distributed.is_initialized():
        jax.distributed.initialize(
            launch.address,
            launch.count,
            launch.rank,
            local_device_ids=_local_devices(launch),
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    return JaxProcesses(model_parallel)
