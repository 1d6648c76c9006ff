"""Recipe: everything that a training run depends on, in one record."""

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import traceback
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from focalnets.files import expanded
from focalnets.images.augment import Augmentation
from focalnets.names import did_you_mean, sibling_names, unknown_name
from focalnets.schema import check_fields
from focalnets.training.recipes import recipe_names

# Upper limits against damaged and hostile files; lower ones are below.
_Count = Annotated[int, Meta(le=1_000_000)]
_Number = Annotated[float, Meta(le=1e38)]
_Text = Annotated[str, Meta(max_length=10_000)]
_Channels = Annotated[tuple[float, ...], Meta(max_length=1024)]


@dataclass(frozen=True)
class Recipe:
    """One experiment. Runs keep it as `recipe.json`.

    Attributes:
        name: what the recipe is called.
        data: default of `open_dataset`'s spec; "" if the user has to name it.
        architecture: name in `ARCHITECTURES`; "" with a `preset`.
        preset: what to start from, anything that `FocalNetImageClassifier.from_preset` takes: its
            backbone, its preprocessing, and its head if the classes are the same; "" to start from random
            weights.
        image_size: side of the square images in pixels; None for the preset's.
        mean, std: per channel, for the FocalNetImageConverter; None for the preset's.
        interpolation: of the FocalNetImageConverter; None for the preset's, or "bicubic".
        crop_fraction: of the FocalNetImageConverter, for validation and test; None for the preset's, or 1.
        epochs: passes over the training images.
        batch_size: images a step.
        optimizer: "adamw", or "muon" for the weight matrices and AdamW for the rest.
        accumulation: batches whose gradients are averaged before one update.
        learning_rate: peak, reached after the warm-up; then half a cosine down to the final one.
        final_learning_rate: at the last step.
        warmup_fraction: share of all steps in which the rate rises linearly.
        weight_decay: decoupled (AdamW), on kernels only: not on biases, norms and layer scales.
        clip_norm: largest global norm of the gradients; 0 for no limit.
        layer_decay: factor on the learning rate from each block to the one before it; 1 for none.
        frozen_stages: so many stages, and the stem, keep their weights; 0 for none.
        unfreeze_epochs: progressive unfreezing: the head learns alone for so many epochs, then the last stage
            joins in, after as many the one before it, and so on; 0 for all from the start.
        ema_decay: average the weights, an update keeping so much; validation and the preset take the
            average. 0 for none.
        drop_path_rate, dropout_rate: instead of the architecture's; None for that.
        class_weights: "balanced" to weigh the loss of each class by 1 / its share of the training images, so
            that rare classes count as much as frequent ones; "none" for all images alike.
        label_smoothing: share of the target spread over all classes.
        precision: "float32", or "bfloat16" for mixed precision: weights stay float32. "auto" is the one that
            is faster where the run begins, and the run's record has that.
        augmentation: how training images are varied; see `Augmentation`.
        validation_fraction: share of the training images held out, where the data set has no "val" split.
        keep_weights: which epoch's become the preset: "best" by validation accuracy (by validation loss with
            balanced class weights, which it then has, too), or "last".
        seed: of initial values, order, augmentation, dropout and drop path.

    Raises:
        ValueError: on values out of range, or that exclude each other.
    """

    name: _Text
    data: _Text = ""
    architecture: _Text = ""
    preset: _Text = ""
    image_size: Annotated[int, Meta(le=8192)] | None = None
    mean: _Channels | None = None
    std: _Channels | None = None
    interpolation: _Text | None = None
    crop_fraction: float | None = None
    epochs: _Count = 10
    batch_size: _Count = 128
    optimizer: typing.Literal["adamw", "muon"] = "adamw"
    accumulation: _Count = 1
    learning_rate: _Number = 1e-3
    final_learning_rate: _Number = 0.0
    warmup_fraction: float = 0.1
    weight_decay: _Number = 0.05
    clip_norm: _Number = 5.0
    layer_decay: _Number = 1.0
    frozen_stages: _Count = 0
    unfreeze_epochs: _Number = 0.0
    ema_decay: float = 0.0
    drop_path_rate: Annotated[float, Meta(ge=0, lt=1)] | None = None
    dropout_rate: Annotated[float, Meta(ge=0, lt=1)] | None = None
    class_weights: typing.Literal["none", "balanced"] = "none"
    label_smoothing: float = 0.0
    precision: typing.Literal["float32", "bfloat16", "auto"] = "float32"
    augmentation: Augmentation = field(default_factory=Augmentation)
    validation_fraction: float = 0.1
    keep_weights: typing.Literal["best", "last"] = "best"
    seed: int = 0

    def __post_init__(self):
        check_fields(self)
        for name in ("epochs", "batch_size", "accumulation", "learning_rate", "layer_decay"):
            if not getattr(self, name) > 0:  # also if it is not a number
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")
        for name in ("weight_decay", "clip_norm", "final_learning_rate", "frozen_stages", "unfreeze_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32); got {self.seed}.")
        for name in ("warmup_fraction", "label_smoothing", "validation_fraction", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}.")
        if self.preset and self.architecture:
            raise ValueError("A recipe starts from a preset or from an architecture, not from both.")
        if not self.preset and self.architecture and None in (self.image_size, self.mean, self.std):
            raise ValueError("A recipe with an architecture needs image_size, mean and std.")
        if self.image_size is not None and not self.image_size > 0:
            raise ValueError(f"image_size must be positive; got {self.image_size}.")


