"""AdamW with what training a network well needs of it."""

import functools

import keras
from keras import ops

from focalnets.ops.backend import fused_adamw

# An average of weights forgets faster in the beginning: min(decay, t / (t + 9)) at update t = 0, 1, ...
_AVERAGE_WARMUP = 9.0

# Arguments in files that were written before November 2026.
_FORMER_NAMES = {
    "average_decay": "ema_decay",
    "rate_scales": "learning_rate_multipliers",
    "releases": "unfreeze_steps",
}


@keras.saving.register_keras_serializable(package="focalnets")
class AdamW(keras.optimizers.Adam):
    """AdamW that does not decay biases, norms and layer scales, and can average the weights.

    What Keras 3.15's own does not do, and this does:

    - variables of one axis do not decay, without a list that is lost when the optimizer is saved;
    - the average (EMA) counts updates, not batches, under gradient accumulation;
    - it is kept beside the weights and never overwrites them, so that two `fit`s are one; `swap_averages`
      exchanges the two;
    - each variable may have a learning rate of its own;
    - on torch, everything is done in a few fused calls.

    Args:
        learning_rate: number or schedule; a schedule counts batches, accumulated ones included.
        weight_decay: decoupled, times the learning rate, of variables with two axes or more.
        ema_decay: float. Fraction of the average (EMA) that one update keeps. Defaults to 0.0, no average.
        learning_rate_multipliers: list of float, one per trainable variable. Factors on the learning rate.
            Defaults to 1 for each.
        unfreeze_steps: list of int, one per trainable variable. Number of updates before the variable learns.
            Defaults to 0 for each.
        kwargs: of `keras.optimizers.Adam`, such as `global_clipnorm`, `gradient_accumulation_steps`.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    >>> import focalnets
    >>> classifier = focalnets.FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> classifier.compile(focalnets.AdamW(1e-3, ema_decay=0.99))
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
        # Keras' own decay and average stay off.
        kwargs = {key: value for key, value in kwargs.items() if key not in ("use_ema", "weight_decay")}
        super().__init__(learning_rate=learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.decay = float(weight_decay)
        self.ema_decay = float(ema_decay)
        self.learning_rate_multipliers = (
            None
            if learning_rate_multipliers is None
            else [float(scale) for scale in learning_rate_multipliers]
        )
        self.unfreeze_steps = None if unfreeze_steps is None else [int(update) for update in unfreeze_steps]

    def build(self, variables):
        if self.built or not variables:  # Keras builds for no variables when it loads an .h5 file
            return
        super().build(variables)
        for name in ("learning_rate_multipliers", "unfreeze_steps"):
            values = getattr(self, name)
            if values is not None and len(values) != len(variables):
                raise ValueError(f"{len(values)} {name} do not fit {len(variables)} variables.")
        self.averages = []
        if self.ema_decay:  # they begin with the weights, also those of weights that get no gradient
            self.averages = [
                self.add_variable_from_reference(variable, "average", functools.partial(_copy, variable))
                for variable in variables
            ]

    def swap_averages(self, variables):
        """Exchange weights and averages; `variables` are the model's trainable ones. Twice is nothing."""
        for variable, average in zip(variables, self.averages, strict=True):
            weight, mean = (ops.convert_to_numpy(value).copy() for value in (variable, average))
            variable.assign(mean)
            average.assign(weight)

    def _factors(self, dtype):
        """(1 - beta_1^t, 1 - beta_2^t, what the average keeps) at the t-th update."""
        update = ops.cast(self.iterations + 1, dtype)  # counts updates, also under accumulation
        kept = ops.minimum(self.ema_decay, (update - 1) / (update - 1 + _AVERAGE_WARMUP))
        first, second = (1 - ops.power(ops.cast(beta, dtype), update) for beta in (self.beta_1, self.beta_2))
        return first, second, kept

    def _scale(self, index):
        """Factor on the learning rate of a variable; a tensor where it depends on the update."""
        scale = 1.0 if self.learning_rate_multipliers is None else self.learning_rate_multipliers[index]
        if self.unfreeze_steps is None or self.unfreeze_steps[index] == 0:
            return scale
        return scale * ops.cast(self.iterations >= self.unfreeze_steps[index], "float32")

    def update_step(self, gradient, variable, learning_rate):
        """One variable; JAX and TensorFlow come here."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        rate = ops.cast(learning_rate, dtype) * self._scale(index)
        correction_1, correction_2, _ = self._factors(dtype)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (1 - self.beta_1) * (gradient - momentum))
        self.assign_add(velocity, (1 - self.beta_2) * (ops.square(gradient) - velocity))
        direction = (momentum / correction_1) / (ops.sqrt(velocity / correction_2) + self.epsilon)
        if self.decay and len(variable.shape) > 1:
            direction = direction + self.decay * ops.convert_to_tensor(variable)
        self.assign_sub(variable, rate * direction)
        self._average(index, variable)

    def _average(self, index, variable):
        """Draw the average of a variable towards its new value."""
        if self.averages:
            _, _, kept = self._factors(variable.dtype)
            average = self.averages[index]
            self.assign_add(average, (1 - kept) * (ops.convert_to_tensor(variable) - average))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """All variables; Keras' hook for a backend that can do them together."""
        fused = fused_adamw()
        if fused is None:
            return super()._backend_update_step(grads, trainable_variables, learning_rate)
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        _, _, kept = self._factors("float32")
        fused(
            [variable.value for variable in trainable_variables],
            grads,
            [self._momentums[index].value for index in indices],
            [self._velocities[index].value for index in indices],
            [self.averages[index].value for index in indices] if self.averages else [],
            groups=self._groups(trainable_variables, indices),
            learning_rate=ops.convert_to_tensor(learning_rate),
            betas=(self.beta_1, self.beta_2),
            step=ops.cast(self.iterations + 1, "float32"),
            epsilon=self.epsilon,
            kept=kept,
        )

    def _groups(self, variables, indices):
        """[(places of variables that are updated alike, factor on their rate, weight decay)]."""
        alike = {}
        for place, (variable, index) in enumerate(zip(variables, indices, strict=True)):
            scale = None if self.learning_rate_multipliers is None else self.learning_rate_multipliers[index]
            release = None if self.unfreeze_steps is None else self.unfreeze_steps[index]
            alike.setdefault((scale, release, len(variable.shape) > 1), []).append(place)
        return [
            (places, self._scale(indices[places[0]]), self.decay if decays else 0.0)
            for (_, _, decays), places in alike.items()
        ]

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {_FORMER_NAMES.get(name, name): value for name, value in config.items()}
        return super().from_config(config, custom_objects)

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "weight_decay": self.decay,
            "ema_decay": self.ema_decay,
            "learning_rate_multipliers": self.learning_rate_multipliers,
            "unfreeze_steps": self.unfreeze_steps,
        }


def _copy(variable, shape, dtype):
    """An initializer: the values of another variable, in memory of their own."""
    return ops.stop_gradient(ops.convert_to_tensor(variable)) * 1
