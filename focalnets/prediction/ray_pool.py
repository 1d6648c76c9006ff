"""`RayPool`: the shards of a job on a Ray cluster.

One row of a Ray dataset is one shard. Images do not pass through Ray: an actor reads its shard, computes, and
writes the complete file, as a loop in one process does. If an actor is killed, Ray starts another one and
repeats its shard, whose file does not exist yet or is complete. So every image is one row, and only names of
shards wait in Ray.
"""

import contextlib
import logging
import os
import pathlib
import socket
import warnings
from dataclasses import dataclass

from focalnets.files import expanded
from focalnets.prediction.shard_jobs import NotFiniteError, ShardWorker
from focalnets.process import keep_freed_memory
from focalnets.threads import cores, limit_cores

NO_RAY = "Ray Data is not installed: pip install 'focalnets[ray]'."

# A killed worker is replaced, and its shard is repeated once by the replacement. After the loss of a machine,
# there may be no room for a replacement, so the shards that are lost then are distributed again.
_RETRIES, _ROUNDS = 1, 3
# Shards that wait at an actor while it computes another one, so that it need not wait for the driver.
_IN_FLIGHT = 2

# A worker with a runtime need not import Keras, which takes seconds and 300 MB.
_ENVIRONMENT = {"FOCALNETS_WORKER": "1"}
_INHERITED = ("KERAS_BACKEND", "FOCALNETS_CACHE")  # a running cluster has the environment of its own start

_PATIENCE = 10  # seconds, for a first answer of the cluster

_log = logging.getLogger("focalnets")


@dataclass(frozen=True)
class RayPool:
    """Workers on a Ray cluster.

    Paths of the preset, the shards and the results must be the same on all machines, and focalnets must be
    installed there.

    Args:
        address: str. "local" starts a cluster on this machine for the job. "auto" finds a running cluster
            (`RAY_ADDRESS`, or one on this machine), and "host:port" is the address of one. If Ray is
            connected already, that cluster is used. Defaults to "local".
        cpus: int or None. Cores per worker. Defaults to `None`: 1, or with GPUs the cores per GPU.
        gpus: float or None. GPUs per worker. Defaults to `None`: 1 if the cluster has GPUs and the engine can
            use them, 0 otherwise.

    >>> from focalnets.prediction.ray_pool import RayPool
    >>> RayPool("10.0.0.1:6379", cpus=4)
    RayPool(address='10.0.0.1:6379', cpus=4, gpus=None)
    """

    address: str = "local"
    cpus: int | None = None
    gpus: float | None = None

    def run(self, arguments, out, settings, tasks):
        """Do shards. Yield the reason for each one that failed, and None for the others.

        Args:
            arguments: dict. Arguments of `ShardWorker`.
            out, settings: See `ShardWorker`.
            tasks: list of (index, shard), see `ShardWorker.write`.

        Raises:
            ImportError: if Ray is not installed.
            OSError: if the cluster cannot be reached.
            ValueError: if no machine of the cluster has enough cores or GPUs for a worker, or a worker cannot
                load the network.
        """
        preset = arguments["preset"]
        if not isinstance(preset, str | os.PathLike):
            raise ValueError("The workers of Ray load the network from files. Save it with save_to_preset.")
        if os.path.lexists(expanded(preset)):  # workers can have another working directory
            arguments = {**arguments, "preset": str(expanded(preset).absolute())}
        worker, missing = {**arguments, "out": str(out), "settings": settings}, dict(tasks)
        with _connected(self.address):
            for _ in range(_ROUNDS):
                cpus, gpus = self._resources(arguments["engine"])
                size = min(_room(cpus, gpus, self.address), len(missing))
                for index, problem in _computed(worker, list(missing.items()), size, cpus, gpus):
                    del missing[index]
                    yield problem
                if not missing:
                    return
                _log.warning("%d shards were lost with their workers.", len(missing))
        times = _ROUNDS * (1 + _RETRIES)
        for shard in missing.values():
            yield f"Shard {shard}: its worker was killed {times} times. Perhaps it needs too much memory."

    def _resources(self, engine):
        """Cores and GPUs of a worker."""
        import ray

        total = ray.cluster_resources()
        gpus = self.gpus
        if gpus is None:
            gpus = 1 if total.get("GPU") and engine in ("auto", "keras") else 0
        cpus = self.cpus
        if cpus is None:
            cpus = max(1, int(total.get("CPU", 1) * gpus / total["GPU"])) if gpus and "GPU" in total else 1
        return cpus, gpus


