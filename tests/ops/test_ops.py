"""Focal context: values, gradients, and float32 accumulation of half precision."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import Reference

from focalnets.ops.focal_context import depthwise_conv, focal_context, gelu

pytestmark = pytest.mark.all_backends


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("shape", "size"), [((2, 5, 7, 3), 3), ((1, 2, 3, 4), 7), ((3, 1, 1, 2), 5)])
def test_depthwise_conv_equals_reference(shape, size):
    x, kernel = random(*shape), random(size, size, shape[-1], 1, seed=1)
    y = depthwise_conv(x.astype("float32"), kernel.astype("float32"))
    expected = Reference().depthwise(x, kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, rtol=1e-4, atol=1e-5)


def test_gelu_is_exact():
    x = np.linspace(-6, 6, 1001)
    error = np.abs(ops.convert_to_numpy(gelu(x.astype("float32"))) - Reference().gelu(x))
    assert error.max() < 1e-6  # the error of the tanh approximation is 5e-4


def test_focal_context_rejects_wrong_number_of_gates():
    with pytest.raises(ValueError, match="got 2 gates for 2 kernels; expected 3"):
        focal_context(random(1, 3, 3, 2), random(1, 3, 3, 2), [random(3, 3, 2, 1)] * 2)


class _Context(keras.layers.Layer):
    """Layer whose weights are the inputs of focal_context, so that a training step shows their gradients."""

    def build(self, _):
        self.context = self.add_weight(name="context", shape=(2, 5, 6, 3), initializer="zeros")
        self.gates = self.add_weight(name="gates", shape=(2, 5, 6, 3), initializer="zeros")
        self.kernels = [
            self.add_weight(name=f"k{size}", shape=(size, size, 3, 1), initializer="zeros") for size in (3, 5)
        ]

    def call(self, x):
        return x * focal_context(self.context.value, self.gates.value, [k.value for k in self.kernels])

    def compute_output_shape(self, input_shape):
        return input_shape


def test_focal_context_gradients_equal_finite_differences_of_reference():
    inputs = keras.Input((5, 6, 3), batch_size=2)
    layer = _Context()
    model = keras.Model(inputs, layer(inputs))
    weights = [random(*w.shape, seed=i) for i, w in enumerate(model.trainable_weights)]
    model.set_weights([w.astype("float32") for w in weights])
    factor = random(2, 5, 6, 3, seed=9).astype("float32")

    def loss(values):
        context, gates, *kernels = values
        reference, total = Reference(), 0
        for level, kernel in enumerate(kernels):
            context = reference.gelu(reference.depthwise(context, kernel))
            total = total + context * gates[..., level : level + 1]
        total = total + reference.gelu(context.mean((1, 2), keepdims=True)) * gates[..., 2:]
        return np.mean(total * factor)

    # With the output as the loss, a step of SGD with learning rate 1 subtracts the gradient. TensorFlow runs
    # eagerly, because about one of fifty graphs updates the gates in place before their slices are read for
    # the other gradients. (Networks do not slice variables.)
    eagerly = keras.backend.backend() == "tensorflow"
    model.compile(keras.optimizers.SGD(1.0), lambda _, y: ops.mean(y), run_eagerly=eagerly)
    model.train_on_batch(factor, factor)
    for index, (weight, old) in enumerate(zip(model.get_weights(), weights, strict=True)):
        gradient = old - weight
        rows = np.random.default_rng(index).integers(0, old.size, 6)
        for row in rows:
            step = np.zeros(old.size)
            step[row] = 1e-5
            nudged = [
                [w + sign * step.reshape(w.shape) if i == index else w for i, w in enumerate(weights)]
                for sign in (1, -1)
            ]
            expected = (loss(nudged[0]) - loss(nudged[1])) / 2e-5
            assert abs(gradient.ravel()[row] - expected) < 2e-6 + 1e-4 * abs(expected)


def test_focal_context_in_bfloat16_is_close_to_float32():
    context, gates = random(2, 9, 11, 8), random(2, 9, 11, 4, seed=1)
    kernels = [random(k, k, 8, 1, seed=k) / k for k in (3, 5, 7)]
    exact, rounded = (
        ops.convert_to_numpy(
            ops.cast(
                focal_context(
                    ops.cast(context, dtype), ops.cast(gates, dtype), [ops.cast(k, dtype) for k in kernels]
                ),
                "float32",
            )
        )
        for dtype in ("float32", "bfloat16")
    )
    assert np.abs(rounded - exact).max() <= 2e-2 * np.abs(exact).max()


def test_depthwise_conv_accumulates_half_precision_in_float32():
    """A sum of ones in bfloat16 stops at 256."""
    ones, kernel = (ops.ones(shape, "bfloat16") for shape in ((1, 33, 33, 1), (17, 17, 1, 1)))
    center = ops.convert_to_numpy(ops.cast(depthwise_conv(ones, kernel), "float32"))[0, 16, 16, 0]
    assert abs(center - 17 * 17) <= 1
