"""8-bit exports: matrix multiplications and convolutions in int8, calibrated on images of the user.

ONNX graphs get the QDQ nodes of ONNX Runtime's static quantization, and those of OpenVINO are quantized by
NNCF. Several settings are tried, the fastest first. The first one that loses little accuracy on validation
images is measured on test images.
"""

import contextlib
import io
import logging
import pathlib
import tempfile
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from focalnets.data.datasets import open_dataset
from focalnets.deployment.record import GRAPHS
from focalnets.deployment.runtimes import RUNTIMES, hidden_telemetry, usable_runtimes

CALIBRATION_IMAGES = 320
_BATCH = 32
_SPEED_SECONDS = 1.0  # time of each measurement


@dataclass(frozen=True)
class Quantized:
    """Accuracy and speed of an 8-bit export beside the float32 one.

    Attributes:
        setting: str. A key of `SETTINGS[format]`.
        images: int. Number of test images.
        accuracy: float. Accuracy of the 8-bit network.
        float_accuracy: float. Accuracy of the float32 network.
        agreement: float. Fraction of images with the same most probable class.
        speedup: dict of runtime -> dict of batch size -> float. Ratio of the speeds, 8 bits over float32.
        megabytes, float_megabytes: float. Sizes of the graphs.
    """

    setting: str
    images: int
    accuracy: float
    float_accuracy: float
    agreement: float
    speedup: dict[str, dict[int, float]]
    megabytes: float
    float_megabytes: float

    def __str__(self):
        speeds = "; ".join(
            f"{runtime} " + ", ".join(f"{ratio:.2f}x at batch {size}" for size, ratio in ratios.items())
            for runtime, ratios in self.speedup.items()
        )
        return (
            f"int8 ({self.setting}): accuracy {self.accuracy:.2%}, float32 {self.float_accuracy:.2%}, on "
            f"{self.images:,} test images; same class for {self.agreement:.2%}\n"
            f"speed: {speeds}; size {self.megabytes:.2f} MB instead of {self.float_megabytes:.2f} MB"
        )


def quantize(directory, format, classifier, data, most_loss):
    """Replace the graph of an export directory by an 8-bit one.

    Args:
        directory: `pathlib.Path`. Export directory in float32.
        format: str. "onnx" or "openvino".
        classifier: `FocalNetImageClassifier`.
        data: str. Labeled data set, see `open_dataset`: training images calibrate, validation images choose
            the setting, and test images measure the result.
        most_loss: float. Largest accepted loss of accuracy, 0 to 1.

    Returns:
        `Quantized`.

    Raises:
        ValueError: if the data has other classes, or every setting loses more accuracy.
    """
    graph, runtime = directory / GRAPHS[format], _RUNTIME_OF[format]
    training, validation, test = _splits(classifier, data)
    exact = RUNTIMES[runtime](graph, False)
    exact_logits = _logits(exact, validation)
    right = np.mean(exact_logits.argmax(axis=-1) == validation.labels)
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in SETTINGS[format].items():
            path = pathlib.Path(folder, f"{len(losses)}{graph.suffix}")
            write(graph, path, _batches(training))
            run = RUNTIMES[runtime](path, False)
            losses[name] = right - np.mean(_logits(run, validation).argmax(axis=-1) == validation.labels)
            if losses[name] <= most_loss:
                break
        else:
            found = ", ".join(f"{name}: {loss:.2%}" for name, loss in losses.items())
            raise ValueError(
                f"8 bits lose too much accuracy on {len(validation)} validation images ({found}); accepted "
                f"is a loss of {most_loss:.2%}. Export without quantize, or accept more (most_loss)."
            )
        result = _measured(name, exact, run, graph, path, test, runtime)
        if result.float_accuracy - result.accuracy > most_loss:
            raise ValueError(
                f"8 bits lose {result.float_accuracy - result.accuracy:.2%} of accuracy on {result.images} "
                f"test images; accepted is {most_loss:.2%}. Export without quantize, or accept more "
                "(most_loss)."
            )
        for part, to in zip(_files(path), _files(graph), strict=True):
            to.write_bytes(part.read_bytes())
    return result


def _files(graph):
    """Files of a graph: OpenVINO has the weights beside it."""
    return [graph, graph.with_suffix(".bin")] if graph.suffix == ".xml" else [graph]


def _megabytes(graph):
    return sum(path.stat().st_size for path in _files(graph)) / 1e6


