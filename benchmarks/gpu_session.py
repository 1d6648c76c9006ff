"""The parts of `gpu_session.sh`, one backend a process.

- `ceilings`: a bfloat16 product and a copy: what the machine can do.
- `correctness`, `train_step`: numbers against float64, and a loss that falls.
- `kernels`: the Triton kernels against the plain definition, values and gradients; fails without dispatches.
- `depthwise`: one focal level, for each stage of tiny_srf and kernel size: cuDNN, the sum of shifted
  products under the compiler, the Triton kernel (on torch).
- `speed`: tiny_srf, 224 px, batch 128, bfloat16: inference and training step, ours through Keras and in a
  bare loop, plain and with the kernels, beside timm eager and compiled and transformers (on torch); how
  often a step of `fit` waits for the device. All contenders of one process take turns.
"""

import csv
import functools
import pathlib
import statistics
import sys
import time
import warnings

import keras
import numpy as np

import focalnets
from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.load import build_architecture

BACKEND = keras.backend.backend()
FIT_STEPS = 10


def correctness(out, rehearse):
    """Every 7th combination of flags against float64, without TF32: errors as in the test suite."""
    import test_parity

    if BACKEND == "torch":
        import torch

        torch.backends.cudnn.allow_tf32 = False
    else:
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    rows = []
    for flags in test_parity.COMBINATIONS[:: 24 if rehearse else 7]:
        net, x = test_parity.make_net(flags), test_parity.images()
        found = test_parity.errors(test_parity.computed(net, x), net, x)
        worst = max(found, key=found.get)
        rows.append({**flags, "worst": worst, "error": f"{found[worst]:.1e}", "ok": found[worst] < 1e-5})
    write(out, "correctness", rows)
    return all(row["ok"] for row in rows)


