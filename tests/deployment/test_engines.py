"""Exports and predictions of their runtimes, compared with Keras."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
from focalnets.cli import main
from focalnets.deployment import runtimes
from focalnets.deployment.export import image_shape, write_export
from focalnets.deployment.onnx_graph import onnx_model
from focalnets.deployment.runtimes import missing_packages
from focalnets.deployment.verify import compare
from focalnets.prediction import engines
from focalnets.prediction.predictor import Predictor, softmax
from focalnets.threads import cores

pytest.importorskip("onnx", reason="exports need onnx")
RUNTIMES = [name for name in ("onnxruntime", "openvino") if not missing_packages(name)]
pytestmark = pytest.mark.skipif(not RUNTIMES, reason="no runtime is installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_net(seed=0, converter=True, **flags):
    """Classifier with random parameters of order 1, so that each of them affects the logits."""
    backbone = FocalNetBackbone(8, (1, 2), focal_levels=(3, 2), image_shape=(None, None, 3), **flags)
    converter = FocalNetImageConverter(image_size=(21, 34), crop_fraction=0.9) if converter else None
    net = FocalNetImageClassifier(backbone, 4, converter, class_names=("ant", "bee", "cat", "dog"))
    generator = np.random.default_rng(seed)
    net.set_weights(
        [generator.normal(size=w.shape) * (w.size // w.shape[-1]) ** -0.5 for w in net.get_weights()]
    )
    return net


def difference(net, run):
    """Largest difference of the logits, relative to the largest logit."""
    shape = image_shape(net)
    return compare(net, lambda images: {"logits": run(images)}, shape, made=3).largest


FLAGS = [
    dict(
        zip(
            (
                "norm_placement",
                "layer_scale_init",
                "overlap_embed",
                "normalize_modulator",
                "norm_after_modulation",
            ),
            row,
            strict=True,
        )
    )
    for row in itertools.product(
        ("pre", "post", "mlp_only"), (None, 0.5), (False, True), (False, True), (False, True)
    )
][::5] + [{"activation": name} for name in ("gelu_tanh", "relu", "silu")]


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(str(value) for value in flags.values()))
def test_export_equals_keras(tmp_path, flags):
    net = random_net(**flags)
    write_export(net, tmp_path)
    every = [engines.ExportEngine(tmp_path, runtime) for runtime in RUNTIMES]
    for engine in every:
        assert difference(net, engine.run) < 1e-5
        assert engine.run(np.zeros((3, 21, 34, 3), "uint8")).shape == (3, 4)  # any number of images
    net.head.bias.assign(net.head.bias + 1.0)
    assert all(difference(net, engine.run) > 1e-3 for engine in every)  # the comparison can fail


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", FLAGS[::2], ids=lambda flags: "-".join(str(value) for value in flags.values())
)
def test_graph_for_any_size_equals_keras(tmp_path, flags):
    import onnx

    net = random_net(converter=False, **flags)
    net = FocalNetImageClassifier(net.backbone, 4, FocalNetImageConverter())
    onnx.save(onnx_model(net), tmp_path / "any.onnx")
    for runtime in RUNTIMES:
        run = runtimes.RUNTIMES[runtime](tmp_path / "any.onnx", False)
        for size in ((21, 34), (16, 16), (9, 50)):
            images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype("uint8")
            found, expected = run({"images": images}), net.predict(images, verbose=0)
            assert np.abs(found["logits"] - expected).max() < 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(found["probabilities"], softmax(expected), atol=1e-6)


def test_export_without_image_converter_takes_float_images(tmp_path):
    net = FocalNetImageClassifier(FocalNetBackbone(8, (1,), image_shape=(16, 12, 3)), 3)
    write_export(net, tmp_path)
    for runtime in RUNTIMES:
        assert difference(net, engines.ExportEngine(tmp_path, runtime).run) < 1e-5


@pytest.mark.slow
def test_export_writes_large_weights_to_separate_file(tmp_path, monkeypatch):
    monkeypatch.setattr("focalnets.deployment.formats._LARGEST_MESSAGE", 1000)
    net = random_net()
    write_export(net, tmp_path)
    assert (tmp_path / "model.data").stat().st_size > 4 * net.count_params() * 0.8
    for runtime in RUNTIMES:
        assert difference(net, engines.ExportEngine(tmp_path, runtime).run) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predictor_with_runtime_equals_keras_and_updates_export(tmp_path, cache, runtime):
    net = random_net()
    net.save_to_preset(tmp_path / "preset")
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 50, 3)).astype("uint8") for i in range(3)]
    expected = Predictor(tmp_path / "preset").logits(images)
    predictor = Predictor(tmp_path / "preset", batch_size=2, engine=runtime)
    np.testing.assert_allclose(predictor.logits(images), expected, atol=1e-5 * np.abs(expected).max())
    assert predictor.class_names == ("ant", "bee", "cat", "dog")
    assert predictor.channels == 3

    (directory,) = (cache / "exports").glob("preset-*")
    made = (directory / "export.json").stat().st_mtime_ns
    Predictor(tmp_path / "preset", engine=runtime)
    assert (directory / "export.json").stat().st_mtime_ns == made  # reused
    other = random_net(seed=1)
    other.save_weights(tmp_path / "preset" / "model.weights.h5")
    changed = Predictor(tmp_path / "preset", engine=runtime).logits(images)
    assert np.abs(changed - expected).max() > 1e-2  # exported again for other weights
    assert len(list((cache / "exports").glob("preset-*"))) == 1


@pytest.mark.slow
def test_open_engine_prefers_runtime_if_image_size_is_known(tmp_path, cache):
    random_net().save_to_preset(tmp_path / "sized")
    random_net(converter=False).save_to_preset(tmp_path / "any")
    assert isinstance(engines.open_engine(tmp_path / "sized"), engines.ExportEngine)
    assert isinstance(engines.open_engine(tmp_path / "any"), engines.KerasEngine)
    with pytest.raises(ValueError, match="takes images of one size, but this classifier has no image size"):
        engines.open_engine(tmp_path / "any", RUNTIMES[0])
    assert not list((cache / "exports").glob("any-*"))  # no partial export remains


@pytest.mark.slow
def test_open_engine_uses_keras_if_cache_is_read_only(tmp_path, monkeypatch, caplog):
    random_net().save_to_preset(tmp_path / "sized")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "file"))
    assert isinstance(engines.open_engine(tmp_path / "sized"), engines.KerasEngine)
    assert "Predicting with Keras" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "keras", RUNTIMES[0]])
def test_open_engine_reports_damaged_preset_once(tmp_path, cache, caplog, engine):
    random_net().save_to_preset(tmp_path / "preset")
    (tmp_path / "preset" / "model.weights.h5").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.weights\.h5"):
        engines.open_engine(tmp_path / "preset", engine)
    assert caplog.text == ""


@pytest.mark.slow
def test_open_engine_rejects_export_with_other_logits(tmp_path, monkeypatch, cache):
    random_net().save_to_preset(tmp_path / "preset")
    monkeypatch.setattr(
        "focalnets.deployment.onnx_graph._scaled", lambda graph, x, scale: graph.add("Add", x, x)
    )
    with pytest.raises(ValueError, match="differs from that of Keras"):
        engines.open_engine(tmp_path / "preset", RUNTIMES[0])
    assert not list((cache / "exports").glob("preset-*"))


@pytest.mark.slow
def test_predict_command_does_not_import_keras(tmp_path):
    """The first prediction exports the network with Keras. The second one only uses the export."""
    random_net().save_to_preset(tmp_path / "preset")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    code = """
