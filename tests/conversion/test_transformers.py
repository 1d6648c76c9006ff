"""Parity with small random networks of transformers, for every flag. torch only.

Also compares transformers with `transformers.npz`, which tests the other backends in test_convert.py.
"""

import json

import keras
import numpy as np
import pytest
from PIL import Image
from reference import relative_error
from their_networks import COMBINATIONS, STORED, name_of, their_image, their_net, their_outputs
from their_weights import FIXTURES, our_flags, our_outputs

from focalnets import FocalNetImageConverter
from focalnets.conversion.convert import transformers_config
from focalnets.conversion.tensors import from_tensors, to_tensors
from focalnets.presets.preprocessing import transformers_preprocessing

torch = pytest.importorskip("torch", reason="transformers' FocalNet needs torch")
import transformers  # noqa: E402  `make setup` installs it with torch, so its absence is a failure


def errors(theirs, flags):
    """Relative errors of the logits and of the outputs of all blocks and stages."""
    image, seen = their_image(), {}
    for stage, blocks in enumerate(theirs.focalnet.encoder.stages, start=1):
        for index, block in enumerate(blocks.layers, start=1):
            name = f"stage{stage}_block{index}"
            block.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    expected = their_outputs(theirs, image)
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ours = from_tensors(state, config_overrides=our_flags(flags)).network
    blocks = keras.Model(ours.backbone.inputs, {b.name: b.output for b in ours.backbone.blocks})
    found = {**our_outputs(ours, image), **blocks.predict(image, verbose=0)}
    seen = {name: value.reshape(found[name].shape) for name, value in seen.items()}  # (B, H*W, C)
    expected |= seen
    assert set(found) == set(expected)
    return {name: relative_error(found[name], expected[name]) for name in found}


@pytest.mark.slow
@pytest.mark.parametrize("flags", COMBINATIONS, ids=name_of)
def test_network_equals_transformers_for_all_flags(flags):
    found = errors(their_net(flags), flags)
    worst = max(found, key=found.get)
    assert found[worst] <= 1e-5, f"{worst}: {found[worst]:.1e}"


@pytest.mark.slow
def test_errors_detect_wrong_flag_and_wrong_gelu():
    flags = COMBINATIONS[0]
    broken = {**flags, "normalize_modulator": True}
    assert max(errors(their_net(broken), flags).values()) > 1e-3
    tanh = their_net(flags)
    for module in tanh.modules():
        if isinstance(module, (torch.nn.GELU, transformers.activations.GELUActivation)):
            module.forward = lambda x: torch.nn.functional.gelu(x, approximate="tanh")
    assert max(errors(tanh, flags).values()) > 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FocalNetModel", "FocalNetBackbone"])
def test_headless_network_equals_transformers(kind):
    """Covers the bare model, whose keys have no prefix, and the backbone of detectors."""
    flags = COMBINATIONS[-1]
    theirs = their_net(flags, kind)
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ours = from_tensors(state, config_overrides=our_flags(flags)).network
    image = their_image()
    with torch.no_grad():
        outputs = theirs(torch.from_numpy(image).permute(0, 3, 1, 2))
    if kind == "FocalNetModel":
        expected = outputs.last_hidden_state
        found = keras.ops.reshape(ours.predict(image, verbose=0), expected.shape)
        assert relative_error(found, expected) <= 1e-5
        return
    net = keras.Model(ours.inputs, [ours.get_layer("stage1_downsample").output, ours.blocks[-1].output])
    for found, expected in zip(net.predict(image, verbose=0), outputs.feature_maps, strict=True):
        assert relative_error(found, expected.permute(0, 2, 3, 1)) <= 1e-5


def test_to_tensors_loads_strictly_in_transformers():
    """The logits are equal after strict loading with the written config.json."""
    flags = COMBINATIONS[-1]
    theirs = their_net(flags)
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ours = from_tensors(state, config_overrides=our_flags(flags)).network
    again = to_tensors(ours, "transformers")
    assert set(again) == set(state)
    config = transformers.FocalNetConfig(**transformers_config(ours))
    net = transformers.FocalNetForImageClassification(config).eval()
    net.load_state_dict({key: torch.from_numpy(array) for key, array in again.items()}, strict=True)
    image = their_image()
    before, after = their_outputs(theirs, image)["logits"], their_outputs(net, image)["logits"]
    np.testing.assert_array_equal(after.numpy(), before.numpy())


@pytest.mark.parametrize(("fraction", "channels"), [(0.875, 3), (1.0, 3), (0.875, 1)])
def test_transformers_preprocessing_equals_image_processor(fraction, channels, tmp_path):
    mean, std = (0.1, 0.2, 0.3)[:channels], (0.4, 0.5, 0.6)[:channels]
    converter = FocalNetImageConverter((28, 28), fraction, mean=mean, std=std)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(transformers_preprocessing(converter)))
    processor = transformers.BitImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, channels)).astype("uint8")
    theirs = processor(Image.fromarray(image.squeeze()), return_tensors="np")["pixel_values"].reshape(
        1, channels, 28, 28
    )
    ours = keras.ops.convert_to_numpy(converter(converter.prepare(image)[None]))
    np.testing.assert_allclose(theirs.transpose(0, 2, 3, 1), ours, atol=1e-5)


def test_fixture_equals_transformers():
    with np.load(FIXTURES / "transformers.npz") as stored:
        for flags in STORED:
            name, theirs = name_of(flags), their_net(flags)
            shapes = json.loads(str(stored[f"{name} shapes"]))
            assert shapes == {key: list(tensor.shape) for key, tensor in theirs.state_dict().items()}
            for key, value in their_outputs(theirs, their_image()).items():
                np.testing.assert_allclose(stored[f"{name} output {key}"], value, rtol=1e-4, atol=1e-5)