def train_step(out, rehearse):
    """Ten steps on the real digits: the loss has to fall."""
    digits = focalnets.open_dataset("digits", channels=1).splits["train"]
    net = build_architecture(
        ARCHITECTURES["focalnet_pico"], image_converter=focalnets.ImageConverter(mean=(0.3,), std=(0.37,))
    )
    net.compile(keras.optimizers.AdamW(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = [float(net.train_on_batch(digits.images[:128], digits.labels[:128])) for _ in range(10)]
    fell = losses[-1] < losses[0]
    write(out, "train_step", [{"first_loss": losses[0], "last_loss": losses[-1], "ok": fell}])
    return fell


def ceilings(out, rehearse):
    """GFLOP/s of a bfloat16 product and GB/s of a copy, read and written bytes together."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, numbers = (256, 2**20) if rehearse else (8192, 2**30)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    source = torch.empty(numbers, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    rows = interleaved(
        {"product": lambda: a @ a, "copy": lambda: target.copy_(source)},
        torch.cuda.synchronize if device == "cuda" else lambda: None,
        1,
        3 if rehearse else 20,
    )
    work = {"product": 2 * side**3, "copy": 4 * numbers}
    for row in rows:
        row["giga_per_s"] = round(work[row["what"]] / float(row["median_s"]) / 1e9, 1)
        del row["images_per_s"]
    write(out, "ceilings", rows)
    return True


STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side and channels of tiny_srf's maps


def kernels(out, rehearse):
    """focal_context fused and plain: the largest relative difference of values and gradients."""
    import torch

    from focalnets import config
    from focalnets.ops.focal_context import focal_context

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for side, channels in ((5, 8),) if rehearse else (*STAGES, (37, 100)):
            for levels in (2, 3):
                generator = torch.Generator(device).manual_seed(side)
                draw = functools.partial(torch.randn, device=device, generator=generator)
                shapes = [(2, side, side, channels), (2, side, side, levels + 1)]
                shapes += [(3 + 2 * level, 3 + 2 * level, channels, 1) for level in range(levels)]
                tensors = [draw(shape).to(dtype).requires_grad_() for shape in shapes]
                weight = draw(shapes[0])
                found = {}
                for fused in (True, False):
                    config.set_fused(fused)
                    kind = torch.float64 if not fused else dtype  # plain in float64 is the judge
                    given = [tensor.detach().to(kind).requires_grad_() for tensor in tensors]
                    y = focal_context(given[0], given[1], given[2:])
                    gradients = torch.autograd.grad((y * weight).sum(), given)
                    found[fused] = [value.detach().double() for value in (y, *gradients)]
                errors = [
                    float((mine - right).abs().max() / right.abs().max())
                    for mine, right in zip(found[True], found[False], strict=True)
                ]
                limit = 1e-5 if dtype == torch.float32 else 2e-2
                rows.append(
                    {
                        "dtype": str(dtype),
                        "side": side,
                        "channels": channels,
                        "levels": levels,
                        "value_error": f"{errors[0]:.1e}",
                        "gradient_error": f"{max(errors[1:]):.1e}",
                        "ok": max(errors) < limit,
                    }
                )
    config.set_fused(None)
    dispatched = config.dispatches().get(("focal_context", "triton"), 0)
    print(f"dispatches to triton: {dispatched}")
    write(out, "kernels", rows)
    return all(row["ok"] for row in rows) and dispatched >= len(rows)


def depthwise(out, rehearse):
    """One level, GELU(depthwise convolution), forward and forward+backward, bfloat16, batch 128."""
    places = [(*stage, 3) for stage in STAGES] + [(*STAGES[0], 5), (*STAGES[0], 7)]
    places = [(8, 16, 3)] if rehearse else places
    batch = 2 if rehearse else 128
    build = depthwise_torch if BACKEND == "torch" else depthwise_jax
    rows = []
    for side, channels, size in places:
        contenders, synchronize = build(batch, side, channels, size, rehearse)
        for row in interleaved(contenders, synchronize, batch, 3 if rehearse else 10):
            rows.append({"side": side, "channels": channels, "kernel": size, **row})
        write(out, "depthwise", rows)  # each time: the part may run out of its seconds
    return True


def depthwise_torch(batch, side, channels, size, rehearse):
    import torch
    import torch.nn.functional as F

    from focalnets.ops import torch_ops, triton_kernels

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(batch, side, side, channels, device=device, dtype=torch.bfloat16, requires_grad=True)
    kernel = torch.randn(size, size, channels, 1, device=device, dtype=torch.bfloat16, requires_grad=True)
    gates = torch.ones(batch, side, side, 2, device=device, dtype=torch.bfloat16)
    gates[..., 1] = 0

    def cudnn(x, kernel):
        return F.gelu(torch_ops.depthwise_conv(x, kernel))

    def shifted(x, kernel):
        margin = size // 2
        padded = F.pad(x, (0, 0, margin, margin, margin, margin)).float()
        taps = ((i, j) for i in range(size) for j in range(size))
        total = sum(padded[:, i : i + side, j : j + side] * kernel[i, j, :, 0].float() for i, j in taps)
        return F.gelu(total).to(x.dtype)

    forms = {"cudnn": cudnn}
    if not rehearse:
        forms["cudnn compiled"] = torch.compile(cudnn)
        forms["shifted compiled"] = torch.compile(shifted)
    if triton_kernels.unsupported(x, gates, [kernel]) is None:
        forms["triton"] = lambda x, kernel: triton_kernels.focal_context(x, gates, [kernel])

    def forward(form):
        with torch.no_grad():
            form(x, kernel)

    def both(form):
        torch.autograd.grad(form(x, kernel).sum(), (x, kernel))

    contenders = {}
    for name, form in forms.items():
        contenders[f"{name}, forward"] = functools.partial(forward, form)
        contenders[f"{name}, forward+backward"] = functools.partial(both, form)
    return contenders, (torch.cuda.synchronize if device == "cuda" else lambda: None)


def depthwise_jax(batch, side, channels, size, rehearse):
    import jax
    import jax.numpy as jnp

    from focalnets.ops import jax_ops

    x = jnp.ones((batch, side, side, channels), jnp.bfloat16)
    kernel = jnp.ones((size, size, channels, 1), jnp.bfloat16)

    def grouped(x, kernel):
        return jax_ops.gelu(
            jax.lax.conv_general_dilated(
                x,
                kernel.reshape(size, size, 1, channels),
                (1, 1),
                "SAME",
                feature_group_count=channels,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        )

    def shifted(x, kernel):
        return jax_ops.gelu(jax_ops.depthwise_conv(x, kernel))

    def total(form):
        return lambda x, kernel: form(x, kernel).astype(jnp.float32).sum()

    contenders = {}
    for name, form in (("cudnn", grouped), ("shifted", shifted)):
        value = jax.jit(form)
        slope = jax.jit(jax.grad(total(form), (0, 1)))
        contenders[f"{name}, forward"] = lambda f=value: jax.block_until_ready(f(x, kernel))
        contenders[f"{name}, forward+backward"] = lambda f=slope: jax.block_until_ready(f(x, kernel))
    return contenders, lambda: None


def waits(step):
    """How often one `step` makes the host wait for the GPU, as torch counts it; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def speed(out, rehearse):
    keras.config.set_dtype_policy("float32" if rehearse else "mixed_bfloat16")
    batch, size = (2, 32) if rehearse else (128, 224)
    x = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype("uint8")
    y = np.arange(batch) % 1000
    many_x, many_y = np.concatenate([x] * FIT_STEPS), np.concatenate([y] * FIT_STEPS)
    net = build_architecture(ARCHITECTURES["focalnet_tiny_srf"], image_converter=focalnets.ImageConverter())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), loss)
    contenders = {
        "focalnets predict": lambda: net.predict_on_batch(x),
        f"focalnets fit, {FIT_STEPS} steps": lambda: net.fit(many_x, many_y, batch_size=batch, verbose=0),
    }

    def synchronize():
        pass  # predict and fit return numbers, and JAX's step waits

    if BACKEND == "torch":
        more, synchronize = torch_contenders(net, x, y, rehearse)
        contenders |= more
        counted = {"one batch": waits(lambda: net.train_on_batch(x, y))}
        counted[f"fit, {FIT_STEPS} batches"] = waits(
            lambda: net.fit(many_x, many_y, batch_size=batch, verbose=0)
        )
        write(out, "waits", [{"what": what, "waits": count} for what, count in counted.items()])
    else:
        import jax

        device_x = jax.device_put(x)
        forward = jax.jit(lambda t, n, x: net.stateless_call(t, n, x, training=False)[0])

        def bare():  # `fit` replaces the arrays, so they are asked for anew
            trainable = [v.value for v in net.trainable_variables]
            rest = [v.value for v in net.non_trainable_variables]
            forward(trainable, rest, device_x).block_until_ready()

        contenders["focalnets bare jit inference"] = bare
        contenders["focalnets bare jit training"] = jax_training(net, loss, device_x, y)
    write(out, "speed", interleaved(contenders, synchronize, batch, 3 if rehearse else 20))
    return True