import sys
sys.argv = ["focalnets"]
from focalnets.cli import main
code = main(sys.orig_argv[3:])
print([name for name in ("keras", "torch", "jax", "tensorflow", "matplotlib") if name in sys.modules])
sys.exit(code)
"""
    command = [sys.executable, "-c", code, "predict", tmp_path / "preset", tmp_path / "red.png", "--json"]
    outputs = [subprocess.run(command, capture_output=True, text=True) for _ in range(2)]
    for output in outputs:
        assert output.returncode == 0, output.stderr
    first, second = (output.stdout.rpartition("[") for output in outputs)
    assert "keras" in first[2]
    assert second[2].strip() == "]"
    assert json.loads(first[0]) == json.loads(second[0])


def _predictions(preset, runtime):
    images = [np.random.default_rng(i).integers(0, 256, (40, 50, 3)).astype("uint8") for i in range(2)]
    return Predictor(preset, engine=runtime).logits(images)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predictor_detects_new_weights_with_equal_size_and_time(tmp_path, runtime):
    random_net().save_to_preset(tmp_path / "preset")
    weights = tmp_path / "preset" / "model.weights.h5"
    state = weights.stat()
    old = _predictions(tmp_path / "preset", runtime)
    random_net(seed=1).save_weights(weights)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert np.abs(_predictions(tmp_path / "preset", runtime) - old).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predictor_replaces_damaged_export_in_cache(tmp_path, cache, runtime):
    random_net().save_to_preset(tmp_path / "preset")
    expected = _predictions(tmp_path / "preset", runtime)
    _predictions(tmp_path / "preset", runtime)  # also caches OpenVINO's compiled network
    names = ["model.onnx", "export.json", "sha256.json"]
    for name in [*names, "compiled/*.blob", "compiled/sha256.json"] if runtime == "openvino" else names:
        path, *_ = (cache / "exports").glob(f"*/{name}")
        content = bytearray(path.read_bytes())
        for position in range(len(content) // 2, len(content), 97):  # includes weights
            content[position] ^= 0x40
        path.chmod(0o600)
        path.write_bytes(content)
        np.testing.assert_array_equal(_predictions(tmp_path / "preset", runtime), expected, name)


@pytest.mark.slow
def test_open_engine_ignores_exports_of_other_users(tmp_path, cache, monkeypatch, caplog):
    random_net().save_to_preset(tmp_path / "preset")
    _predictions(tmp_path / "preset", RUNTIMES[0])
    assert (cache / "exports").stat().st_mode & 0o777 == 0o700
    if os.getuid() == 0:  # only root can change the owner
        os.chown(cache / "exports", 12345, 12345)
        _predictions(tmp_path / "preset", RUNTIMES[0])
        assert list((cache / "exports-0").glob("preset-*"))
        (file,) = (cache / "exports-0").glob("preset-*/model.onnx")
        os.utime(file, (0, 0))
        os.chown(file, 12345, 12345)
        _predictions(tmp_path / "preset", RUNTIMES[0])
        assert file.stat().st_mtime > 0, "written again"
        assert file.stat().st_uid == 0
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert isinstance(engines.open_engine(tmp_path / "preset"), engines.KerasEngine)
    assert "belongs to another user. Set FOCALNETS_CACHE" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or cores() == 1, reason="needs cores of Linux")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_are_not_bound_to_cores(runtime, tiny_preset):
    """Otherwise, processes of one thread each would share the first core."""
    script = """if True:
        import contextlib, os, sys, threading
        import numpy as np
        from focalnets.prediction.engines import open_engine
        from focalnets.threads import limit_cores

        limit_cores(1)
        engine = open_engine(sys.argv[1], sys.argv[2])
        images = np.stack([engine.prepare(np.zeros((9, 9, engine.channels), "uint8"))] * 256)
        found, end = [], threading.Event()

        def watch():
            while not end.is_set():
                threads = map(int, os.listdir("/proc/self/task"))
                with contextlib.suppress(ProcessLookupError):  # a thread has ended
                    found.append(min(map(len, map(os.sched_getaffinity, threads))))

        watching = threading.Thread(target=watch)
        watching.start()
        for _ in range(20):
            engine.run(images)
        end.set()
        watching.join()
        print("@", len(found), min(found))
    """
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tiny_preset), runtime], capture_output=True, text=True, check=True
    )
    times, fewest = map(int, ran.stdout.split("@")[1].split())
    assert times > 20
    assert fewest == cores()


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in RUNTIMES, reason="OpenVINO is not installed")
def test_openvino_telemetry_is_not_imported(tmp_path):
    """The telemetry would write ~/intel/openvino_ga_cid and open a connection when it is imported."""
    random_net().save_to_preset(tmp_path / "preset")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    code = """
