"""The torch formulation: native convolution on a channels-last view.

A (B,H,W,C) tensor permuted to (B,C,H,W) *is* torch's channels-last memory format: no byte moves, and
the native depthwise convolution runs several times faster in it than in the default format.
"""

import torch.nn.functional as F


def depthwise_conv(x, kernel):
    view = x.permute(0, 3, 1, 2)
    weight = kernel.permute(2, 3, 0, 1)  # (k, k, C, 1) -> (C, 1, k, k)
    y = F.conv2d(view, weight, padding=kernel.shape[0] // 2, groups=kernel.shape[2])
    return y.permute(0, 2, 3, 1)


def gelu(x):
    return F.gelu(x)
