"""Operations for torch: native convolution of a channels-last view.

A (B, H, W, C) tensor permuted to (B, C, H, W) has torch's channels-last memory format. No data is copied, and
the native depthwise convolution is several times faster than in the default format.
"""

import importlib.util
import math
import os

import keras
import torch
import torch.nn.functional as F

from focalnets.ops import torch_cpu


def depthwise_conv(x, kernel):
    view = x.permute(0, 3, 1, 2)
    if x.dtype is torch.float64 and x.is_cpu:
        # oneDNN has no float64, and torch's kernel is 5 times slower for channels-last.
        view = view.contiguous()
    weight = kernel.permute(2, 3, 0, 1)  # (k, k, C, 1) -> (C, 1, k, k)
    y = F.conv2d(view, weight, padding=kernel.shape[0] // 2, groups=kernel.shape[2])
    return y.permute(0, 2, 3, 1)


def gelu(x):
    return F.gelu(x)


def always(*_):
    return None


def linear(x, kernel, bias):
    """Adds the bias within the matrix multiplication. Keras adds it in a separate, slower operation."""
    return F.linear(x, kernel.t(), bias)


def layer_norm(x, gamma, beta, epsilon):
    """Computes 16-bit maps in float32, too."""
    return F.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


def unsupported_mean(x):
    return "the sum may overflow" if x.dtype is torch.float16 else None


def spatial_mean(x):
    """Sums 16-bit maps in float32. The gradient of torch's mean would divide a whole map."""
    return x.sum((1, 2), keepdim=True) / (x.shape[1] * x.shape[2])


def split(x, sizes):
    """Concatenates the gradients once. Slices would allocate, fill and add three maps of zeros."""
    return torch.split(x, sizes, dim=-1)


def unsupported_padding(x, kernel, bias, stride, padding):
    return None if all(before == after for before, after in padding) else "the padding is not symmetric"


def strided_conv(x, kernel, bias, stride, padding):
    """Pads within the convolution, without copying the map."""
    before = [first for first, _ in padding]
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=stride, padding=before)
    return y.permute(0, 2, 3, 1)


def unsupported_triton(context, gates, kernels):
    if importlib.util.find_spec("focalnets.ops.triton_kernels") is None:
        return "this installation does not include the Triton kernels"
    if not context.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return "the tensors are not on a GPU"
    from focalnets.ops import triton_kernels  # imports triton

    return triton_kernels.unsupported(context, gates, kernels)


def triton_focal_context(context, gates, kernels):
    from focalnets.ops import triton_kernels

    return triton_kernels.focal_context(context, gates, kernels)


def unsupported_mask(shape, rate, seed, like):
    return None if seed.is_cpu else "the seed is not on the host"


def dropout_mask(shape, rate, seed, like):
    """Factors 0 and 1 / (1 - rate) in float32. Each 64-bit random integer gives four elements."""
    generator = torch.Generator(like.device).manual_seed(int(seed.sum()))
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    keep = words.view(torch.int16)[:count] >= round(rate * 2**16) - 2**15
    return torch.where(keep, 1 / (1 - rate), 0.0).view(shape)


def _depthwise_conv(x, kernel):
    fast = torch_cpu.unsupported_depthwise(x, kernel) is None
    return (torch_cpu.depthwise_conv if fast else depthwise_conv)(x, kernel)


def _padded_conv(x, kernel, bias, stride, padding):
    if unsupported_padding(x, kernel, bias, stride, padding):
        (above, below), (left, right) = padding
        x, padding = F.pad(x, (0, 0, left, right, above, below)), ((0, 0), (0, 0))
    return strided_conv(x, kernel, bias, stride, padding)


IMPLEMENTATIONS = {  # see `dispatch.optimized`
    "linear": (
        ("onednn", torch_cpu.unsupported, torch_cpu.linear),
        ("float32", torch_cpu.unsupported_in_float32, torch_cpu.in_float32(torch_cpu.linear)),
        ("torch", always, linear),
    ),
    "dropout_mask": (("16 bits", unsupported_mask, dropout_mask),),
    "layer_norm": (("torch", always, layer_norm),),
    "spatial_mean": (("torch", unsupported_mean, spatial_mean),),
    "split": (("torch", always, split),),
    "strided_conv": (
        ("float32", torch_cpu.unsupported_in_float32, torch_cpu.in_float32(_padded_conv)),
        ("torch", unsupported_padding, strided_conv),
    ),
    "mlp": (
        ("onednn", torch_cpu.unsupported, torch_cpu.mlp),
        ("float32", torch_cpu.unsupported_in_float32, torch_cpu.in_float32(torch_cpu.mlp)),
    ),
    "focal_context": (("onednn", torch_cpu.unsupported_context, torch_cpu.focal_context),),
    "depthwise_conv": (
        ("onednn", torch_cpu.unsupported_depthwise, torch_cpu.depthwise_conv),
        ("float32", torch_cpu.unsupported_in_float32, torch_cpu.in_float32(_depthwise_conv)),
    ),
    "map_chunks": (("cache", torch_cpu.unsupported_chunks, torch_cpu.map_chunks),),
}
# Faster on an H200 for large maps, but the host limits a whole network, so that they are used on request.
UNMEASURED = {"focal_context": (("triton", unsupported_triton, triton_focal_context),)}


@torch.no_grad()
def adamw(
    variables,
    gradients,
    momentums,
    velocities,
    averages,
    groups,
    learning_rate,
    betas,
    step,
    epsilon,
    kept,
):
    """Update lists of tensors in place with one fused AdamW step.

    Args:
        groups: List of (indices into the lists, learning rate multiplier, weight decay).
        learning_rate: Tensor on the host.
        step: Tensor on the host. Number of the update, starting at 1.
        kept: Tensor on the host. Fraction of the averages that remains.
    """
    numbers = torch.as_tensor
    if not variables[0].is_cpu:  # the numbers are on the host, where `item` does not wait
        step, kept = torch.full((), step.item(), device=variables[0].device), kept.item()
        numbers = torch.Tensor.item
    # The gradient of a depthwise kernel is a permuted view, whose strides the fused update ignores.
    gradients = [gradient.contiguous() for gradient in gradients]
    for places, rate, decay in groups:
        torch._fused_adamw_(
            *(
                [tensors[place] for place in places]
                for tensors in (variables, gradients, momentums, velocities)
            ),
            [],
            [step] * len(places),
            lr=numbers(learning_rate * rate),
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=decay,
            eps=epsilon,
            amsgrad=False,
            maximize=False,
        )
    if averages:
        torch._foreach_mul_(averages, kept)
        torch._foreach_add_(averages, torch._foreach_mul(variables, 1 - kept))


def value_and_gradient(function, x):
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        y = function(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), gradient


def on_host():
    return keras.device("cpu")


def from_host(x, like):
    """Copies from pinned memory, after which the host does not wait."""
    return x.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else x.to(like.device)


def accelerator():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "MPS" if torch.backends.mps.is_available() else None


def bfloat16_supported():
    """True on a GPU, and on a CPU with AVX-512 BF16 or AMX."""
    return torch.cuda.is_available() or torch_cpu.BFLOAT16


prefer_bfloat16 = bfloat16_supported  # 1.5 times as fast on a CPU with AVX-512 BF16
