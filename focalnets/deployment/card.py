"""README.md of an export: inputs, outputs, preprocessing, and code that runs the network."""

_CODE = {
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros({shape}, "{dtype}")  # RGB
probabilities, logits = session.run(["probabilities", "logits"], {{"images": images}})""",
    "openvino": """import numpy as np
import openvino

model = openvino.Core().compile_model("model.xml", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
images = np.zeros({shape}, "{dtype}")  # RGB
probabilities = model(images)["probabilities"]""",
    "saved_model": """import numpy as np
import tensorflow as tf

model = tf.saved_model.load("saved_model")
images = np.zeros({shape}, "{dtype}")  # RGB
probabilities = model.serve(images)["probabilities"].numpy()""",
    "litert": """import numpy as np
from ai_edge_litert.interpreter import Interpreter

runner = Interpreter("model.tflite").get_signature_runner()
images = np.zeros({shape}, "{dtype}")  # RGB
probabilities = runner(images=images)["probabilities"]""",
    "torch": """import torch

model = torch.export.load("model.pt2").module()
images = torch.zeros({shape}, dtype=torch.{dtype})  # RGB
probabilities = model(images)["probabilities"]""",
    "keras": """import focalnets  # before keras: it registers the layers
import keras
import numpy as np

model = keras.saving.load_model("model.keras")
images = np.zeros({shape}, "{dtype}")  # RGB
probabilities = model.predict(images)["probabilities"]""",
}


def card(record, name):
    """Text of the README.md of an export.

    Args:
        record: dict. Contents of export.json, with "verified".
        name: str or path. Title.
    """
    height, width, channels = record["image_shape"]
    any_size = height is None
    dtype = "float32" if record["preprocessing"] is None else "uint8"
    verified = record["verified"]
    size = "any height, any width" if any_size else f"{height}, {width}"
    lines = [
        f"# {str(name).rstrip('/').rsplit('/', 1)[-1]}",
        "",
        f"A focal modulation network for {record['num_classes']} classes, exported by focalnets "
        f"{record['focalnets_version']} in the format {record['model']}.",
        "",
        "| | name | type | shape |",
        "|---|---|---|---|",
        f"| input | `images` | {dtype} | (N, {size}, {channels}), {_colors(record, channels)} |",
        f"| output | `probabilities` | float32 | (N, {record['num_classes']}) |",
        f"| output | `logits` | float32 | (N, {record['num_classes']}) |",
        "",
        *_preprocessing(record),
        *_use(record, dtype),
        "",
        f"Verified on {verified['images']} {'made ' if verified['made'] else ''}images: the largest "
        f"difference from the logits of Keras is {verified['largest']:.1e} of the largest logit, and "
        f"{verified['agreement']:.1%} of the images have the same most probable class.",
    ]
    if "quantized" in record:
        found = record["quantized"]
        lines += [
            "",
            f"The network computes in 8 bits. Its accuracy on {found['images']} test images is "
            f"{found['accuracy']:.2%}, that of float32 {found['float_accuracy']:.2%}.",
        ]
    if "explain" in record and record["model"] != "web":
        lines += [
            "",
            "`explain.onnx` returns the exact evidence. Its inputs are `images` and `targets` (N, "
            f"{record['num_classes'] + 1}): weights of the logits, and of their log-sum-exp. Its outputs are "
            "`logits`, `reference_logits`, `evidence` (one map per image, whose sum is the difference of the "
            "logits), `evidence_<tap>`, and for each block `levels_<block>` and `gates_<block>` (the focal "
            "levels, the global one last).",
        ]
    return "\n".join(lines) + "\n"


def _use(record, dtype):
    """Lines on how the network is run."""
    if record["model"] == "web":
        return [
            "Open `index.html` in a browser, from this disk or from any file server. The page sends nothing "
            "anywhere: images that are dropped on it are classified and explained in the browser, by ONNX "
            "Runtime Web (`runtime.js`, Copyright Microsoft Corporation, MIT License).",
        ]
    height, width, channels = record["image_shape"]
    code = _CODE[record["model"]].format(shape=(1, height or 224, width or 224, channels), dtype=dtype)
    return ["```python", code, "```"]


def _colors(record, channels):
    if record["preprocessing"] is None:
        return "normalized"
    return "0 to 255, " + {1: "gray", 3: "RGB"}.get(channels, f"{channels} channels")


def _preprocessing(record):
    found = record["preprocessing"]
    if found is None:
        return ["The images must be normalized as for training.", ""]
    if found["image_size"] is None or record["image_shape"][0] is None:
        return ["The network normalizes the pixels itself.", ""]
    fraction = found["crop_fraction"]
    side = round(min(found["image_size"]) / fraction)
    return [
        f"Before: resize the shorter side to {side} pixels ({found['interpolation']}), and crop the center. "
        "The network normalizes the pixels itself.",
        "",
    ]
