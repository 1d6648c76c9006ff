"""Tiny networks of transformers with random weights of order 1, and what they compute; torch only."""

import itertools

import numpy as np
from their_weights import drawn

FLAGS = {
    "use_conv_embed": (False, True),
    "use_layerscale": (False, True),
    "use_post_layernorm": (False, True),
    "use_post_layernorm_in_modulation": (False, True),
    "normalize_modulator": (False, True),
}
COMBINATIONS = [dict(zip(FLAGS, values, strict=True)) for values in itertools.product(*FLAGS.values())]

STORED = [flags for flags in COMBINATIONS if sum(flags.values()) in (0, 1, len(FLAGS))]


def name_of(flags):
    return "".join("01"[value] for value in flags.values())


def their_config(flags):
    import transformers

    return transformers.FocalNetConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        hidden_sizes=[8, 16],
        depths=[1, 2],
        focal_levels=[2, 3],
        focal_windows=[3, 5],
        num_labels=5,
        drop_path_rate=0.0,
        layerscale_value=1e-4,
        out_features=["stage1", "stage2"],
        **flags,
    )


def their_net(flags, kind="FocalNetForImageClassification"):
    import torch
    import transformers

    net = getattr(transformers, kind)(their_config(flags)).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    net.load_state_dict({key: torch.from_numpy(array) for key, array in drawn(shapes).items()})
    return net


def their_picture():
    """Odd, non-square: transformers pads like we do."""
    return np.random.default_rng(1).normal(size=(2, 27, 38, 3)).astype("float32")


def their_outputs(net, picture):
    """The logits, and the map of the stem and of each stage, channels last, after its down-sampling."""
    import torch

    with torch.no_grad():
        found = net(torch.from_numpy(picture).permute(0, 3, 1, 2), output_hidden_states=True)
    maps = {
        f"stage {index}": value.permute(0, 2, 3, 1).contiguous()
        for index, value in enumerate(found.reshaped_hidden_states)
    }
    return {"logits": found.logits, **maps}
