"""`train` and `resume`: write a run directory, which is a preset directory with the history of the run."""

import contextlib
import dataclasses
import logging
import pathlib

import keras

from focalnets import __version__
from focalnets.data.inputs import data_paths, searched_folders
from focalnets.data.names import NAMES
from focalnets.files import expanded
from focalnets.ops.backend import accelerator, bfloat16_supported, prefer_bfloat16
from focalnets.output.directories import (
    check_output_directory,
    new_output_directory,
    resumed_directory,
)
from focalnets.output.files import write_json
from focalnets.output.inputs import paths_among, refuse_inside
from focalnets.output.manifest import Manifest
from focalnets.presets.checkpoints import CHECKPOINTS
from focalnets.threads import machine
from focalnets.training.checkpoint import read_snapshot
from focalnets.training.finalize import TrainResult, finalize
from focalnets.training.joining import check_equal, joined_processes, reporting_to_all
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
    distributed=None,
    model_parallel=1,
    verbose="auto",
    **changes,
):
    """Train a classifier and write its weights, metrics and figures to a run directory.

    Args:
        recipe: `Recipe` or str. Recipe, name of a recipe, or path of a Python file that defines `RECIPE`.
            Defaults to a recipe that suits `data`: "finetune" for your own images.
        data: Data set, see `open_dataset`. Defaults to that of the recipe.
        out: str or `pathlib.Path`. Run directory. It becomes a preset directory with `recipe.json`,
            `run.json`, `history.csv`, `curves.png`, `report.html`, `panels/`, `monitor/`, and the snapshot
            `last.npz`, from which `resume` continues. Defaults to "runs/latest".
        force: bool. Replace an existing run. Defaults to `False`.
        on_bad_image: str. "error" raises an error that lists unreadable images. "skip" leaves them out.
            Defaults to "error".
        cache_images: str. "memory", "stream" or "auto", see `open_dataset`. A recipe whose augmentation needs
            the original images always streams them. Defaults to "auto".
        max_minutes: float or None. Save a snapshot and stop after this time. Defaults to `None`, no limit.
        monitor_every: int or None. Number of epochs between two figures in `monitor/`. 0 draws none. Defaults
            to `None`, about ten figures per run.
        tensorboard: bool. Write TensorBoard event files. Defaults to `False`.
        force_bfloat16: bool. Allow bfloat16 where it is slower than float32. Defaults to `False`.
        distributed: bool or None. Train on several processes with one global batch, or, on JAX, on all
            devices of this process. Every process calls `train`, and process 0 writes. Defaults to `None`,
            which uses the processes of torchrun, if there are any (docs/scale.md).
        model_parallel: int. Number of devices that share one copy of the network, for networks larger than a
            device. Needs JAX. Defaults to 1.
        verbose: Verbosity of Keras' `fit`. Defaults to "auto".
        changes: Fields of the recipe to replace, such as `epochs=5`.

    Returns:
        `TrainResult`.

    Raises:
        ValueError: if recipe, field or data set is unknown, or the data do not fit the recipe.
        FileExistsError: if `out` is not empty and `force` is `False`, or another process writes to `out`.
        FloatingPointError: if the loss becomes NaN or infinite, see `StopOnNaN`.

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
    data = _located(data)
    if recipe.preset not in CHECKPOINTS:
        recipe = dataclasses.replace(recipe, preset=_absolute(recipe.preset))
    if recipe.preset and pathlib.Path(recipe.preset) == expanded(out).resolve():
        raise ValueError(f"{out} is the preset to start from. Choose another directory for the new run.")
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
    with joined_processes(distributed, model_parallel) as processes:
        with reporting_to_all(processes):
            if processes is None or processes.rank == 0:
                check_output_directory(out, "run", force, inputs)
            recipe = _with_precision(recipe, force_bfloat16)  # JAX finds its devices, so not earlier
            trainer = Trainer(recipe, settings, processes)
            fingerprint = trainer.fingerprint()
        check_equal(processes, trainer, fingerprint, None)
        for text in describe_misfits(recipe, trainer.converter, trainer.dataset.survey()):
            _log.warning(text)
        _report_drawn(trainer)
        if processes is not None and processes.rank > 0:
            return _run(trainer, expanded(out), None, max_minutes, 0)
        with new_output_directory(out, "run", force, inputs) as directory:
            write_json(directory / "recipe.json", {**dataclasses.asdict(recipe), "data": data})
            where = {"backend": keras.backend.backend(), "keras": keras.__version__, "focalnets": __version__}
            where["machine"] = accelerator() or machine()
            where["processes"] = 1 if processes is None else processes.count
            record = {**settings, **where, "images": _images(trainer), "fingerprint": fingerprint}
            write_json(directory / "run.json", record)
            return _run(trainer, directory, None, max_minutes, verbose)


def resume(directory, max_minutes=None, verbose="auto", data=None, distributed=None, model_parallel=1):
    """Resume a run that was stopped or killed, from its last snapshot.

    On the same machine and backend, and with the same number of processes, the final weights are bit for bit
    those of an uninterrupted run.

    Args:
        directory: str or `pathlib.Path`. Run directory.
        max_minutes: float or None. Time limit of this session, see `train`. Defaults to `None`.
        verbose: Verbosity of Keras' `fit`. Defaults to "auto".
        data: New path of the data set, if it was moved. Defaults to the path in `run.json`.
        distributed: bool or None. See `train`. The number of processes may differ from that of the start.
            Defaults to `None`.
        model_parallel: int. See `train`. It may differ from that of the start. Defaults to 1.

    Returns:
        `TrainResult`.

    Raises:
        ValueError: if the directory is not a run, its data changed, or it was started on another backend.
        FileExistsError: if another process writes to the directory.

    >>> import dataclasses, tempfile
    >>> from focalnets import resume, train
    >>> from focalnets.training.recipe import load_recipe
    >>> short = dataclasses.replace(load_recipe("digits"), epochs=1)
    >>> stopped = train(short, out=tempfile.mkdtemp(), max_minutes=1e-6, monitor_every=0, verbose=0)
    >>> stopped.complete, resume(stopped.directory, verbose=0).complete
    (False, True)
    """
    directory, moved = expanded(directory), data is not None
    settings, recipe = read_run(directory), read_recipe(directory)
    check_run(settings, directory, keras.backend.backend(), moved)
    with joined_processes(distributed, model_parallel) as processes:
        writes = processes is None or processes.rank == 0
        with resumed_directory(directory) if writes else contextlib.nullcontext():
            with reporting_to_all(processes):
                snapshot = read_snapshot(directory / "last.npz")
                if moved:
                    settings["data"] = _located(data)
                trainer = Trainer(recipe, settings, processes)
                fingerprint = trainer.fingerprint()
                if fingerprint != settings["fingerprint"]:
                    raise ValueError(_changed_data(trainer, settings))
            check_equal(processes, trainer, fingerprint, snapshot)
            if moved and writes:
                write_json(
                    directory / "recipe.json", {**dataclasses.asdict(recipe), "data": settings["data"]}
                )
                write_json(directory / "run.json", settings)
            return _run(trainer, directory, snapshot, max_minutes, verbose if writes else 0)


def _changed_data(trainer, settings):
    then, now = settings["images"], _images(trainer)
    what = (
        f"{then['train']} training and {then['validation']} validation images at the start, "
        f"{now['train']} and {now['validation']} now"
        if then != now
        else "the number of images is the same, but files, labels or contents differ"
    )
    return (
        f"The data at {settings['data']}, or the preprocessing of the preset, changed since the run started: "
        f"{what}. Restore the data, give their path with --data, or start a new run."
    )


def _images(trainer):
    return {"train": len(trainer.training), "validation": len(trainer.validation)}


def _report_drawn(trainer):
    """Log the sizes of the splits that were drawn, if the data set has no splits."""
    if trainer.dataset.drawn_from is None or "test" not in trainer.dataset.splits:
        return
    _log.warning(
        "The data set has no test split. Of %d images, %d are for testing (a fifth of each class, drawn by "
        "file name), %d for validation and %d for training. Use folders train/ and test/ to set the splits.",
        trainer.dataset.drawn_from,
        len(trainer.dataset.splits["test"]),
        len(trainer.validation),
        len(trainer.training),
    )


def _run(trainer, directory, snapshot, max_minutes, verbose):
    writes = trainer.processes is None or trainer.processes.rank == 0
    try:
        recorder, complete = trainer.fit(directory, snapshot, max_minutes, verbose)
        if complete:
            return finalize(trainer, directory, recorder)
    finally:
        if writes:
            with contextlib.suppress(OSError):  # on a full disk, an error is raised already
                Manifest(directory).seal()
    curves = directory / "curves.png"
    return TrainResult(directory, curves, [], None, recorder.rows, None, None, trainer.dataset.unreadable)


def _located(data):
    """Data set with an absolute path, so that a run can be resumed from any directory."""
    return str(data if data in NAMES else _absolute(data))  # names have priority over folders


def _absolute(name):
    """Absolute path, if the path exists."""
    path = expanded(name)
    return str(path.resolve()) if name and path.exists() else name


def _with_precision(recipe, force_bfloat16):
    """Replace precision "auto" by the faster one on this machine. ValueError if bfloat16 is very slow."""
    if recipe.precision == "auto":
        return dataclasses.replace(recipe, precision="bfloat16" if prefer_bfloat16() else "float32")
    if recipe.precision == "bfloat16" and not force_bfloat16 and not bfloat16_supported():
        raise ValueError(
            "This processor does not support bfloat16, so torch emulates it about 150 times slower than "
            "float32. Use precision=float32, or allow it with --force-bfloat16."
        )
    return recipe
