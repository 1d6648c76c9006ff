"""Readers of the JSON files in a run directory, with checks. Does not import Keras."""

import os
import pathlib
import shlex
from typing import Annotated, Literal

import msgspec

from focalnets.names import did_you_mean, sibling_names
from focalnets.presets.files import RUN
from focalnets.schema import checked, read_json
from focalnets.training.recipe import recipe_from_json

RECIPE = "recipe.json"

_Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class _Images(msgspec.Struct):
    train: Annotated[int, msgspec.Meta(ge=0)]
    validation: Annotated[int, msgspec.Meta(ge=0)]


class Run(msgspec.Struct):
    """Fields of `run.json` that resuming needs. Other fields are for information."""

    backend: _Text
    data: _Text
    on_bad_image: Literal["error", "skip"]
    cache_images: Literal["auto", "memory", "stream"]
    monitor_every: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None
    tensorboard: bool
    fingerprint: _Text
    images: _Images | msgspec.UnsetType = msgspec.UNSET
    focalnets: _Text = "unknown"


def read_run(directory):
    """Read the settings in the `run.json` of a run, as a dict.

    Raises:
        ValueError: if the file does not exist, or a value has the wrong type.
    """
    path = pathlib.Path(directory) / RUN
    if not path.is_file():
        raise _not_a_run(path)
    settings = read_json(path)
    if isinstance(settings, dict) and "keep" in settings:  # former name of `cache_images`
        settings["cache_images"] = settings.pop("keep")
    checked(settings, Run, path, "This run cannot be resumed. Start a new run.")
    return settings


def check_run(settings, directory, backend, moved=False):
    """Raise if a run cannot be resumed here.

    Args:
        settings: dict. Result of `read_run`.
        directory: str or `pathlib.Path`. Run directory, for the message.
        backend: str. Current Keras backend.
        moved: bool. Whether a new path of the data was given. Defaults to `False`.

    Raises:
        ValueError: if backend or version of focalnets differ, or the data do not exist.
    """
    if settings["backend"] != backend:
        raise ValueError(
            f"{directory} was started on {settings['backend']}, and the current backend is {backend}. Resume "
            f"it with --backend {settings['backend']}."
        )
    if "images" not in settings:
        raise ValueError(
            f"{directory} was started by another version of focalnets: "
            f"{settings.get('focalnets', 'unknown')}. Resume it with that version, or start a new run."
        )
    data = settings["data"]
    if not moved and os.path.isabs(data) and not os.path.exists(data):
        raise ValueError(
            f"The data of this run do not exist: {data}. If they were moved, use focalnets train --resume "
            f"{shlex.quote(str(directory))} --data NEW_PATH."
        )


def read_recipe(directory):
    """Read the recipe in the `recipe.json` of a run.

    Raises:
        ValueError: if the file does not exist, or a field is unknown, missing or out of range.
    """
    path = pathlib.Path(directory) / RECIPE
    if not path.is_file():
        raise _not_a_run(path)
    try:
        return recipe_from_json(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(str(path)).lstrip(': ')}") from error


def _not_a_run(path):
    run = path.parent
    hint = "" if run.exists() else did_you_mean(run, sibling_names(run))
    return ValueError(f"{run} is not a run that can be resumed: it has no {path.name}.{hint}")
