"""Parts of `gpu_session.sh`, with one backend per process.

    gpu_session.py PART[,PART...] OUT DEADLINE [--rehearse]

Several parts share one process, whose imports take 15 s on a fresh machine. DEADLINE is the time at which the
process is ended from outside, in seconds since 1970.

- `ceilings`: a bfloat16 matrix multiplication and a copy, as the limits of the machine.
- `correctness`, `train_step`: comparison with float64, and a decreasing loss.
- `kernels`: values and gradients of the Triton kernels, compared with the definition. Fails without dispatch.
- `depthwise`: GELU(depthwise convolution) for each stage of tiny_srf and kernel size, by cuDNN and by the
  compiled sum of shifted inputs.
- `speed`: inference and training step of tiny_srf at 224 pixels, batch 128, bfloat16, through Keras and in a
  bare loop, compared with timm, eager and compiled (on torch). Counts how often `fit` waits for the device.
- `kernel_speed`: the focal context of each stage and the whole network, with and without Triton kernels.

Contenders with the same number in the column `turns` took turns. Rows are written after each such group, to
OUT/gpu-<part>_<device>_<date>.csv. A session writes eight files.
"""

import csv
import dataclasses
import datetime
import functools
import importlib.metadata
import pathlib
import re
import statistics
import sys
import time
import warnings

import gpu_contenders
import keras
import numpy as np
from gpu_contenders import synchronize

import focalnets
from focalnets.ops.backend import accelerator, bfloat16_supported
from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.load import build_architecture
from focalnets.threads import machine

BACKEND = keras.backend.backend()
FIT_STEPS = 10
STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side and channels of the maps of tiny_srf
COMPILING = 60.0  # seconds that must remain before a whole network is compiled
ENDING = 5.0  # seconds reserved for the last round and the rows
LEAST_SECONDS = 0.05  # shorter steps are repeated in each round, so that synchronization is negligible


@dataclasses.dataclass
class Part:
    """Output directory and time limit of a part.

    Attributes:
        out: `pathlib.Path`. Directory of the rows.
        deadline: float. Time at which the process is ended from outside, as `time.time`.
        rehearse: bool. Whether to use tiny sizes.
    """

    out: pathlib.Path
    deadline: float
    rehearse: bool

    def left(self):
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def write(self, name, row):
        device = accelerator() or machine()
        row = {"backend": BACKEND, **row, "device": device, "versions": versions()}
        day = datetime.date.today()
        path = self.out / f"gpu-{name}_{re.sub('[^A-Za-z0-9.]+', '-', device)}_{day}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{key}={value}" for key, value in row.items() if key not in ("device", "versions")))


