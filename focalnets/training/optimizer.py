"""Optimizer and learning rate schedule of a recipe."""

import keras

from focalnets.training.adamw import AdamW
from focalnets.training.muon import Muon


def learning_rate_schedule(recipe, total_steps):
    """Learning rate schedule of a recipe: linear warm-up to the peak, then half a cosine to the final rate.

    The first step has a fraction 1 / (warm-up steps + 1) of the peak, because a step at rate 0 is wasted.

    Args:
        recipe: `Recipe`.
        total_steps: int. Number of batches in the run, with accumulation, too: Keras counts batches.

    Returns:
        Keras `CosineDecay`.
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
    """Make the optimizer of a recipe.

    Args:
        recipe: `Recipe`.
        classifier: `FocalNetImageClassifier`, built.
        total_steps: int. Number of batches in the run.

    Returns:
        `AdamW` or `Muon` with the learning rate schedule.
    """
    scales = unfreeze_steps = None
    if recipe.layer_decay != 1:
        depths = layer_depths(classifier)
        deepest = max(depths.values()) + 1  # depth of the head
        scales = {layer: recipe.layer_decay ** (deepest - depth) for layer, depth in depths.items()}
    if recipe.unfreeze_epochs:
        updates = recipe.unfreeze_epochs * total_steps / recipe.epochs / recipe.accumulation
        unfreeze_steps = {layer: round(updates * n) for layer, n in unfreeze_order(classifier).items()}
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
        return Muon(iteration_dtype=classifier.backbone.compute_dtype, **arguments)
    return AdamW(**arguments)


def layer_depths(classifier):
    """Depth of each layer of the backbone: 0 for the stem, 1, 2, ... for the blocks.

    Down-sampling and the last norm have the depth of the block before them.

    Returns:
        dict of str to int. Patterns that match the paths of the variables of a layer, with its depth.

    Source: layer-wise learning-rate decay of BEiT (Bao et al., 2022).
    """
    depth, depths = 0, {}
    blocks = {block.name for block in classifier.backbone.blocks}
    for layer in classifier.backbone.layers:
        depth += layer.name in blocks
        depths[_pattern(layer)] = depth
    return depths


def unfreeze_order(classifier):
    """Order in which the layers of the backbone are unfrozen.

    The last norm has 0, like the head, the last stage 1, the stage before it 2, and so on. The stem belongs
    to the first stage, and down-sampling to the stage before it.

    Returns:
        dict of str to int. Patterns that match the paths of the variables of a layer, with its order.

    Source: gradual unfreezing of ULMFiT (Howard and Ruder, 2018).
    """
    stages = classifier.backbone.stages
    starts = {stage[0].name for stage in stages[1:]}
    order, orders = len(stages), {}
    for layer in classifier.backbone.layers:
        order -= layer.name in starts
        orders[_pattern(layer)] = 0 if layer.name == "norm" else order
    return orders


def _pattern(layer):
    return f"(^|/){layer.name}/"
