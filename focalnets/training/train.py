"""train: a recipe and a data set -> a run directory, which is a preset directory and its history."""

import contextlib
import dataclasses
import logging
import pathlib

import keras

from focalnets import __version__
from focalnets.data.inputs import data_paths, searched_folders
from focalnets.data.names import NAMES
from focalnets.files import expanded
from focalnets.names import plural
from focalnets.ops.backend import accelerator, bfloat16_supported, prefer_bfloat16
from focalnets.output.directories import check_run_directory, new_run_directory, resumed_directory
from focalnets.output.files import seal, write_json
from focalnets.output.inputs import paths_among, refuse_inside
from focalnets.presets.checkpoints import CHECKPOINTS
from focalnets.threads import machine
from focalnets.training.checkpoint import read_snapshot
from focalnets.training.finalize import TrainResult, finalize
from focalnets.training.recipe import Recipe, data_for, load_recipe, replace_fields
from focalnets.training.run_directory import check_run, read_recipe, read_run
from focalnets.training.suitability import describe_misfits, recipe_for, report_choice
from focalnets.training.trainer import Trainer

_log = logging.getLogger("focalnets")


def train(
    recipe=None,
    data=None,
    out="runs/latest",
    force=False,
    on_bad_image="error",
    cache_images="auto",
    max_minutes=None,
    monitor_every=None,
    tensorboard=False,
    force_bfloat16=False,
    verbose="auto",
    **changes,
):
    """Train a classifier and write its weights, metrics and figures to a run directory.

    The function behind `focalnets train`.

    Args:
        recipe: `Recipe` or str. A recipe, the name of one, or the path of a Python file that defines one.
            Defaults to one that suits `data`, which is logged: "finetune" for images of your own.
        data: spec for `open_dataset`; None for the recipe's own.
        out: run directory to make: a preset directory (`FocalNetImageClassifier.from_preset(out)`) with
            `recipe.json`, `run.json`, `history.csv`, `curves.png`, `report.html`, `panels/`, `monitor/`, and
            the snapshot (`last.npz`) from which `resume` goes on.
        force: replace a run that is there.
        on_bad_image: "error" to name the images that cannot be read, "skip" to leave them out.
        cache_images: str. "memory", "stream" or "auto"; see `open_dataset`. A recipe whose augmentation needs
            the original images always streams them. Defaults to "auto".
        max_minutes: stop after so long, saved, to be resumed; None for no limit.
        monitor_every: epochs between two panels in `monitor/`; None for about ten in the run, 0 for none.
        tensorboard: write event files, too.
        force_bfloat16: use bfloat16 even where it is slower than float32.
        verbose: as in Keras' `fit`.
        changes: fields of the recipe to replace, such as `epochs=5`.

    Returns:
        A `TrainResult`.

    Raises:
        ValueError: on an unknown recipe, field or data set, or data that do not fit the recipe.
        FileExistsError: if `out` is not empty, unless `force`, or another process is writing it.
        FloatingPointError: if the loss is no longer a number, see `StopOnNaN`.

    >>> import tempfile
    >>> import focalnets
    >>> result = focalnets.train("digits", out=tempfile.mkdtemp(), verbose=0, epochs=1)
    >>> result.test_accuracy > 0.1
    True
    """
    given = recipe if str(recipe).endswith(".py") else None
    if recipe is None:
        recipe = recipe_for(data)
        report_choice(recipe, data)
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    recipe = replace_fields(recipe, changes)
    data = data_for(recipe, data)
    recipe = _with_precision(recipe, force_bfloat16)
    data = _located(data)
    if recipe.preset not in CHECKPOINTS:
        recipe = dataclasses.replace(recipe, preset=_absolute(recipe.preset))  # to be resumed from anywhere
    if recipe.preset and pathlib.Path(recipe.preset) == expanded(out).resolve():
        raise ValueError(f"{out} is the preset to start from; choose another directory for the new run.")
    settings = {
        "data": data,
        "on_bad_image": on_bad_image,
        "cache_images": cache_images,
        "monitor_every": monitor_every,
        "tensorboard": tensorboard,
    }
    data_inputs = data_paths(data)
    inputs = [*data_inputs, *paths_among([given, recipe.preset])]
    refuse_inside(out, searched_folders(data_inputs))
    check_run_directory(out, force, inputs)
    trainer = Trainer(recipe, settings)
    for text in describe_misfits(recipe, trainer.converter, trainer.dataset.survey()):
        _log.warning(text)
    _report_drawn(trainer)
    with new_run_directory(out, force, inputs) as directory:
        write_json(directory / "recipe.json", {**dataclasses.asdict(recipe), "data": data})
        where = {"backend": keras.backend.backend(), "keras": keras.__version__, "focalnets": __version__}
        where["machine"] = accelerator() or machine()
        record = {**settings, **where, "images": _images(trainer), "fingerprint": trainer.fingerprint()}
        write_json(directory / "run.json", record)
        return _run(trainer, directory, None, max_minutes, verbose)


