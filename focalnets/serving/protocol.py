"""Requests and responses of the Open Inference Protocol, version 2, with the binary extension.

Source: https://github.com/kserve/open-inference-protocol, and the binary tensor data extension of Triton
Inference Server.
"""

import math

import msgspec
import numpy as np

HEADER_LENGTH = "Inference-Header-Content-Length"
INPUT, OUTPUTS = "images", ("probabilities", "logits")


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict = {}
    data: list | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict = {}


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: dict = {}


class Inference(msgspec.Struct):
    """A decoded request.

    Attributes:
        images: uint8 array (N, H, W, channels).
        outputs: dict of name of an output -> whether it is sent in binary form.
        id: str or None. Identifier that the response repeats.
    """

    images: object
    outputs: dict
    id: str | None


def read_inference(body, header_length, image_shape, most):
    """Decode the body of a request.

    Args:
        body: bytes.
        header_length: str or None. Value of the header `HEADER_LENGTH`: bytes of JSON before binary tensors.
        image_shape: list. (height, width, channels) of the network. None is free.
        most: int. Largest number of images.

    Returns:
        `Inference`.

    Raises:
        ValueError: if the request is invalid.
    """
    tail = b""
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
            raise ValueError(
                f"{HEADER_LENGTH} must be a number of bytes of the body, which has {len(body)}; got "
                f"{header_length!r}."
            )
        body, tail = body[: int(header_length)], body[int(header_length) :]
    try:
        request = msgspec.json.decode(body, type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"The request is not valid JSON of the Open Inference Protocol: {error}") from error
    names = [one.name for one in request.inputs]
    if names != [INPUT]:
        raise ValueError(f"The network has one input, {INPUT!r}; got {names}.")
    wanted = [_Output(name) for name in OUTPUTS] if request.outputs is None else request.outputs
    for output in wanted:
        if output.name not in OUTPUTS:
            raise ValueError(f"Unknown output {output.name!r}. Outputs: {', '.join(OUTPUTS)}.")
    everything = request.parameters.get("binary_data_output", False) is True
    return Inference(
        _images(request.inputs[0], tail, image_shape, most),
        {one.name: one.parameters.get("binary_data", everything) is True for one in wanted},
        request.id,
    )


def _images(tensor, tail, image_shape, most):
    if tensor.datatype != "UINT8":
        raise ValueError(f"{INPUT} must have the datatype UINT8; got {tensor.datatype!r}.")
    shape = tensor.shape
    fits = len(shape) == 4 and all(
        size == right if right is not None else 0 < size <= 8192
        for size, right in zip(shape[1:], image_shape, strict=True)
    )
    if not fits or not 1 <= shape[0] <= most:
        sides = ", ".join("any" if size is None else str(size) for size in image_shape)
        raise ValueError(f"{INPUT} must have the shape [1 to {most}, {sides}]; got {shape}.")
    count, size = math.prod(shape), tensor.parameters.get("binary_data_size")
    if size is not None:
        if tensor.data is not None or size != count or len(tail) != count:
            raise ValueError(
                f"Shape {shape} has {count} bytes; got binary_data_size={size} and {len(tail)} bytes after "
                "the JSON."
            )
        return np.frombuffer(tail, "uint8").reshape(shape)
    if tensor.data is None:
        raise ValueError(f"{INPUT} has neither data nor binary_data_size.")
    try:
        numbers = np.asarray(tensor.data).reshape(-1)
    except ValueError as error:
        raise ValueError(f"The data of {INPUT} are nested unevenly.") from error
    if len(numbers) != count:
        raise ValueError(f"Shape {shape} has {count} numbers; got {len(numbers)}.")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 255:
        raise ValueError(f"The data of {INPUT} must be whole numbers from 0 to 255.")
    return numbers.astype("uint8").reshape(shape)


def write_inference(inference, name, version, arrays):
    """Encode a response.

    Args:
        inference: `Inference`.
        name, version: str. Of the network.
        arrays: dict of output -> float32 array.

    Returns:
        Tuple: bytes, and the length of the JSON before binary tensors, or None.
    """
    outputs, tails = [], []
    for output, is_binary in inference.outputs.items():
        array = np.ascontiguousarray(arrays[output], "<f4")
        row = {"name": output, "datatype": "FP32", "shape": list(array.shape)}
        if is_binary:
            row["parameters"] = {"binary_data_size": array.nbytes}
            tails.append(array.tobytes())
        else:
            row["data"] = array.ravel().tolist()
        outputs.append(row)
    response = {"model_name": name, "model_version": version, "outputs": outputs}
    if inference.id is not None:
        response["id"] = inference.id
    head = msgspec.json.encode(response)
    return b"".join([head, *tails]), len(head) if tails else None


def model_metadata(name, network):
    """Metadata of a network, a dict."""
    sides = [-1 if size is None else size for size in network.image_shape]
    classes = len(network.class_names)
    return {
        "name": name,
        "versions": [network.version],
        "platform": network.engine,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *sides]}],
        "outputs": [{"name": one, "datatype": "FP32", "shape": [-1, classes]} for one in OUTPUTS],
    }