import sys
events = []
network = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
sys.addaudithook(lambda event, arguments: events.append(event) if event in network else None)
sys.argv = ["focalnets"]
from focalnets.cli import main
code = main(sys.orig_argv[3:])
print("events:", events, [name for name in sys.modules if name.startswith("openvino_telemetry")])
sys.exit(code)
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD")}
    for arguments in (["--engine", "openvino"], ["--engine", "auto"]):
        result = subprocess.run(
            [sys.executable, "-c", code, "predict", tmp_path / "preset", tmp_path / "red.png", *arguments],
            env={**environment, "HOME": str(home), "KERAS_HOME": str(tmp_path / "keras")},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert "events: [] []" in result.stdout
        assert not (home / "intel").exists()


def test_predict_command_rejects_invalid_engines(tmp_path, capsys, monkeypatch):
    random_net().save_to_preset(tmp_path / "preset")
    preset, image = str(tmp_path / "preset"), str(tmp_path / "x.png")
    Image.new("RGB", (50, 40)).save(image)
    backend = sys.modules["keras"].backend.backend()
    assert main(["predict", preset, image, "--engine", RUNTIMES[0], "--backend", backend]) == 2
    assert "Give only one of them" in capsys.readouterr().err
    monkeypatch.setattr(runtimes, "missing_packages", lambda engine: engine)
    monkeypatch.setattr(engines, "missing_packages", lambda engine: engine)
    assert main(["predict", preset, image, "--engine", "openvino"]) == 1
    assert "pip install 'focalnets[openvino]'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="engine must be one of auto, keras"):
        engines.open_engine(preset, "tvm")