def resume(directory, max_minutes=None, verbose="auto", data=None):
    """Take up a run that was stopped or killed, from its last snapshot, and carry it to its end.

    On the same machine and backend, the weights in the end are those of a run that was never interrupted.

    Args:
        directory: run directory.
        max_minutes: as in `train`, for this session.
        verbose: as in Keras' `fit`.
        data: where the data set of the run is now, if it was moved. Defaults to where it was.

    Returns:
        A `TrainResult`.

    Raises:
        ValueError: if it is no run, its data have changed, or it was begun on another backend.
        FileExistsError: if another process is training it.

    >>> import dataclasses, tempfile
    >>> from focalnets import resume, train
    >>> from focalnets.training.recipe import load_recipe
    >>> short = dataclasses.replace(load_recipe("digits"), epochs=1)
    >>> stopped = train(short, out=tempfile.mkdtemp(), max_minutes=1e-6, monitor_every=0, verbose=0)
    >>> stopped.complete, resume(stopped.directory, verbose=0).complete
    (False, True)
    """
    directory = expanded(directory)
    settings, recipe = read_run(directory), read_recipe(directory)
    check_run(settings, directory, keras.backend.backend(), data is not None)
    with resumed_directory(directory):
        return _resume(directory, settings, recipe, max_minutes, verbose, data)


def _resume(directory, settings, recipe, max_minutes, verbose, data):
    moved = data is not None
    snapshot = read_snapshot(directory / "last.npz")
    if moved:
        settings["data"] = _located(data)
    trainer = Trainer(recipe, settings)
    if trainer.fingerprint() != settings["fingerprint"]:
        raise ValueError(_other_data(trainer, settings))
    if moved:
        write_json(directory / "recipe.json", {**dataclasses.asdict(recipe), "data": settings["data"]})
        write_json(directory / "run.json", settings)
    return _run(trainer, directory, snapshot, max_minutes, verbose)


def _other_data(trainer, settings):
    then, now = settings["images"], _images(trainer)
    what = (
        f"{then['train']} {plural(then['train'], 'image')} to train on and {then['validation']} to validate "
        f"then, {now['train']} and {now['validation']} now"
        if then != now
        else "as many images as then, but other files, labels or contents"
    )
    return (
        f"The data at {settings['data']}, or the preprocessing of the preset to start from, are not those "
        f"the run was begun with: {what}. Restore them, name the place of the right ones with --data, or "
        "start a new run."
    )


def _images(trainer):
    return {"train": len(trainer.training), "validation": len(trainer.validation)}


def _report_drawn(trainer):
    """Log how many images were set aside, where the data do not name their splits."""
    if trainer.dataset.drawn_from is None or "test" not in trainer.dataset.splits:
        return
    _log.warning(
        "The data have no test split. Of %d images, %d are set aside to test (a fifth of each class, drawn "
        "by file name), %d to validate, and %d are trained on. Folders train/ and test/ choose the splits.",
        trainer.dataset.drawn_from,
        len(trainer.dataset.splits["test"]),
        len(trainer.validation),
        len(trainer.training),
    )


def _run(trainer, directory, snapshot, max_minutes, verbose):
    try:
        recorder, complete = trainer.fit(directory, snapshot, max_minutes, verbose)
        if complete:
            return finalize(trainer, directory, recorder)
    finally:
        with contextlib.suppress(OSError):  # of a disk that is full: that error is on its way
            seal(directory)
    curves = directory / "curves.png"
    return TrainResult(directory, curves, [], None, recorder.rows, None, None, trainer.dataset.bad)


def _located(data):
    """The spec of a data set, a path in full, so that a run can be resumed from anywhere."""
    return str(data if data in NAMES else _absolute(data))  # names go before folders


def _absolute(name):
    """The path in full, if it is one that is there."""
    path = expanded(name)
    return str(path.resolve()) if name and path.exists() else name


def _with_precision(recipe, force_bfloat16):
    """The recipe with "auto" replaced by what is faster here; refuses what is very slow."""
    if recipe.precision == "auto":
        return dataclasses.replace(recipe, precision="bfloat16" if prefer_bfloat16() else "float32")
    if recipe.precision == "bfloat16" and not force_bfloat16 and not bfloat16_supported():
        raise ValueError(
            "This processor has no units for bfloat16, and torch without them is about 150 times slower than "
            "with float32. Leave precision at float32, or force it with --force-bfloat16."
        )
    return recipe