def recipe_file(name):
    """Path of the Python file of a recipe, by its name or by that path itself.

    Raises:
        ValueError: listing the names, if there is none.
    """
    from focalnets.training import recipes

    if str(name).endswith(".py"):
        path = expanded(name)
        if not path.is_file():
            hint = did_you_mean(name, sibling_names(path))
            raise ValueError(f"Recipe file not found: {str(name)!r}. Check the path.{hint}")
        return path
    if name not in recipe_names():
        raise ValueError(unknown_name("recipe", name, recipe_names()))
    return pathlib.Path(recipes.__path__[0]) / f"{name}.py"


def load_recipe(name):
    """The `Recipe` of that name, or of the Python file of that path, which has to define RECIPE.

    Raises:
        ValueError: if there is no such recipe or file, or the file defines none, or fails.

    >>> from focalnets.training.recipe import load_recipe
    >>> load_recipe("digits").architecture
    'focalnet_pico'
    """
    path = recipe_file(name)
    status = path.stat()
    return _executed(path, path.resolve(), status.st_mtime_ns, status.st_size)


@functools.cache
def _executed(path, *version):
    """The `Recipe` that a Python file defines. A file of one version is executed once in a process."""
    specification = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's own may raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == specification.origin]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} does not define RECIPE, a focalnets.Recipe.")
    return recipe


def data_for(recipe, data=None):
    """What a recipe is trained on: `data`, or the recipe's own if that is None.

    Raises:
        ValueError: if there is neither.
    """
    data = recipe.data if data is None else data
    if not data:
        raise ValueError(f"Recipe {recipe.name} has no data of its own; name a folder or zip with --data.")
    return data


def recipe_from_json(values):
    """The `Recipe` of a run's `recipe.json`; ValueError naming fields that are unknown or out of limits."""
    augmentation = values.get("augmentation", {}) if isinstance(values, dict) else {}
    if isinstance(augmentation, dict):  # a name in runs that were begun before November 2026
        augmentation = {
            "color_jitter" if name == "colour_jitter" else name: value for name, value in augmentation.items()
        }
    augmentation = _checked(Augmentation, augmentation)
    recipe = _checked(Recipe, values)
    if "name" not in recipe:
        raise ValueError("`name` is missing.")
    return Recipe(**{**recipe, "augmentation": Augmentation(**augmentation)})


def _checked(record, values):
    if not isinstance(values, dict):
        raise ValueError(
            f"Expected the fields of {record.__name__} as an object; got {type(values).__name__}."
        )
    unknown = sorted(set(values) - {one.name for one in dataclasses.fields(record)})
    if unknown:
        names = ", ".join(name if name.isidentifier() else repr(name[:40]) for name in unknown[:10])
        raise ValueError(f"Unknown fields of a recipe: {names}; another focalnets wrote it.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def replace_fields(recipe, changes):
    """A recipe with fields replaced.

    Args:
        recipe: a `Recipe`.
        changes: dict. Name of a field -> value.

    Raises:
        ValueError: if there is no such field, or it does not take the value.

    >>> from focalnets.training.recipe import load_recipe, replace_fields
    >>> replace_fields(load_recipe("digits"), {"epochs": 5}).epochs
    5
    """
    names = [field.name for field in dataclasses.fields(recipe)]
    for name in changes:
        if name not in names:
            raise ValueError(unknown_name("recipe field", name, names))
    return dataclasses.replace(recipe, **changes)


def change(recipe, changes):
    """A recipe with fields replaced, given as texts.

    Args:
        recipe: a `Recipe`.
        changes: texts "field=value", such as "epochs=5", "augmentation.mixup=0.2", "mean=0.5,0.5,0.5" or
            "drop_path_rate=none".

    Raises:
        ValueError: naming the fields there are, or the type that was expected.

    >>> from focalnets.training.recipe import change, load_recipe
    >>> change(load_recipe("digits"), ["epochs=5", "augmentation.flip=true"]).augmentation.flip
    True
    """
    outer, inner = {}, {}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"A change is field=value; got {text!r}.")
        if name.startswith("augmentation."):
            name = name.removeprefix("augmentation.")
            inner[name] = _value(recipe.augmentation, name, value)
        else:
            outer[name] = _value(recipe, name, value)
    # All at once: values may exclude each other, or need each other, and have no order.
    if inner:
        outer["augmentation"] = dataclasses.replace(recipe.augmentation, **inner)
    return dataclasses.replace(recipe, **outer)


def _value(record, name, text):
    """The text as a value of the type of that field."""
    types_of = typing.get_type_hints(type(record))
    if name not in types_of or dataclasses.is_dataclass(types_of[name]):
        names = [
            f"{key}.<field>" if dataclasses.is_dataclass(kind) else key for key, kind in types_of.items()
        ]
        raise ValueError(
            f"{type(record).__name__} has no field {name!r}; it has: {', '.join(names)}."
            f"{did_you_mean(name, types_of)}"
        )
    try:
        return _parsed(types_of[name], text)
    except ValueError as error:
        raise ValueError(f"{name} does not take {text!r}: {error}.") from error


def _parsed(kind, text):
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        return _parsed(next(part for part in typing.get_args(kind) if part is not type(None)), text)
    if typing.get_origin(kind) is tuple:
        return tuple(_parsed(typing.get_args(kind)[0], part) for part in text.split(","))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("it must be true or false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("it must be a whole number" if kind is int else "it must be a number") from None
    return text
