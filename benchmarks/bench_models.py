"""Images per second, memory and warm-up time of whole networks on a CPU, compared with other libraries.

    python benchmarks/bench_models.py --network focalnet_tiny_srf --task inference [--batch 16] [--size 224]
        [--rounds 5] [--contenders NAME ...] [--python torch=PATH jax=PATH tensorflow=PATH peers=PATH
        transformers=PATH]

`contenders.py` lists the contenders: focalnets, the same network in stock Keras layers (`plain_keras.py`),
the original 2023 tutorial (`tutorial_tensorflow.py`), timm, transformers, ONNX Runtime, OpenVINO, and two
attention networks of similar size. All get the same normalized float32 images and random weights of the same
shapes. focalnets runs through Keras, from a NumPy array to a NumPy array. Other libraries run in a bare loop
on prepared tensors. timm and transformers cannot build the network `tutorial`: their blocks have one more
norm, `norm1`, and the numbers of parameters must differ by exactly these norms.

`--python` sets the interpreter of each environment. `peers` has timm, the runtimes and the attention
networks. transformers needs an environment without torchvision. The default is the current interpreter. All
contenders stay in memory until the end, so list fewer if they do not fit. Rows go to `results/`.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile

import measure
from contenders import BOTH, CONTENDERS, Job, export

KERAS = ("torch", "jax", "tensorflow")  # environments with the name of their Keras backend


def worker(name, path):
    job = Job(**json.loads(pathlib.Path(path).read_text()))
    if name == "export":
        return export(job)
    if CONTENDERS[name].python in KERAS:
        # The command line does the same before the backend starts its threads. Stock layers get it, too.
        from focalnets import process

        process.keep_freed_memory()
    step, facts = CONTENDERS[name].prepare(job)
    measure.serve(step, **facts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=BOTH, default="inference")
    parser.add_argument("--network", default="focalnet_tiny_srf")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, help="image size in pixels, default: that of the network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, metavar="NAME", help="default: all")
    parser.add_argument("--python", nargs="*", default=[], metavar="ENVIRONMENT=PATH")
    parser.add_argument("--worker")
    parser.add_argument("--job")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.job)

    with tempfile.TemporaryDirectory() as folder:
        job = make_job(arguments, folder)
        path = pathlib.Path(folder, "job.json")
        path.write_text(json.dumps(dataclasses.asdict(job)))
        pythons = measure.interpreters(arguments.python)
        commands, left_out = {}, {}
        for name in arguments.contenders or CONTENDERS:
            contender = CONTENDERS[name]
            if job.task not in contender.tasks:
                left_out[name] = f"does not support {job.task}"
            elif contender.network not in (None, job.network):
                left_out[name] = f"supports only the network {contender.network}"
            else:
                backend = {"KERAS_BACKEND": contender.python} if contender.python in KERAS else {}
                argv = [pythons[contender.python], __file__, "--worker", name, "--job", str(path)]
                commands[name] = (argv, {**measure.CPU_ONLY, **backend})
        commands = measure.add_matmul(commands, pythons["torch"])
        measured, failed = measure.interleave(commands, arguments.rounds)
    peak = measure.matmul_peak(measured)
    rows = rows_of(measured, job, peak) if measured else []
    for dtype in ("float32", "bfloat16"):
        chosen = [row for row in rows if dtype_of(row["what"]) == dtype]
        if chosen:
            measure.write_rows(f"models_{job.network}_{job.task}_{dtype}_{measure.machine()}", chosen)
    if peak:
        print(f"fastest matrix multiplication of this run: {peak:.0f} GFLOP/s")
    measure.print_left_out({**left_out, **failed})
    return compare_parameters(measured, job)


def make_job(arguments, folder):
    from focalnets.presets.architectures import find_architecture
    from focalnets.presets.cost import count_macs, count_parameters

    architecture = find_architecture(arguments.network)
    size = arguments.size or architecture.image_size
    return Job(
        network=arguments.network,
        architecture=dataclasses.asdict(architecture),
        parameters=count_parameters(architecture),
        macs=count_macs(architecture, size),
        task=arguments.task,
        batch=arguments.batch,
        size=size,
        folder=folder,
    )


def dtype_of(name):
    return "bfloat16" if name.endswith("bfloat16") else "float32"


def rows_of(measured, job, peak):
    base = next(iter(measured))
    base_median = measured[base].spread()[0]
    rows = []
    for name, result in measured.items():
        median, low, high = result.spread()
        macs = result.facts.get("macs", job.macs)
        # Two operations per multiply-accumulate. A training step counts as three forward passes.
        gflop = 2e-9 * macs * (3 if job.task == "training" else 1)
        rate = job.batch / median
        rows.append(
            {
                "what": name,
                "batch": job.batch,
                "size": job.size,
                "median_s": median,
                "min_s": low,
                "max_s": high,
                "images_per_s": float(f"{rate:.4g}"),
                "ratio": round(median / base_median, 2),
                "ratio_to": base,
                "gflop_per_image": round(gflop, 2),
                # The peak is measured in float32.
                "fraction_of_peak": round(rate * gflop / peak, 3)
                if peak and dtype_of(name) == "float32"
                else "",
                "peak_extra_mb": result.peak_extra_mb,
                "warmup_s": round(result.warmup_s, 1),
                "ready_s": round(result.ready_s, 1),
                "parameters": result.facts.get("parameters", ""),
                "note": result.facts.get("note", ""),
            }
        )
    return rows


def compare_parameters(measured, job):
    """Print the numbers of parameters. Returns an error message if a contender has another network."""
    wrong = []
    print(f"parameters of {job.network}: {job.parameters}")
    for name, result in measured.items():
        facts = result.facts
        if "macs" in facts or "parameters" not in facts:
            continue
        extra = facts.get("extra_parameters", 0)
        print(f"  {name}: {facts['parameters']}" + (f", {extra} in additional norms" if extra else ""))
        if facts["parameters"] != job.parameters + extra:
            wrong.append(name)
    return f"not the same network: {', '.join(wrong)}" if wrong else None


if __name__ == "__main__":
    sys.exit(main())
