"""`focalnets train`."""

import dataclasses
import sys

from focalnets.training.recipe import load_recipe
from focalnets.training.train import train


def run(arguments):
    """Carry out a recipe with the changes asked for, and say where everything is."""
    recipe = load_recipe(arguments.recipe)
    changes = {
        name: getattr(arguments, name)
        for name in ("epochs", "batch_size", "learning_rate", "seed")
        if getattr(arguments, name) is not None
    }
    result = train(
        dataclasses.replace(recipe, **changes),
        data=arguments.data,
        out=arguments.out,
        force=arguments.force,
        on_bad_image=arguments.on_bad_image,
        keep=arguments.keep,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = sum(row["seconds"] for row in result.history)
    if result.skipped:
        print(f"skipped {len(result.skipped)} bad pictures:", *result.skipped, sep="\n  ")
    print(f"training: {seconds:.1f} s")
    print(f"run directory: {result.directory}")
    print(f"curves: {result.curves}")
    for path in result.panels:
        print(f"panels: {path}")
    print(f"validation accuracy: {result.history[-1]['val_accuracy']:.4f}")
    if result.test_accuracy is not None:
        print(f"test accuracy: {result.test_accuracy:.4f}")
