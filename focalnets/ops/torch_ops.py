"""The torch formulation: native convolution on a channels-last view.

A (B,H,W,C) tensor permuted to (B,C,H,W) *is* torch's channels-last memory format: no byte moves, and
the native depthwise convolution runs several times faster in it than in the default format.
"""

import math
import os

import torch
import torch.nn.functional as F

from focalnets import config
from focalnets.ops import torch_cpu


def depthwise_conv(x, kernel):
    view = x.permute(0, 3, 1, 2)
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
    return F.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


def not_float32(x, *_):
    return None if x.dtype == torch.float32 else "the map is not float32"


def not_for_triton(context, gates, kernels):
    """Why the Triton kernels are not taken. No GPU has run them yet, so they have to be asked for."""
    if not context.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return "the tensors are not on a GPU"
    if config.fused() is None:
        return "the kernels were never measured, so they are used on demand only"
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


FUSED = {  # see `dispatch.fused`
    "linear": (
        ("onednn", torch_cpu.unsupported, torch_cpu.linear),
        ("torch", always, linear),
    ),
    "dropout_mask": (("16 bits", no_mask, dropout_mask),),
    "layer_norm": (("torch", not_float32, layer_norm),),
    "mlp": (("onednn", torch_cpu.unsupported, torch_cpu.mlp),),
    "focal_context": (
        ("onednn", torch_cpu.unsupported_context, torch_cpu.focal_context),
        ("triton", not_for_triton, triton_focal_context),
    ),
    "in_pieces": (("cache", torch_cpu.unsupported_pieces, torch_cpu.in_pieces),),
}


@torch.no_grad()
def adamw(
    variables,
    gradients,
    momentums,
    velocities,
    averages,
    rates,
    decays,
    learning_rate,
    betas,
    step,
    epsilon,
    kept,
):
    """One AdamW update of lists of tensors, in place, in one pass over memory.

    Args:
        rates: factor on the learning rate of each variable.
        decays: weight decay of each.
        learning_rate, step: tensors; the step counts from 1. Not numbers: to read them would wait for
            the device.
        kept: share of the averages that stays, a tensor.
    """
    # A depthwise kernel's gradient comes as a permuted view, which the fused update would take as it lies.
    gradients = [gradient.contiguous() for gradient in gradients]
    for rate, decay in dict.fromkeys(zip(rates, decays, strict=True)):
        chosen = [
            index for index, pair in enumerate(zip(rates, decays, strict=True)) if pair == (rate, decay)
        ]
        torch._fused_adamw_(
            *(
                [tensors[index] for index in chosen]
                for tensors in (variables, gradients, momentums, velocities)
            ),
            [],
            [step] * len(chosen),
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


def bfloat16_is_fast():
    """On a GPU; on a CPU only with AVX-512 BF16 or AMX."""
    return torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
