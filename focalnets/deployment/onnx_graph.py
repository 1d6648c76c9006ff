"""Conversion of a classifier to an ONNX graph.

The graph does not depend on a backend or its exporter, and needs only the package `onnx`. Its form is fast in
the runtimes. Between convolutions, a map is a matrix of rows (B*H*W, C), and each matrix multiplication is
one `Gemm` with its bias. Only inputs and outputs of the depthwise convolutions are transposed to (B, C, H,
W), the format of the runtimes.

A graph for images of any size has maps (B, H, W, C) in place of rows, and matrix multiplications with a
separate addition of the bias.
"""

import hashlib

import keras
import numpy as np

OPSET = 20  # the first version with an exact Gelu


def onnx_model(classifier, height=None, width=None):
    """Build the ONNX model of a classifier.

    Args:
        classifier: `FocalNetImageClassifier`.
        height: int or None. Height of the images in pixels. Defaults to `None`, any height and width.
        width: int or None. Width of the images in pixels. Defaults to `None`.

    Returns:
        `onnx.ModelProto`. Its input "images" is (B, height, width, channels) with any B, in uint8 if the
        classifier has a `FocalNetImageConverter`, else in float32. Its outputs "probabilities" and "logits"
        (B, classes), and "features" (B, C), the input of the head, are in float32.

    Raises:
        ImportError: if the package `onnx` is not installed.

    Source: the `call` methods of the layers.

    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.deployment.onnx_graph import onnx_model
    >>> model = onnx_model(FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False), 8, 8)
    >>> [output.name for output in model.graph.output]
    ['probabilities', 'logits', 'features']
    """
    graph = Graph()
    images = graph.images(classifier, height or "height", width or "width")
    size = None if height is None or width is None else (height, width)
    features, size = _backbone(graph, classifier.backbone, images, size)
    if size is not None:
        features = graph.add("Reshape", features, graph.shape(-1, size[0] * size[1], graph.width(features)))
    axes = graph.shape(1, 2) if size is None else graph.shape(1)
    pooled = graph.add("ReduceMean", features, axes, keepdims=0, output="features")
    logits = graph.gemm(pooled, _numpy(classifier.head.kernel), _numpy(classifier.head.bias), output="logits")
    graph.add("Softmax", logits, axis=-1, output="probabilities")
    outputs = dict.fromkeys(("probabilities", "logits"), ("batch", classifier.num_classes))
    return graph.model({**outputs, "features": ("batch", classifier.head.kernel.shape[0])})


def _backbone(graph, backbone, images, size):
    """Name of the rows (B*h*w, C) after the final normalization, and (h, w). Maps and None for any size."""
    x, is_map = images, True
    for layer in backbone.layers:
        if hasattr(layer, "patch_size"):
            x, size = _patch_embedding(graph, layer, x, size, is_map)
            is_map = False
        elif hasattr(layer, "modulation"):
            x = _block(graph, layer, x, size)
    return graph.norm(x, backbone.get_layer("norm")), size