def _splits(classifier, data):
    dataset = open_dataset(data, classifier.backbone.image_shape[-1], classifier.image_converter.prepare)
    if tuple(dataset.class_names) != tuple(classifier.class_names or ()):
        raise ValueError(
            f"{data} has other classes than the network; got {len(dataset.class_names)} classes. The "
            "accuracy of 8 bits is measured on labeled images of the same classes."
        )
    splits = dataset.splits
    everything = dataset.everything()
    training = splits.get("train", everything)
    places = np.random.default_rng(0).permutation(len(training))
    enough = len(training) > CALIBRATION_IMAGES
    count = CALIBRATION_IMAGES if enough else -(-len(training) // 2)
    calibration = training.take(np.sort(places[:count]))
    validation = splits.get("val")
    if validation is None:
        validation = training.take(np.sort(places[count : count + 1000]))
    return calibration, validation, splits.get("test", everything)


def _batches(split):
    for start in range(0, len(split), _BATCH):
        yield split.batch(np.arange(start, min(start + _BATCH, len(split))))


def _logits(run, split):
    return np.concatenate([run({"images": images})["logits"] for images in _batches(split)])


def _write_qdq(graph, path, batches, operations, keeps_ends=False):
    """Write an 8-bit copy of an ONNX graph, whose first and last layer may stay in float32."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            images = next(batches, None)
            return None if images is None else {"images": images}

    prepared = path.with_suffix(".prepared.onnx")
    log = logging.getLogger()
    level, _ = log.level, log.setLevel(logging.ERROR)  # it advises to do what was just done
    try:
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        nodes = [one.name for one in onnx.load(prepared).graph.node if one.op_type in ("Gemm", "Conv")]
        quantization.quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(operations),
            nodes_to_exclude=[nodes[0], nodes[-1]] if keeps_ends else [],
        )
    finally:
        log.setLevel(level)


def _write_nncf(graph, path, batches, model_type=None, preset=None):
    """Write an 8-bit copy of a graph of OpenVINO."""
    with hidden_telemetry():
        import nncf
        import openvino

    options = {
        "model_type": model_type and nncf.ModelType[model_type],
        "preset": preset and nncf.QuantizationPreset[preset],
    }
    images = nncf.Dataset([{"images": one} for one in batches])
    log = logging.getLogger("nncf")
    level, _ = log.level, log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # bars of progress
            model = nncf.quantize(openvino.Core().read_model(graph), images, **options)
    finally:
        log.setLevel(level)
    openvino.save_model(model, path, compress_to_fp16=False)


# Format -> name -> function (graph, path of the copy, batches of images) that writes an 8-bit copy. Fastest
# first.
SETTINGS = {
    "onnx": {
        "matrix multiplications and convolutions": partial(_write_qdq, operations=("Gemm", "Conv")),
        "all but the first and last layer": partial(_write_qdq, operations=("Gemm", "Conv"), keeps_ends=True),
        "matrix multiplications": partial(_write_qdq, operations=("Gemm",), keeps_ends=True),
    },
    "openvino": {
        "NNCF, transformer": partial(_write_nncf, model_type="TRANSFORMER"),
        "NNCF, preset performance": partial(_write_nncf, preset="PERFORMANCE"),
        "NNCF, preset mixed": partial(_write_nncf, preset="MIXED"),
    },
}
_RUNTIME_OF = {"onnx": "onnxruntime", "openvino": "openvino"}


def _measured(setting, exact, run, graph, path, test, runtime):
    expected, found = (_logits(one, test).argmax(axis=-1) for one in (exact, run))
    speedup = {}
    # Each runtime reads ONNX, but only OpenVINO reads its own format.
    readers = usable_runtimes() if graph.suffix == ".onnx" else ()
    for name in {runtime: None} | dict.fromkeys(readers):
        both = [RUNTIMES[name](one, False) for one in (graph, path)]
        batches = {size: test.batch(np.arange(size) % len(test)) for size in (1, 64)}
        speedup[name] = {size: _speedup(*both, images) for size, images in batches.items()}
    return Quantized(
        setting=setting,
        images=len(test),
        accuracy=float(np.mean(found == test.labels)),
        float_accuracy=float(np.mean(expected == test.labels)),
        agreement=float(np.mean(found == expected)),
        speedup=speedup,
        megabytes=_megabytes(path),
        float_megabytes=_megabytes(graph),
    )


def _speedup(exact, run, images):
    """Ratio of the median times of both, measured in turn."""
    inputs, times = {"images": images}, ([], [])
    for one in (exact, run):
        one(inputs)
    start = time.perf_counter()
    while time.perf_counter() - start < _SPEED_SECONDS or len(times[0]) < 5:
        for one, found in zip((exact, run), times, strict=True):
            before = time.perf_counter()
            one(inputs)
            found.append(time.perf_counter() - before)
    return float(np.median(times[0]) / np.median(times[1]))
