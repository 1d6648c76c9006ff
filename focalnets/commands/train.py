"""`focalnets train`."""

import dataclasses
import os
import shlex
import sys
import time

from focalnets.data.find import report_skipped
from focalnets.files import expanded
from focalnets.names import say
from focalnets.training.recipe import change, load_recipe
from focalnets.training.run_directory import read_run
from focalnets.training.suitability import recipe_for, report_choice


def run(arguments):
    """Carry out a recipe with the changes asked for, or resume a run, and say where everything is."""
    verbose = 1 if sys.stdout.isatty() else 2
    directory, start = arguments.resume or arguments.out, time.time()
    try:
        result = _resume(arguments, verbose) if arguments.resume else _train(arguments, verbose)
    except (KeyboardInterrupt, OSError):
        snapshot = expanded(directory) / "last.npz"
        if snapshot.exists() and (arguments.resume or snapshot.stat().st_mtime > start):
            say(f"resume with: {_resume_command(directory)}", file=sys.stderr)
        raise
    report_skipped(result.skipped)
    if not result.complete:
        print(f"stopped after {arguments.max_minutes:g} minutes; everything is saved")
        say(f"resume with: {_resume_command(directory)}")
        return
    seconds = sum(row["seconds"] for row in result.history)
    print(f"training: {seconds:.1f} s")
    say(f"run directory: {result.directory}")
    say(f"report: {result.report}")
    say(f"curves: {result.curves}")
    for path in result.panels:
        say(f"panels: {path}")
    print(f"validation accuracy: {result.kept['val_accuracy']:.4f} in epoch {result.kept['epoch']}")
    if result.test_accuracy is not None:
        print(f"test accuracy: {result.test_accuracy:.4f}")


def _resume_command(directory):
    return f"focalnets train --resume {shlex.quote(str(directory))}"


def _train(arguments, verbose):
    from focalnets.training.train import train

    recipe = asked_recipe(arguments)
    if arguments.recipe is None:
        report_choice(recipe, arguments.data)
    return train(
        recipe,
        data=arguments.data,
        out=arguments.out,
        force=arguments.force,
        on_bad_image=arguments.on_bad_image,
        cache_images=arguments.cache_images,
        max_minutes=arguments.max_minutes,
        monitor_every=arguments.monitor_every,
        tensorboard=arguments.tensorboard,
        force_bfloat16=arguments.force_bfloat16,
        verbose=verbose,
    )


def asked_recipe(arguments):
    """The `Recipe` of the arguments of `focalnets train`, with the changes that they ask for.

    Args:
        arguments: a `TrainArguments`.

    Raises:
        ValueError: if there is no such recipe, or it does not take the changes.
    """
    if arguments.recipe is None:
        recipe = recipe_for(arguments.data, arguments.preset)
    else:
        recipe = load_recipe(arguments.recipe)
    recipe = change(recipe, arguments.set)
    if arguments.preset is not None and recipe.architecture:
        raise ValueError(
            f"Recipe {recipe.name!r} trains {recipe.architecture} from random weights, so --preset cannot be "
            "used with it. Use --recipe finetune, or a recipe of your own with a preset."
        )
    changes = {
        name: getattr(arguments, name)
        for name in ("preset", "epochs", "batch_size", "learning_rate", "seed")
        if getattr(arguments, name) is not None
    }
    return dataclasses.replace(recipe, **changes)


def check_resume_options(arguments):
    """Refuse options that a resumed run cannot take.

    Raises:
        ValueError: naming the options.
    """
    fields = {field.name: field.default for field in dataclasses.fields(arguments)}
    for free in ("resume", "data", "max_minutes", "backend", "debug"):
        del fields[free]
    given = [name for name, default in fields.items() if getattr(arguments, name) != default]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            f"{options} and --resume exclude each other: a run resumes with the options it was started with. "
            "Start a new run instead."
        )


def _resume(arguments, verbose):
    if arguments.backend is None:
        backend = read_run(expanded(arguments.resume))["backend"]
        if backend in ("torch", "jax", "tensorflow"):
            os.environ["KERAS_BACKEND"] = backend  # before keras is imported
    from focalnets.training.train import resume

    return resume(arguments.resume, arguments.max_minutes, verbose, arguments.data)
