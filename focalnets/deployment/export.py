"""export: a directory with all that predictions need in another program, verified in its runtime.

model.*           the network, from pixels to probabilities and logits, for any number of images
explain.onnx      if asked for: the exact evidence of each decision (`onnx_evidence.py`)
labels.txt        class names, one per line
export.json       format version, origin, image size, preprocessing, class names, and the verification
README.md         inputs, outputs, preprocessing, and code that runs the network
"""

import importlib.util
import pathlib
from dataclasses import asdict, dataclass

import msgspec

from focalnets import __version__
from focalnets.conversion.open import as_classifier
from focalnets.deployment.card import card
from focalnets.deployment.formats import (
    FORMATS,
    check_format,
    explained,
    preprocessing_of,
    save_onnx,
)
from focalnets.deployment.onnx_evidence import onnx_evidence_model
from focalnets.deployment.quantize import Quantized
from focalnets.deployment.quantize import quantize as quantize_graph
from focalnets.deployment.record import (
    CARD,
    EXPLAIN_GRAPH,
    EXPLAIN_WEIGHTS,
    FORMAT,
    FORMAT_VERSION,
    GRAPHS,
    LABELS,
    RECORD,
)
from focalnets.deployment.runtimes import NO_RUNTIME, RUNTIMES, missing_packages, usable_runtimes
from focalnets.deployment.verify import Comparison, check, compare, evidence_difference
from focalnets.files import expanded
from focalnets.output.files import write_json, write_text
from focalnets.output.inputs import paths_among
from focalnets.output.replace import new_directory


@dataclass(frozen=True)
class Exported:
    """Result of `export`.

    Attributes:
        directory: Path. Export directory.
        format: str. A key of `formats.FORMATS`.
        comparison: `Comparison` with Keras, in the runtime of the format.
        evidence_difference: float or None. Largest difference of the evidence at any tap or level, relative
            to the largest value there. `None` without `explain`.
        quantized: `Quantized` or None. Accuracy and speed of 8 bits. `None` without `quantize`.
    """

    directory: pathlib.Path
    format: str
    comparison: Comparison
    evidence_difference: float | None = None
    quantized: Quantized | None = None

    def __str__(self):
        found = self.comparison
        kind = "made images" if found.made else "images"
        lines = [
            f"verified on {found.images} {kind}: largest difference of logits {found.largest:.1e}, mean "
            f"{found.mean:.1e}, relative to the largest logit; same class for {found.agreement:.1%}",
            f"speed: {found.images_per_second:,.0f} images per second in batches of 32",
        ]
        if self.evidence_difference is not None:
            lines.append(f"largest difference of the evidence: {self.evidence_difference:.1e}, relative")
        return "\n".join([*lines, *([] if self.quantized is None else [str(self.quantized)])])


def export(
    preset,
    out,
    format="onnx",
    force=False,
    explain=False,
    data=None,
    any_size=False,
    quantize=None,
    most_loss=0.005,
):
    """Export a classifier for other programs and verify the export, as `focalnets export` does.

    The exported network takes uint8 images (N, height, width, channels) and returns "probabilities" and
    "logits" (N, classes). It contains all preprocessing but the resizing. In the formats onnx and openvino,
    it also returns "features" (N, C), the input of the classification head.

    Args:
        preset: Path of a preset or run directory, a name in `CHECKPOINTS`, any other source that
            `FocalNetImageClassifier.from_preset` accepts, or a `FocalNetImageClassifier`.
        out: str or path. Directory to create. `focalnets.predict(out, images)` uses it.
        format: str. "onnx", "openvino", "web", "saved_model", "litert", "torch" or "keras". Defaults to
            "onnx".
        force: bool. Replace an existing export. Defaults to `False`.
        explain: bool. Also write explain.onnx, which returns the exact evidence. The format "web" always
            contains it. Defaults to `False`.
        data: str. Data set or folder of images for the verification, see `open_dataset`. Defaults to `None`,
            made images.
        any_size: bool. Export for images of any height and width. Defaults to `False`, the image size of the
            classifier.
        quantize: str. "int8" computes in 8 bits (formats onnx and openvino). Its accuracy is measured on
            `data`, which must be labeled. Defaults to `None`.
        most_loss: float. Largest loss of accuracy that `quantize` may cost, 0 to 1. Defaults to 0.005.

    Returns:
        `Exported`.

    Raises:
        ImportError: if a package that the format needs is not installed.
        ValueError: if the backend cannot write the format, the classifier has no image size, or the results
            differ.
        FileExistsError: if `out` exists, unless `force`.

    >>> import tempfile
    >>> import focalnets
    >>> done = focalnets.export("focalnet_nano_cifar10", tempfile.mkdtemp() + "/exported")
    >>> done.comparison.largest < 1e-4
    True
    """
    explains = check_format(format).open_evidence is not None
    if explain and not explains and not usable_runtimes():
        raise ImportError(NO_RUNTIME)
    if any_size and (explain or not FORMATS[format].any_size):
        raise ValueError(
            "Images of any size are possible with the formats onnx, openvino and keras, without explain; got "
            f"format={format!r}, explain={explain}."
        )
    explain = explain or explains
    _check_quantize(quantize, format, data, any_size)
    classifier = as_classifier(preset)
    origin = None if classifier is preset else {"preset": str(preset)}
    with new_directory(out, "deployment", force, paths_among([origin and str(preset), data])) as partial:
        write_export(classifier, partial, origin, explain, format, any_size)
        found = verify(classifier, partial, format=format, data=data, explain=explain)
        record = export_record(classifier, origin, explain, format, any_size)
        record["verified"], quantized = asdict(found[0]), None
        if quantize is not None:
            quantized = quantize_graph(partial, format, classifier, data, most_loss)
            record["quantized"] = asdict(quantized)
        write_json(partial / RECORD, record)
        write_text(partial / CARD, card(record, out))
    return Exported(expanded(out), format, *found, quantized)


