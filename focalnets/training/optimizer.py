"""Optimiser and learning rate of a recipe."""

import keras


def learning_rate_schedule(recipe, total_steps):
    """Linear warm-up, then half a cosine: the peak after the warm-up, 0 after the last step.

    No step is wasted: the warm-up begins at one step's worth of the peak, not at 0.

    Keras' `decay_steps` does not count the warm-up; the tutorial's schedule ended 24 steps early because
    it counted steps with a division that `fit` does not use.

    Args:
        recipe: a `Recipe`.
        total_steps: optimiser steps of the whole run.
    """
    warmup_steps = round(recipe.warmup_fraction * total_steps)
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / (warmup_steps + 1),
        decay_steps=total_steps - warmup_steps,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup_steps,
    )


def make_optimizer(recipe, model, total_steps):
    """AdamW with the recipe's schedule, decaying kernels only.

    Args:
        recipe: a `Recipe`.
        model: the built model; its variables of one axis (biases, norms, layer scales) do not decay.
        total_steps: optimiser steps of the whole run.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate=learning_rate_schedule(recipe, total_steps),
        weight_decay=recipe.weight_decay,
        global_clipnorm=recipe.clip_norm,
    )
    without_decay = [variable for variable in model.trainable_variables if len(variable.shape) <= 1]
    optimizer.exclude_from_weight_decay(var_list=without_decay)
    return optimizer
