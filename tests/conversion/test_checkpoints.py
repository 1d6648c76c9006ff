"""Checkpoints in the wild: under wrappers, from detectors, with settings beside them, damaged and hostile."""

import argparse
import collections
import datetime
import json
import pathlib
import random
import re
import sys
import types

import keras
import numpy as np
import pytest
from reference import randomize, relative_error
from their_networks import detector_outputs
from their_weights import drawn, known_shapes, our_outputs

from focalnets import ARCHITECTURES, FocalNetBackbone, FocalNetImageClassifier
from focalnets.cli import main
from focalnets.conversion.architecture import recognize
from focalnets.conversion.convert import convert_checkpoint
from focalnets.conversion.foreign import checked_preprocessing
from focalnets.conversion.publishers import claims_for
from focalnets.conversion.sources import LoadedCheckpoint, read_source
from focalnets.conversion.tensors import from_tensors, our_arrays, to_tensors
from focalnets.conversion.wrappers import chosen_tensors, flattened
from focalnets.presets.cost import variable_shapes
from focalnets.presets.load import build_architecture
from focalnets.presets.preprocessing import converter_for
from focalnets.presets.resolve import is_checkpoint_name

TORCH = keras.backend.backend() == "torch"
torch_only = pytest.mark.skipif(not TORCH, reason="reads files of torch")
BLOCK = "layers.0.blocks.0.modulation.f.weight"


def prefixed(prefix, tensors):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


@pytest.fixture(scope="module")
def weights():
    return drawn(known_shapes("official plain"))