@functools.cache
def versions():
    found = []
    for name in ("torch", "triton", "jax", "keras", "timm"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def interleaved(part, contenders, rounds, compiling=0.0):
    """Warm up contenders, then time them in turn until the rounds or the time end.

    Steps without compilation should be measured in an earlier call, because a compilation may take too long.

    Args:
        contenders: dict of name to (step, number of images).
        rounds: int. Maximum number of rounds.
        compiling: float. Seconds that must remain to start a contender. Defaults to 0.

    Returns:
        list of dict. One row per contender. Failures are printed. After a failure on a GPU, the following
        contenders may fail, too, and earlier results remain.
    """
    warm, repeats, seconds = {}, {}, {}
    for name, (step, _) in contenders.items():
        if part.left() < ENDING + compiling:
            print(f"{name}: left out, not enough time")
            continue
        start = time.perf_counter()
        try:
            for _ in range(3):
                step()
            synchronize()
            warm[name] = time.perf_counter() - start
            start = time.perf_counter()
            step()
            synchronize()
        except Exception as error:
            print(f"{name}: left out ({type(error).__name__}: {error})")
            continue
        once = time.perf_counter() - start
        repeats[name] = 1 if part.rehearse else min(1000, max(1, round(LEAST_SECONDS / once)))
        seconds[name] = []
    running = list(seconds)
    for done in range(rounds):
        if done and part.left() < ENDING:
            break
        for name in list(running):
            try:
                synchronize()
                start = time.perf_counter()
                for _ in range(repeats[name]):
                    contenders[name][0]()
                synchronize()
            except Exception as error:
                print(f"{name}: failed in round {done} ({type(error).__name__}: {error})")
                running.remove(name)
                continue
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    rows = []
    for name, values in seconds.items():
        if values:
            median = statistics.median(values)
            spread = {"median_s": median, "min_s": min(values), "max_s": max(values)}
            rows.append(
                {
                    "what": name,
                    "rounds": len(values),
                    **{key: f"{value:.4g}" for key, value in spread.items()},
                    "images_per_s": f"{contenders[name][1] / median:.4g}",
                    "warmup_s": round(warm[name], 1),
                }
            )
    return rows


def correctness(part):
    """Errors of every seventh combination of options, as in the tests, without TF32."""
    import test_parity

    if BACKEND == "torch":
        import torch

        torch.backends.cudnn.allow_tf32 = False
    elif BACKEND == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    right = True
    for flags in test_parity.COMBINATIONS[:: 24 if part.rehearse else 7]:
        net, x = test_parity.make_net(flags), test_parity.images()
        found = test_parity.errors(test_parity.computed(net, x), net, x)
        worst = max(found, key=found.get)
        ok = found[worst] < test_parity.TOLERANCE
        part.write("correctness", {**flags, "worst": worst, "error": f"{found[worst]:.1e}", "ok": ok})
        right = right and ok
    return right


def train_step(part):
    """Ten training steps on the digits, in which the loss must decrease."""
    digits = focalnets.open_dataset("digits", channels=1).splits["train"]
    net = build_architecture(
        ARCHITECTURES["focalnet_pico"],
        image_converter=focalnets.FocalNetImageConverter(mean=(0.3,), std=(0.37,)),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.AdamW(3e-3), loss, metrics=None)  # `train_on_batch` returns only the loss
    losses = [float(net.train_on_batch(digits.images[:128], digits.labels[:128])) for _ in range(10)]
    fell = losses[-1] < losses[0]
    part.write("train-step", {"first_loss": losses[0], "last_loss": losses[-1], "ok": fell})
    return fell


def ceilings(part):
    """GFLOP/s of a bfloat16 matrix multiplication, and GB/s of a copy (read and written bytes)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, numbers = (256, 2**20) if part.rehearse else (8192, 2**30)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    source = torch.empty(numbers, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    contenders = {"product": (lambda: a @ a, 0), "copy": (lambda: target.copy_(source), 0)}
    work = {"product": 2 * side**3, "copy": 4 * numbers}
    for row in interleaved(part, contenders, 3 if part.rehearse else 20):
        row["giga_per_s"] = f"{work[row['what']] / float(row['median_s']) / 1e9:.4g}"
        del row["images_per_s"]
        part.write("ceilings", row)
    return True


def kernels(part):
    """Largest relative difference of the fused focal_context and its definition, with gradients."""
    import torch

    from focalnets.ops import dispatch
    from focalnets.ops.focal_context import focal_context

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    right, done, longest = True, 0, 0.0
    places = ((5, 8),) if part.rehearse else (*STAGES, (37, 100))
    for dtype, (side, channels), levels in (
        (dtype, place, levels)
        for levels in (2, 3)
        for dtype in (torch.bfloat16, torch.float32)
        for place in places
    ):
        if part.left() < ENDING + 1.5 * longest:
            print("the remaining cases are left out: not enough time")
            break
        start = time.monotonic()
        generator = torch.Generator(device).manual_seed(side)
        draw = functools.partial(torch.randn, device=device, generator=generator)
        shapes = [(2, side, side, channels), (2, side, side, levels + 1)]
        shapes += [(3 + 2 * level, 3 + 2 * level, channels, 1) for level in range(levels)]
        tensors = [draw(shape).to(dtype) for shape in shapes]
        weight = draw(shapes[0])
        found = {}
        for fused in (True, False):
            dispatch.set_optimized(fused)
            kind = torch.float64 if not fused else dtype  # the definition in float64 is the reference
            given = [tensor.to(kind).requires_grad_() for tensor in tensors]
            y = focal_context(given[0], given[1], given[2:])
            gradients = torch.autograd.grad((y * weight).sum(), given)
            found[fused] = [value.detach().double() for value in (y, *gradients)]
        dispatch.set_optimized(None)
        errors = [
            float((mine - true).abs().max() / true.abs().max())
            for mine, true in zip(found[True], found[False], strict=True)
        ]
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        ok = all(error < limit for error in errors)  # not max, whose result is undefined with NaN
        row = {"dtype": str(dtype), "side": side, "channels": channels, "levels": levels}
        row |= {"value_error": f"{errors[0]:.1e}", "gradient_error": f"{np.max(errors[1:]):.1e}", "ok": ok}
        part.write("kernels", row)
        right, done = right and ok, done + 1
        longest = max(longest, time.monotonic() - start)
    dispatched = dispatch.dispatches().get(("focal_context", "triton"), 0)
    print(f"dispatches to triton: {dispatched}")
    return right and dispatched >= done > 0


def depthwise(part):
    """Time of one level without its gate, forward and forward+backward, bfloat16, batch 128."""
    places = [(*stage, 3) for stage in STAGES] + [(*STAGES[0], 5), (*STAGES[0], 7)]
    places = [(8, 16, 3)] if part.rehearse else places
    batch, rounds = (2, 3) if part.rehearse else (128, 10)
    forms = gpu_contenders.depthwise_torch if BACKEND == "torch" else gpu_contenders.depthwise_jax
    for side, channels, size in places:
        for group in forms(batch, side, channels, size, part.rehearse):
            for row in interleaved(part, group, rounds, compiling=5.0):
                part.write("depthwise", {"side": side, "channels": channels, "kernel": size, **row})
    return True


def speed(part):
    """Time of all eager contenders in turn, then of each compiled one in turn with an eager one."""
    _mixed_precision(part)
    batch, rounds = (2, 3) if part.rehearse else (128, 20)
    net, x, y = _net_and_batch(part, batch)
    many_x, many_y = np.concatenate([x] * FIT_STEPS), np.concatenate([y] * FIT_STEPS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), loss, metrics=None)

    def fit():
        net.fit(many_x, many_y, batch_size=batch, verbose=0)

    keras_own = {
        "focalnets predict": (lambda: net.predict_on_batch(x), batch),
        f"focalnets fit, {FIT_STEPS} steps": (fit, FIT_STEPS * batch),
    }
    if BACKEND == "torch":
        for what, step in (("one batch", lambda: net.train_on_batch(x, y)), (f"fit, {FIT_STEPS} steps", fit)):
            part.write("waits", {"what": what, "waits": waits(step)})
        eager, compiled = gpu_contenders.nets_torch(net, x, y, part.rehearse)
        eager = {name: (step, batch) for name, step in eager.items()}
        groups = [{**keras_own, **eager}]
        for name, step in compiled.items():
            reference = f"focalnets bare eager {name.split()[-1]}"
            groups.append({name: (step, batch), reference: eager[reference]})
    else:  # everything compiles
        bare = {name: (step, batch) for name, step in gpu_contenders.nets_jax(net, loss, x, y).items()}
        groups = [{name: contender} for name, contender in {**keras_own, **bare}.items()]
    for number, group in enumerate(groups):
        compiling = COMPILING if number and not part.rehearse else 0.0
        for row in interleaved(part, group, rounds, compiling):
            part.write("speed", {"batch": batch, "size": x.shape[1], "turns": number, **row})
    return True


def kernel_speed(part):
    """Time of the focal context of each stage and of the network, with and without Triton kernels."""
    _mixed_precision(part)
    batch, rounds = (2, 3) if part.rehearse else (128, 10)
    groups = []
    for side, channels in ((5, 8),) if part.rehearse else STAGES:
        steps = gpu_contenders.contexts(batch, side, channels)
        place = f"context {side} x {side} x {channels}"
        groups.append({f"{place}, {name}": (step, batch) for name, step in steps.items()})
    net, x, y = _net_and_batch(part, batch)
    steps = gpu_contenders.nets_with_kernels(net, x, y)
    groups.append({name: (step, batch) for name, step in steps.items()})
    for number, group in enumerate(groups):
        for row in interleaved(part, group, rounds):
            part.write("kernel-speed", {"batch": batch, "turns": number, **row})
    return True


def _mixed_precision(part):
    slow = part.rehearse and not bfloat16_supported()
    keras.config.set_dtype_policy("float32" if slow else "mixed_bfloat16")


def _net_and_batch(part, batch):
    name, size = ("focalnet_nano", 32) if part.rehearse else ("focalnet_tiny_srf", 224)
    net = build_architecture(
        ARCHITECTURES[name], image_converter=focalnets.FocalNetImageConverter(), num_classes=1000
    )
    x = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype("uint8")
    return net, x, np.arange(batch) % 1000


def waits(step):
    """Number of times that a step makes the host wait for the GPU, from torch, or "" without a GPU."""
    import torch

    step()
    if not torch.cuda.is_available():
        return ""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


PARTS = {
    function.__name__: function
    for function in (ceilings, correctness, train_step, kernels, depthwise, speed, kernel_speed)
}


def main(names, out, deadline, *rest):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    part = Part(out, float(deadline), rest == ("--rehearse",))
    if accelerator() is None and not part.rehearse:
        return f"{BACKEND} does not find a GPU. Use --rehearse without a GPU."
    results = {name: PARTS[name](part) for name in names.split(",")}
    wrong = [name for name, right in results.items() if not right]
    return f"wrong results in {', '.join(wrong)}, see above" if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
