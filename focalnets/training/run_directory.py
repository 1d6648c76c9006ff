"""The JSON files of a run directory, checked when they are read. Free of Keras."""

import os
import pathlib
import shlex
from typing import Annotated, Literal

import msgspec

from focalnets.presets.files import RUN
from focalnets.schema import checked, read_json
from focalnets.training.recipe import recipe_from_json

RECIPE = "recipe.json"

_Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class _Images(msgspec.Struct):
    train: Annotated[int, msgspec.Meta(ge=0)]
    validation: Annotated[int, msgspec.Meta(ge=0)]


class Run(msgspec.Struct):
    """What `run.json` must have, for the run to be resumed; what else it says is for people."""

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
    """The settings in a run's `run.json`, as a dict.

    Raises:
        ValueError: if there is no such file, or a value has another type than `train` writes.
    """
    path = pathlib.Path(directory) / RUN
    if not path.is_file():
        raise ValueError(f"{directory} is not a run that can be resumed: it has no {RUN}.")
    settings = read_json(path)
    if isinstance(settings, dict) and "keep" in settings:  # the name of `cache_images` in earlier runs
        settings["cache_images"] = settings.pop("keep")
    checked(settings, Run, path, "The run cannot be resumed; start a new one.")
    return settings


def check_run(settings, directory, backend, moved=False):
    """Refuse a run that cannot be resumed here.

    Args:
        settings: dict. What `read_run` returned.
        directory: path of the run, for the message.
        backend: str. Keras backend that is to resume it.
        moved: bool. Whether another place of its data was named. Defaults to False.

    Raises:
        ValueError: if the run was started on another backend or by another focalnets, or its data were moved.
    """
    if settings["backend"] != backend:
        raise ValueError(
            f"{directory} was begun on {settings['backend']}, not on {backend}; resume it with --backend "
            f"{settings['backend']}."
        )
    if "images" not in settings:
        raise ValueError(
            f"{directory} was begun by another focalnets, {settings.get('focalnets', 'unknown')}, which knew "
            "its data otherwise: resume it with that, or begin anew."
        )
    data = settings["data"]
    if not moved and os.path.isabs(data) and not os.path.exists(data):
        raise ValueError(
            f"The data of this run are no longer at {data}. If they were moved: focalnets train --resume "
            f"{shlex.quote(str(directory))} --data NEW_PLACE."
        )


def read_recipe(directory):
    """The `Recipe` in a run's `recipe.json`.

    Raises:
        ValueError: if there is no such file, or it is not a recipe; naming field and limit.
    """
    path = pathlib.Path(directory) / RECIPE
    if not path.is_file():
        raise ValueError(f"{directory} is not a run that can be resumed: it has no {RECIPE}.")
    try:
        return recipe_from_json(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(str(path)).lstrip(': ')}") from error
