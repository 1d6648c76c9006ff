"""File names and export.json of an export directory. Does not import Keras or `onnx`."""

from typing import Annotated, Literal

import msgspec

from focalnets.presets.files import EXPORT, Preprocessing
from focalnets.schema import read_record

FORMAT, FORMAT_VERSION = "focalnets export", 1
GRAPH, IR_GRAPH, WEIGHTS, RECORD = "model.onnx", "model.xml", "model.data", EXPORT
EXPLAIN_GRAPH, EXPLAIN_WEIGHTS = "explain.onnx", "explain.data"
LABELS, CARD = "labels.txt", "README.md"
GRAPHS = {"onnx": GRAPH, "openvino": IR_GRAPH}  # formats that `predict` runs without Keras
MODELS = (*GRAPHS, "web", "saved_model", "litert", "torch", "keras")

_Size = Annotated[int, msgspec.Meta(ge=1, le=8192)]


class Explained(msgspec.Struct):
    """Contents of explain.onnx.

    Attributes:
        taps: dict of tap -> pixels per position.
        levels: dict of block -> sides of the receptive fields of its levels in positions. The global level
            comes after them.
    """

    taps: dict[str, _Size]
    levels: dict[str, list[_Size]]

    def windows(self):
        """Receptive fields of the levels in pixels of the image: dict of block -> list of str."""
        return {
            block: [*(f"{side * self.taps[block]} px" for side in sides), "global"]
            for block, sides in self.levels.items()
        }


class Export(msgspec.Struct):
    """Contents of export.json."""

    format: Literal[FORMAT]
    format_version: Literal[FORMAT_VERSION]
    image_shape: Annotated[list[_Size | None], msgspec.Meta(min_length=3, max_length=3)]
    preprocessing: Preprocessing | None
    num_classes: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
    class_names: list[str] | None
    origin: dict | None = None
    explain: Explained | None = None
    model: Literal[MODELS] = "onnx"


def read_export(directory):
    """Read the `Export` of a directory, or raise a ValueError that reports the damaged field."""
    return read_record(directory / RECORD, Export, "Export the network again.")