def torch_file(path, content):
    import torch

    def converted(value):
        if isinstance(value, dict):
            return {key: converted(one) for key, one in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    torch.save(converted(content), path)
    return path


# --- wrappers ---

PREFIXES = [
    "_orig_mod.",
    "module.",
    "model.",
    "encoder.",
    "vision.",
    "backbone.",
    "backbone.0.",
    "module._orig_mod.",
    "_orig_mod.module.model.",
    "model.vision.encoder._orig_mod.",
]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["official plain", "timm plain", "transformers"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_from_tensors_finds_keys_under_any_prefix(prefix, library):
    if library == "transformers":
        net = FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 3)
        tensors = to_tensors(net, library)
    else:
        tensors = drawn(known_shapes(library))
    found = from_tensors({**prefixed(prefix, tensors), "loss.weight": np.ones(2, "f4")})
    assert f"weights found under {prefix!r}; ignored: loss" in found.notes
    again = to_tensors(found.network, library.split()[0])
    assert all(np.array_equal(again[key], value) for key, value in tensors.items())


CONTENTS = {  # files of training scripts with the weights `own` and their average `mean`
    "net": lambda own, mean: {"net": own, "acc": 93.1, "epoch": 3},
    "params": lambda own, mean: {"params": own},
    "timm": lambda own, mean: {
        "state_dict": own,
        "args": argparse.Namespace(model="focalnet_tiny_srf"),
        "epoch": 3,
    },
    "timm with average": lambda own, mean: {
        "state_dict": own,
        "state_dict_ema": mean,
        "optimizer": {"lr": 1.0},
    },
    "official": lambda own, mean: {"model": own, "model_ema": mean, "max_accuracy": 82.1},
    "lightning": lambda own, mean: {
        "state_dict": {**prefixed("model.", own), **prefixed("ema_model.module.", mean)}
    },
    "deep": lambda own, mean: {
        "checkpoint": {"ema": {"module": mean}, "net": prefixed("module._orig_mod.", own)}
    },
    "student": lambda own, mean: {
        "student": prefixed("backbone.", own),
        "teacher": prefixed("backbone.", mean),
    },
    "beside": lambda own, mean: {**own, "epoch": 3, **prefixed("model_ema.", mean)},
}


@pytest.mark.slow
@torch_only
@pytest.mark.parametrize("name", CONTENTS)
def test_read_source_prefers_trained_weights_and_selects_averages_by_entry(tmp_path, weights, name):
    average = {key: value + 1 for key, value in weights.items()}
    file = torch_file(tmp_path / "net.pth", CONTENTS[name](weights, average))
    found = read_source(file)
    assert set(found.tensors) == set(weights)
    assert np.array_equal(found.tensors[BLOCK], weights[BLOCK])
    if not any("other weights in the file" in note for note in found.notes):
        with pytest.raises(
            ValueError, match=r"The entry 'ema' does not exist in the checkpoint. Available entries: "
        ):
            read_source(file, "ema")
        return
    found = read_source(file, "teacher" if name == "student" else "ema")
    assert np.array_equal(found.tensors[BLOCK], average[BLOCK])
    assert "these weights are a moving average of the trained weights" in found.notes


@torch_only
@pytest.mark.parametrize("name", ["model_ema", "state_dict_ema", "ema_model", "teacher"])
def test_read_source_reports_weights_that_are_an_average(tmp_path, weights, name):
    found = read_source(torch_file(tmp_path / "net.pth", {name: {"module": weights}, "epoch": 3}))
    assert set(found.tensors) == set(weights)
    assert found.notes == [
        f"weights found under '{name}.module.'; ignored: epoch",
        "these weights are a moving average of the trained weights",
    ]


def test_from_tensors_requires_entry_for_several_sets_of_weights(weights):
    both = {**prefixed("online.", weights), **prefixed("second.", weights)}
    with pytest.raises(ValueError, match=r"several sets of weights: 'online', 'second'. Select one with"):
        from_tensors(both)
    assert chosen_tensors(both, "second").prefix == "second."
    assert from_tensors(both, entry="second").source == "official"


@pytest.mark.slow
@torch_only
def test_convert_accepts_entry(tmp_path, weights, capsys):
    content = {"model": weights, "model_ema": {key: value + 1 for key, value in weights.items()}}
    file = str(torch_file(tmp_path / "best.pth.tar", content))
    assert main(["convert", file, str(tmp_path / "plain")]) == 0
    output = capsys.readouterr()
    assert "other weights in the file: 'model_ema'; --entry NAME selects them" in output.out
    assert "Check these settings" in output.err
    assert "normalize_modulator = False: ASSUMED" in output.err
    assert main(["convert", file, str(tmp_path / "average"), "--entry", "ema"]) == 0
    plain, average = (FocalNetBackbone.from_preset(tmp_path / name) for name in ("plain", "average"))
    np.testing.assert_allclose(average.get_weights()[0] - plain.get_weights()[0], 1, atol=1e-6)


@torch_only
def test_read_pickle_reads_pickled_model_without_its_code(tmp_path):
    import torch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

    Block.__qualname__, Block.__module__ = "Block", "somebodys_code"
    module = types.ModuleType("somebodys_code")
    module.Block = Block
    sys.modules["somebodys_code"] = module
    try:
        torch.save({"model": torch.nn.Sequential(Block())}, tmp_path / "whole.pth")
    finally:
        del sys.modules["somebodys_code"]
    from focalnets.conversion.unpickle import read_pickle

    flat = flattened(read_pickle(tmp_path / "whole.pth"))
    assert flat["model.0.weight"].tolist() == [1, 1]


@torch_only
@pytest.mark.parametrize("zipped", [True, False])
def test_read_source_reads_objects_beside_weights_as_data(tmp_path, weights, zipped, monkeypatch):
    """timm, yacs, mmengine and Lightning store such objects. Their packages are not required."""
    import torch

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "somebodys.config", "CfgNode"
    module = types.ModuleType("somebodys.config")
    module.CfgNode = CfgNode
    settings = CfgNode(MODEL=CfgNode(NAME="tiny"))
    settings.frozen = True
    content = {
        "model": {key: torch.from_numpy(value) for key, value in weights.items()},
        "args": argparse.Namespace(model="focalnet_tiny_srf", lr=None, sizes=[1, 2]),
        "config": settings,
        "history": np.arange(5.0),
        "folder": pathlib.PurePosixPath("a/b"),
        "when": datetime.datetime(2026, 1, 1),
        "lists": collections.defaultdict(list, {"a": [1]}),
        "last": collections.deque([1, 2]),
        "names": {"a", "b"},
    }
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "somebodys", types.ModuleType("somebodys"))
        patch.setitem(sys.modules, "somebodys.config", module)
        torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    found = read_source(tmp_path / "net.pth")
    assert set(found.tensors) == set(weights)
    assert vars(found.stored["args"])["model"] == "focalnet_tiny_srf"
    assert found.stored["config"]["MODEL"]["NAME"] == "tiny"
    assert found.stored["last"] == [1, 2]


