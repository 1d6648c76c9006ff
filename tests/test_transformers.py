"""Parity with tiny random networks of transformers, for every flag that it has; torch only.

transformers pads like we do, so that odd sizes can be compared. Its weights go over by hand here, name by
name; the general conversion is a part of its own.
"""

import itertools

import keras
import numpy as np
import pytest
from reference import relative_error

from focalnets import FocalNetBackbone, FocalNetClassifier

torch = pytest.importorskip("torch", reason="transformers' FocalNet is torch only")
import transformers  # noqa: E402  `make setup` installs it beside torch: its absence is a failure

FLAGS = {
    "use_conv_embed": (False, True),
    "use_layerscale": (False, True),
    "use_post_layernorm": (False, True),
    "use_post_layernorm_in_modulation": (False, True),
    "normalize_modulator": (False, True),
}
COMBINATIONS = [dict(zip(FLAGS, values, strict=True)) for values in itertools.product(*FLAGS.values())]


def their_net(flags):
    config = transformers.FocalNetConfig(
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
    torch.manual_seed(0)
    net = transformers.FocalNetForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(torch.randn_like(parameter) / fan_in**0.5)
    return net


def our_net(flags):
    backbone = FocalNetBackbone(
        embed_dim=8,
        depths=(1, 2),
        focal_levels=(2, 3),
        focal_window=(3, 5),
        overlap_embed=flags["use_conv_embed"],
        layer_scale_init=1e-4 if flags["use_layerscale"] else None,
        norm_placement="post" if flags["use_post_layernorm"] else "pre",
        norm_after_modulation=flags["use_post_layernorm_in_modulation"],
        normalize_modulator=flags["normalize_modulator"],
    )
    return FocalNetClassifier(backbone, 5)


def carry_over(theirs, ours):
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}

    def take(name, layer):
        weight, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias")
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(weight.reshape(weight.shape[:2]).T)
            layer.bias.assign(bias)
        elif isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(weight.transpose(2, 3, 1, 0))
            layer.bias.assign(bias)
        else:
            layer.gamma.assign(weight)
            layer.beta.assign(bias)

    net = ours.backbone
    embedding = net.get_layer("stem")
    take("focalnet.embeddings.patch_embeddings.projection", embedding.proj)
    take("focalnet.embeddings.norm", embedding.norm)
    for stage, depth in enumerate(net.depths):
        prefix = f"focalnet.encoder.stages.{stage}"
        for index in range(depth):
            block = net.get_layer(f"stage{stage + 1}_block{index + 1}")
            name = f"{prefix}.layers.{index}"
            take(f"{name}.norm1", block.norm1)
            take(f"{name}.norm2", block.norm2)
            take(f"{name}.mlp.fc1", block.fc1)
            take(f"{name}.mlp.fc2", block.fc2)
            take(f"{name}.modulation.projection_in", block.modulation.f)
            take(f"{name}.modulation.projection_context", block.modulation.h)
            take(f"{name}.modulation.projection_out", block.modulation.proj)
            if block.modulation.norm is not None:
                take(f"{name}.modulation.layernorm", block.modulation.norm)
            for level, kernel in enumerate(block.modulation.kernels):
                weight = state.pop(f"{name}.modulation.focal_layers.{level}.0.weight")
                kernel.assign(weight.transpose(2, 3, 0, 1))
            if block.scale1 is not None:
                block.scale1.gamma.assign(state.pop(f"{name}.gamma_1"))
                block.scale2.gamma.assign(state.pop(f"{name}.gamma_2"))
        if stage + 1 < len(net.depths):
            embedding = net.get_layer(f"stage{stage + 1}_downsample")
            take(f"{prefix}.downsample.projection", embedding.proj)
            take(f"{prefix}.downsample.norm", embedding.norm)
    take("focalnet.layernorm", net.get_layer("norm"))
    take("classifier", ours.head)
    assert not state, f"left over: {sorted(state)}"


def errors(theirs, ours):
    """Relative error of the logits, of every block's output and of every stage."""
    carry_over(theirs, ours)
    x = np.random.default_rng(1).normal(size=(2, 27, 38, 3)).astype("float32")
    seen = {}
    for stage, blocks in enumerate(theirs.focalnet.encoder.stages, start=1):
        for index, block in enumerate(blocks.layers, start=1):
            name = f"stage{stage}_block{index}"
            block.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2), output_hidden_states=True)
    net = ours.backbone
    layers = [block.name for block in net.blocks] + ["stem", "stage1_downsample"]
    found = keras.Model(net.inputs, {name: net.get_layer(name).output for name in layers})
    found = found.predict(x, verbose=0)
    seen["stem"], seen["stage1_downsample"] = expected.hidden_states[:2]
    seen = {name: value.reshape(found[name].shape) for name, value in seen.items()}  # (B, H*W, C)
    assert set(seen) == set(found)
    gaps = {name: relative_error(found[name], seen[name]) for name in found}
    return {"logits": relative_error(ours.predict(x, verbose=0), expected.logits), **gaps}


@pytest.mark.parametrize("flags", COMBINATIONS, ids=lambda f: "".join("01"[v] for v in f.values()))
def test_equals_transformers(flags):
    found = errors(their_net(flags), our_net(flags))
    worst = max(found, key=found.get)
    assert found[worst] <= 1e-5, f"{worst}: {found[worst]:.1e}"


def test_a_broken_variant_is_noticed():
    flags = COMBINATIONS[0]
    broken = {**flags, "normalize_modulator": True}
    assert max(errors(their_net(broken), our_net(flags)).values()) > 1e-3
    tanh = their_net(flags)
    for module in tanh.modules():
        if isinstance(module, (torch.nn.GELU, transformers.activations.GELUActivation)):
            module.forward = lambda x: torch.nn.functional.gelu(x, approximate="tanh")
    assert max(errors(tanh, our_net(flags)).values()) > 5e-5
