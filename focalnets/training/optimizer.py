"""Optimiser and learning rate of a recipe."""

import keras

from focalnets.training.adamw import AdamW
from focalnets.training.muon import Muon, weight_matrices


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
    """The recipe's `AdamW` or `Muon` with its schedule, decaying kernels only.

    Args:
        recipe: a `Recipe`.
        classifier: the built `FocalNetImageClassifier`.
        total_steps: batches of the whole run.
    """
    scales = unfreeze_steps = None
    if recipe.layer_decay != 1:
        depths = layer_depths(classifier)
        deepest = max(depths)
        scales = [recipe.layer_decay ** (deepest - depth) for depth in depths]
    if recipe.unfreeze_epochs:
        updates = recipe.unfreeze_epochs * total_steps / recipe.epochs / recipe.accumulation
        unfreeze_steps = [round(updates * wait) for wait in stages_behind(classifier)]
    arguments = {
        "learning_rate": learning_rate_schedule(recipe, total_steps),
        "weight_decay": recipe.weight_decay,
        "ema_decay": recipe.ema_decay,
        "learning_rate_multipliers": scales,
        "unfreeze_steps": unfreeze_steps,
        "global_clipnorm": recipe.clip_norm or None,
        "gradient_accumulation_steps": recipe.accumulation if recipe.accumulation > 1 else None,
    }
    if recipe.optimizer == "muon":
        return Muon(
            matrices=weight_matrices(classifier),
            iteration_dtype=classifier.backbone.compute_dtype,
            **arguments,
        )
    return AdamW(**arguments)


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


def stages_behind(classifier):
    """For each trainable variable, how many parts are unfrozen before it: 0 for the head and the last norm, 1
    for the last stage, 2 for the one before it, ...; the stem goes with the first stage, down-sampling with
    the stage that it ends.

    Source: gradual unfreezing of ULMFiT (Howard and Ruder, 2018).
    """
    stages = classifier.backbone.stages
    later = {stage[0].name for stage in stages[1:]}  # the blocks that begin a stage, after the first stage
    parts, of_layer = len(stages), {}
    for layer in classifier.backbone.layers:
        parts -= layer.name in later
        behind = 0 if layer.name == "norm" else parts
        of_layer.update({variable.path: behind for variable in layer.trainable_variables})
    return [of_layer.get(variable.path, 0) for variable in classifier.trainable_variables]