@torch_only
def test_read_source_suggests_working_statement_for_python_objects(tmp_path, weights):
    """Runs the printed statement and reads the file that it writes."""

    class Acts:
        def __reduce__(self):
            return print, ()

    import torch

    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    for name, content in {
        "model": {"model": tensors, "log": Acts()},
        "net": {"net": tensors, "log": Acts()},
        "flat": {**tensors, "log": Acts()},
    }.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match="could run arbitrary code") as error:
            read_source(tmp_path / f"{name}.pth")
        statement = str(error.value).split("save only the tensors: ")[1].removesuffix(".")
        statement = statement.replace(f"'{name}.pth'", repr(str(tmp_path / f"{name}.pth")))
        statement = statement.replace("'weights.pth'", repr(str(tmp_path / "weights.pth")))
        exec(statement, {"torch": torch})  # the statement for the user
        if name != "flat":
            assert set(read_source(tmp_path / "weights.pth").tensors) == set(weights)


@torch_only
def test_read_source_reads_weights_in_several_files(tmp_path, weights):
    import safetensors.numpy

    keys = sorted(weights)
    files = {"model-00001-of-00002.safetensors": keys[:30], "model-00002-of-00002.safetensors": keys[30:]}
    for name, part in files.items():
        safetensors.numpy.save_file({key: weights[key] for key in part}, tmp_path / name)
    index = {"metadata": {}, "weight_map": {key: name for name, part in files.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(read_source(tmp_path).tensors) == set(weights)
    assert set(read_source(tmp_path / "model.safetensors.index.json").tensors) == set(weights)
    for wrong, words in (
        ({"weight_map": {"a": "../model.safetensors"}}, "which is not in the same directory"),
        ({"weight_map": {"a": 3}}, "expected `str`, got `int`"),
        ({"weight_map": {**index["weight_map"], "extra": next(iter(files))}}, "lack extra"),
        ({"weight_map": None}, "has no weight_map"),
        ([], "has no weight_map"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=words):
            read_source(tmp_path)


def test_is_checkpoint_name_accepts_weight_suffixes():
    names = {"x.pth": True, "x.pth.tar": True, "x.ckpt": True, "X.SAFETENSORS": True, "x.tar": False}
    assert {name: is_checkpoint_name(name) for name in names} == names


# --- publishers ---


def detector(width, levels):
    """State dict of upstream's detection backbone with two stages, overlapping stem and layer scale."""
    arguments = {"embed_dim": width, "depths": (1, 1), "focal_levels": levels, "overlap_embed": True}
    norm = width == 352
    net = FocalNetBackbone(
        **arguments,
        layer_scale_init=1.0,
        norm_after_modulation=norm,
        pyramid_norm=True,
        image_shape=(64, 64, 3),
    )
    shapes = {key: value.shape for key, value in to_tensors(net, "official").items()}
    return drawn(shapes)


DETR = {"transformer.level_embed": np.ones(3, "f4"), "class_embed.0.bias": np.ones(3, "f4")}
DETECTORS = {  # width, levels, wrapper, other content -> (padding, post-norm, normalized, assumed)
    "dino L fl3": (192, 3, "backbone.0.", DETR, (2, True, False, False)),
    "dino L fl4": (192, 4, "module.backbone.0.", DETR, (2, True, True, False)),
    "mmdetection L": (192, 4, "backbone.", {"neck.conv.bias": np.ones(3, "f4")}, (3, False, False, False)),
    "mmsegmentation": (16, 2, "backbone.", {"decode_head.b": np.ones(3, "f4")}, (3, False, False, False)),
    "unknown L": (192, 4, "", {}, (2, True, True, True)),
    "unknown": (16, 2, "", {}, (3, False, False, True)),
}


@pytest.mark.slow
@torch_only
@pytest.mark.parametrize("name", DETECTORS)
def test_detector_backbone_equals_code_of_publisher(name):
    width, levels, prefix, rest, (padding, post_norm, normalizes, assumed) = DETECTORS[name]
    state = detector(width, levels)
    found = from_tensors({**prefixed(prefix, state), **rest})
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    computed = keras.Model(found.network.inputs, found.network.pyramid_outputs).predict(image, verbose=0)
    expected = detector_outputs(state, image, padding, post_norm, normalizes)
    assert max(relative_error(computed[key], expected[key]) for key in expected) <= 1e-5
    others = [(5 - padding, post_norm, normalizes), (padding, not post_norm, normalizes)]
    for wrong in others:
        wrong = detector_outputs(state, image, *wrong)
        assert max(relative_error(computed[key], wrong[key]) for key in wrong) > 1e-3
    (line,) = (note for note in found.notes if note.startswith("stem_padding"))
    assert line.startswith(f"stem_padding = {padding}: ")
    assert ("ASSUMED" in line) == assumed


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "added"), [((1,), ["stage1_norm"]), ((0,), ["norm"])])
def test_from_tensors_initializes_norms_of_unused_stages(kept, added):
    """A detector with `out_indices` has norms only for the stages that it uses."""
    whole = detector(16, 2)
    part = {key: value for key, value in whole.items() if key[4] in map(str, kept) or key[:4] != "norm"}
    found, full = from_tensors(part), from_tensors(whole)
    assert any(f"initialized to scale 1 and shift 0: {added[0]}" in note for note in found.notes)
    for path, array in zip((w.path for w in full.network.weights), found.network.get_weights(), strict=True):
        if path.startswith(tuple(added)):
            assert set(np.unique(array)) <= {0.0, 1.0}
        else:
            np.testing.assert_array_equal(
                array, full.network.get_weights()[[w.path for w in full.network.weights].index(path)]
            )


def test_from_tensors_accepts_base_iso_without_modulation_norm(monkeypatch):
    """Upstream's code builds the variant without this norm. Weights do not determine the post-norm."""
    import dataclasses

    row = ARCHITECTURES["focalnet_base_iso"]
    small = {**row.backbone, "embed_dim": 16, "depths": (2,)}
    monkeypatch.setitem(ARCHITECTURES, "focalnet_base_iso", dataclasses.replace(row, backbone=small))
    net = build_architecture(dataclasses.replace(row, backbone={**small, "norm_after_modulation": False}))
    randomize(net)
    found = from_tensors(to_tensors(net, "official"))
    assert found.variant == "focalnet_base_iso"
    assert found.network.backbone.norm_placement == "post"
    assert "no norm after modulation, as upstream's code builds it" in found.notes
    assert ARCHITECTURES["focalnet_base_iso"].backbone["norm_after_modulation"]


@pytest.mark.slow
def test_from_tensors_follows_timm_for_timm_checkpoints(monkeypatch):
    import dataclasses

    row = ARCHITECTURES["focalnet_large_fl4"]
    small = dataclasses.replace(
        row, backbone={**row.backbone, "embed_dim": 8, "depths": (1, 1)}, num_classes=5
    )
    monkeypatch.setitem(ARCHITECTURES, "focalnet_large_fl4", small)
    tensors = to_tensors(build_architecture(small), "timm")
    found = from_tensors(tensors)
    (note,) = (note for note in found.notes if note.startswith("normalize_modulator"))
    assert note == (
        "normalize_modulator = False: as timm computes; focalnet_large_fl4 has True (--set "
        "normalize_modulator=true selects it)"
    )
    assert not found.network.backbone.normalize_modulator
    assert from_tensors(tensors, published=True).network.backbone.normalize_modulator
    settings = {"architecture": "focalnet_large_fl4", "model_args": {"normalize_modulator": True}}
    assert from_tensors(LoadedCheckpoint(tensors, settings)).network.backbone.normalize_modulator
    stored = {"args": {"model_kwargs": {"normalize_modulator": True}}}
    assert from_tensors(LoadedCheckpoint(tensors, stored=stored)).network.backbone.normalize_modulator


def test_from_tensors_accepts_timm_features_only():
    tensors = drawn(known_shapes("timm plain"))
    features = {
        re.sub(r"^layers\.", "layers_", key): value
        for key, value in tensors.items()
        if not key.startswith(("norm.", "head."))
    }
    found = from_tensors(features)
    assert found.source == "timm"
    assert any("initialized to scale 1 and shift 0: norm" in note for note in found.notes)
    np.testing.assert_array_equal(
        found.network.get_weights()[4],
        from_tensors(tensors).network.backbone.get_weights()[4]
        if isinstance(from_tensors(tensors).network, FocalNetImageClassifier)
        else from_tensors(tensors).network.get_weights()[4],
    )


def test_from_tensors_ignores_decoder_of_masked_image_modeling():
    tensors = to_tensors(FocalNetBackbone(8, (1, 1)), "transformers")
    masked = {
        **tensors,
        "focalnet.embeddings.mask_token": np.zeros((1, 1, 8), "f4"),
        "decoder.0.weight": np.zeros((12, 16, 1, 1), "f4"),
        "decoder.0.bias": np.zeros(12, "f4"),
    }
    found = from_tensors(masked)
    assert isinstance(found.network, FocalNetBackbone)
    assert any(
        note.startswith("masked image modeling: decoder and mask token are ignored") for note in found.notes
    )


# --- settings of other libraries ---


@pytest.mark.slow
@torch_only
@pytest.mark.parametrize("name", ["relu", "silu", "gelu_new", "gelu"])
def test_activation_equals_transformers(name):
    import torch
    import transformers
    from their_networks import their_image

    config = transformers.FocalNetConfig(
        image_size=64, embed_dim=8, depths=[1, 2], hidden_sizes=[16, 16], focal_levels=[2, 3],
        focal_windows=[3, 5], num_labels=5, hidden_act=name,
    )  # fmt: skip
    theirs = transformers.FocalNetForImageClassification(config).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in drawn(shapes).items()})
    ours = from_tensors(LoadedCheckpoint(drawn(shapes), json.loads(config.to_json_string(use_diff=False))))
    image = their_image()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(image).permute(0, 3, 1, 2)).logits.numpy()
    assert relative_error(our_outputs(ours.network, image)["logits"], expected) <= 1e-5
    (note,) = (note for note in ours.notes if note.startswith("activation"))
    assert note.endswith("from the checkpoint")


