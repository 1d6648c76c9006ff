"""AdamW with weight averaging, per-variable learning rates, and decay of kernels only."""

import functools
import re

import keras
from keras import ops

from focalnets.ops.backend import fused_adamw, on_host
from focalnets.ops.processes import mean_gradients

# The average decays faster at first: min(ema_decay, t / (t + 9)) at update t = 0, 1, ...
_AVERAGE_WARMUP = 9.0

# Arguments in files written before November 2026.
_FORMER_NAMES = {
    "average_decay": "ema_decay",
    "rate_scales": "learning_rate_multipliers",
    "releases": "unfreeze_steps",
}


@keras.saving.register_keras_serializable(package="focalnets")
class AdamW(keras.optimizers.Adam):
    """AdamW that decays kernels only and can average the weights.

    Differences from `keras.optimizers.AdamW` (Keras 3.15):

    - Variables with one axis (biases, norms, layer scales) do not decay. Saving the optimizer keeps this.
    - With gradient accumulation, the moving average counts updates instead of batches.
    - The average never overwrites the weights, so training can continue. `swap_averages` exchanges both.
    - Each variable can have its own learning rate.
    - On torch, one update takes a few fused calls.

    Args:
        learning_rate: float or `LearningRateSchedule`. A schedule counts batches, not updates. Defaults to
            1e-3.
        weight_decay: float. Decoupled decay of variables with two or more axes. Defaults to 0.05.
        ema_decay: float. Decay of the moving average of the weights. Defaults to 0.0, no average.
        learning_rate_multipliers: dict of str to float, or None. Regular expressions for the paths of
            variables (`re.search`, the first match counts), with a factor on the learning rate. Defaults to
            `None`, a factor of 1 for all variables.
        unfreeze_steps: dict of str to int, or None. Regular expressions as above, with the number of updates
            before the variables train. Defaults to `None`, 0 for all variables.
        epsilon: float. Term added to the denominator. Defaults to 1e-8.
        kwargs: Arguments of `keras.optimizers.Adam`, such as `global_clipnorm`.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    >>> import focalnets
    >>> classifier = focalnets.FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> classifier.compile(focalnets.AdamW(1e-3, ema_decay=0.99, learning_rate_multipliers={"^stem/": 0.1}))
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.05,
        ema_decay=0.0,
        learning_rate_multipliers=None,
        unfreeze_steps=None,
        epsilon=1e-8,
        name="adamw",
        **kwargs,
    ):
        # Decay and average of the Keras base class stay off.
        kwargs = {key: value for key, value in kwargs.items() if key not in ("use_ema", "weight_decay")}
        with on_host():  # the number of updates and the learning rate
            super().__init__(learning_rate=learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.decay = float(weight_decay)
        self.ema_decay = float(ema_decay)
        self.learning_rate_multipliers = learning_rate_multipliers
        self.unfreeze_steps = unfreeze_steps

    def build(self, variables):
        if self.built or not variables:  # Keras calls it without variables when it loads an .h5 file
            return
        super().build(variables)
        self._multipliers = _per_variable(self.learning_rate_multipliers, variables, 1.0)
        self._first_steps = _per_variable(self.unfreeze_steps, variables, 0)
        self.averages = []
        if self.ema_decay:
            self.averages = [
                self.add_variable_from_reference(variable, "average", functools.partial(_copy, variable))
                for variable in variables
            ]

    def apply(self, grads, trainable_variables=None):
        """Average the gradients over the processes of a run, if there are any, and update the variables."""
        return super().apply(mean_gradients(grads), trainable_variables)

    def swap_averages(self, variables):
        """Exchange weights and averages. A second call restores the weights.

        Args:
            variables: list. Trainable variables of the model.
        """
        for variable, average in zip(variables, self.averages, strict=True):
            # Copies stay where they are: on JAX, a part of a variable can be on another host.
            weight, mean = (ops.copy(ops.convert_to_tensor(value)) for value in (variable, average))
            variable.assign(mean)
            average.assign(weight)

    def _get_current_learning_rate(self):
        """Current learning rate. Called by Keras."""
        with on_host():
            return super()._get_current_learning_rate()

    def _corrections(self, dtype):
        """(1 - beta_1^t, 1 - beta_2^t) at update t."""
        update = ops.cast(self.iterations + 1, dtype)  # `iterations` counts updates, not batches
        return [1 - ops.power(ops.cast(beta, dtype), update) for beta in (self.beta_1, self.beta_2)]

    def _kept(self, dtype):
        """Decay of the average at this update, on the host."""
        with on_host():
            before = ops.cast(self.iterations, dtype)
            return ops.minimum(self.ema_decay, before / (before + _AVERAGE_WARMUP))

    def _scale(self, index):
        """Factor on the learning rate of a variable: a float, or a tensor if it depends on the update."""
        scale, first_step = self._multipliers[index], self._first_steps[index]
        with on_host():
            return scale * ops.cast(self.iterations >= first_step, "float32") if first_step else scale

    def update_step(self, gradient, variable, learning_rate):
        """Update one variable. Used on JAX and TensorFlow."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        rate = ops.cast(learning_rate, dtype) * self._scale(index)
        correction_1, correction_2 = self._corrections(dtype)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (1 - self.beta_1) * (gradient - momentum))
        self.assign_add(velocity, (1 - self.beta_2) * (ops.square(gradient) - velocity))
        direction = (momentum / correction_1) / (ops.sqrt(velocity / correction_2) + self.epsilon)
        if self.decay and len(variable.shape) > 1:
            direction = direction + self.decay * ops.convert_to_tensor(variable)
        self.assign_sub(variable, rate * direction)
        self._average(index, variable, self._kept(dtype))

    def _average(self, index, variable, kept):
        """Update the average of a variable."""
        if self.averages:
            average = self.averages[index]
            self.assign_add(average, (1 - kept) * (ops.convert_to_tensor(variable) - average))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Update all variables, in fused calls where the backend has them. Called by Keras."""
        fused = fused_adamw()
        if fused is None:
            return super()._backend_update_step(grads, trainable_variables, learning_rate)
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        with on_host():
            learning_rate = ops.convert_to_tensor(learning_rate)
            update = ops.cast(self.iterations + 1, "float32")
        fused(
            [variable.value for variable in trainable_variables],
            grads,
            [self._momentums[index].value for index in indices],
            [self._velocities[index].value for index in indices],
            [self.averages[index].value for index in indices] if self.averages else [],
            groups=self._groups(trainable_variables, indices),
            learning_rate=learning_rate,
            betas=(self.beta_1, self.beta_2),
            step=update,
            epsilon=self.epsilon,
            kept=self._kept("float32"),
        )

    def _groups(self, variables, indices):
        """List of (indices of variables with equal settings, factor on the learning rate, weight decay)."""
        alike = {}
        for place, (variable, index) in enumerate(zip(variables, indices, strict=True)):
            key = self._multipliers[index], self._first_steps[index], len(variable.shape) > 1
            alike.setdefault(key, []).append(place)
        return [
            (places, self._scale(indices[places[0]]), self.decay if decays else 0.0)
            for (_, _, decays), places in alike.items()
        ]

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {_FORMER_NAMES.get(name, name): value for name, value in config.items()}
        return super().from_config(config, custom_objects)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.decay,
            "ema_decay": self.ema_decay,
            "learning_rate_multipliers": self.learning_rate_multipliers,
            "unfreeze_steps": self.unfreeze_steps,
        }


def _per_variable(values, variables, default):
    """List the value of the first pattern that matches the path of each variable."""
    if isinstance(values, list | tuple):  # files written before November 2026 have one value per variable
        if len(values) != len(variables):
            raise ValueError(f"The optimizer was saved for {len(values)} variables; got {len(variables)}.")
        return list(values)
    matched = (
        [value for pattern, value in (values or {}).items() if re.search(pattern, variable.path)]
        for variable in variables
    )
    return [next(iter(found), default) for found in matched]


def _copy(variable, shape, dtype):
    """Initializer that copies the values of another variable."""
    return ops.stop_gradient(ops.convert_to_tensor(variable)) * 1
