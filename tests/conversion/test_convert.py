"""Conversion of weights of other libraries in both directions, and published weights by name."""

import dataclasses
import functools
import http.server
import json
import pickle
import re
import threading
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image
from reference import Reference, randomize, relative_error
from their_weights import FIXTURES, drawn, known_shapes, our_flags, our_outputs

from focalnets import (
    ARCHITECTURES,
    CHECKPOINTS,
    FocalNetBackbone,
    FocalNetImageClassifier,
    FocalNetImageConverter,
    expand_focal_windows,
)
from focalnets.cli import main
from focalnets.conversion.architecture import recognize
from focalnets.conversion.convert import convert_checkpoint, export_checkpoint
from focalnets.conversion.mapping import FORMATS
from focalnets.conversion.sources import LoadedCheckpoint, read_source
from focalnets.conversion.tensors import differences_elsewhere, from_tensors, to_tensors
from focalnets.presets.labels import class_names_for, imagenet_names, read_labels
from focalnets.presets.load import build_architecture

PUBLISHED = [name for name in ARCHITECTURES if name.split("_")[-1] in ("srf", "lrf", "iso", "fl3", "fl4")]
TORCH = keras.backend.backend() == "torch"
POST = {"norm_placement": "post", "normalize_modulator": True}


def small(name):
    """A published architecture with its options, an eighth of its width, and fewer blocks and classes."""
    row = ARCHITECTURES[name]
    depths = tuple(1 if depth == 2 else depth // 3 for depth in row.backbone["depths"])
    backbone = {**row.backbone, "embed_dim": row.backbone["embed_dim"] // 8, "depths": depths}
    return dataclasses.replace(row, backbone=backbone, num_classes=7)


@pytest.fixture
def small_published(monkeypatch):
    """Replaces all published variants in `ARCHITECTURES` by small ones."""
    for name in PUBLISHED:
        monkeypatch.setitem(ARCHITECTURES, name, small(name))


# --- outputs ---


@pytest.mark.slow
@pytest.mark.all_backends
@pytest.mark.parametrize("name", ["00000", "10000", "01000", "00100", "00010", "00001", "11111"])
def test_network_equals_stored_outputs_of_transformers(name):
    """Each flag alone, none, and all. test_transformers.py compares the stored outputs with the library."""
    names = (
        "use_conv_embed",
        "use_layerscale",
        "use_post_layernorm",
        "use_post_layernorm_in_modulation",
        "normalize_modulator",
    )
    flags = {flag: digit == "1" for flag, digit in zip(names, name, strict=True)}
    with np.load(FIXTURES / "transformers.npz") as stored:
        shapes = json.loads(str(stored[f"{name} shapes"]))
        expected = {
            key.removeprefix(f"{name} output "): stored[key]
            for key in stored
            if key.startswith(f"{name} output ")
        }
    ours = from_tensors(drawn(shapes), config_overrides=our_flags(flags)).network
    image = np.random.default_rng(1).normal(size=(2, 27, 38, 3)).astype("float32")
    found = our_outputs(ours, image)
    assert set(found) == set(expected)
    for key, value in found.items():
        assert relative_error(value, expected[key]) <= 1e-5, key
    if name == "00000":
        broken = from_tensors(
            drawn(shapes), config_overrides={**our_flags(flags), "normalize_modulator": True}
        ).network
        assert relative_error(our_outputs(broken, image)["logits"], expected["logits"]) > 1e-3


@pytest.mark.all_backends
def test_detection_backbone_equals_reference():
    """Covers what transformers lacks: stage norms and the stem padding of upstream's detection code."""
    net = from_tensors(drawn(known_shapes("official detection"))).network
    assert isinstance(net, FocalNetBackbone)
    assert (net.pyramid_norm, net.stem_padding) == (True, 3)
    image = np.random.default_rng(1).normal(size=(1, 27, 38, 3)).astype("float32")
    found = keras.Model(net.inputs, net.pyramid_outputs).predict(image, verbose=0)
    values = Reference().backbone(net, image)
    first = Reference().norm(net.stage_norms[0], values["P2"])
    assert relative_error(found["P2"], first) <= 1e-5
    assert relative_error(found["P3"], values["output"]) <= 1e-5
    assert relative_error(found["P2"], values["P2"]) > 1e-2


# --- names ---


@pytest.mark.slow
@pytest.mark.all_backends
@pytest.mark.parametrize("name", ["plain", "everything"])
@pytest.mark.parametrize("library", ["official", "timm"])
def test_to_tensors_writes_keys_of_original_classes(library, name):
    """The expected keys and shapes were listed from the classes of microsoft/FocalNet and timm."""
    theirs = drawn(known_shapes(f"{library} {name}"))
    found = from_tensors(theirs, config_overrides=None if name == "plain" else {"norm_placement": "post"})
    assert found.source == library
    again = to_tensors(found.network, library)
    assert {key: value.shape for key, value in again.items()} == {k: v.shape for k, v in theirs.items()}
    for key, value in theirs.items():
        np.testing.assert_array_equal(again[key], value)


def test_to_tensors_writes_keys_of_detection_backbones():
    theirs = drawn(known_shapes("official detection"))
    again = to_tensors(from_tensors(theirs).network, "official")
    assert set(again) == set(theirs)
    assert all(np.array_equal(again[key], theirs[key]) for key in theirs)
    detector = {f"backbone.{key}": value for key, value in theirs.items()} | {"neck.conv.weight": np.ones(3)}
    found = from_tensors(detector)
    assert any("weights found under 'backbone.'; ignored: neck" in note for note in found.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)  # only names and NumPy, independent of the backend
def test_published_variants_round_trip(small_published, name):
    """Variant, options and all weights survive the round trip."""
    net = build_architecture(ARCHITECTURES[name])
    randomize(net)
    for library in FORMATS:
        _check_round_trip(net, name, library)


def _check_round_trip(net, name, library):
    if library == "timm" and name.endswith("iso"):
        with pytest.raises(
            ValueError, match=r"timm cannot represent this network: its patch_size is 16, but must be 4"
        ):
            to_tensors(net, library)
        return
    theirs = to_tensors(net, library)
    found = from_tensors(theirs, published=library == "timm")  # timm itself does not normalize
    assert found.variant == name
    config, expected = found.network.backbone.get_config(), net.backbone.get_config()
    for key in ("seed", "layer_scale_init", "name"):
        config.pop(key), expected.pop(key)
    assert config == expected
    again = to_tensors(found.network, library)
    assert list(again) == list(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(again[key], value)
    for variable, right in zip(found.network.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_array_equal(variable, right)


@pytest.mark.slow
def test_from_tensors_reports_origin_of_settings(small_published):
    theirs = to_tensors(build_architecture(ARCHITECTURES["focalnet_large_fl4"]), "official")
    notes = from_tensors(theirs).notes
    assert "normalize_modulator = True: as in focalnet_large_fl4" in notes
    notes = from_tensors(theirs, config_overrides={"normalize_modulator": False}).notes
    assert "normalize_modulator = False: as requested" in notes
    unknown = to_tensors(FocalNetBackbone(embed_dim=12, depths=(1, 1)), "official")
    assert any("norm_placement = pre: ASSUMED" in note for note in from_tensors(unknown).notes)
    timm = to_tensors(FocalNetBackbone(embed_dim=12, depths=(1, 1), norm_placement="post"), "timm")
    assert "norm_placement = post: from the checkpoint" in from_tensors(timm).notes
    config = {"model_type": "focalnet", "normalize_modulator": True, "use_post_layernorm": True}
    theirs = to_tensors(FocalNetBackbone(embed_dim=12, depths=(1, 1)), "transformers")
    backbone = from_tensors(LoadedCheckpoint(theirs, config)).network
    assert (backbone.normalize_modulator, backbone.norm_placement) == (True, "post")
    large = to_tensors(build_architecture(ARCHITECTURES["focalnet_large_fl4"]), "transformers")
    (note,) = (
        note
        for note in from_tensors(LoadedCheckpoint(large, {"model_type": "focalnet"})).notes
        if note.startswith("normalize_modulator = False: from the checkpoint")
    )
    assert "focalnet_large_fl4 has True" in note


@pytest.mark.slow
def test_recognize_distinguishes_networks_by_norms():
    for name in ("tutorial", "tutorial_fixed"):
        weights = build_architecture(ARCHITECTURES[name]).weights
        shapes = {variable.path: tuple(variable.shape) for variable in weights}
        assert recognize(shapes).variant == name
    with pytest.raises(ValueError, match="is not tutorial: it has a norm before the modulation"):
        recognize(shapes, variant="tutorial")


@pytest.mark.slow
def test_from_tensors_uses_published_preprocessing_only_for_published_heads(small_published):
    published = build_architecture(ARCHITECTURES["focalnet_tiny_srf"])
    assert from_tensors(to_tensors(published, "official")).image_converter.image_size == (224, 224)
    found = from_tensors(to_tensors(FocalNetImageClassifier(published.backbone, 3), "official"))
    assert found.variant == "focalnet_tiny_srf"
    assert found.image_converter.image_size is None
    assert any("normalization ASSUMED" in note for note in found.notes)


def test_to_tensors_refuses_or_reports_differences():
    with pytest.raises(ValueError, match="its focal_factor is 4, but must be 2"):
        to_tensors(FocalNetBackbone(embed_dim=8, depths=(1,), focal_factor=4), "transformers")
    for library, epsilons, words in (
        ("official", (1e-3, None), "have epsilon 1e-5, not 0.001"),
        ("timm", (1e-5, 1e-3), "have epsilon 1e-5, not 0.001"),
        ("transformers", (1e-3, 1e-5), "those after embeddings have 1e-05 here"),
        ("transformers", (1e-3, None), None),
    ):
        norm, embedding = epsilons
        net = FocalNetBackbone(8, (1,), norm_epsilon=norm, embedding_norm_epsilon=embedding)
        found = differences_elsewhere(net, library)
        assert words in found[0] if words else found == []


# --- files ---


@pytest.fixture
def weights():
    return drawn(known_shapes("official everything"))


def save(path, tensors):
    """Write a file as these libraries do."""
    if path.suffix == ".pth":
        import torch

        torch.save({"model": {key: torch.from_numpy(value) for key, value in tensors.items()}}, path)
    else:
        import safetensors.numpy

        safetensors.numpy.save_file(tensors, path)
    return path


SUFFIXES = [".safetensors", *([".pth"] if TORCH else [])]


@pytest.mark.slow
@pytest.mark.all_backends
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_convert_round_trip_of_file_and_preset(tmp_path, weights, suffix, capsys):
    file = save(tmp_path / f"checkpoint{suffix}", weights)
    command = ["convert", str(file), str(tmp_path / "preset"), "--set", "norm_placement=post"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "verified: 74 arrays" in text
    assert "norm_placement = post: as requested" in text
    report = json.loads((tmp_path / "preset" / "conversion.json").read_text())
    assert report["source"] == str(file)
    assert FocalNetImageClassifier.from_preset(tmp_path / "preset").backbone.norm_placement == "post"
    back = tmp_path / f"back{suffix}"
    back.write_text("of others, and named in full")
    command_back = ["convert", str(tmp_path / "preset"), str(back), "--to", "official"]
    assert main(command_back) == 2
    assert back.read_text() == "of others, and named in full"
    assert main([*command_back, "--force"]) == 0
    again = read_source(back).tensors
    assert set(again) == set(weights)
    assert all(np.array_equal(again[key], weights[key]) for key in weights)
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.slow
def test_from_preset_accepts_files_and_directories(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    file = save(folder / "model.safetensors", weights)
    net = FocalNetImageClassifier.from_preset(file)
    (made,) = [path for path in (tmp_path / "cache" / "presets").iterdir() if path.is_dir()]
    before = (made / "config.json").stat().st_mtime_ns
    again = FocalNetImageClassifier.from_preset(str(folder))
    assert (made / "config.json").stat().st_mtime_ns == before, "converted only once"
    for value, other in zip(net.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    tuned = FocalNetImageClassifier.from_preset(file, num_classes=3)
    assert tuned.num_classes == 3
    np.testing.assert_array_equal(tuned.backbone.get_weights()[0], net.backbone.get_weights()[0])
    assert FocalNetBackbone.from_preset(file).depths == (1, 2)


@pytest.mark.slow
def test_from_tensors_uses_settings_beside_weights(tmp_path, weights):
    save(tmp_path / "model.safetensors", {**drawn(known_shapes("timm plain"))})
    config = {
        "architecture": "focalnet_tiny_srf",
        "pretrained_cfg": {
            "input_size": [3, 48, 48],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    converter = from_tensors(read_source(tmp_path)).image_converter
    assert (converter.image_size, converter.crop_fraction, converter.mean) == ((48, 48), 0.9, (0.1, 0.2, 0.3))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "focalnet"}))
    preprocessing = {
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 48, "width": 48},
        "do_center_crop": True,
        "resample": 2,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    converter = from_tensors(read_source(tmp_path)).image_converter
    assert (converter.image_size, converter.crop_fraction) == ((48, 48), 0.75)
    assert converter.interpolation == "bilinear"
    preprocessing["size"]["shortest_edge"] = 59  # 48 / (48 / 59) is less than 59 in floating point
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    converter = from_tensors(read_source(tmp_path)).image_converter
    corners = np.zeros((59, 59, 3), "uint8")
    corners[5:54, 5:54] = 255  # resizing to 59 keeps the image, and the crop removes 5 or 6 pixels
    assert converter.prepare(corners).min() == 255


@pytest.mark.slow
def test_convert_checkpoint_accepts_backbone_without_head(tmp_path):
    file = save(tmp_path / "det.safetensors", drawn(known_shapes("official detection")))
    convert_checkpoint(file, tmp_path / "preset")
    with pytest.raises(ValueError, match=r"backbone without a head\. Give num_classes"):
        FocalNetImageClassifier.from_preset(tmp_path / "preset")
    net = FocalNetImageClassifier.from_preset(tmp_path / "preset", num_classes=4)
    assert net.num_classes == 4
    again = FocalNetBackbone.from_preset(tmp_path / "preset")
    for value, other in zip(again.get_weights(), net.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    export_checkpoint(tmp_path / "preset", tmp_path / "back.safetensors", "official")


class Malice:
    """Creates a file when it is unpickled without restrictions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _invalid_files(folder, weights):
    """Yield (file, text of the error)."""

    def altered(name, change):
        tensors = dict(weights)
        change(tensors)
        return save(folder / f"{name}.safetensors", tensors)

    whole = save(folder / "whole.safetensors", weights)
    (folder / "cut.safetensors").write_bytes(whole.read_bytes()[:-1000])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.pth").write_text("Not Found")
    key = "layers.0.blocks.0.modulation.f.weight"
    yield folder / "cut.safetensors", "is damaged, truncated"
    yield folder / "empty.safetensors", "is damaged, truncated"
    yield folder / "no.pth", "File not found"
    yield altered("missing", lambda t: t.pop(key)), f"lacks weights of the recognized network: {key}"
    yield altered("extra", lambda t: t.update(extra=np.ones(3, "f4"))), "keys that no FocalNet has: extra"
    yield (
        altered("level", lambda t: t.update({key.replace("f.w", "focal_layers.9.0.w"): t[key]})),
        "no FocalN",
    )
    yield altered("shape", lambda t: t.update({key: np.ones((9, 8), "f4")})), "has weights of wrong shapes"
    yield altered("nan", lambda t: t[key].__setitem__((0, 0), np.nan)), "these weights are NaN or infinite"
    resnet = {f"layer{i}.0.conv1.weight": np.ones((3, 3), "f4") for i in range(4)}
    yield save(folder / "resnet.safetensors", resnet), "not weights of a FocalNet"
    if not TORCH:
        return
    yield folder / "text.pth", "is damaged, truncated, or not a checkpoint"
    pth = save(folder / "whole.pth", weights)
    (folder / "cut.pth").write_bytes(pth.read_bytes()[: pth.stat().st_size // 2])
    yield folder / "cut.pth", "is damaged, truncated"
    flipped = bytearray(pth.read_bytes())
    with zipfile.ZipFile(pth) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    flipped[largest.header_offset + 200] ^= 1
    (folder / "flipped.pth").write_bytes(flipped)
    yield folder / "flipped.pth", "is damaged: the checksum of"
    import torch

    with (folder / "malice.pth").open("wb") as file:
        pickle.dump({"model": Malice(folder / "was-here")}, file, protocol=2)
    yield folder / "malice.pth", "could run arbitrary code"
    torch.save({"model": {"a": torch.ones(1)}, "config": Malice(folder / "was-here")}, folder / "zip.pth")
    yield folder / "zip.pth", "could run arbitrary code"
    torch.save([torch.ones(1)], folder / "list.pth")
    yield folder / "list.pth", "holds a list; expected a dict of tensors"
    torch.save({"model": {"a": 1}}, folder / "number.pth")
    yield folder / "number.pth", "holds no tensors, only a. Expected a dict"


@pytest.mark.all_backends
def test_convert_refuses_invalid_files_and_writes_nothing(tmp_path, weights, capsys):
    for file, words in _invalid_files(tmp_path, weights):
        before = {path.name for path in tmp_path.iterdir()}
        assert main(["convert", str(file), str(tmp_path / "out")]) == 2, file.name
        text = capsys.readouterr().err
        assert re.search(words, text), (file.name, text)
        assert {path.name for path in tmp_path.iterdir()} == before, file.name
    assert not (tmp_path / "was-here").exists()


@pytest.mark.slow
def test_convert_refuses_wrong_options(tmp_path, weights, capsys):
    file = save(tmp_path / "net.safetensors", weights)
    assert main(["convert", str(file), str(tmp_path / "out"), "--variant", "focalnet_tiny_srf"]) == 2
    text = capsys.readouterr().err
    assert "is not focalnet_tiny_srf: embed_dim is 8, not 96; depths is (1, 2), not (2, 2, 6, 2)" in text
    assert main(["convert", str(file), str(tmp_path / "out"), "--set", "color=red"]) == 2
    assert "Unknown --set name 'color'. Available --set names: normalize_modulator" in capsys.readouterr().err
    net = tmp_path / "preset"
    FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).save_to_preset(net)
    assert main(["convert", str(net), str(tmp_path / "out.pth"), "--to", "timm"]) == 2
    assert "timm cannot represent this network: its patch_size is 1, but must be 4" in capsys.readouterr().err
    assert main(["convert", str(net), str(tmp_path / "out"), "--to", "official"]) == 2
    assert "a .pth or .safetensors file" in capsys.readouterr().err


@pytest.mark.slow
def test_convert_checkpoint_discards_preset_that_differs(tmp_path, weights, monkeypatch):
    """One weight changes while it is written."""
    file, saved = save(tmp_path / "net.safetensors", weights), FocalNetImageClassifier.save_weights

    def wrong(self, path):
        self.head.bias.assign(self.head.bias + 1e-3)
        saved(self, path)

    monkeypatch.setattr(FocalNetImageClassifier, "save_weights", wrong)
    with pytest.raises(ValueError, match=r"was discarded"):
        convert_checkpoint(file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


# --- labels ---


def test_read_labels_and_class_names_for(tmp_path):
    names = tuple(imagenet_names().values())
    assert len(set(names)) == 1000
    assert (names[0], names[850], names[999]) == ("tench", "teddy bear", "toilet tissue")
    assert class_names_for(1000, {})[0] == names
    many, note = class_names_for(21842, {})
    assert many[:1000] == names
    assert len(set(many)) == 21842
    assert "850" in note
    assert class_names_for(2, {"id2label": {"0": "cat", "1": "dog"}})[0] == ("cat", "dog")
    assert class_names_for(2, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})[0] is None
    file = tmp_path / "labels.txt"
    file.write_text("n01440764\t0\nn99999999\t2\n")  # upstream's format; class 1 has no line
    assert read_labels(file, 3) == ("tench", "class 1, without a name", "n99999999")
    file.write_text("cat\ndog\n")
    assert read_labels(file, 2) == ("cat", "dog")
    with pytest.raises(ValueError, match="has 2 names for 3 classes"):
        read_labels(file, 3)


# --- expansion ---


@pytest.mark.all_backends
def test_expand_focal_windows_keeps_function_for_larger_windows():
    net = FocalNetImageClassifier(FocalNetBackbone(embed_dim=8, depths=(1, 1), focal_window=(3, 5)), 4)
    randomize(net)
    image = np.random.default_rng(0).normal(size=(2, 29, 41, 3)).astype("float32")
    expanded = expand_focal_windows(net, focal_window=9)
    assert expanded.backbone.focal_window == (9, 9)
    assert relative_error(expanded.predict(image, verbose=0), net.predict(image, verbose=0)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("normalized", [False, True])
def test_expand_focal_windows_changes_only_global_average_for_more_levels(normalized):
    net = FocalNetBackbone(embed_dim=8, depths=(1, 1), normalize_modulator=normalized)
    randomize(net)
    image = np.random.default_rng(0).normal(size=(2, 29, 41, 3)).astype("float32")
    expanded = expand_focal_windows(net, focal_window=5, focal_levels=(3, 4))
    assert (expanded.focal_levels, expanded.focal_window) == ((3, 4), (5, 5))
    for one in (net, expanded):  # no global average: the last column of f
        for block in one.blocks:
            for variable in (block.modulation.f.kernel, block.modulation.f.bias):
                value = keras.ops.convert_to_numpy(variable).copy()
                value[..., -1] = 0
                variable.assign(value)
    assert relative_error(expanded.predict(image, verbose=0), net.predict(image, verbose=0)) <= 1e-5
    with pytest.raises(
        ValueError, match=r"focal_levels must be at least \(2, 2\), as in the network; got \(1, 1\)"
    ):
        expand_focal_windows(net, focal_levels=1)


@pytest.mark.slow
def test_convert_accepts_window(tmp_path, capsys):
    FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).save_to_preset(
        tmp_path / "preset"
    )
    assert main(["convert", str(tmp_path / "preset"), str(tmp_path / "large"), "--window", "7"]) == 0
    assert FocalNetImageClassifier.from_preset(tmp_path / "large").backbone.focal_window == (7, 7)


# --- published weights by name ---


@pytest.fixture
def published(tmp_path, monkeypatch, small_published):
    """(name, directory) of published weights, served by a local server instead of the hub."""
    folder = tmp_path / "release"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))
    name = "focalnet_large_fl4_imagenet22k"
    row = CHECKPOINTS[name]
    url = f"http://127.0.0.1:{server.server_port}/focalnet_large_lrf_384_fl4.pth"
    monkeypatch.setitem(CHECKPOINTS, name, dataclasses.replace(row, source=url))
    yield name, folder
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not TORCH, reason="reads files of torch")
def test_from_preset_loads_published_weights_by_name(published, tmp_path, capsys, monkeypatch):
    name, folder = published
    net = build_architecture(ARCHITECTURES["focalnet_large_fl4"])
    randomize(net)
    save(folder / "focalnet_large_lrf_384_fl4.pth", to_tensors(net, "official"))
    got = FocalNetImageClassifier.from_preset(name)
    assert got.backbone.normalize_modulator
    assert got.image_converter.image_size == (384, 384)
    for value, right in zip(got.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_array_equal(value, right)
    monkeypatch.setenv("FOCALNETS_OFFLINE", "1")
    assert FocalNetImageClassifier.from_preset(name, num_classes=2).num_classes == 2
    assert main(["convert", name, str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert report["variant"] == "focalnet_large_fl4"
    assert "as in focalnet_large_fl4" in capsys.readouterr().out


@pytest.mark.slow
def test_convert_copies_preset_and_refuses_options_for_it(tmp_path, capsys):
    out = tmp_path / "nano"
    assert main(["convert", "focalnet_nano_cifar10", str(out)]) == 0
    found = FocalNetImageClassifier.from_preset(out).get_weights()
    for value, right in zip(
        found, FocalNetImageClassifier.from_preset("focalnet_nano_cifar10").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(value, right)
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    labels = ["--labels", str(tmp_path / "names.txt")]
    options = (["--set", "norm_placement=post"], labels, ["--variant", "focalnet_nano"], ["--entry", "ema"])
    for source in ("focalnet_nano_cifar10", str(out)):
        for option in (*options, ["--half", *options[0]]):
            assert main(["convert", source, str(tmp_path / "again"), *option]) == 2
            assert "is already a preset" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    (out / "last.npz").write_text("of a run")
    assert main(["convert", str(out), str(tmp_path / "copy")]) == 0
    assert not (tmp_path / "copy" / "last.npz").exists()
    FocalNetImageClassifier.from_preset(tmp_path / "copy")
    (out / "config.json").write_text('{"model_type": "vit"}')
    assert main(["convert", str(out), str(tmp_path / "again")]) == 2
    assert "was not written by focalnets" in capsys.readouterr().err


@pytest.mark.slow
def test_convert_force_keeps_files_of_others(tmp_path, capsys):
    preset = str(tmp_path / "preset")
    FocalNetImageClassifier(FocalNetBackbone(embed_dim=8, depths=(1, 1)), num_classes=2).save_to_preset(
        preset
    )
    keep = tmp_path / "mine" / "keep.txt"
    keep.parent.mkdir()
    keep.write_text("mine")
    theirs = tmp_path / "checkpoint" / "config.json"
    theirs.parent.mkdir()
    theirs.write_text('{"model_type": "focalnet"}')
    assert main(["convert", preset, str(theirs.parent), "--force"]) == 2
    assert theirs.exists()
    for option in ([], ["--half"], ["--to", "transformers"]):
        command = ["convert", preset, str(keep.parent), "--force", *option]
        assert main(command) == 2
        assert f"{keep.parent} cannot be replaced: it has no .focalnets-files.json" in capsys.readouterr().err
        assert keep.read_text() == "mine"
        keep.unlink()
        for _ in range(2):  # first an empty directory, then the output of the first run
            assert main(command) == 0
        assert not keep.exists()
        for path in keep.parent.iterdir():
            path.unlink()
        keep.write_text("mine")


@pytest.mark.slow
@pytest.mark.skipif(not TORCH, reason="reads files of torch")
def test_convert_applies_options_to_published_name(published, tmp_path):
    name, folder = published
    net = build_architecture(ARCHITECTURES["focalnet_large_fl4"])
    save(folder / "focalnet_large_lrf_384_fl4.pth", to_tensors(net, "official"))
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    options = ["--set", "normalize_modulator=false", "--labels", str(tmp_path / "names.txt")]
    assert main(["convert", name, str(tmp_path / "out"), *options]) == 0
    found = FocalNetImageClassifier.from_preset(tmp_path / "out")
    assert not found.backbone.normalize_modulator
    assert found.class_names == tuple("abcdefg")


@pytest.mark.slow
@pytest.mark.skipif(not TORCH, reason="reads files of torch")
def test_from_preset_refuses_another_network_under_published_name(published, capsys, tmp_path):
    name, folder = published
    other = build_architecture(ARCHITECTURES["focalnet_large_fl3"])
    save(folder / "focalnet_large_lrf_384_fl4.pth", to_tensors(other, "official"))
    assert main(["predict", name, str(FIXTURES.parent.parent / "docs" / "seven.png")]) == 2
    assert "The checkpoint is not focalnet_large_fl4: focal_levels" in capsys.readouterr().err
    assert not list((tmp_path / "cache" / "presets").glob("[!.]*"))


def test_from_preset_refuses_names_without_weights(published, capsys):
    name, _ = published
    assert FocalNetImageClassifier.from_preset(name, load_weights=False).num_classes == 7
    with pytest.raises(ValueError, match=r"authors removed the weights of focalnet_tiny_iso_imagenet1k"):
        FocalNetImageClassifier.from_preset("focalnet_tiny_iso_imagenet1k")
    if TORCH:
        with pytest.raises(OSError, match="404"):
            FocalNetImageClassifier.from_preset(name)
    assert all(row.architecture in ARCHITECTURES for row in CHECKPOINTS.values())
    assert {row.architecture for row in CHECKPOINTS.values()} == {
        *PUBLISHED,
        "focalnet_micro",
        "focalnet_nano",
    }


# --- evaluation as published ---


@pytest.mark.slow
def test_evaluate_restrict_compares_only_classes_of_the_data(tmp_path, capsys):
    """The network has more classes than the data, whose folders are named by WordNet identifiers."""
    names = (*tuple(imagenet_names().values())[:4], "other a", "other b")
    backbone = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    net = FocalNetImageClassifier(backbone, 6, FocalNetImageConverter(32), names)
    randomize(net)
    net.save_to_preset(tmp_path / "preset")
    generator, identifiers = np.random.default_rng(0), list(imagenet_names())[:3]
    for identifier in identifiers:
        folder = tmp_path / "data" / "val" / identifier
        folder.mkdir(parents=True)
        for index in range(6):
            Image.fromarray(generator.integers(0, 256, (40, 36, 3), "uint8")).save(folder / f"{index}.png")
    command = [
        "evaluate",
        str(tmp_path / "preset"),
        "--data",
        str(tmp_path / "data"),
        "--split",
        "val",
        "--json",
    ]
    assert main(command) == 0
    everything = json.loads(capsys.readouterr().out)
    assert main([*command, "--restrict"]) == 0
    restricted = json.loads(capsys.readouterr().out)
    assert list(everything["per_class"]) == list(names)
    assert list(restricted["per_class"]) == list(names[:3])
    logits = []
    for identifier in identifiers:
        files = sorted((tmp_path / "data" / "val" / identifier).iterdir())
        images = [net.image_converter.prepare(np.asarray(Image.open(file))) for file in files]
        logits.append(net.predict(np.stack(images), verbose=0))
    labels, logits = np.repeat(np.arange(3), 6), np.concatenate(logits)
    assert everything["top1"] == np.mean(logits.argmax(-1) == labels)
    assert restricted["top1"] == np.mean(logits[:, :3].argmax(-1) == labels)
    assert everything["loss"] > restricted["loss"], "fewer classes compete"
