"""Muon: an optimizer that orthogonalizes the momentum of each weight matrix before the update."""

import math
import re

import keras
from keras import ops

from focalnets.ops.backend import on_host
from focalnets.training.adamw import AdamW

# Coefficients of a x + b x^3 + c x^5. Five iterations bring singular values in (0, 1] close to 1.
# Source: Jordan et al., "Muon" (2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5

# Scales an orthogonal update to about the size of an Adam update, so that both use one learning rate.
# Source: Liu et al., arXiv 2502.16982.
_RMS = 0.2


@keras.saving.register_keras_serializable(package="focalnets")
class Muon(AdamW):
    """Muon for weight matrices, `AdamW` for all other variables.

    Differences from `keras.optimizers.Muon` (Keras 3.15): kernels of strided convolutions count as matrices,
    biases and norms do not decay, and the options of `AdamW` (averages, learning rate multipliers) work.

    Args:
        arguments: Positional arguments of `AdamW`.
        exclude_layers: sequence of str. Regular expressions (`re.search`) for the paths of variables that
            AdamW updates. AdamW also updates all variables that are not matrices, such as biases and
            depthwise kernels. Defaults to `("stem", "head")`, the first and the last layer of a FocalNet.
        momentum: float. Nesterov momentum of Muon. Defaults to 0.95.
        iteration_dtype: str. Dtype in which matrices are orthogonalized. "bfloat16" is precise enough.
            Defaults to "float32".
        keywords: Keyword arguments of `AdamW`.

    Sources: Jordan et al., "Muon" (2024), for the iteration; Liu et al., arXiv 2502.16982, for the scale.

    >>> import keras, numpy as np
    >>> from focalnets.training.muon import Muon
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    >>> net.compile(Muon(exclude_layers=("dense_1",), learning_rate=0.01), "mse")
    >>> history = net.fit(np.eye(4), np.ones((4, 1)), epochs=2, verbose=0).history["loss"]
    >>> history[1] < history[0]
    True
    """

    def __init__(
        self,
        *arguments,
        exclude_layers=("stem", "head"),
        momentum=0.95,
        iteration_dtype="float32",
        name="muon",
        **keywords,
    ):
        super().__init__(*arguments, name=name, **keywords)
        self.exclude_layers = tuple(exclude_layers)
        self.momentum = float(momentum)
        self.iteration_dtype = iteration_dtype

    def build(self, variables):
        super().build(variables)
        # By index: TensorFlow's update step gets variables without a path.
        self._matrices = {index for index, variable in enumerate(variables) if self.is_matrix(variable)}

    def is_matrix(self, variable):
        """Whether Muon updates a Keras variable."""
        if len(variable.shape) < 2 or min(variable.shape[-2:]) == 1:
            return False
        return not any(re.search(pattern, variable.path) for pattern in self.exclude_layers)

    def update_step(self, gradient, variable, learning_rate):
        if self._get_variable_index(variable) in self._matrices:
            self._update_matrices([(gradient, variable)], learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Update all variables: matrices with Muon, the rest with `AdamW`. Called by Keras."""
        matrices, others = [], []
        for pair in zip(grads, trainable_variables, strict=True):
            inside = self._get_variable_index(pair[1]) in self._matrices
            (matrices if inside else others).append(pair)
        self._update_matrices(matrices, learning_rate)
        if others:
            super()._backend_update_step(*zip(*others, strict=True), learning_rate)

    def _update_matrices(self, pairs, learning_rate):
        """Update matrices. Those of equal size are stacked: one batched multiplication beats many small."""
        alike, kept = {}, self._kept("float32")
        with on_host():
            learning_rate = ops.cast(learning_rate, "float32")
        for gradient, variable in pairs:
            matrix = self._ahead(gradient, variable)
            alike.setdefault(tuple(sorted(matrix.shape)), []).append((variable, matrix))
        for size, group in alike.items():
            wide = [matrix if matrix.shape == size else ops.transpose(matrix) for _, matrix in group]
            directions = orthogonalize(ops.stack(wide), self.iteration_dtype)
            for place, (variable, matrix) in enumerate(group):  # a symbolic tensor cannot be iterated over
                direction = directions[place]
                direction = direction if matrix.shape == size else ops.transpose(direction)
                self._move(variable, direction, learning_rate, kept)

    def _ahead(self, gradient, variable):
        """Nesterov momentum as a matrix (inputs, outputs), where inputs flattens all axes but the last."""
        gradient = ops.cast(gradient, variable.dtype)
        momentum = self._momentums[self._get_variable_index(variable)]
        self.assign_add(momentum, (1 - self.momentum) * (gradient - momentum))
        ahead = gradient + self.momentum * (momentum - gradient)
        return ops.reshape(ahead, (math.prod(variable.shape[:-1]), variable.shape[-1]))

    def _move(self, variable, direction, learning_rate, kept):
        index, dtype = self._get_variable_index(variable), variable.dtype
        scale = _RMS * math.sqrt(max(direction.shape))
        direction = scale * ops.reshape(ops.cast(direction, dtype), variable.shape)
        direction = direction + self.decay * ops.convert_to_tensor(variable)
        self.assign_sub(variable, learning_rate * self._scale(index) * direction)
        self._average(index, variable, kept)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config.pop("matrices", None)  # files written before November 2026 have indices
        return super().from_config(config, custom_objects)

    def get_config(self):
        return {
            **super().get_config(),
            "exclude_layers": list(self.exclude_layers),
            "momentum": self.momentum,
            "iteration_dtype": self.iteration_dtype,
        }


def orthogonalize(matrices, dtype="float32"):
    """Approximate the nearest matrix with orthonormal rows or columns by Newton-Schulz iteration.

    Args:
        matrices: tensor of shape (..., m, n).
        dtype: str. Dtype of the iteration and of the result. Defaults to "float32".

    Returns:
        Tensor of shape (..., m, n). For a matrix U S V^T, about U V^T: singular values are 0.7 to 1.2.

    >>> import numpy as np
    >>> from focalnets.training.muon import orthogonalize
    >>> found = orthogonalize(np.diag([3.0, 2.0, 1.0]).astype("float32"))
    >>> bool(np.all(np.abs(np.diag(found) - 1) < 0.4))
    True
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else ops.swapaxes(matrices, -2, -1)
    x = ops.cast(x / (ops.norm(x, axis=(-2, -1), keepdims=True) + 1e-7), dtype)
    for _ in range(_ROUNDS):
        gram = ops.matmul(x, ops.swapaxes(x, -2, -1))
        polynomial = _B * gram + _C * ops.matmul(gram, gram)
        x = _A * x + ops.matmul(polynomial, x)
    return x if wide else ops.swapaxes(x, -2, -1)
