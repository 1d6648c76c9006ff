"""Small networks of other libraries with random weights, and their outputs. torch only."""

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


def their_image():
    """Images with odd, different sides. transformers pads as focalnets does."""
    return np.random.default_rng(1).normal(size=(2, 27, 38, 3)).astype("float32")


def their_outputs(net, image):
    """Logits, and the channels-last maps of the stem and of each stage including its down-sampling."""
    import torch

    with torch.no_grad():
        found = net(torch.from_numpy(image).permute(0, 3, 1, 2), output_hidden_states=True)
    maps = {
        f"stage {index}": value.permute(0, 2, 3, 1).contiguous()
        for index, value in enumerate(found.reshaped_hidden_states)
    }
    return {"logits": found.logits, **maps}


def detector_outputs(state, image, padding, post_norm, normalizes):
    """Normalized channels-last maps of the stages of upstream's detection backbone with overlapping stem.

    Args:
        state: dict of upstream's keys -> array. Every stage has a norm.
        image: array (B, H, W, 3). All strides divide H and W.
        padding: int. Padding of the stem.
        post_norm: bool. Whether norms follow the branches of a block.
        normalizes: bool. Whether the modulator is divided by the number of gates.
    """
    import torch
    import torch.nn.functional as F

    state = {key: torch.from_numpy(value) for key, value in state.items()}

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(name, x, **arguments):
        y = F.conv2d(x.permute(0, 3, 1, 2), state[f"{name}.weight"], state.get(f"{name}.bias"), **arguments)
        return y.permute(0, 2, 3, 1)

    def dense(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def modulation(name, x):
        width = x.shape[-1]
        projected = dense(f"{name}.f", x)
        query, context, gates = projected.tensor_split((width, 2 * width), -1)
        total, levels = 0, gates.shape[-1] - 1
        for level in range(levels):
            key = f"{name}.focal_layers.{level}.0"
            size = state[f"{key}.weight"].shape[-1]
            context = F.gelu(conv(key, context, padding=size // 2, groups=width))
            total = total + context * gates[..., level, None]
        total = total + F.gelu(context.mean((1, 2), keepdim=True)) * gates[..., -1:]
        y = query * conv(f"{name}.h", total / (levels + 1) if normalizes else total)
        return dense(f"{name}.proj", norm(f"{name}.ln", y) if f"{name}.ln.weight" in state else y)

    x, stage, outputs = torch.from_numpy(image), 0, {}
    x = norm("patch_embed.norm", conv("patch_embed.proj", x, stride=4, padding=padding))
    while f"layers.{stage}.blocks.0.norm1.weight" in state:
        index = 0
        while f"layers.{stage}.blocks.{index}.norm1.weight" in state:
            name = f"layers.{stage}.blocks.{index}"
            branches = {
                "1": lambda y, name=name: modulation(f"{name}.modulation", y),
                "2": lambda y, name=name: dense(f"{name}.mlp.fc2", F.gelu(dense(f"{name}.mlp.fc1", y))),
            }
            for number, function in branches.items():
                n = f"{name}.norm{number}"
                y = norm(n, function(x)) if post_norm else function(norm(n, x))
                x = x + y * state.get(f"{name}.gamma_{number}", torch.ones(1))
            index += 1
        outputs[f"P{stage + 2}"] = norm(f"norm{stage}", x).numpy()
        if f"layers.{stage}.downsample.proj.weight" in state:
            name = f"layers.{stage}.downsample"
            x = norm(f"{name}.norm", conv(f"{name}.proj", x, stride=2, padding=1))
        stage += 1
    return outputs
