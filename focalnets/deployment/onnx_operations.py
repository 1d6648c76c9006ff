"""Conversion of a computation with Keras operations to ONNX nodes.

The rules of exact evidence are written once, with `keras.ops`. Called with `keras.KerasTensor`, they give a
graph of operations. Each operation becomes one or a few ONNX nodes, on the layout of Keras.
"""

import keras
import numpy as np

_SAME_NAME = {
    "Absolute": "Abs",
    "Add": "Add",
    "Divide": "Div",
    "Exp": "Exp",
    "Less": "Less",
    "Log": "Log",
    "Maximum": "Max",
    "Multiply": "Mul",
    "Relu": "Relu",
    "Subtract": "Sub",
    "TrueDivide": "Div",
    "Where": "Where",
}


def add_operations(graph, inputs, outputs):
    """Add the operations between symbolic tensors to a graph.

    Args:
        graph: `onnx_graph.Graph`.
        inputs: dict of name in the graph -> `keras.KerasTensor`.
        outputs: dict of name in the graph -> `keras.KerasTensor`. Names of the results.

    Raises:
        NotImplementedError: for an operation without a conversion.
    """
    function = keras.Function(list(inputs.values()), list(outputs.values()))
    names = {id(tensor): name for name, tensor in inputs.items()}
    wanted = {id(tensor): name for name, tensor in outputs.items()}
    for operation in function.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        arguments = operation._inbound_nodes[0].arguments

        def named(one):
            return names[id(one)] if isinstance(one, keras.KerasTensor) else graph.constant(_numpy(one))

        convert = _CONVERSIONS.get(type(operation).__name__)
        if convert is None:
            raise NotImplementedError(f"The operation {type(operation).__name__} has no conversion to ONNX.")
        names[id(operation.output)] = convert(graph, named, operation, *arguments.args, **arguments.kwargs)
    for identifier, name in wanted.items():
        graph.add("Identity", names[identifier], output=name)


def _elementwise(graph, named, operation, *arguments):
    return graph.add(_SAME_NAME[type(operation).__name__], *map(named, arguments))


def _cast(graph, named, operation, x):
    return named(x)  # symbolic tensors are float32


def _square(graph, named, operation, x):
    return graph.add("Mul", named(x), named(x))


def _rsqrt(graph, named, operation, x):
    return graph.add("Reciprocal", graph.add("Sqrt", named(x)))


def _zeros_like(graph, named, operation, x):
    return graph.add("Sub", named(x), named(x))


def _gelu(graph, named, operation, x):
    return graph.add("Gelu", named(x), approximate="tanh" if operation.approximate else "none")


def _silu(graph, named, operation, x):
    return graph.add("Mul", named(x), graph.add("Sigmoid", named(x)))


def _reduce(onnx_name):
    def convert(graph, named, operation, x):
        axes = np.atleast_1d(operation.axis) % len(x.shape)
        return graph.add(onnx_name, named(x), graph.shape(*axes), keepdims=int(operation.keepdims))

    return convert


def _reshape(graph, named, operation, x):
    return graph.add("Reshape", named(x), graph.shape(*operation.newshape))


def _transpose(graph, named, operation, x):
    axes = operation.axes or reversed(range(len(x.shape)))
    return graph.add("Transpose", named(x), perm=list(axes))


def _concatenate(graph, named, operation, tensors):
    return graph.add("Concat", *map(named, tensors), axis=operation.axis)


def _matmul(graph, named, operation, x, y):
    """With a constant matrix, one `Gemm` of rows."""
    if isinstance(y, keras.KerasTensor):
        return graph.add("MatMul", named(x), named(y))
    matrix, is_turned = graph.matrix(_numpy(y))
    rows = graph.add("Reshape", named(x), graph.shape(-1, x.shape[-1]))
    rows = graph.add("Gemm", rows, matrix, transB=int(is_turned))
    shape = [-1 if size is None else size for size in operation.output.shape]
    return graph.add("Reshape", rows, graph.shape(*shape))


def _pad(graph, named, operation, x, constant_values):
    before, after = zip(*operation.pad_width, strict=True)
    return graph.add("Pad", named(x), graph.shape(*before, *after))


def _get_item(graph, named, operation, x, key):
    """Slices, then integers, which remove an axis, then None, which adds one."""
    key = key if isinstance(key, tuple) else (key,)
    missing = len(x.shape) - sum(one is not None and one is not Ellipsis for one in key)
    if Ellipsis not in key:
        key = (*key, Ellipsis)
    place = key.index(Ellipsis)
    key = (*key[:place], *[slice(None)] * missing, *key[place + 1 :])
    taken = [one for one in key if one is not None]
    y = named(x)
    slices = {
        axis: slice(one, one + 1 or None) if isinstance(one, int) else one
        for axis, one in enumerate(taken)
        if one != slice(None)
    }
    if slices:
        last = np.iinfo(np.int64).max
        starts = [one.start or 0 for one in slices.values()]
        ends = [last if one.stop is None else one.stop for one in slices.values()]
        y = graph.add("Slice", y, graph.shape(*starts), graph.shape(*ends), graph.shape(*slices))
    removed = [axis for axis, one in enumerate(taken) if isinstance(one, int)]
    y = graph.add("Squeeze", y, graph.shape(*removed)) if removed else y
    kept = [one for one in key if not isinstance(one, int)]
    added = [axis for axis, one in enumerate(kept) if one is None]
    return graph.add("Unsqueeze", y, graph.shape(*added)) if added else y


def _conv(graph, named, operation, x, kernel):
    return _channels_first(graph, "Conv", named(x), _weights(graph, kernel), operation)


def _depthwise_conv(graph, named, operation, x, kernel):
    margin = [kernel.shape[0] // 2, kernel.shape[1] // 2] * 2
    weights = graph.constant(_numpy(kernel).transpose(2, 3, 0, 1))
    return _channels_first(graph, "Conv", named(x), weights, operation, group=kernel.shape[2], pads=margin)


def _conv_transpose(graph, named, operation, x, kernel):
    return _channels_first(graph, "ConvTranspose", named(x), _weights(graph, kernel), operation)


def _weights(graph, kernel):
    return graph.constant(_numpy(kernel).transpose(3, 2, 0, 1))


def _channels_first(graph, name, x, weights, operation, **attributes):
    strides = [int(one) for one in np.broadcast_to(operation.strides, 2)]
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add(name, x, weights, strides=strides, **attributes)
    return graph.add("Transpose", x, perm=[0, 2, 3, 1])


def _numpy(value):
    return np.asarray(keras.ops.convert_to_numpy(value), "float32")


_CONVERSIONS = {
    **dict.fromkeys(_SAME_NAME, _elementwise),
    "Cast": _cast,
    "Concatenate": _concatenate,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthwiseConv": _depthwise_conv,
    "Gelu": _gelu,
    "GetItem": _get_item,
    "Matmul": _matmul,
    "Max": _reduce("ReduceMax"),
    "Pad": _pad,
    "Reshape": _reshape,
    "Rsqrt": _rsqrt,
    "Silu": _silu,
    "Square": _square,
    "Sum": _reduce("ReduceSum"),
    "Transpose": _transpose,
    "ZerosLike": _zeros_like,
}
