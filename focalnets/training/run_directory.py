"""The JSON files of a run directory, checked when they are read. Free of Keras."""

import pathlib
from typing import Annotated, Literal

import msgspec

from focalnets.schema import checked, read_json
from focalnets.training.recipe import recipe_from_json

RECIPE, RUN = "recipe.json", "run.json"

_Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class _Images(msgspec.Struct):
    train: Annotated[int, msgspec.Meta(ge=0)]
    validation: Annotated[int, msgspec.Meta(ge=0)]


class Run(msgspec.Struct):
    """What `run.json` must have, for the run to be resumed; what else it says is for people."""

    backend: _Text
    data: _Text
    on_bad_image: Literal["error", "skip"]
    keep: Literal["auto", "memory", "stream"]
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
    checked(settings, Run, path, "The run cannot be resumed; start a new one.")
    return settings


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