@pytest.mark.slow
@torch_only
def test_transformers_config_describes_the_exported_network(tmp_path):
    import transformers

    net = FocalNetImageClassifier(
        FocalNetBackbone(8, (1, 1, 1), focal_window=(3, 5, 3), activation="silu"), 4
    )
    randomize(net)
    net.save_to_preset(tmp_path / "preset")
    assert main(["convert", str(tmp_path / "preset"), str(tmp_path / "out"), "--to", "transformers"]) == 0
    theirs = transformers.FocalNetBackbone.from_pretrained(
        tmp_path / "out", out_features=["stem", "stage1", "stage2", "stage3"]
    ).eval()
    import torch

    with torch.no_grad():
        maps = theirs(torch.zeros(1, 3, 64, 64)).feature_maps
    assert list(theirs.channels) == [one.shape[1] for one in maps] == [8, 16, 32, 32]
    back = from_tensors(read_source(tmp_path / "out")).network
    assert back.backbone.activation == "silu"
    with pytest.raises(ValueError, match="official cannot represent this network: its activation is silu"):
        to_tensors(net, "official")


WRONG = ({}, [], "x", None, -1, 10**9, 1.5, True, [[]], [10**9], {"a": {"b": []}}, "9" * 20_000)
FIELDS = [
    "normalize_modulator",
    "use_post_layernorm",
    "drop_path_rate",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "hidden_act",
    "layerscale_value",
    "id2label",
    "num_channels",
    "embed_dim",
    "depths",
    "focal_levels",
    "focal_windows",
    "mlp_ratio",
    "patch_size",
    "use_conv_embed",
    "use_layerscale",
    "use_post_layernorm_in_modulation",
]


