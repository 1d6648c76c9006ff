"""`focalnets train`."""

import dataclasses
import os
import shlex
import sys
import time

from focalnets.data.find import report_skipped
from focalnets.files import expanded
from focalnets.names import say
from focalnets.training.launch import is_other_process
from focalnets.training.recipe import change, load_recipe
from focalnets.training.run_directory import read_run
from focalnets.training.suitability import recipe_for, report_choice


def run(arguments):
    """Train or resume, and print the paths of the results."""
    verbose = 1 if sys.stdout.isatty() else 2
    if is_other_process(arguments.distributed or arguments.model_parallel > 1 or None):
        _resume(arguments, 0) if arguments.resume else _train(arguments, 0)
        return  # process 0 reports
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
        print(f"stopped after {arguments.max_minutes:g} minutes, with a snapshot")
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

    recipe = recipe_from_arguments(arguments)
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
        distributed=arguments.distributed or None,
        model_parallel=arguments.model_parallel,
        verbose=verbose,
    )


def recipe_from_arguments(arguments):
    """The `Recipe` for a `TrainArguments`. ValueError if a recipe, field or value is invalid."""
    if arguments.recipe is None:
        recipe = recipe_for(arguments.data, arguments.preset)
    else:
        recipe = load_recipe(arguments.recipe)
    recipe = change(recipe, arguments.set)
    if arguments.preset is not None and recipe.architecture:
        raise ValueError(
            f"Recipe {recipe.name!r} trains {recipe.architecture} from random weights, so --preset cannot be "
            "used with it. Use --recipe finetune, or your own recipe with a preset."
        )
    changes = {
        name: getattr(arguments, name)
        for name in ("preset", "epochs", "batch_size", "learning_rate", "seed")
        if getattr(arguments, name) is not None
    }
    return dataclasses.replace(recipe, **changes)


def check_resume_options(arguments):
    """Raise ValueError if an option cannot be combined with --resume."""
    fields = {field.name: field.default for field in dataclasses.fields(arguments)}
    for free in ("resume", "data", "max_minutes", "distributed", "model_parallel", "backend", "debug"):
        del fields[free]
    given = [name for name, default in fields.items() if getattr(arguments, name) != default]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            f"{options} cannot be combined with --resume. A run resumes with the options of its start. Start "
            "a new run to change them."
        )


def _resume(arguments, verbose):
    if arguments.backend is None:
        backend = read_run(expanded(arguments.resume))["backend"]
        if backend in ("torch", "jax", "tensorflow"):
            os.environ["KERAS_BACKEND"] = backend  # before keras is imported
    from focalnets.training.train import resume

    return resume(
        arguments.resume,
        max_minutes=arguments.max_minutes,
        verbose=verbose,
        data=arguments.data,
        distributed=arguments.distributed or None,
        model_parallel=arguments.model_parallel,
    )