def jax_training(net, loss, x, y):
    """A training step without `fit`: one jitted function, state handed from step to step."""
    import jax

    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
    optimizer.build(net.trainable_variables)

    def objective(trainable, rest, x, y):
        logits, rest = net.stateless_call(trainable, rest, x, training=True)
        return loss(y, logits), rest

    @jax.jit
    def update(trainable, rest, slots, x, y):
        (_, rest), gradients = jax.value_and_grad(objective, has_aux=True)(trainable, rest, x, y)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return trainable, rest, slots

    state = [
        [jax.numpy.copy(v.value) for v in variables]  # `fit` deletes the arrays that it was given
        for variables in (net.trainable_variables, net.non_trainable_variables, optimizer.variables)
    ]
    y = jax.device_put(y)

    def step():
        state[:] = update(*state, x, y)
        jax.block_until_ready(state)

    return step


def torch_contenders(net, x, y, rehearse):
    """Bare loops on torch: ours eager and compiled, timm eager and compiled, in channels-last."""
    import torch
    import torch.nn.functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    labels = torch.as_tensor(y, device=device)
    ours_x = torch.as_tensor(x, device=device)
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=not rehearse)

    def inference(model, images):
        def step():
            with torch.inference_mode(), autocast:
                model(images)

        return step

    def training(model, images, parameters):
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, fused=device == "cuda")

        def step():
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()

        return step

    def train_mode(images):
        return net(images, training=True)

    parameters = [v.value for v in net.trainable_variables]

    def with_kernels(step):
        from focalnets import config

        def fused_step():
            config.set_fused(True)
            try:
                step()
            finally:
                config.set_fused(None)

        return fused_step

    found = {
        "focalnets bare eager inference": inference(net, ours_x),
        "focalnets bare eager training": training(train_mode, ours_x, parameters),
    }
    if not rehearse:
        found["focalnets bare compiled inference"] = inference(torch.compile(net), ours_x)
        for kind in ("inference", "training"):
            found[f"focalnets kernels eager {kind}"] = with_kernels(found[f"focalnets bare eager {kind}"])
    try:
        import timm
    except ImportError:
        print("timm is not installed: left out")
    else:
        peer = timm.create_model("focalnet_tiny_srf").to(device, memory_format=torch.channels_last)
        images = torch.randn(ours_x.shape, device=device).permute(0, 3, 1, 2)
        found["timm eager inference"] = inference(peer.eval(), images)
        if not rehearse:
            found["timm compiled inference"] = inference(torch.compile(peer), images)
        trained = timm.create_model("focalnet_tiny_srf", drop_path_rate=0.2)
        trained = trained.to(device, memory_format=torch.channels_last).train()
        found["timm eager training"] = training(trained, images, trained.parameters())
        if not rehearse:
            found["timm compiled training"] = training(torch.compile(trained), images, trained.parameters())
    return found, (torch.cuda.synchronize if device == "cuda" else lambda: None)


def interleaved(contenders, synchronize, batch, rounds):
    """Warm each up, then time them in turn; one that fails is reported and left out."""
    working = {}
    for name, step in contenders.items():
        start = time.perf_counter()
        try:
            for _ in range(3):
                step()
            synchronize()
        except Exception as error:  # a peer that cannot run here must not hide the others' figures
            print(f"{name}: left out ({type(error).__name__}: {error})")
            continue
        working[name] = time.perf_counter() - start
    seconds = {name: [] for name in working}
    for _ in range(rounds):
        for name in working:
            synchronize()
            start = time.perf_counter()
            contenders[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return [
        {
            "what": name,
            "batch": batch,
            "median_s": f"{statistics.median(values):.5f}",
            "min_s": f"{min(values):.5f}",
            "max_s": f"{max(values):.5f}",
            "images_per_s": round(batch * (FIT_STEPS if "fit" in name else 1) / statistics.median(values), 1),
            "warmup_s": round(working[name], 1),
        }
        for name, values in seconds.items()
    ]


def write(out, name, rows):
    with (pathlib.Path(out) / f"{name}_{BACKEND}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*(f"{key}={value}" for key, value in row.items()))


if __name__ == "__main__":
    part, out, *rest = sys.argv[1:]
    every = (ceilings, correctness, train_step, kernels, depthwise, speed)
    parts = {function.__name__: function for function in every}
    sys.exit(0 if parts[part](out, rest == ["--rehearse"]) else "wrong numbers: see above")
