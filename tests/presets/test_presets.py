"""The table of architectures, counts of parameters and MACs, and preset directories."""

import json

import keras
import numpy as np
import pytest
from reference import Reference, randomize, relative_error
from small_networks import shrunk

from focalnets import (
    ARCHITECTURES,
    FocalNetBackbone,
    FocalNetImageClassifier,
    FocalNetImageConverter,
    count_macs,
    count_parameters,
    modulation_model,
)
from focalnets.cli import main
from focalnets.presets.load import build_architecture

pytestmark = pytest.mark.all_backends

# Published parameters in millions, and "GFLOPs" in 10^9 multiply-accumulates.
PUBLISHED = {
    "tiny_srf": ("28.427", "4.4"),
    "tiny_lrf": ("28.648", "4.5"),
    "small_srf": ("49.891", "8.6"),
    "small_lrf": ("50.342", "8.7"),
    "base_srf": ("88.148", "15.3"),
    "base_lrf": ("88.750", "15.4"),
    "tiny_iso": ("5.880", "1.1"),
    "small_iso": ("22.376", "4.3"),
    "base_iso": ("87.256", "16.9"),
    "large_fl3": ("239.135", None),
    "large_fl4": ("239.315", None),
    "xlarge_fl3": ("408.787", None),
    "xlarge_fl4": ("409.028", None),
    "huge_fl3": ("745.276", None),
    "huge_fl4": ("747.990", None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_equal_published_numbers(name):
    parameters, gmacs = PUBLISHED[name]
    row = ARCHITECTURES[f"focalnet_{name}"]
    assert f"{count_parameters(row) / 1e6:.3f}" == parameters
    if gmacs is not None:
        assert f"{count_macs(row) / 1e9:.1f}" == gmacs


def test_count_parameters_of_tutorial_network():
    assert count_parameters(ARCHITECTURES["tutorial"]) == 39_023_903


# The counts do not depend on the backend, and JAX compiles for every shape of a large network.
BUILT = ARCHITECTURES if keras.backend.backend() == "torch" else ["focalnet_pico", "focalnet_tiny_srf"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_count_parameters_equals_built_network(name):
    row = shrunk(name)
    net = build_architecture(row)
    built = sum(int(np.prod(weight.shape)) for weight in net.trainable_weights)
    assert built == count_parameters(row)
    assert built < 1_000_000
    assert net.input_shape[-1] == ARCHITECTURES[name].channels


@pytest.mark.slow
def test_save_to_preset_round_trip(tmp_path):
    backbone = FocalNetBackbone(8, (1, 2), focal_levels=(3, 2), layer_scale_init=0.1, seed=1)
    converter = FocalNetImageConverter((16, 20), crop_fraction=0.9, interpolation="lanczos")
    net = FocalNetImageClassifier(backbone, 3, converter, class_names=("猫", "dog", "bird"))
    randomize(net)
    net.save_to_preset(tmp_path / "preset")
    again = FocalNetImageClassifier.from_preset(tmp_path / "preset")

    x = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3)).astype("uint8")
    np.testing.assert_array_equal(again.predict(x, verbose=0), net.predict(x, verbose=0))
    assert again.class_names == ("猫", "dog", "bird")
    assert again.backbone.get_config() == {**backbone.get_config(), "name": again.backbone.name}
    assert again.image_converter.prepare(x[0]).shape == (16, 20, 3)
    alone = FocalNetBackbone.from_preset(tmp_path / "preset")
    for a, b in zip(alone.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    with pytest.raises(FileExistsError, match="already exists"):
        net.save_to_preset(tmp_path / "preset")
    assert sorted(p.name for p in (tmp_path / "preset").iterdir()) == [
        ".focalnets-files.json",
        "config.json",
        "labels.json",
        "model.weights.h5",
        "preprocessing.json",
    ]


@pytest.mark.slow
def test_save_to_preset_omits_optimizer_and_keeps_it_for_fit(tmp_path):
    net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    net.save_to_preset(tmp_path / "before")
    net.compile()
    images, labels = np.zeros((4, 8, 8, 1), "uint8"), np.zeros(4, int)
    net.fit(images, labels, verbose=0)
    net.save_to_preset(tmp_path / "after")
    sizes = [(tmp_path / name / "model.weights.h5").stat().st_size for name in ("before", "after")]
    assert sizes[0] == sizes[1]
    net.fit(images, labels, verbose=0)
    assert int(net.optimizer.iterations) == 2


@pytest.mark.slow
def test_convert_half_rounds_weights_to_float16(tmp_path, capsys):
    net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    net.save_to_preset(tmp_path / "whole")
    assert main(["convert", str(tmp_path / "whole"), str(tmp_path / "half"), "--half"]) == 0
    assert "float16" in capsys.readouterr().out
    sizes = [(tmp_path / name / "model.weights.h5").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    half = FocalNetImageClassifier.from_preset(tmp_path / "half")
    for old, new in zip(net.weights, half.weights, strict=True):
        assert new.dtype == "float32" or old.dtype != "float32"
        old = keras.ops.convert_to_numpy(old)
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(new), old.astype("float16").astype(old.dtype), new.path
        )
    net.get_layer("head").kernel.assign(keras.ops.full((64, 10), 1e6))
    net.save_to_preset(tmp_path / "large")
    assert main(["convert", str(tmp_path / "large"), str(tmp_path / "none"), "--half"]) == 2
    assert "above the float16 maximum of 65504" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["convert", str(tmp_path / "whole"), str(tmp_path / "n"), "--half", "--levels", "3"]) == 2


def test_save_to_preset_leaves_no_files_after_failure(tmp_path, monkeypatch):
    net = FocalNetImageClassifier(FocalNetBackbone(8, (1,)), 3)

    def disk_full(path):
        raise OSError("No space left on device")

    monkeypatch.setattr(net, "save_weights", disk_full)
    with pytest.raises(OSError, match="No space left"):
        net.save_to_preset(tmp_path / "preset")
    assert list(tmp_path.iterdir()) == []


def test_config_may_list_only_files_of_a_preset(tmp_path):
    """Otherwise a downloaded preset could make `convert` copy any file."""
    FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).save_to_preset(
        tmp_path / "preset"
    )
    (tmp_path / "other").write_text("")
    path = tmp_path / "preset" / "config.json"
    whole = json.loads(path.read_text())
    for change in ({"files": [*whole["files"], "../other"]}, {"backbone": None}):
        config = {key: value for key, value in {**whole, **change}.items() if value is not None}
        path.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"config\.json is damaged; expected the fields files"):
            FocalNetImageClassifier.from_preset(tmp_path / "preset")