@pytest.mark.slow
def test_settings_of_wrong_types_raise_only_value_errors():
    """Every field is tested with values of every wrong kind."""
    tensors, refused = drawn(known_shapes("timm plain")), []
    theirs = to_tensors(FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 3), "transformers")
    timm = [
        "normalize_modulator",
        "drop_path_rate",
        "proj_drop_rate",
        "embed_dim",
        "depths",
        "global_pool",
        "head_hidden_size",
    ]
    cases = [(theirs, {"model_type": "focalnet", name: value}, {}) for name in FIELDS for value in WRONG]
    cases += [
        (tensors, {"architecture": "x", "model_args": {name: value}}, {}) for name in timm for value in WRONG
    ]
    cases += [(tensors, {"architecture": "x", "model_args": value}, {}) for value in WRONG]
    cases += [
        (tensors, {"architecture": "x", "pretrained_cfg": {"input_size": [3, 8, 8], name: value}}, {})
        for name in ("input_size", "crop_pct", "interpolation", "mean", "std")
        for value in WRONG
    ]
    cases += [
        (theirs, {"model_type": "focalnet"}, {"image_mean": [0.5], "image_std": [0.5], name: value})
        for name in (
            "size",
            "crop_size",
            "resample",
            "image_mean",
            "image_std",
            "do_resize",
            "rescale_factor",
        )
        for value in WRONG
    ]
    cases += [(theirs, {"model_type": "focalnet"}, value) for value in ([], "x", 3)]
    recognized = [
        (arrays, recognize({path: value.shape for path, value in our_arrays(arrays)[1].items()}).backbone)
        for arrays in (tensors, theirs)
    ]
    for index, (arrays, config, preprocessing) in enumerate(cases):
        library = "timm" if arrays is tensors else "transformers"
        found = next(backbone for one, backbone in recognized if one is arrays)
        try:
            claims_for(
                library, LoadedCheckpoint(arrays, config), arrays, found, 3, 5 if arrays is tensors else 3
            )
            checked_preprocessing(config, preprocessing)
            converter_for(None, None, 3, config, preprocessing)
            if index % 7 == 0:  # building a network takes the most time
                from_tensors(LoadedCheckpoint(arrays, config, preprocessing))
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(cases) / 2
    assert max(map(len, refused)) < 600


