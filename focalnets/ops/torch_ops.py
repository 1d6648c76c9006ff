"""The torch formulation: native convolution on a channels-last view.

A (B,H,W,C) tensor permuted to (B,C,H,W) *is* torch's channels-last memory format: no byte moves, and
the native depthwise convolution runs several times faster in it than in the default format.
"""

import importlib.util
import math
import os

import torch
import torch.nn.functional as F

from focalnets.ops import torch_cpu


def depthwise_conv(x, kernel):
    view = x.permute(0, 3, 1, 2)
    if x.dtype is torch.float64 and x.is_cpu:
        view = (
            view.contiguous()
        )  # oneDNN has no float64, and torch's own kernel is 5 times slower channels-last
    weight = kernel.permute(2, 3, 0, 1)  # (k, k, C, 1) -> (C, 1, k, k)
    y = F.conv2d(view, weight, padding=kernel.shape[0] // 2, groups=kernel.shape[2])
    return y.permute(0, 2, 3, 1)


def gelu(x):
    return F.gelu(x)


def always(*_):
    return None


def linear(x, kernel, bias):
    """The bias is added inside the product; Keras adds it in a pass of its own, which can take longer."""
    return F.linear(x, kernel.t(), bias)


def layer_norm(x, gamma, beta, epsilon):
    """Computes in float32 also where the map has 16 bits."""
    return F.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


def overflows(x):
    return "the sum may be out of range" if x.dtype is torch.float16 else None


def spatial_mean(x):
    """Sums in float32 also where the map has 16 bits; the gradient of torch's mean is a map to be divided."""
    return x.sum((1, 2), keepdim=True) / (x.shape[1] * x.shape[2])


def split(x, sizes):
    """The gradient is put together once; that of slices is three maps of zeros, filled and added."""
    return torch.split(x, sizes, dim=-1)


def uneven(x, kernel, bias, stride, padding):
    return None if all(before == after for before, after in padding) else "the padding is not symmetric"


def strided_conv(x, kernel, bias, stride, padding):
    """Pads within the convolution, without a copy of the map."""
    before = [first for first, _ in padding]
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=stride, padding=before)
    return y.permute(0, 2, 3, 1)


def not_for_triton(context, gates, kernels):
    """Reason why the Triton kernels cannot be used, or None."""
    if importlib.util.find_spec("focalnets.ops.triton_kernels") is None:
        return "this installation has no Triton kernels: they are only in the repository"
    if not context.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return "the tensors are not on a GPU"
    from focalnets.ops import triton_kernels  # which imports triton

    return triton_kernels.unsupported(context, gates, kernels)


def triton_focal_context(context, gates, kernels):
    from focalnets.ops import triton_kernels

    return triton_kernels.focal_context(context, gates, kernels)


def no_mask(shape, rate, seed):
    """Why Keras has to draw the mask."""
    return None if seed.is_cpu else "the generator is not on a CPU"


def dropout_mask(shape, rate, seed):
    """Factors 0 and 1 / (1 - rate), float32; four elements of 16 bits are drawn at a time."""
    generator = torch.Generator().manual_seed(int(seed.sum()))
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = words.view(torch.int16)[:count] >= round(rate * 2**16) - 2**15
    return torch.where(kept, 1 / (1 - rate), 0.0).view(shape)


def _depthwise_conv(x, kernel):
    """The version for its gradient where that is better."""
    suits = torch_cpu.unsupported_depthwise(x, kernel) is None
    return (torch_cpu.depthwise_conv if suits else depthwise_conv)(x, kernel)


def _padded_conv(x, kernel, bias, stride, padding):
    if uneven(x, kernel, bias, stride, padding):
        (above, below), (left, right) = padding
        x, padding = F.pad(x, (0, 0, left, right, above, below)), ((0, 0), (0, 0))
    return strided_conv(x, kernel, bias, stride, padding)


IMPLEMENTATIONS = {  # see `dispatch.optimized`
    "linear": (
        ("onednn", torch_cpu.unsupported, torch_cpu.linear),
        ("float32", torch_cpu.not_for_float32, torch_cpu.in_float32(torch_cpu.linear)),
        ("torch", always, linear),
    ),
    "dropout_mask": (("16 bits", no_mask, dropout_mask),),
    "layer_norm": (("torch", always, layer_norm),),
    "spatial_mean": (("torch", overflows, spatial_mean),),
    "split": (("torch", always, split),),
    "strided_conv": (
        ("float32", torch_cpu.not_for_float32, torch_cpu.in_float32(_padded_conv)),
        ("torch", uneven, strided_conv),
    ),
    "mlp": (
        ("onednn", torch_cpu.unsupported, torch_cpu.mlp),
        ("float32", torch_cpu.not_for_float32, torch_cpu.in_float32(torch_cpu.mlp)),
    ),
    "focal_context": (("onednn", torch_cpu.unsupported_context, torch_cpu.focal_context),),
    "depthwise_conv": (
        ("onednn", torch_cpu.unsupported_depthwise, torch_cpu.depthwise_conv),
        ("float32", torch_cpu.not_for_float32, torch_cpu.in_float32(_depthwise_conv)),
    ),
    "map_chunks": (("cache", torch_cpu.unsupported_pieces, torch_cpu.map_chunks),),
}
# No GPU has run these kernels yet.
UNMEASURED = {"focal_context": (("triton", not_for_triton, triton_focal_context),)}


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
    """One AdamW update of lists of tensors, in place, in one pass over memory.

    Args:
        groups: (places in the lists, factor on their learning rate, weight decay) of those updated alike.
        learning_rate, step: tensors; the step counts from 1. Not numbers: to read them would wait for
            the device.
        kept: share of the averages that stays, a tensor.
    """
    # A depthwise kernel's gradient comes as a permuted view, which the fused update would take as it lies.
    gradients = [gradient.contiguous() for gradient in gradients]
    for places, rate, decay in groups:
        torch._fused_adamw_(
            *(
                [tensors[place] for place in places]
                for tensors in (variables, gradients, momentums, velocities)
            ),
            [],
            [step] * len(places),
            lr=learning_rate * rate,
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


def accelerator():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "MPS" if torch.backends.mps.is_available() else None


def bfloat16_supported():
    """On a GPU; on a CPU only with AVX-512 BF16 or AMX."""
    return torch.cuda.is_available() or torch_cpu.BFLOAT16


prefer_bfloat16 = bfloat16_supported  # 1.5 times on a CPU with AVX-512 BF16
