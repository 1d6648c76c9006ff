"""The TensorFlow formulation: its native depthwise kernel, outside XLA on a CPU.

The grouped `Conv2D` of the 2023 tutorial is about five times slower here, and XLA's depthwise
convolution another ten times; Keras' `jit_compile="auto"` leaves XLA off where there is no GPU.
"""

import tensorflow as tf


def depthwise_conv(x, kernel):
    return tf.nn.depthwise_conv2d(x, kernel, strides=(1, 1, 1, 1), padding="SAME")


def gelu(x):
    return tf.nn.gelu(x, approximate=False)


def accelerator():
    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU") if found else None


def bfloat16_is_faster():
    return bool(tf.config.list_physical_devices("GPU"))
