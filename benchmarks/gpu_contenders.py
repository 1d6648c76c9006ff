"""Steps that `gpu_session.py` times. They also run on a machine without a GPU."""

import contextlib

import keras
import numpy as np


def synchronize():
    """Wait for the GPU. On JAX, each step waits by itself."""
    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


# === One level ===


def depthwise_torch(batch, side, channels, size, rehearse):
    """Yield implementations of GELU(depthwise convolution): dicts of name to (step, number of images)."""
    import torch
    import torch.nn.functional as F

    from focalnets.ops import torch_ops

    x, kernel = (_drawn(shape) for shape in ((batch, side, side, channels), (size, size, channels, 1)))

    def cudnn(x, kernel):
        return F.gelu(torch_ops.depthwise_conv(x, kernel))

    def shifted(x, kernel):
        margin = size // 2
        padded = F.pad(x, (0, 0, margin, margin, margin, margin)).float()
        taps = ((i, j) for i in range(size) for j in range(size))
        total = sum(padded[:, i : i + side, j : j + side] * kernel[i, j, :, 0].float() for i, j in taps)
        return F.gelu(total).to(x.dtype)

    def group(name, form):
        ways = _both_ways(form, (x, kernel))
        return {f"{name}, {way}": (step, batch) for way, step in ways.items()}

    yield group("cudnn", cudnn)
    if rehearse:
        yield group("shifted", shifted)
        return
    torch._dynamo.reset()  # otherwise the compiler would generalize over sizes of earlier calls
    yield group("shifted compiled", torch.compile(shifted, dynamic=False))
    if side == 56 and size == 3:  # the effect of a fused GELU is similar for all sizes
        yield group("cudnn compiled", torch.compile(cudnn, dynamic=False))


def contexts(batch, side, channels):
    """Steps of the focal context with two levels, by its definition and by Triton kernels."""
    from focalnets.ops.focal_context import focal_context

    shapes = [(batch, side, side, channels), (batch, side, side, 3), (3, 3, channels, 1), (5, 5, channels, 1)]
    tensors = tuple(_drawn(shape) for shape in shapes)
    ways = _both_ways(lambda x, gates, *kernels: focal_context(x, gates, kernels), tensors)
    return {f"plain, {way}": step for way, step in ways.items()} | {
        f"kernels, {way}": _with_kernels(step) for way, step in ways.items()
    }


def _drawn(shape):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)


def _both_ways(form, tensors):
    import torch

    def forward():
        with torch.no_grad():
            form(*tensors)

    def both():
        torch.autograd.grad(form(*tensors).sum(), tensors)

    return {"forward": forward, "forward+backward": both}


def _with_kernels(step):
    from focalnets.ops import dispatch

    def fused_step():
        dispatch.set_optimized(True)
        try:
            step()
        finally:
            dispatch.set_optimized(None)

    return fused_step


def depthwise_jax(batch, side, channels, size, rehearse):
    """Like `depthwise_torch`, on JAX."""
    import jax
    import jax.numpy as jnp

    from focalnets.ops import jax_ops

    generator = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(generator.standard_normal(shape, dtype="float32"), jnp.bfloat16)
        for shape in ((batch, side, side, channels), (size, size, channels, 1))
    )

    def grouped(x, kernel):
        return jax_ops.gelu(jax_ops.grouped_conv(x, kernel))

    def shifted(x, kernel):
        return jax_ops.gelu(jax_ops.shifted_conv(x, kernel))

    def total(form):
        return lambda x, kernel: form(x, kernel).astype(jnp.float32).sum()

    for name, form in (("cudnn", grouped), ("shifted", shifted)):
        ways = {"forward": jax.jit(form), "forward+backward": jax.jit(jax.grad(total(form), (0, 1)))}
        yield {f"{name}, {way}": (_waiting(function, x, kernel), batch) for way, function in ways.items()}


def _waiting(function, *arguments):
    import jax

    return lambda: jax.block_until_ready(function(*arguments))


# === Whole networks ===


def nets_torch(net, x, y, rehearse):
    """Bare loops over the networks of focalnets and timm: dicts of eager and of compiled steps."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    labels, ours_x = (torch.as_tensor(one, device=device) for one in (y, x))
    found = _bare(net, ours_x, labels)
    try:
        import timm
    except ImportError:
        print("left out: timm is not installed")
        peers = {}
    else:
        images = torch.randn(ours_x.shape, device=device).permute(0, 3, 1, 2)
        mixed = torch.autocast(device, dtype=torch.bfloat16)
        peers = {
            task: timm.create_model("focalnet_tiny_srf", num_classes=1000, drop_path_rate=rate)
            .to(device, memory_format=torch.channels_last)
            .train(task == "training")
            for task, rate in (("inference", 0.0), ("training", 0.2))
        }
        found["timm eager inference"] = _inference(peers["inference"], images, mixed)
        found["timm eager training"] = _training(
            peers["training"], peers["training"].parameters(), images, labels, mixed
        )
    if rehearse:
        return found, {}
    compiled = {"focalnets bare compiled inference": _inference(torch.compile(net), ours_x)}
    if peers:
        compiled["timm compiled inference"] = _inference(torch.compile(peers["inference"]), images, mixed)
        compiled["timm compiled training"] = _training(
            torch.compile(peers["training"]), peers["training"].parameters(), images, labels, mixed
        )
    trained = torch.compile(lambda images: net(images, training=True))
    compiled["focalnets bare compiled training"] = _training(trained, _values(net), ours_x, labels)
    return found, compiled


def nets_with_kernels(net, x, y):
    """Steps of a bare loop over focalnets, by the definitions and by Triton kernels."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = _bare(net, torch.as_tensor(x, device=device), torch.as_tensor(y, device=device))
    return plain | {name.replace("bare", "kernels"): _with_kernels(step) for name, step in plain.items()}


def _bare(net, images, labels):
    """Steps of a bare loop over focalnets. Its dtype policy selects bfloat16, so autocast is not used."""
    step = _training(lambda images: net(images, training=True), _values(net), images, labels)
    return {"focalnets bare eager inference": _inference(net, images), "focalnets bare eager training": step}


def _values(net):
    return [variable.value for variable in net.trainable_variables]


def _inference(model, images, mixed=None):
    import torch

    def step():
        with torch.inference_mode(), mixed or contextlib.nullcontext():
            model(images)

    return step


def _training(model, parameters, images, labels, mixed=None):
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, fused=images.is_cuda)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with mixed or contextlib.nullcontext():
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()

    return step


def nets_jax(net, loss, x, y):
    """Steps of focalnets without `fit` and `predict`: jitted functions with explicit state."""
    import jax

    x, y = jax.device_put(x), jax.device_put(y)
    forward = jax.jit(lambda t, n, x: net.stateless_call(t, n, x, training=False)[0])

    def inference():  # `fit` replaces the arrays, so they are read in each call
        trainable = [variable.value for variable in net.trainable_variables]
        rest = [variable.value for variable in net.non_trainable_variables]
        forward(trainable, rest, x).block_until_ready()

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
        [jax.numpy.copy(variable.value) for variable in variables]  # `fit` deletes its arrays
        for variables in (net.trainable_variables, net.non_trainable_variables, optimizer.variables)
    ]

    def training():
        state[:] = update(*state, x, y)
        jax.block_until_ready(state)

    return {"focalnets bare jit inference": inference, "focalnets bare jit training": training}
