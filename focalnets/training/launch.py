"""Number and address of the processes of a run, from the environment of their launcher. No Keras."""

import os
import re
from dataclasses import dataclass

_HINT = (
    "Start the processes with a launcher: torchrun --nproc-per-node 2 -m focalnets train ..., or srun "
    "(docs/scale.md)."
)
_SLURM_PORT = 20_000  # and the next 10,000


@dataclass(frozen=True)
class Launch:
    """One process of several.

    Attributes:
        rank, count: int. Number of this process from 0, and number of processes.
        local_rank, local_count: int. The same among the processes of this host. If the launcher does not say
            it, `rank` and 1.
        address: str. Host and port of process 0.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int
    address: str


def read_launch(environment=None):
    """Read how a launcher started this process.

    Args:
        environment: dict. Defaults to `os.environ`.

    Returns:
        `Launch`, or None without a launcher. Read are, in this order, the variables of torchrun (`RANK`,
        `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`), those of Keras
        (`KERAS_DISTRIBUTION_PROCESS_ID`, `KERAS_DISTRIBUTION_NUM_PROCESSES`,
        `KERAS_DISTRIBUTION_JOB_ADDRESSES`), and those of Slurm's `srun`.

    Raises:
        ValueError: if a variable is missing or not a number.

    >>> from focalnets.training.launch import read_launch
    >>> names = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    >>> read_launch(names)
    Launch(rank=1, count=2, local_rank=1, local_count=1, address='node1:29500')
    """
    found = os.environ if environment is None else environment
    if "RANK" in found and "WORLD_SIZE" in found:
        rank, count = _number(found, "RANK"), _number(found, "WORLD_SIZE")
        address = f"{_text(found, 'MASTER_ADDR')}:{_number(found, 'MASTER_PORT')}"
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "KERAS_DISTRIBUTION_NUM_PROCESSES" in found:
        rank = _number(found, "KERAS_DISTRIBUTION_PROCESS_ID")
        count = _number(found, "KERAS_DISTRIBUTION_NUM_PROCESSES")
        address = _text(found, "KERAS_DISTRIBUTION_JOB_ADDRESSES").split(",")[0]
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "SLURM_PROCID" in found and "SLURM_STEP_NODELIST" in found:
        rank, count = _number(found, "SLURM_PROCID"), _number(found, "SLURM_NTASKS")
        port = found.get("MASTER_PORT") or _SLURM_PORT + _number(found, "SLURM_JOB_ID") % 10_000
        address = f"{found.get('MASTER_ADDR') or first_host(found['SLURM_STEP_NODELIST'])}:{port}"
        names = ("SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    else:
        return None
    if not 0 <= rank < count:
        raise ValueError(f"The launcher gave process {rank} of {count}; expected 0 to {count - 1}. {_HINT}")
    local_rank, local_count = (
        _number(found, name) if name in found else default
        for name, default in zip(names, (rank, 1), strict=True)
    )
    return Launch(rank, count, local_rank, local_count, address)


def needed_launch(distributed, backend):
    """`Launch` for `train(distributed=...)`, or None to compute alone.

    Args:
        distributed: bool or None. None uses the processes of torchrun or Keras' variables, if there are any.
            Slurm sets its variables in scripts, too, so that they count only with `True`.
        backend: str. On JAX, `True` without a launcher is one process with all its devices.

    Raises:
        ValueError: if `True` finds no launcher.
    """
    if distributed is False:
        return None
    if distributed is None:
        counts = ["WORLD_SIZE"] if "RANK" in os.environ else ["KERAS_DISTRIBUTION_NUM_PROCESSES"]
        if all(os.environ.get(name, "1") == "1" for name in counts):
            return None
    launch = read_launch()
    if launch is None and distributed and backend != "jax":
        raise ValueError(f"--distributed found no launcher: RANK and WORLD_SIZE are not set. {_HINT}")
    return launch


def is_other_process(distributed):
    """Whether this is not process 0 of a run on several processes, see `needed_launch`."""
    launch = needed_launch(distributed, "jax")
    return launch is not None and launch.rank > 0


def first_host(nodes):
    """First host of Slurm's list of nodes.

    >>> from focalnets.training.launch import first_host
    >>> first_host("gpu[07-09,12],login1"), first_host("a1,a2")
    ('gpu07', 'a1')
    """
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}; expected a list of hosts.")
    return match[1] + (match[2] or "")


def _text(found, name):
    if not found.get(name):
        raise ValueError(f"The launcher did not set {name}. {_HINT}")
    return found[name]


def _number(found, name):
    text = _text(found, name)
    match = re.match(r"\d+", text)  # Slurm writes 2(x3) for equal nodes
    if match is None:
        raise ValueError(f"{name} is {text!r}; expected a whole number. {_HINT}")
    return int(match[0])
