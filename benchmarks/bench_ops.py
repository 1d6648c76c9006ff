"""Time of the focal context, forward and backward, in several implementations per backend.

    python benchmarks/bench_ops.py [--quick] [--rounds 5] [--python torch=PATH jax=PATH tensorflow=PATH]

On each backend, `focalnets.focal_context` is compared with implementations of the same result: the same
function with another depthwise convolution, and on torch also in NCHW. The backward pass computes the
gradients of context, gates and kernels. Each backend has its own process, and the processes take turns.
TensorFlow runs without XLA, except where the grouped `conv` of Keras enables it. Rows go to `results/`.
"""

import argparse
import json
import unittest.mock

import measure

BACKENDS = ("torch", "jax", "tensorflow")
SHAPES = ("32,12,12,256,2", "32,14,14,384,2", "8,56,56,96,3", "32,56,56,96,2")  # B,H,W,C,L
OURS = "focal_context"


def worker(backend, shapes):
    from focalnets import process  # the parent process has set the backend

    process.keep_freed_memory()  # before the backend starts its threads, as on the command line
    make_steps = {"torch": torch_steps, "jax": jax_steps, "tensorflow": tensorflow_steps}[backend]
    steps = {}
    for shape in shapes:
        for (what, direction), step in make_steps(*arrays(*map(int, shape.split(",")))).items():
            steps[json.dumps([what, direction, shape])] = step
    check_results_are_equal(steps)
    measure.serve(steps, warmup=1)


def check_results_are_equal(steps):
    import numpy as np

    for name, step in steps.items():
        what, direction, shape = json.loads(name)
        if direction == "forward" and what != OURS:
            ours = np.asarray(steps[json.dumps([OURS, direction, shape])]())
            np.testing.assert_allclose(np.asarray(step()), ours, rtol=1e-3, atol=1e-3, err_msg=name)


def arrays(batch, height, width, channels, levels):
    """Random context, gates, kernels, and gradient of the result, of order 1, float32."""
    import numpy as np

    generator = np.random.default_rng(0)

    def draw(*shape):
        return generator.standard_normal(shape, dtype="float32")

    kernels = [draw(size, size, channels, 1) / size for size in range(3, 3 + 2 * levels, 2)]
    shape = (batch, height, width)
    return draw(*shape, channels), draw(*shape, levels + 1), kernels, draw(*shape, channels)


def with_convolution(convolution):
    """`focal_context` with another depthwise convolution, or with that of the backend for None."""
    from focalnets import focal_context
    from focalnets.ops import dispatch
    from focalnets.ops.backend import backend_ops

    def function(context, gates, kernels):
        if convolution is None:
            return focal_context(context, gates, kernels)
        # Replaced during the call only, in which torch runs the function and the others trace it. Fused
        # implementations do not call the convolution.
        dispatch.set_optimized(False)
        try:
            with unittest.mock.patch.object(backend_ops(), "depthwise_conv", convolution):
                return focal_context(context, gates, kernels)
        finally:
            dispatch.set_optimized(None)

    return function


def keras_depthwise(x, kernel):
    import keras

    return keras.ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last")


