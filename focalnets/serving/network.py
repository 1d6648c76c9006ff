"""An exported network with its runtime, preprocessing and names."""

import hashlib
import io
import os
import re

import msgspec
import numpy as np

from focalnets.deployment.record import EXPLAIN_GRAPH, GRAPHS, RECORD, read_export
from focalnets.deployment.runtimes import RUNTIMES, missing_packages
from focalnets.files import expanded
from focalnets.images.decode import open_image
from focalnets.output.manifest import MANIFEST, Manifest
from focalnets.prediction.engines import runtime_of
from focalnets.resizing import resize_and_crop

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class ServedNetwork:
    """A network that answers requests, in any number of threads.

    Args:
        directory: `pathlib.Path`. Export directory in the format onnx or openvino.
        engine: str. "onnxruntime", "openvino", or "auto", which prefers onnxruntime. Defaults to "auto".
        streams: int. Number of calls at the same time. Defaults to 1.

    Attributes:
        version: str. Changes with the files of the export.
        engine: str. "onnxruntime" or "openvino".
        image_shape: list. (height, width, channels). A height or width of None is free.
        class_names: list of str.
        explains: bool. Whether the export has explain.onnx.
        taps: list of str. Depths of the evidence.
        windows: dict of block -> list of str. Receptive field of each level in pixels of the image.

    Raises:
        ValueError: if the directory is not a complete export of a classifier with preprocessing.
        ImportError: if the runtime is not installed.
    """

    def __init__(self, directory, engine="auto", streams=1):
        record, self.engine = check_export(directory, engine)
        self.directory, self.image_shape = directory, record.image_shape
        self.class_names = record.class_names or [str(index) for index in range(record.num_classes)]
        self._preprocessing = msgspec.to_builtins(record.preprocessing)
        graph = directory / GRAPHS[record.model]
        contents = (directory / RECORD).read_bytes() + graph.read_bytes()
        self.version = hashlib.sha256(contents).hexdigest()[:12]
        self._graph = RUNTIMES[self.engine](graph, False, streams)
        self.explains, self.taps, self.windows = record.explain is not None, [], {}
        if self.explains:
            self.taps = list(record.explain.taps)
            self.windows = record.explain.windows()
            # OpenVINO takes seconds to compile this graph, and computes it wrongly in more than one stream
            # (2026.4).
            runtime = "openvino" if missing_packages("onnxruntime") else "onnxruntime"
            streams = 1 if runtime == "openvino" else streams
            self._explain = RUNTIMES[runtime](directory / EXPLAIN_GRAPH, False, streams)

    def warm_up(self):
        """Run everything once, so that the first request is as fast as the others."""
        height, width, channels = (size or 64 for size in self.image_shape)
        images = np.zeros((1, height, width, channels), "uint8")
        self.classify(images)
        if self.explains:
            self._check_evidence(np.random.default_rng(0).integers(0, 256, images.shape).astype("uint8"))

    def _check_evidence(self, images):
        """The evidence has the same sum at every depth. ValueError if the runtime computes it wrongly."""
        targets = np.eye(1, len(self.class_names) + 1, dtype="float32")
        found = self._explain({"images": images, "targets": targets})
        sums = [found["evidence"].sum(), *(found[f"evidence_{tap}"].sum() for tap in self.taps)]
        largest = np.abs(found["logits"]).max()
        if not np.ptp(sums) <= 1e-3 * largest:
            raise ValueError(f"The runtime computes wrong evidence with {self.directory / EXPLAIN_GRAPH}.")

    def decode(self, content, name):
        """Image (H, W, channels), uint8, from the bytes of a file, as `focalnets.predict` prepares it.

        Raises:
            ValueError: if it cannot be decoded, with the name.
        """
        image = open_image(io.BytesIO(content), self.image_shape[-1], name)
        return resize_and_crop(image, **self._preprocessing)

    def classify(self, images):
        """List of (probabilities, logits), float32 (classes,), for images (N, H, W, channels)."""
        found = self._graph({"images": images})
        return list(zip(found["probabilities"], found["logits"], strict=True))

    def explain(self, images):
        """List of (probabilities, logits, evidence, totals of levels) for images (N, H, W, channels).

        The evidence, float32 (H, W), is that for the most probable class. Its sum is the difference of the
        logit from that of the mean color. The totals are a dict of block -> list of the sums of its levels,
        the global level last.
        """
        answers = self.classify(images)
        targets = np.zeros((len(images), len(self.class_names) + 1), "float32")
        for row, (_, logits) in zip(targets, answers, strict=True):
            row[int(np.argmax(logits))] = 1
        found = self._explain({"images": images, "targets": targets})
        return [
            (
                *answer,
                found["evidence"][index],
                {block: found[f"levels_{block}"][index].sum((0, 1)).tolist() for block in self.windows},
            )
            for index, answer in enumerate(answers)
        ]

    def explore(self, images, classes=3):
        """List of (probabilities, logits, maps, levels) for images, with the evidence at every depth.

        Args:
            images: uint8 array (N, H, W, channels).
            classes: int. Number of the most probable classes that are explained. Defaults to 3.

        Returns:
            For each image, `maps` is a dict of class index -> dict of tap, or "mean" -> float32 (H', W'), and
            `levels` a dict of block -> float32 (H', W', L + 1) for the most probable class.
        """
        answers = []
        for image, answer in zip(images, self.classify(images), strict=True):
            chosen = np.argsort(-answer[0], kind="stable")[:classes].tolist()
            targets = np.zeros((len(chosen), len(self.class_names) + 1), "float32")
            targets[range(len(chosen)), chosen] = 1
            repeated = np.repeat(image[None], len(chosen), axis=0)
            found = self._explain({"images": repeated, "targets": targets})
            maps = {
                index: {
                    "mean": found["evidence"][row],
                    **{tap: found[f"evidence_{tap}"][row] for tap in self.taps},
                }
                for row, index in enumerate(chosen)
            }
            answers.append((*answer, maps, {name: found[f"levels_{name}"][0] for name in self.windows}))
        return answers


