"""Processes of JAX: `jax.distributed`, and `keras.distribution.DataParallel` over all devices."""

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from focalnets.ops.processes import Processes


class JaxProcesses(Processes):
    """The compiler averages gradients and metrics, which belong to the global batch."""

    def __init__(self):
        super().__init__(jax.process_index(), jax.process_count(), jax.local_device_count())
        self.distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(self.distribution)

    def gather(self, values):
        mine = np.asarray(values, "float32")  # JAX has no float64
        return np.asarray(multihost_utils.process_allgather(mine), "float64").reshape(self.count, -1)

    def pause(self):
        keras.distribution.set_distribution(None)

    def proceed(self):
        keras.distribution.set_distribution(self.distribution)

    def close(self):
        super().close()
        keras.distribution.set_distribution(None)


def connect(launch):
    """Join the other processes, unless the program did so itself, and use all devices."""
    if launch is not None and launch.count > 1 and not jax.distributed.is_initialized():
        keras.distribution.initialize(launch.address, launch.count, launch.rank)
    return JaxProcesses()
