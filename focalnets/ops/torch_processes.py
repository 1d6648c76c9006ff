"""Processes of torch: `torch.distributed` with gloo between processors and NCCL between GPUs."""

import contextlib

import numpy as np
import torch
import torch.distributed as dist

from focalnets.ops.processes import ENDED, OtherProcessError, Processes


class TorchProcesses(Processes):
    """Averages gradients in one all-reduce per step. `owner` is whether it made the process group."""

    sums_metrics = True

    def __init__(self, owner):
        super().__init__(dist.get_rank(), dist.get_world_size())
        self.owner = owner

    def gather(self, values):
        mine = torch.as_tensor(np.asarray(values, "float64"))  # on the host: gloo
        found = [torch.empty_like(mine) for _ in range(self.count)]
        with _reporting():
            dist.all_gather(found, mine)
        return torch.stack(found).numpy()

    @torch.no_grad()
    def mean(self, gradients):
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return gradients
        flat = torch.cat([gradient.reshape(-1) for gradient in given])
        with _reporting():
            dist.all_reduce(flat)
        flat /= self.count
        sizes = [gradient.numel() for gradient in given]
        parts = iter(flat.split(sizes))
        return [None if one is None else next(parts).view(one.shape) for one in gradients]

    def close(self):
        super().close()
        if self.owner:
            dist.destroy_process_group()


@contextlib.contextmanager
def _reporting():
    """Raise `OtherProcessError` for the errors of a lost connection."""
    try:
        yield
    except RuntimeError as error:
        raise OtherProcessError(ENDED) from error


def is_connected():
    return dist.is_available() and dist.is_initialized()


def connect(launch, model_parallel=1):
    """Join the process group of a launcher. A group that the program made itself is used as it is."""
    if model_parallel > 1:
        raise ValueError(
            "model_parallel needs JAX. On torch, ModelParallel of Keras is not released "
            "(keras-team/keras#23418), and fully_shard trains a Keras model wrongly."
        )
    if not dist.is_available():
        raise ValueError("This build of torch has no torch.distributed.")
    if dist.is_initialized():
        try:
            dist.all_reduce(torch.zeros(1))
        except RuntimeError as error:
            raise ValueError(
                "The process group of this program does not take tensors of the host. Make it with "
                "torch.distributed.init_process_group('cpu:gloo,cuda:nccl')."
            ) from error
        return TorchProcesses(owner=False)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=f"tcp://{launch.address}", rank=launch.rank, world_size=launch.count
    )
    return TorchProcesses(owner=True)
