"""The parts of `gpu_session.sh`: correctness, train_step, speed. One backend a process.

`speed` measures tiny_srf, 224 px, batch 128, bfloat16: inference and training step, ours through Keras and
in a bare loop, beside timm eager and compiled (on torch). All contenders of one process take turns.
"""

import csv
import pathlib
import statistics
import sys
import time

import keras
import numpy as np

import focalnets
from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.store import build_architecture

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
    found = {
        "focalnets bare eager inference": inference(net, ours_x),
        "focalnets bare eager training": training(train_mode, ours_x, parameters),
    }
    if not rehearse:
        found["focalnets bare compiled inference"] = inference(torch.compile(net), ours_x)
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
    parts = {"correctness": correctness, "train_step": train_step, "speed": speed}
    sys.exit(0 if parts[part](out, rest == ["--rehearse"]) else "wrong numbers: see above")
