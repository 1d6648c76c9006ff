"""Names and record of the files in an export directory. Free of Keras and of `onnx`."""

from typing import Annotated, Literal

import msgspec

from focalnets.presets.files import EXPORT, Preprocessing
from focalnets.schema import read_record

FORMAT, FORMAT_VERSION = "focalnets export", 1
GRAPH, WEIGHTS, RECORD = "model.onnx", "model.data", EXPORT

_Size = Annotated[int, msgspec.Meta(ge=1, le=8192)]


class Export(msgspec.Struct):
    """export.json."""

    format: Literal[FORMAT]
    format_version: Literal[FORMAT_VERSION]
    image_shape: Annotated[list[_Size], msgspec.Meta(min_length=3, max_length=3)]
    preprocessing: Preprocessing | None
    num_classes: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
    class_names: list[str] | None
    origin: dict | None = None


def read_export(directory):
    """The `Export` of a directory; ValueError naming the field if its export.json is damaged."""
    return read_record(directory / RECORD, Export, "Export the network anew.")