def as_pool(value):
    """`RayPool` of an address, or `value` if it is one."""
    return value if isinstance(value, RayPool) else RayPool(value)


def _computed(worker, tasks, size, cpus, gpus):
    """Yield (index, problem or None) of the shards that a pool of workers does, unless they are lost."""
    import ray

    rows = [{"index": index, "shard": shard} for index, shard in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset.context.max_errored_blocks = -1  # a lost shard does not stop the others
    dataset.context.enable_progress_bars = False
    pool = ray.data.ActorPoolStrategy(
        min_size=size, max_size=len(rows), max_tasks_in_flight_per_actor=_IN_FLIGHT
    )
    environment = _ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ}
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to limit the attempts, and announces one.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        results = dataset.map_batches(
            _Actor,
            fn_constructor_args=(worker, cpus),
            batch_size=1,
            compute=pool,
            num_cpus=cpus,
            num_gpus=gpus or None,
            runtime_env={"env_vars": environment},
            max_task_retries=_RETRIES,
        )
    for row in results.iter_rows():
        if row["fatal"]:
            raise _FATAL.get(row["fatal"], RuntimeError)(row["problem"])
        if row["problem"]:
            _log.warning("%s", row["problem"])
        yield row["index"], row["problem"] or None


# Errors that every shard would have, by name: text passes between processes more safely than exceptions.
_FATAL = {kind.__name__: kind for kind in (ImportError, OSError, ValueError)}


class _Actor:
    """Worker of the pool. It loads the network once, with its first shard."""

    def __init__(self, arguments, cpus):
        self._arguments, self._cpus, self._worker = arguments, cpus, None

    def __call__(self, batch):
        (index,), (shard,) = batch["index"], batch["shard"]
        problem = fatal = ""
        try:
            if self._worker is None:
                limit_cores(self._cpus)
                keep_freed_memory()
                self._worker = self._load()
        except Exception as error:
            problem, fatal = _described(error)
        else:
            try:
                self._worker.write(int(index), str(shard))
            except NotFiniteError as error:
                problem, fatal = _described(error)
            except ValueError as error:
                problem = str(error)
            except Exception as error:
                problem, fatal = _described(error)
        return {"index": [int(index)], "problem": [problem], "fatal": [fatal]}

    def _load(self):
        arguments = {**self._arguments, "out": pathlib.Path(self._arguments["out"])}
        if not arguments["out"].is_dir():
            raise OSError(
                f"{arguments['out']} does not exist on a machine of the cluster. Choose a folder that all "
                "machines share."
            )
        return ShardWorker(**arguments)


def _described(error):
    """Text of an error, and the name of the kind in `_FATAL`."""
    kind = next((name for name, kind in _FATAL.items() if isinstance(error, kind)), "RuntimeError")
    text = str(error)
    return (text if kind != "RuntimeError" else f"{type(error).__name__}: {text}"), kind


@contextlib.contextmanager
def _connected(address):
    """Connect to a cluster during the block, unless Ray is connected already."""
    # No statistics of use leave this machine, and no report is printed. Ray reads it when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(NO_RAY) from error
    if ray.is_initialized():
        yield
        return
    local = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        _check_port(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(
            f"The Ray cluster {address!r} cannot be reached ({error}). Expected host:port, auto for a "
            "running cluster (`ray start --head` starts one), or local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_port(address):
    """Raise OSError if nothing listens at host:port. Ray itself would try for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _room(cpus, gpus, address):
    """Number of workers that fit on the machines of the cluster."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for machine in machines:
        fits = machine.get("CPU", 0) // cpus
        room += int(min(fits, machine.get("GPU", 0) // gpus) if gpus else fits)
    if room == 0:
        most = max((machine.get("CPU", 0) for machine in machines), default=0)
        raise ValueError(
            f"No machine of the Ray cluster {address!r} has {cpus} cores and {gpus} GPUs for a worker; the "
            f"largest has {most:.0f} cores. Ask for less per worker."
        )
    return room
