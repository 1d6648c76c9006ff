"""A model of the time of a training step on many processes, checked here and drawn out to 256 GPUs.

    .venv/bin/python benchmarks/scaling_model.py

A step takes the longer of two times: the preparation of its images, and computing plus exchanging.

- Computing: the measured time of a step on one GPU with its part of the batch. More GPUs do not change it.
- Exchanging: a ring all-reduce of float32 gradients sends 2 (n - 1) / n times their bytes over each of its
  links. The slowest link counts. Between hosts, the rings use all adapters of a host. 2 (n - 1) messages
  follow each other, which is pessimistic: NCCL has trees for many hosts. The exchange is after the backward
  pass, because `ops/torch_processes.py` does not overlap them.
- Preparation: the measured rate of the loader per core, times the cores.

The rows of `processes-speed_*` check the model: where processes share all cores, the time of a step is that
of one process, divided by the cores in use, plus the measured exchange.

The numbers of GPUs are measured (`gpu-speed_*`, `input_jpeg_*`) or from data sheets (LINKS). They were not
checked on several GPUs.
"""

import argparse
import csv
import math
import pathlib
from dataclasses import dataclass

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from measure import RESULTS, write_rows

STORED = pathlib.Path(__file__).parent / "results"
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PER_HOST = 8


@dataclass(frozen=True)
class Link:
    """A connection: bytes per second in each direction, and seconds of a message."""

    bytes_per_s: float
    latency_s: float


# From data sheets: NVLink 4 of an H100 or H200 (900 GB/s in both directions); eight 400 Gb/s adapters of
# InfiniBand per host, or one of 25 Gb/s Ethernet. Latencies are usual figures.
INSIDE = Link(450e9, 3e-6)
LINKS = {"InfiniBand, 8 x 400 Gb/s": Link(8 * 50e9, 5e-6), "Ethernet, 25 Gb/s": Link(25e9 / 8, 3e-5)}


@dataclass(frozen=True)
class Job:
    """A network on one GPU.

    Attributes:
        name: str.
        parameters: int. Numbers that are exchanged.
        batch: int. Images per GPU and step.
        step_s: float. Seconds of a step on one GPU.
    """

    name: str
    parameters: int
    batch: int
    step_s: float


# Steps of focalnet_tiny_srf on an H200, `gpu-speed_*`: in `fit`, and the time of its GPU kernels alone.
JOBS = (
    Job("tiny_srf, fit", 28_430_000, 128, 0.101),
    Job("tiny_srf, if the host kept up", 28_430_000, 128, 0.047),
)
# Images per second and core: decoding and random crops of photographs, and of a cache of 256 pixels.
INPUTS = {
    "JPEG, 16 cores per GPU": 462 * 16,
    "JPEG, 2 cores per GPU": 462 * 2,
    "cache, 2 cores per GPU": 1151 * 2,
}


def exchange_seconds(parameters, processes, link, inside=INSIDE, per_host=PER_HOST):
    """Seconds of a ring all-reduce of float32 gradients.

    >>> exchange_seconds(1_000_000, 1, INSIDE)
    0.0
    """
    if processes == 1:
        return 0.0
    used = [inside] if processes <= per_host else [inside, link]
    moved = 2 * (processes - 1) / processes * 4 * parameters
    slowest, latency = min(one.bytes_per_s for one in used), used[-1].latency_s
    return moved / slowest + 2 * (processes - 1) * latency


def predicted(job, processes, link, images_per_s_of_gpu):
    """Row for a job on a number of GPUs."""
    exchange = exchange_seconds(job.parameters, processes, link)
    prepare = job.batch / images_per_s_of_gpu
    seconds = max(job.step_s + exchange, prepare)
    limits = {"computing": job.step_s, "exchange": exchange}
    limit = "input" if prepare > job.step_s + exchange else max(limits, key=limits.get)
    return {
        "gpus": processes,
        "global_batch": job.batch * processes,
        "exchange_ms": round(1e3 * exchange, 2),
        "step_ms": round(1e3 * seconds, 1),
        "images_per_s": round(job.batch * processes / seconds),
        "efficiency": round(job.step_s / seconds, 3),
        "limit": limit,
    }


def check(path):
    """Rows that compare the model with measured processes that share the cores of one machine."""
    with path.open() as file:
        measured = list(csv.DictReader(file))
    cores = max(int(row["threads"]) for row in measured)
    alone = next(row for row in measured if row["processes"] == row["threads"] == "1")
    rows = []
    for row in measured:
        count = int(row["processes"])
        if row["backend"] != "torch" or count == 1:
            continue
        shared = math.ceil(count / cores)  # processes that take turns on a core
        step = float(alone["step_ms"]) / count * shared + float(row["exchange_ms"])
        rows.append(
            {
                "processes": count,
                "cores": cores,
                "measured_step_ms": float(row["step_ms"]),
                "predicted_step_ms": round(step, 1),
                "measured_over_predicted": round(float(row["step_ms"]) / step, 2),
            }
        )
    return rows


def draw(rows, path):
    """Efficiency of each link with enough cores, and of each input with InfiniBand."""
    figure, axes = plt.subplots(1, len(JOBS), figsize=(10, 4.6), sharey=True, layout="constrained")
    fast, enough = next(iter(LINKS)), next(iter(INPUTS))
    cases = [(link, enough) for link in LINKS] + [(fast, source) for source in list(INPUTS)[1:]]
    for axis, job in zip(axes, JOBS, strict=True):
        for number, (link, source) in enumerate(cases):
            chosen = [
                row for row in rows if (row["job"], row["link"], row["input"]) == (job.name, link, source)
            ]
            values = [row["efficiency"] for row in chosen]
            style = {"linestyle": ("-", "--", ":", "-.")[number], "marker": "osv^"[number], "markersize": 4}
            axis.plot(GPUS, values, label=f"{link}; {source}", **style)
        axis.set(xlabel="GPUs", title=job.name, ylim=(0, 1.05))
        axis.set_xscale("log", base=2)
        axis.set_xticks(GPUS, [str(count) for count in GPUS])
    axes[0].set_ylabel("images per second, relative to no losses")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for path in sorted(STORED.glob("processes-speed_*.csv"))[-1:]:
        write_rows("scaling-model-check", check(path))
    rows = [
        {"job": job.name, "link": name, "input": source, **predicted(job, count, link, rate)}
        for job in JOBS
        for name, link in LINKS.items()
        for source, rate in INPUTS.items()
        for count in GPUS
    ]
    write_rows("scaling-model_tiny-srf_H200", rows)
    draw(rows, RESULTS / "scaling-model_tiny-srf_H200.png")


if __name__ == "__main__":
    main()
