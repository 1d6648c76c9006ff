"""Operations for TensorFlow: its native depthwise convolution.

On a CPU, the grouped `Conv2D` of the 2023 tutorial is about five times slower, and XLA's depthwise
convolution another ten times. Keras' `jit_compile="auto"` does not use XLA without a GPU.
"""

import tensorflow as tf

# TensorFlow 2.21 hangs with larger kernels in bfloat16 and float16, at least on some CPUs.
_LARGEST_HALF_KERNEL = 13


def depthwise_conv(x, kernel):
    if x.dtype in (tf.bfloat16, tf.float16) and kernel.shape[0] > _LARGEST_HALF_KERNEL:
        return tf.cast(depthwise_conv(tf.cast(x, tf.float32), tf.cast(kernel, tf.float32)), x.dtype)
    return tf.nn.depthwise_conv2d(x, kernel, strides=(1, 1, 1, 1), padding="SAME")


def gelu(x):
    return tf.nn.gelu(x, approximate=False)


def value_and_gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x)


def accelerator():
    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU") if found else None


def prefer_bfloat16():
    return bool(tf.config.list_physical_devices("GPU"))
