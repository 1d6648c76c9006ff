"""8-bit exports of a small trained network: accuracy, refusal, and what stays in float32."""

import json

import numpy as np
import pytest

import focalnets
from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, export
from focalnets.deployment.quantize import SETTINGS, _splits
from focalnets.deployment.runtimes import usable_runtimes

onnx = pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("onnxruntime", reason="it quantizes")
NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that names the brightest color of noise, and its data set."""
    path = tmp_path_factory.mktemp("data") / "colors.npz"
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 600), ("test", 150)):
        labels = np.arange(count) % 3
        images = generator.integers(0, 200, (count, 8, 8, 3))
        images += 30 * np.eye(3, dtype=int)[labels][:, None, None]
        arrays |= {f"x_{split}": images.astype("uint8"), f"y_{split}": labels}
    np.savez(path, **arrays, class_names=np.array(NAMES))
    backbone = FocalNetBackbone(8, (1, 1), 2, patch_size=2, overlap_embed=True, seed=0)
    net = FocalNetImageClassifier(backbone, 3, FocalNetImageConverter(image_size=8), class_names=NAMES)
    net.compile(optimizer=focalnets.AdamW(3e-3))
    net.fit(arrays["x_train"], arrays["y_train"], epochs=4, batch_size=50, verbose=0)
    return net, str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_quantized_export_is_measured_and_smaller(trained, tmp_path, monkeypatch, name):
    monkeypatch.setattr("focalnets.deployment.quantize._SPEED_SECONDS", 0.05)
    if name == "openvino":
        pytest.importorskip("nncf", reason="make test-nncf installs it")
    net, data = trained
    done = export(net, tmp_path / "out", format=name, data=data, quantize="int8", most_loss=0.05)
    found = done.quantized
    assert found.images == 150
    assert found.float_accuracy > 0.9
    assert found.accuracy >= found.float_accuracy - 0.05
    assert set(found.speedup) == (set(usable_runtimes()) if name == "onnx" else {"openvino"})
    assert all(ratio > 0 for ratios in found.speedup.values() for ratio in ratios.values())
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["quantized"]["accuracy"] == found.accuracy
    assert "8 bits" in (tmp_path / "out" / "README.md").read_text()
    assert sorted(path.suffix for path in (tmp_path / "out").glob("model.*")) == (
        [".onnx"] if name == "onnx" else [".bin", ".xml"]
    )
    if name == "openvino":
        assert 'element_type="i8"' in (tmp_path / "out" / "model.xml").read_text()
    if name == "onnx":
        kinds = {one.data_type for one in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer}
        assert onnx.TensorProto.INT8 in kinds
    images = np.load(data)["x_test"]
    classes = [one.classes[0] for one in focalnets.predict(tmp_path / "out", list(images[:60]), top=1)]
    assert np.mean([NAMES.index(one) for one in classes] == np.load(data)["y_test"][:60]) > 0.85


def test_quantized_export_that_loses_accuracy_is_refused(trained, tmp_path, monkeypatch):
    net, data = trained
    monkeypatch.setitem(SETTINGS, "onnx", {"matrix multiplications": _damaged})
    with pytest.raises(ValueError, match=r"8 bits lose too much accuracy on 280 validation images .matrix"):
        export(net, tmp_path / "out", data=data, quantize="int8")
    assert not (tmp_path / "out").exists()


def test_few_images_calibrate_and_validate(trained, tmp_path):
    arrays = np.load(trained[1])
    few = {name: arrays[name][:60] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "few.npz", **few, class_names=np.array(NAMES))
    calibration, validation, test = _splits(trained[0], str(tmp_path / "few.npz"))
    assert (len(calibration), len(validation), len(test)) == (30, 30, 60)


def _damaged(graph, path, *_):
    """A graph whose head has other weights."""
    model = onnx.load(graph)
    head = next(one for one in reversed(model.graph.node) if one.op_type == "Gemm")
    weights = next(one for one in model.graph.initializer if one.name == head.input[1])
    array = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(array[:, ::-1].copy() * -1, weights.name))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "quantize must be .int8. or None; got 'int4'"),
        ({"quantize": "int8"}, "8 bits are for the formats onnx and openvino.*got format='onnx'.*data=None"),
        ({"quantize": "int8", "format": "keras", "data": "digits"}, "8 bits are for .*got format='keras'"),
        (
            {"quantize": "int8", "format": "openvino", "data": "digits"},
            r"8 bits for OpenVINO need NNCF: pip install 'focalnets.nncf.'|digits has other classes",
        ),
        ({"quantize": "int8", "data": "digits"}, "digits has other classes than the network; got 10 classes"),
    ],
)
def test_quantize_refuses(trained, tmp_path, arguments, message):
    with pytest.raises((ValueError, ImportError), match=message):
        export(trained[0], tmp_path / "out", **arguments)