def check_export(directory, engine="auto"):
    """(`Export`, name of its runtime) of a directory that can be served, or the errors of `ServedNetwork`."""
    _check_complete(directory)
    record = read_export(directory)
    if record.preprocessing is None:
        raise ValueError(f"{directory} has no preprocessing, so it cannot take image files.")
    if engine == "auto" and record.model == "onnx" and not missing_packages("onnxruntime"):
        engine = "onnxruntime"  # faster than OpenVINO for many small calls, and starts sooner
    return record, runtime_of(directory, record, engine)


def named_exports(words):
    """Dict of name -> path from the words of a command line, DIRECTORY or NAME=DIRECTORY.

    >>> from focalnets.serving.network import named_exports
    >>> {name: str(path) for name, path in named_exports(["runs/birds", "cats=runs/old"]).items()}
    {'birds': 'runs/birds', 'cats': 'runs/old'}
    """
    found = {}
    for word in words:
        name, equals, path = str(word).partition("=")
        path = expanded(path if equals else word)
        name = name if equals else path.absolute().name
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be the name of a network in an address. Use letters, digits, '.', '-' and "
                f"'_': focalnets serve NAME={path}"
            )
        if name in found:
            raise ValueError(f"Two exports have the name {name!r}. Name them: NAME={path}")
        found[name] = path
    return found


def stamp(directory):
    """State of the files of a directory, to detect changes. None if a file disappears meanwhile."""
    try:
        with os.scandir(directory) as entries:
            states = [(one.name, one.stat()) for one in entries]
        return tuple(sorted((name, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in states))
    except OSError:
        return None


def _check_complete(directory):
    """ValueError if a file of the export is missing or differs from the manifest."""
    if not (directory / RECORD).is_file():
        raise ValueError(
            f"{directory} is not an export directory: it has no {RECORD}. Write one: focalnets export PRESET "
            f"{directory}"
        )
    if (directory / MANIFEST).is_file():
        manifest = Manifest(directory)
        wrong = sorted(set(manifest.files) - manifest.ours())
        if manifest.kind is None or wrong:
            raise ValueError(f"{directory} is incomplete or was changed: {', '.join(wrong) or MANIFEST}.")