@pytest.mark.slow
def test_from_preset_resolves_architecture_and_directory_of_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 3).save_to_preset("focalnet_pico")
    assert FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).num_classes == 10
    assert FocalNetBackbone.from_preset("focalnet_pico", load_weights=False).embed_dim == 32
    assert FocalNetImageClassifier.from_preset("./focalnet_pico", load_weights=False).num_classes == 3
    assert FocalNetImageClassifier.from_preset("focalnet_pico").num_classes == 3


@pytest.mark.slow
def test_save_to_preset_refuses_quantized_network(tmp_path):
    net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    for block in net.backbone.blocks:  # only parts, because Keras warns about layers that it cannot quantize
        block.fc1.quantize("int8")
    with pytest.raises(ValueError, match="A quantized network cannot be stored in a preset"):
        net.save_to_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


@pytest.mark.slow
def test_from_preset_refuses_incomplete_or_damaged_preset(tmp_path):
    net = FocalNetImageClassifier(
        FocalNetBackbone(8, (1,)), 2, FocalNetImageConverter(), class_names=("a", "b")
    )
    net.save_to_preset(tmp_path / "preset")
    load = FocalNetImageClassifier.from_preset
    weights = tmp_path / "preset" / "model.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is damaged or not an HDF5 file"):
        load(tmp_path / "preset")
    FocalNetImageClassifier(FocalNetBackbone(16, (1,)), 2).save_weights(weights)
    with pytest.raises(ValueError, match="does not belong to the network"):
        load(tmp_path / "preset")
    for name in ("preprocessing.json", "labels.json", "model.weights.h5"):
        (tmp_path / "preset" / name).unlink()
        with pytest.raises(ValueError, match=f"lacks .*{name}"):
            load(tmp_path / "preset")


def test_from_preset_explains_wrong_presets(tmp_path):
    load = FocalNetImageClassifier.from_preset
    with pytest.raises(ValueError, match="no trained weights"):
        load("focalnet_tiny_srf")
    with pytest.raises(ValueError, match="Did you mean 'focalnet_tiny_srf'"):
        load("focalnet_tiny_sfr")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="Preset directory not found"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"format": "focalnets preset", "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "focalnet"}))
    with pytest.raises(ValueError, match="was not written by focalnets"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load(tmp_path)


@pytest.mark.slow
def test_fixture_preset_equals_reference_on_this_backend(fixture_preset):
    """The fixture was written on one backend. The reference computed its logits and gates in float64."""
    directory, expected = fixture_preset
    net = FocalNetImageClassifier.from_preset(directory)
    outputs = modulation_model(net).predict(expected["images"], verbose=0)
    assert relative_error(outputs["logits"], expected["logits"]) <= 1e-5
    for name, gates in outputs["gates"].items():
        assert relative_error(gates, expected[f"gates {name}"]) <= 1e-5
    # The stored outputs are those of the reference, not of an earlier version of the package.
    logits, _ = Reference().classifier(net, expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-6)
    wrong, _ = Reference("tanh gelu").classifier(net, expected["images"])
    assert relative_error(outputs["logits"], wrong) > 1e-5
