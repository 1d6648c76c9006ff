"""Optimiser and learning rate of a recipe."""

import keras
from keras import ops

from focalnets.ops.backend import fused_adamw

# An average of weights forgets faster in the beginning: min(decay, t / (t + 9)) at update t = 0, 1, ...
_AVERAGE_WARMUP = 9.0


@keras.saving.register_keras_serializable(package="focalnets")
class AdamW(keras.optimizers.Adam):
    """AdamW that does not decay biases, norms and layer scales, and can average the weights.

    What Keras 3.15's own does not do, and this does:

    - variables of one axis do not decay, without a list that is lost when the optimiser is saved;
    - the average (EMA) counts updates, not batches, under gradient accumulation;
    - it is kept beside the weights and never overwrites them, so that two `fit`s are one; `swap_averages`
      exchanges the two;
    - each variable may have a learning rate of its own;
    - on torch, everything is done in a few fused calls.

    Args:
        learning_rate: number or schedule; a schedule counts batches, accumulated ones included.
        weight_decay: decoupled, times the learning rate, of variables with two axes or more.
        average_decay: how much of the average one update keeps, 0 for no average.
        rate_scales: factors on the learning rate, one a trainable variable; None for 1.
        kwargs: of `keras.optimizers.Adam`, such as `global_clipnorm`, `gradient_accumulation_steps`.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.05,
        average_decay=0.0,
        rate_scales=None,
        epsilon=1e-8,
        name="adamw",
        **kwargs,
    ):
        # Keras' own decay and average stay off.
        kwargs = {key: value for key, value in kwargs.items() if key not in ("use_ema", "weight_decay")}
        super().__init__(learning_rate=learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.decay = float(weight_decay)
        self.average_decay = float(average_decay)
        self.rate_scales = None if rate_scales is None else [float(scale) for scale in rate_scales]

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        if self.rate_scales is not None and len(self.rate_scales) != len(variables):
            raise ValueError(f"{len(self.rate_scales)} rate_scales do not fit {len(variables)} variables.")
        self.averages = self.add_optimizer_variables(variables, "average") if self.average_decay else []

    def swap_averages(self, variables):
        """Exchange weights and averages; `variables` are the model's trainable ones. Twice is nothing."""
        for variable, average in zip(variables, self.averages, strict=True):
            weight, mean = (ops.convert_to_numpy(value).copy() for value in (variable, average))
            variable.assign(mean)
            average.assign(weight)

    def _factors(self, dtype):
        """(1 - beta_1^t, 1 - beta_2^t, what the average keeps) at the t-th update."""
        update = ops.cast(self.iterations + 1, dtype)  # counts updates, also under accumulation
        kept = ops.minimum(self.average_decay, (update - 1) / (update - 1 + _AVERAGE_WARMUP))
        first, second = (1 - ops.power(ops.cast(beta, dtype), update) for beta in (self.beta_1, self.beta_2))
        return first, second, kept

    def _scale(self, index):
        return 1.0 if self.rate_scales is None else self.rate_scales[index]

    def update_step(self, gradient, variable, learning_rate):
        """One variable; JAX and TensorFlow come here."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        rate = ops.cast(learning_rate, dtype) * self._scale(index)
        correction_1, correction_2, kept = self._factors(dtype)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (1 - self.beta_1) * (gradient - momentum))
        self.assign_add(velocity, (1 - self.beta_2) * (ops.square(gradient) - velocity))
        direction = (momentum / correction_1) / (ops.sqrt(velocity / correction_2) + self.epsilon)
        if self.decay and len(variable.shape) > 1:
            direction = direction + self.decay * ops.convert_to_tensor(variable)
        self.assign_sub(variable, rate * direction)
        if self.averages:
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
            rates=[self._scale(index) for index in indices],
            decays=[self.decay if len(variable.shape) > 1 else 0.0 for variable in trainable_variables],
            learning_rate=ops.convert_to_tensor(learning_rate),
            betas=(self.beta_1, self.beta_2),
            step=ops.cast(self.iterations + 1, "float32"),
            epsilon=self.epsilon,
            kept=kept,
        )

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "weight_decay": self.decay,
            "average_decay": self.average_decay,
            "rate_scales": self.rate_scales,
        }


def learning_rate_schedule(recipe, total_steps):
    """Linear warm-up, then half a cosine: the peak after the warm-up, the final rate after the last step.

    No step is wasted: the warm-up begins at one step's worth of the peak, not at 0.

    Keras' `decay_steps` does not count the warm-up; the tutorial's schedule ended 24 steps early because
    it counted steps with a division that `fit` does not use.

    Args:
        recipe: a `Recipe`.
        total_steps: batches of the whole run, accumulated ones included: Keras counts those.
    """
    final = recipe.final_learning_rate / recipe.learning_rate
    warmup_steps = round(recipe.warmup_fraction * total_steps)
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total_steps, alpha=final)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / (warmup_steps + 1),
        decay_steps=total_steps - warmup_steps,
        alpha=final,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup_steps,
    )


def make_optimizer(recipe, classifier, total_steps):
    """The recipe's `AdamW` with its schedule, decaying kernels only.

    Args:
        recipe: a `Recipe`.
        classifier: the built `FocalNetClassifier`.
        total_steps: batches of the whole run.
    """
    scales = None
    if recipe.layer_decay != 1:
        depths = layer_depths(classifier)
        deepest = max(depths)
        scales = [recipe.layer_decay ** (deepest - depth) for depth in depths]
    return AdamW(
        learning_rate=learning_rate_schedule(recipe, total_steps),
        weight_decay=recipe.weight_decay,
        average_decay=recipe.ema_decay,
        rate_scales=scales,
        global_clipnorm=recipe.clip_norm or None,
        gradient_accumulation_steps=recipe.accumulation if recipe.accumulation > 1 else None,
    )


def layer_depths(classifier):
    """How deep each trainable variable lies: 0 for the stem, 1, 2, ... for the blocks, one more for the head.

    What stands behind a block (down-sampling, the last norm) counts with it.

    Source: layer-wise learning-rate decay of BEiT (Bao et al., 2022).
    """
    depth, of_layer = 0, {}
    blocks = {block.name for block in classifier.backbone.blocks}
    for layer in classifier.backbone.layers:
        depth += layer.name in blocks
        of_layer.update({variable.path: depth for variable in layer.trainable_variables})
    return [of_layer.get(variable.path, depth + 1) for variable in classifier.trainable_variables]