def torch_steps(context, gates, kernels, gradient):
    import torch
    import torch.nn.functional as F

    def nchw(context, gates, kernels):
        total = 0
        for level, kernel in enumerate(kernels):
            context = F.gelu(F.conv2d(context, kernel, padding=kernel.shape[2] // 2, groups=kernel.shape[0]))
            total = total + context * gates[:, level : level + 1]
        return total + F.gelu(context.mean((2, 3), keepdim=True)) * gates[:, len(kernels) :]

    last = [torch.from_numpy(array).requires_grad_() for array in (context, gates, *kernels)]
    last_gradient = torch.from_numpy(gradient)

    def first(tensor, *order):
        return tensor.detach().permute(*order).contiguous().requires_grad_(tensor.requires_grad)

    channels_first = [first(tensor, 0, 3, 1, 2) for tensor in last[:2]]
    channels_first += [first(kernel, 2, 3, 0, 1) for kernel in last[2:]]
    first_gradient = first(last_gradient, 0, 3, 1, 2)

    def steps(name, function, tensors, gradient):
        def forward():
            with torch.inference_mode():
                result = function(tensors[0], tensors[1], tensors[2:])
            return result.permute(0, 2, 3, 1) if function is nchw else result

        def both():
            result = function(tensors[0], tensors[1], tensors[2:])
            torch.autograd.grad(result, tensors, gradient)

        return {(name, "forward"): forward, (name, "forward+backward"): both}

    return {
        **steps(OURS, with_convolution(None), last, last_gradient),
        **steps("in NCHW", nchw, channels_first, first_gradient),
        **steps("with keras.ops.depthwise_conv", with_convolution(keras_depthwise), last, last_gradient),
    }


def jax_steps(context, gates, kernels, gradient):
    import jax

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel.transpose(0, 1, 3, 2),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    inputs = jax.device_put((context, gates, kernels))
    gradient = jax.device_put(gradient)

    def steps(name, function):
        def forward_and_backward(inputs, gradient):
            result, pull_back = jax.vjp(function, *inputs)
            return result, pull_back(gradient)

        forward, both = jax.jit(function), jax.jit(forward_and_backward)
        return {
            (name, "forward"): lambda: jax.block_until_ready(forward(*inputs)),
            (name, "forward+backward"): lambda: jax.block_until_ready(both(inputs, gradient)),
        }

    return {
        **steps(OURS, with_convolution(None)),
        **steps("with the grouped convolution", with_convolution(grouped)),
    }


def tensorflow_steps(context, gates, kernels, gradient):
    import keras
    import tensorflow as tf

    def grouped(x, kernel):
        return tf.nn.conv2d(x, tf.transpose(kernel, (0, 1, 3, 2)), strides=1, padding="SAME")

    def keras_grouped(x, kernel):
        kernel = tf.transpose(kernel, (0, 1, 3, 2))
        return keras.ops.conv(x, kernel, padding="same", data_format="channels_last")

    inputs = tf.nest.map_structure(tf.constant, (context, gates, kernels))
    gradient = tf.constant(gradient)

    def steps(name, function):
        @tf.function(jit_compile=False)
        def forward(inputs):
            return function(*inputs)

        @tf.function(jit_compile=False)
        def both(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                result = function(*inputs)
            return result, tape.gradient(result, inputs, output_gradients=gradient)

        return {
            (name, "forward"): lambda: forward(inputs),
            (name, "forward+backward"): lambda: both(inputs),
        }

    bare = steps("with the grouped conv2d", with_convolution(grouped))
    del bare["with the grouped conv2d", "forward+backward"]  # TensorFlow has no gradient for it on a CPU
    return {
        **steps(OURS, with_convolution(None)),
        **bare,
        **steps("with keras.ops.conv in groups (XLA)", with_convolution(keras_grouped)),
        **steps("with keras.ops.depthwise_conv", with_convolution(keras_depthwise)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="skip the largest shape")
    parser.add_argument("--shapes", nargs="*", metavar="B,H,W,C,L")
    parser.add_argument("--backends", nargs="*", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", nargs="*", default=[], metavar="BACKEND=PATH")
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    shapes = arguments.shapes or SHAPES[: -1 if arguments.quick else None]
    if arguments.worker:
        return worker(arguments.worker, shapes)

    pythons = measure.interpreters(arguments.python)
    commands = {
        backend: (
            [pythons[backend], __file__, "--worker", backend, "--shapes", *shapes],
            {**measure.CPU_ONLY, "KERAS_BACKEND": backend},
        )
        for backend in arguments.backends
    }
    measured, left_out = measure.interleave(commands, arguments.rounds)
    rows = []
    for backend, result in measured.items():
        for step in result.seconds:
            what, direction, shape = json.loads(step)
            median, low, high = result.spread(step)
            ours = result.spread(json.dumps([OURS, direction, shape]))[0]
            rows.append(
                {
                    "what": what,
                    "backend": backend,
                    "shape": shape.replace(",", "x"),
                    "direction": direction,
                    "median_s": median,
                    "min_s": low,
                    "max_s": high,
                    "ratio_to_ours": round(median / ours, 2),
                }
            )
    if rows:
        rows.sort(key=lambda row: (shapes.index(row["shape"].replace("x", ",")), row["direction"]))
        measure.write_rows(f"ops_focal-context_float32_{measure.machine()}", rows)
    measure.print_left_out(left_out)


if __name__ == "__main__":
    main()