def _patch_embedding(graph, layer, x, size, is_map):
    side, kernel = layer.patch_size, _numpy(layer.proj.kernel)
    channels, out_channels = kernel.shape[2:]
    if size is None:
        x = _strided_conv(graph, layer, graph.padded(x, side, layer.padding))
        graph.widths[x] = out_channels
        return graph.norm(x, layer.norm), None
    if not is_map:
        x = graph.add("Reshape", x, graph.shape(-1, *size, channels))
    padding = [(layer.padding, layer.padding + -length % side) for length in size]
    out_size = tuple(-(-length // side) for length in size)
    if layer.kernel_size == side and not any(map(any, padding)):
        high, wide = out_size
        x = graph.add("Reshape", x, graph.shape(-1, high, side, wide, side * channels))
        x = graph.add("Transpose", x, perm=[0, 1, 3, 2, 4])
        x = graph.add("Reshape", x, graph.shape(-1, side * side * channels))
        x = graph.gemm(x, kernel.reshape(-1, out_channels), _numpy(layer.proj.bias))
    else:
        pads = [before for before, _ in padding] + [after for _, after in padding]
        x = _strided_conv(graph, layer, x, pads)
        x = graph.add("Reshape", x, graph.shape(-1, out_channels))
        graph.widths[x] = out_channels
    return graph.norm(x, layer.norm), out_size


def _strided_conv(graph, layer, x, pads=(0, 0, 0, 0)):
    weights = _numpy(layer.proj.kernel).transpose(3, 2, 0, 1)
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    constants = graph.constant(weights), graph.constant(_numpy(layer.proj.bias))
    x = graph.add("Conv", x, *constants, pads=pads, strides=[layer.patch_size] * 2)
    return graph.add("Transpose", x, perm=[0, 2, 3, 1])


def _block(graph, block, x, size):
    before, after = block.norm_placement == "pre", block.norm_placement == "post"
    y = graph.norm(x, block.norm1) if before else x
    y = _modulation(graph, block.modulation, y, size)
    y = graph.norm(y, block.norm1) if after else y
    x = graph.add("Add", x, _scaled(graph, y, block.scale1))
    y = x if after else graph.norm(x, block.norm2)
    y = graph.activation(block.activation, graph.dense(y, block.fc1, size))
    y = graph.dense(y, block.fc2, size)
    y = graph.norm(y, block.norm2) if after else y
    return graph.add("Add", x, _scaled(graph, y, block.scale2))


def _scaled(graph, x, scale):
    return x if scale is None else graph.add("Mul", x, graph.constant(_numpy(scale.gamma)))


def _modulation(graph, layer, x, size):
    channels, levels = graph.width(x), layer.focal_levels
    kernel, bias = _numpy(layer.f.kernel), _numpy(layer.f.bias)
    # Three matrix multiplications, because runtimes copy slices of the output of a single one.
    query, context, gates = (
        graph.linear(x, kernel[:, part], bias[part], size)
        for part in (slice(channels), slice(channels, 2 * channels), slice(2 * channels, None))
    )
    context, gates = (graph.to_channels_first(rows, size) for rows in (context, gates))
    gates = graph.split(gates, levels + 1)
    total = None
    for gate, kernel in zip(gates, layer.kernels, strict=False):
        weight, margin = _numpy(kernel).transpose(2, 3, 0, 1), kernel.shape[0] // 2
        context = graph.add(
            "Conv", context, graph.constant(weight), group=channels, pads=[margin] * 4, strides=[1, 1]
        )
        context = graph.add("Gelu", context)
        gated = graph.add("Mul", context, gate)
        total = gated if total is None else graph.add("Add", total, gated)
    mean = graph.add("Gelu", graph.add("ReduceMean", context, graph.shape(2, 3)))
    total = graph.add("Add", total, graph.add("Mul", mean, gates[-1]))
    scale = np.float32(1 / (levels + 1) if layer.normalize_modulator else 1)
    weight = graph.constant((_numpy(layer.h.kernel) * scale).T[:, :, None, None])
    modulator = graph.add("Conv", total, weight, graph.constant(_numpy(layer.h.bias)))
    y = graph.add("Mul", query, graph.to_rows(modulator, channels, size))
    graph.widths[y] = channels
    y = y if layer.norm is None else graph.norm(y, layer.norm)
    return graph.dense(y, layer.proj, size)


class Graph:
    """Nodes and constants in order. `widths` maps the name of a matrix of rows to its number of channels."""

    def __init__(self):
        try:
            import onnx
        except ImportError as error:
            raise ImportError("Exporting needs onnx: pip install 'focalnets[onnxruntime]'.") from error
        self.onnx, self.inputs, self.nodes, self.constants = onnx, [], [], []
        self.widths, self.names = {}, {}

    def input(self, name, shape, dtype="FLOAT"):
        """Declare an input. An axis with a name has any size."""
        kind = getattr(self.onnx.TensorProto, dtype)
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))
        return name

    def images(self, classifier, height, width):
        """Declare the input "images" and return the normalized images (B, height, width, channels)."""
        converter = classifier.image_converter
        shape = ("batch", height, width, classifier.backbone.image_shape[-1])
        if converter is None:
            return self.input("images", shape)
        images = self.add("Cast", self.input("images", shape, "UINT8"), to=self.onnx.TensorProto.FLOAT)
        images = self.add("Sub", images, self.constant(255.0 * np.array(converter.mean)))
        return self.add("Div", images, self.constant(255.0 * np.array(converter.std)))

    def model(self, outputs):
        """`onnx.ModelProto` with these outputs, a dict of name -> shape."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        outputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()]
        proto = helper.make_graph(self.nodes, "focalnets", self.inputs, outputs, self.constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(proto, opset_imports=[opset], ir_version=9, producer_name="focalnets")

    def add(self, operation, *inputs, output=None, **attributes):
        name = output or f"{operation}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operation, inputs, [name], name=name, **attributes))
        if inputs[0] in self.widths and operation in ("Add", "Mul", "Gelu", "Relu"):
            self.widths[name] = self.widths[inputs[0]]
        return name

    def activation(self, name, x):
        """Apply one of `layers.pointwise.ACTIVATIONS`."""
        if name == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if name == "gelu_tanh":
            return self.add("Gelu", x, approximate="tanh")
        return self.add({"gelu": "Gelu", "relu": "Relu"}[name], x)

    def constant(self, array):
        """Constant of float32 or int64. Equal ones are stored once."""
        array = np.ascontiguousarray(array if array.dtype == np.int64 else array.astype("float32"))
        key = _key(array)
        if key not in self.names:
            self.names[key] = f"constant_{len(self.constants)}"
            self.constants.append(self.onnx.numpy_helper.from_array(array, self.names[key]))
        return self.names[key]

    def matrix(self, array):
        """Constant of this matrix or, if it is there, of its transpose, and whether it is the transpose.

        Square ones are stored twice: for two products with one square matrix, once transposed, OpenVINO
        2026.4 uses the same orientation in both, and is wrong.
        """
        is_square = array.shape[0] == array.shape[1]
        turned = None if is_square else self.names.get(_key(np.ascontiguousarray(array.T)))
        return (turned, True) if turned is not None else (self.constant(array), False)

    def shape(self, *sizes):
        """Constant of integers."""
        return self.constant(np.array(sizes, np.int64))

    def width(self, rows):
        return self.widths[rows]

    def gemm(self, rows, kernel, bias, output=None):
        name = self.add("Gemm", rows, self.constant(kernel), self.constant(bias), output=output)
        self.widths[name] = kernel.shape[1]
        return name

    def linear(self, x, kernel, bias, size):
        """Product of rows, or of maps of any size, with a kernel, plus a bias."""
        if size is not None:
            return self.gemm(x, kernel, bias)
        name = self.add("Add", self.add("MatMul", x, self.constant(kernel)), self.constant(bias))
        self.widths[name] = kernel.shape[1]
        return name

    def dense(self, x, layer, size):
        return self.linear(x, _numpy(layer.kernel), _numpy(layer.bias), size)

    def padded(self, x, side, margin):
        """Maps with zeros around them, so that a convolution with stride `side` covers them whole."""
        shape = self.add("Slice", self.add("Shape", x), self.shape(1), self.shape(3))
        after = self.add("Mod", self.add("Neg", shape), self.shape(side, side))
        after = self.add("Add", after, self.shape(margin, margin))
        zero = self.shape(0)
        return self.add(
            "Pad", x, self.add("Concat", self.shape(0, margin, margin, 0, 0), after, zero, axis=0)
        )

    def norm(self, rows, layer):
        weights = self.constant(_numpy(layer.gamma)), self.constant(_numpy(layer.beta))
        name = self.add("LayerNormalization", rows, *weights, axis=-1, epsilon=layer.epsilon)
        self.widths[name] = self.widths[rows]
        return name

    def to_channels_first(self, x, size):
        if size is not None:
            x = self.add("Reshape", x, self.shape(-1, *size, self.widths[x]))
        return self.add("Transpose", x, perm=[0, 3, 1, 2])

    def to_rows(self, x, channels, size):
        x = self.add("Transpose", x, perm=[0, 2, 3, 1])
        name = x if size is None else self.add("Reshape", x, self.shape(-1, channels))
        self.widths[name] = channels
        return name

    def split(self, x, parts):
        names = [f"Split_{len(self.nodes)}_{part}" for part in range(parts)]
        node = self.onnx.helper.make_node("Split", [x], names, name=names[0], axis=1, num_outputs=parts)
        self.nodes.append(node)
        return names


def _key(array):
    return array.shape, array.dtype.str, hashlib.sha256(array).digest()


def _numpy(variable):
    return keras.ops.convert_to_numpy(variable)