def test_from_tensors_refuses_settings_of_another_network():
    theirs = to_tensors(FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 3), "transformers")
    for settings, words in (
        ({"embed_dim": 96}, "have embed_dim = 96, but the weights have 8"),
        ({"depths": [2, 2, 6, 2]}, r"have depths = \(2, 2, 6, 2\), but the weights have \(1, 1\)"),
        ({"hidden_act": "mish"}, "`hidden_act` is 'mish', expected one of gelu"),
        ({"id2label": {"0": "cat"}}, "have id2label = 1 name, but the weights have 3 classes"),
    ):
        with pytest.raises(ValueError, match=words):
            from_tensors(LoadedCheckpoint(theirs, {"model_type": "focalnet", **settings}))
    found = from_tensors(LoadedCheckpoint(theirs, {"model_type": "focalnet", "new_field": 1}))
    assert "unused fields of config.json: new_field" in found.notes
    timm = drawn(known_shapes("timm plain"))
    found = from_tensors(LoadedCheckpoint(timm, {"architecture": "x", "model_args": {"norm_layer": "rms"}}))
    assert "unused model_args of timm: norm_layer" in found.notes


@pytest.mark.slow
def test_converter_for_applies_rescaling_of_transformers():
    theirs = to_tensors(FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 3), "transformers")
    settings = {"do_resize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for more, mean, std in (
        ({}, 0.5, 0.5),
        ({"rescale_factor": 1 / 127.5}, 0.25, 0.25),
        ({"do_rescale": False}, 0.5 / 255, 0.5 / 255),
        ({"do_normalize": False}, 0.0, 1.0),
    ):
        converter = from_tensors(
            LoadedCheckpoint(theirs, {"model_type": "focalnet"}, {**settings, **more})
        ).image_converter
        np.testing.assert_allclose([converter.mean[0], converter.std[0]], [mean, std], rtol=1e-6)


# --- damaged and hostile files ---


def test_from_tensors_refuses_huge_indices(weights):
    for key, words in (
        ("layers.0.blocks.4000000000.norm1.weight", "has block 4000000001 of stage 1, but not block 2"),
        ("layers.4000000000.blocks.0.norm1.weight", "has blocks in stage 4000000001, but not in stage 3"),
        ("layers.0.blocks.0.modulation.focal_layers.4000000000.0.weight", "wrong shapes|lacks|step"),
        ("norm4000000000.weight", "no FocalNet has|do not belong"),
    ):
        value = np.ones((8, 1, 3, 3) if "focal" in key else 8, "f4")
        with pytest.raises(ValueError, match=words):
            from_tensors({**weights, key: value})


