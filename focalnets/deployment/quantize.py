"""8-bit exports: matrix multiplications and convolutions in int8, calibrated on images of the user.

ONNX Runtime's static quantization writes QDQ nodes, which OpenVINO reads, too. Several settings are tried,
the fastest first. The first one that loses little accuracy on validation images is measured on test images.
"""

import logging
import pathlib
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from focalnets.data.datasets import open_dataset
from focalnets.deployment.runtimes import RUNTIMES, usable_runtimes

CALIBRATION_IMAGES = 320
_BATCH = 32
_SPEED_SECONDS = 1.0  # time of each measurement

# Name -> operations in int8, and whether the first and last of them stay in float32. Fastest first.
SETTINGS = {
    "matrix multiplications and convolutions": (("Gemm", "Conv"), False),
    "all but the first and last layer": (("Gemm", "Conv"), True),
    "matrix multiplications": (("Gemm",), True),
}


@dataclass(frozen=True)
class Quantized:
    """Accuracy and speed of an 8-bit export beside the float32 one.

    Attributes:
        setting: str. A key of `SETTINGS`.
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


def quantize(graph, classifier, data, runtime, most_loss):
    """Replace an ONNX graph by an 8-bit one.

    Args:
        graph: Path of the graph.
        classifier: `FocalNetImageClassifier`.
        data: str. Labeled data set, see `open_dataset`: training images calibrate, validation images choose
            the setting, and test images measure the result.
        runtime: str. A key of `RUNTIMES`.
        most_loss: float. Largest accepted loss of accuracy, 0 to 1.

    Returns:
        `Quantized`.

    Raises:
        ValueError: if the data has other classes, or every setting loses more accuracy.
    """
    training, validation, test = _splits(classifier, data)
    exact = RUNTIMES[runtime](graph, False)
    exact_logits = _logits(exact, validation)
    right = np.mean(exact_logits.argmax(axis=-1) == validation.labels)
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, setting in SETTINGS.items():
            path = pathlib.Path(folder, f"{len(losses)}.onnx")
            _write(graph, path, _batches(training), *setting)
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
        graph.write_bytes(path.read_bytes())
    return result


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


def _write(graph, path, batches, operations, keeps_ends):
    """Write an 8-bit copy of an ONNX graph."""
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


def _measured(setting, exact, run, graph, path, test, runtime):
    expected, found = (_logits(one, test).argmax(axis=-1) for one in (exact, run))
    speedup = {}
    for name in {runtime: None} | dict.fromkeys(usable_runtimes()):
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
        megabytes=path.stat().st_size / 1e6,
        float_megabytes=graph.stat().st_size / 1e6,
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
