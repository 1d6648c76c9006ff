"""Formats of exports: each is verified in its runtime, and run by the code of its README."""

import contextlib
import importlib.util
import json
import re

import keras
import numpy as np
import pytest
from PIL import Image
from reference import randomize

import focalnets
from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, export
from focalnets.cli import main
from focalnets.deployment.formats import FORMATS, check_format
from focalnets.deployment.verify import compare

BACKEND = keras.backend.backend()


def usable(name):
    found = FORMATS[name]
    fits = not found.backends or BACKEND in found.backends
    return fits and all(importlib.util.find_spec(one) for one in found.packages)


HERE = [name for name in FORMATS if usable(name) and name != "web"]  # tested in tests/web
# The others test what they alone can write.
TESTED = HERE if BACKEND == "torch" else [name for name in HERE if FORMATS[name].backends]


def make_net(image_size=(12, 20), **flags):
    backbone = FocalNetBackbone(4, (1, 1), (1, 2), image_shape=(None, None, 3), seed=0, **flags)
    converter = FocalNetImageConverter(image_size=image_size, crop_fraction=0.9)
    net = FocalNetImageClassifier(backbone, 3, converter, class_names=("ant", "bee", "cat"))
    randomize(net, seed=1)
    return net


@pytest.mark.slow
@pytest.mark.all_backends
@pytest.mark.parametrize("name", TESTED)
def test_export_is_verified_and_its_readme_runs(tmp_path, name):
    done = export(make_net(overlap_embed=True), tmp_path / "out", format=name)
    assert done.comparison.largest < 1e-5
    assert done.comparison.agreement == 1
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["ant", "bee", "cat"]
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["model"], record["verified"]["images"]) == (name, 16)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "resize the shorter side to 13 pixels (bicubic)" in readme
    (code,) = re.findall("```python\n(.*?)```", readme, re.DOTALL)
    names = {}
    with contextlib.chdir(tmp_path / "out"):
        exec(compile(code, f"README.md of {name}", "exec"), names)
    found = np.asarray(names["probabilities"])
    assert found.shape == (1, 3)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    export(make_net(), tmp_path / "out", format=name, force=True)  # replaces every file


@pytest.mark.parametrize("options", [{}, {"explain": True}, {"any_size": True}])
def test_onnx_graphs_have_no_unused_constants(tmp_path, options):
    onnx = pytest.importorskip("onnx", reason="reads the graph")
    export(make_net(), tmp_path / "out", **options)
    for path in (tmp_path / "out").glob("*.onnx"):
        graph = onnx.load(path).graph
        used = {name for node in graph.node for name in node.input}
        assert {one.name for one in graph.initializer} <= used, path.name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HERE if FORMATS[name].any_size])
def test_export_for_any_size_takes_images_of_two_sizes(tmp_path, name):
    net = make_net(image_size=None)
    done = export(net, tmp_path / "out", format=name, any_size=True)
    assert done.comparison.largest < 1e-5
    run = FORMATS[name].open(tmp_path / "out", None, False)
    for shape in ((9, 30, 3), (17, 17, 3)):
        assert compare(net, run, shape, made=2).largest < 1e-5
    assert json.loads((tmp_path / "out" / "export.json").read_text())["image_shape"] == [None, None, 3]


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].backends])
@pytest.mark.all_backends
def test_format_of_another_backend_is_refused(name):
    if BACKEND in FORMATS[name].backends:
        pytest.skip("this backend writes it")
    with pytest.raises(ValueError, match=f"The format {name} cannot be written with the backend {BACKEND}"):
        check_format(name)


def test_explain_without_a_runtime_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("focalnets.deployment.export.usable_runtimes", list)
    with pytest.raises(ImportError, match="Exporting needs onnx and a runtime"):
        export(make_net(), tmp_path / "out", format="keras", explain=True)


def test_unknown_format_and_option_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown format 'onx'.*Did you mean 'onnx'"):
        export("focalnet_nano_cifar10", tmp_path / "out", format="onx")
    with pytest.raises(ValueError, match="Images of any size are possible with the formats onnx, openvino"):
        export(make_net(), tmp_path / "out", any_size=True, explain=True)
    assert not (tmp_path / "out").exists()


def test_predict_runs_exports_of_runtimes_and_refuses_others(tmp_path):
    net, image = make_net(), np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype("uint8")
    expected = focalnets.predict(net, [image])[0].probabilities
    for name in ("onnx", "openvino"):
        if name in HERE:
            export(net, tmp_path / name, format=name)
            found = focalnets.predict(tmp_path / name, [image])[0].probabilities
            np.testing.assert_allclose(found, expected, atol=1e-5)
    export(net, tmp_path / "keras", format="keras")
    with pytest.raises(
        ValueError, match="is an export in the format keras; focalnets predicts with the formats onnx"
    ):
        focalnets.predict(tmp_path / "keras", [image])


@pytest.mark.slow
def test_export_command_verifies_on_images_of_the_user(tmp_path, capsys):
    for label in ("ant", "bee"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(5):
            pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3)).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    make_net().save_to_preset(tmp_path / "preset")
    arguments = ["export", str(tmp_path / "preset"), str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    assert main([*arguments, "--format", "keras"]) == 0
    assert "verified on 2 images: largest difference of logits" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "export.json").read_text())["verified"]
    assert (record["images"], record["made"], record["agreement"]) == (2, False, 1)