@pytest.mark.slow
def test_variable_shapes_equal_built_network():
    """Weights are compared with these shapes before a network is built."""
    for row in (
        {},
        {"overlap_embed": True, "pyramid_norm": True, "layer_scale_init": 0.1, "mlp_ratio": 2.0},
        {
            "norm_after_modulation": True,
            "norm_placement": "mlp_only",
            "focal_window": (5, 3),
            "patch_size": 2,
        },
    ):
        arguments = {"embed_dim": 8, "depths": (1, 2), "focal_levels": (2, 3), **row}
        net = FocalNetImageClassifier(FocalNetBackbone(**arguments), 5)
        expected = {variable.path: tuple(variable.shape) for variable in net.weights}
        assert variable_shapes(arguments, 3, 5) == expected


def test_from_tensors_checks_sizes_before_building(weights):
    """A network of forty stages would need terabytes."""
    many = dict(weights)
    for stage in range(2, 40):
        many |= {
            key.replace("layers.1.", f"layers.{stage}."): value
            for key, value in weights.items()
            if key.startswith("layers.1.")
        }
    with pytest.raises(ValueError, match=r"lacks weights of|wrong shapes|do not increase"):
        from_tensors(many)


@pytest.mark.slow
@torch_only
@pytest.mark.filterwarnings("ignore")  # warnings of torch while writing the files
def test_read_source_converts_or_refuses_special_torch_tensors(tmp_path, weights):
    import torch

    plain = {key: torch.from_numpy(value) for key, value in weights.items()}
    tensor = plain[BLOCK]
    complex_view = torch.complex(torch.zeros_like(tensor), -tensor).conj()
    read = {  # (tensor, largest relative difference)
        "bfloat16": (tensor.bfloat16(), 0.01),
        "float16": (tensor.half(), 1e-3),
        "float8": (tensor.to(torch.float8_e4m3fn), 0.1),
        "sparse": (tensor.to_sparse(), 0),
        "sparse rows": (tensor.to_sparse_csr(), 0),
        "quantized": (torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8), 0.02),
        "negative view": (complex_view.imag, 0),
        "transposed": (tensor.t().contiguous().t(), 0),
        "parameter": (torch.nn.Parameter(tensor), 0),
    }
    for name, (value, tolerance) in read.items():
        torch.save({"model": {**plain, BLOCK: value}}, tmp_path / "net.pth")
        found = read_source(tmp_path / "net.pth").tensors[BLOCK]
        assert (
            np.abs(found.astype("float32") - weights[BLOCK]).max() <= tolerance * np.abs(weights[BLOCK]).max()
        ), name
    refused = {
        "meta": (tensor.to("meta"), "without values"),
        "nested": (
            torch.nested.nested_tensor([tensor, tensor[:2]]),
            "a nested tensor; expected a dense tensor",
        ),
        "conjugate": (complex_view, "a tensor of complex numbers"),
        "integers": (tensor.int(), "expected floating-point numbers"),
        "expanded": (torch.ones(1).expand(10**5, 10**5), "but stores fewer values"),
        "empty sparse": (torch.sparse_coo_tensor(size=(10**5, 10**5)), "but stores fewer values"),
    }
    for value, words in refused.values():
        torch.save({"model": {**plain, BLOCK: value}}, tmp_path / "net.pth")
        with pytest.raises(ValueError, match=words):
            read_source(tmp_path / "net.pth")


@torch_only
def test_read_source_reads_bfloat16_and_float8_safetensors(tmp_path, weights):
    import safetensors.torch
    import torch

    plain = {key: torch.from_numpy(value) for key, value in weights.items()}
    for kind, tolerance in (
        ("bfloat16", 0.01),
        ("float8_e4m3fn", 0.1),
        ("float8_e5m2", 0.2),
        ("float16", 1e-3),
    ):
        tensors = {**plain, BLOCK: plain[BLOCK].to(getattr(torch, kind))}
        safetensors.torch.save_file(tensors, tmp_path / "net.safetensors")
        found = read_source(tmp_path / "net.safetensors").tensors
        assert (
            np.abs(found[BLOCK].astype("f4") - weights[BLOCK]).max()
            <= tolerance * np.abs(weights[BLOCK]).max()
        )
        np.testing.assert_array_equal(found["norm.weight"], weights["norm.weight"])