def _check_quantize(quantize, format, data, any_size):
    if quantize is None:
        return
    if quantize != "int8":
        raise ValueError(f'quantize must be "int8" or None; got {quantize!r}.')
    if format not in GRAPHS or any_size or data is None:
        raise ValueError(
            f"8 bits are for the formats {' and '.join(GRAPHS)}, for images of one size, and need labeled "
            f"data (--data); got format={format!r}, any_size={any_size}, data={data!r}."
        )
    if format == "onnx" and missing_packages("onnxruntime"):
        raise ImportError("8 bits need onnx and onnxruntime: pip install 'focalnets[onnxruntime]'.")
    if format == "openvino" and importlib.util.find_spec("nncf") is None:
        raise ImportError("8 bits for OpenVINO need NNCF: pip install 'focalnets[nncf]'.")


def verify(
    classifier,
    directory,
    runtime=None,
    format="onnx",
    data=None,
    explain=False,
    made=16,
    cached=False,
):
    """Compare an export directory with its classifier, on `data` or on this number of made images.

    Returns:
        (`Comparison`, float or None). The second is the difference of the evidence, see `Exported`.

    Raises:
        ValueError: if the results differ.
    """
    shape = image_shape(classifier)  # its own size, where it has one
    found = compare(classifier, FORMATS[format].open(directory, runtime, cached), shape, data, made)
    check(found.largest, f"output of {runtime or format}", "logit")
    if not explain:
        return found, None
    if open_evidence := FORMATS[format].open_evidence:
        name, run = format, open_evidence(directory)
    else:
        name = usable_runtimes()[0] if runtime is None else runtime
        run = RUNTIMES[name](directory / EXPLAIN_GRAPH, False)
    of_evidence = evidence_difference(classifier, run, shape)
    check(of_evidence, f"evidence of {name}", "value")
    return found, of_evidence


def write_export(classifier, directory, origin=None, explain=False, format="onnx", any_size=False):
    """Write the files of an export into an existing directory.

    Args:
        classifier: `FocalNetImageClassifier` with an image size, unless `any_size`.
        directory: str or path. Existing directory.
        origin: dict. Source of the classifier, for export.json. Defaults to `None`.
        explain: bool. Also write explain.onnx. Defaults to `False`.
        format: str. A key of `formats.FORMATS`. Defaults to "onnx".
        any_size: bool. For images of any size. Defaults to `False`.

    Raises:
        ValueError: if the classifier has no image size.
        ImportError: if the package `onnx` is not installed.

    >>> import tempfile
    >>> from focalnets import FocalNetImageClassifier, FocalNetImageConverter
    >>> from focalnets.deployment.export import write_export
    >>> from focalnets.presets.architectures import find_architecture
    >>> from focalnets.presets.load import build_architecture
    >>> converter = FocalNetImageConverter(image_size=8, mean=(0.5,), std=(0.5,))
    >>> net = build_architecture(find_architecture("focalnet_pico"), image_converter=converter)
    >>> write_export(net, tempfile.mkdtemp())
    """
    directory, shape = pathlib.Path(directory), image_shape(classifier, any_size)
    if not any_size and None in shape:
        raise ValueError(
            "An exported network takes images of one size, but this classifier has no image size. Set "
            "image_size of its FocalNetImageConverter, or image_shape of its backbone, or export for any "
            "size (any_size=True, --any-size)."
        )
    FORMATS[format].write(classifier, shape, directory)
    if explain and FORMATS[format].open_evidence is None:
        graph = onnx_evidence_model(classifier, *shape[:2])
        save_onnx(graph, directory / EXPLAIN_GRAPH, EXPLAIN_WEIGHTS, classifier.count_params())
    if classifier.class_names is not None:
        write_text(
            directory / LABELS, "".join(" ".join(name.split()) + "\n" for name in classifier.class_names)
        )
    write_json(directory / RECORD, export_record(classifier, origin, explain, format, any_size))


def export_record(classifier, origin, explain, format, any_size):
    """Contents of export.json, a dict."""
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "focalnets_version": __version__,
        "origin": origin,
        "model": format,
        "image_shape": image_shape(classifier, any_size),
        "preprocessing": preprocessing_of(classifier),
        "num_classes": classifier.num_classes,
        "class_names": classifier.class_names,
    }
    if explain:
        record["explain"] = msgspec.to_builtins(explained(classifier))
    return record


def image_shape(classifier, any_size=False):
    """Shape (height, width, channels) of the inputs of a classifier. A height or width of None is free."""
    height, width, channels = classifier.backbone.image_shape
    converter = classifier.image_converter
    if converter is not None and converter.image_size is not None:
        height, width = converter.image_size
    return (None, None, channels) if any_size else (height, width, channels)