@pytest.mark.slow
@torch_only
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_read_source_refuses_truncated_and_flipped_files(tmp_path, weights, kind):
    import safetensors.numpy
    import torch

    file = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    if kind == "safetensors":
        safetensors.numpy.save_file(weights, file)
    else:
        tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
        torch.save(
            {"model": tensors, "args": argparse.Namespace(lr=0.1)},
            file,
            _use_new_zipfile_serialization=kind == "zip",
        )
    whole, generator, refused = file.read_bytes(), random.Random(0), []
    for trial in range(160):
        if trial % 2:
            changed = whole[: generator.randrange(len(whole))]
        else:
            changed = bytearray(whole)
            for _ in range(generator.choice((1, 1, 3, 20))):
                place = generator.randrange(min(len(whole), 6000) if trial % 4 else len(whole))
                changed[place] ^= 1 << generator.randrange(8)
        file.write_bytes(bytes(changed))
        try:
            read_source(file)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 80, "at least the truncated files"
    assert all(str(file) in text for text in refused)


@torch_only
@pytest.mark.parametrize("words", ["posix system", "builtins eval", "io open", "subprocess run", "os popen"])
def test_read_source_refuses_functions_without_running_them(tmp_path, words):
    name = words.replace(" ", "\n")
    (tmp_path / "evil.pth").write_bytes(
        b"\x80\x02}X\x05\x00\x00\x00modelc"
        + name.encode()
        + b"\nX"
        + b"\x0a\x00\x00\x00touch evil"
        + b"\x85Rs."
    )
    with pytest.raises(ValueError, match="could run arbitrary code"):
        read_source(tmp_path / "evil.pth")


@torch_only
def test_read_source_refuses_other_files_named_pth(tmp_path):
    import tarfile

    import torch

    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(__file__, "a")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.pth")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, words in (
        ("tar", "is a tar archive|damaged"),
        ("script", "is a TorchScript program"),
        ("lfs", "is a Git LFS pointer"),
    ):
        with pytest.raises(ValueError, match=words):
            read_source(tmp_path / f"{name}.pth")


@pytest.mark.slow
@torch_only
def test_from_preset_converts_again_after_settings_change(tmp_path, monkeypatch):
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))
    import safetensors.numpy

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    theirs = to_tensors(FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 3), "transformers")
    safetensors.numpy.save_file(theirs, folder / "model.safetensors")
    for act in ("relu", "silu"):
        (folder / "config.json").write_text(json.dumps({"model_type": "focalnet", "hidden_act": act}))
        assert FocalNetImageClassifier.from_preset(folder).backbone.activation == act
        assert FocalNetImageClassifier.from_preset(folder / "model.safetensors").backbone.activation == act


def test_from_tensors_refuses_patch_norm_false_and_video_networks(weights):
    bare = {key: value for key, value in weights.items() if not key.startswith("patch_embed.norm")}
    with pytest.raises(ValueError, match=r"lacks weights of the recognized network: .*patch_embed.norm"):
        from_tensors(bare)
    video = {**weights, "layers.0.blocks.0.modulation.f_temporal.weight": np.ones((2, 2), "f4")}
    with pytest.raises(ValueError, match="has keys that no FocalNet has"):
        from_tensors(video)


@pytest.mark.slow
def test_convert_accepts_activation(tmp_path, weights, capsys):
    convert_checkpoint(LoadedCheckpoint(weights), tmp_path / "relu", config_overrides={"activation": "relu"})
    assert FocalNetBackbone.from_preset(tmp_path / "relu").activation == "relu"
    assert main(["convert", "x.pth", str(tmp_path / "out"), "--set", "activation=mish"]) == 2
    assert "x.pth" in (text := capsys.readouterr().err) or "activation is one of gelu" in text
