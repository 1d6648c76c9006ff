"""`Recipe`: all settings of a training run, in one record."""

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import traceback
import typing
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from focalnets.files import expanded
from focalnets.images.augment import Augmentation
from focalnets.names import did_you_mean, sibling_names, unknown_name
from focalnets.schema import check_fields, read_changes
from focalnets.training.recipes import recipe_names

# Upper limits reject damaged and hostile files. Lower limits are in `Recipe.__post_init__`.
_Count = Annotated[int, Meta(le=1_000_000)]
_Number = Annotated[float, Meta(le=1e38)]
_Text = Annotated[str, Meta(max_length=10_000)]
_INNER = "augmentation."
_Channels = Annotated[tuple[float, ...], Meta(max_length=1024)]


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run. The run directory stores them as `recipe.json`.

    Attributes:
        name: str. Name of the recipe.
        data: str. Data set, as in `open_dataset`. Defaults to "", which requires `data` in `train`.
        architecture: str. Name in `ARCHITECTURES`. Excludes `preset`. Defaults to "".
        preset: str. Weights to start from, as in `FocalNetImageClassifier.from_preset`: backbone,
            preprocessing, and the head if the classes are the same. Defaults to "", random weights.
        image_size: int or None. Side of the square images in pixels. Defaults to that of the preset.
        mean, std: tuple of float or None. Per-channel normalization of pixels scaled to 0..1. Default to
            those of the preset.
        interpolation: str or None. Resizing filter. Defaults to that of the preset, or "bicubic".
        crop_fraction: float or None. Side of the center crop of validation and test images, as a fraction
            of the resized image. Defaults to that of the preset, or 1.
        epochs: int. Number of passes over the training images. Defaults to 10.
        batch_size: int. Number of images per batch. Defaults to 128.
        optimizer: str. "adamw", or "muon" for Muon on matrices and AdamW otherwise. Defaults to "adamw".
        accumulation: int. Number of batches whose gradients are averaged for one update. Defaults to 1.
        learning_rate: float. Peak, reached after the warm-up and followed by a cosine. Defaults to 1e-3.
        final_learning_rate: float. Learning rate after the last step. Defaults to 0.
        warmup_fraction: float. Fraction of steps with a linearly rising learning rate. Defaults to 0.1.
        weight_decay: float. Decoupled decay of kernels, not of biases, norms, layer scales. Defaults to 0.05.
        clip_norm: float. Maximum global norm of the gradients, 0 for no limit. Defaults to 5.
        layer_decay: float. Factor on the learning rate from each block to the previous one. Defaults to 1.
        frozen_stages: int. Freeze the stem and this many stages. Defaults to 0.
        unfreeze_epochs: float. Epochs that the head trains alone. After every further period of this length,
            the next stage is unfrozen, starting with the last stage. Defaults to 0, all from the start.
        ema_decay: float. Decay of the moving average of the weights. Validation and the preset use the
            average. Defaults to 0, no average.
        drop_path_rate, dropout_rate: float or None. Default to those of the architecture or preset.
        class_weights: str. "balanced" multiplies the loss of each class by its inverse frequency, so that
            rare classes count as much as frequent ones. Defaults to "none", no factors.
        label_smoothing: float. Fraction of the target that is spread over all classes. Defaults to 0.
        precision: str. "float32", "bfloat16" (mixed precision with float32 weights), or "auto", the faster of
            the two on the machine that starts the run. The run records the choice. Defaults to "float32".
        augmentation: Augmentation. Random changes of the training images. Defaults to none.
        validation_fraction: float. Fraction of the training images held out for validation, if the data set
            has no "val" split. Defaults to 0.1.
        keep_weights: str. Epoch whose weights are saved as the preset: "last", or "best" for the highest
            validation accuracy. With balanced class weights, "best" is the lowest validation loss, which has
            the same factors. Defaults to "best".
        seed: int. Seed of initial weights, order, augmentation, dropout and drop path. Defaults to 0.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.
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
            if not getattr(self, name) > 0:  # rejects NaN, too
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
            both = f"{self.preset!r} and {self.architecture!r}"
            raise ValueError(f"A recipe sets either preset or architecture; got {both}.")
        if not self.preset and self.architecture and None in (self.image_size, self.mean, self.std):
            raise ValueError("A recipe with an architecture must also set image_size, mean and std.")
        if self.image_size is not None and not self.image_size > 0:
            raise ValueError(f"image_size must be positive; got {self.image_size}.")


def recipe_file(name):
    """Path of the Python file of a recipe.

    Args:
        name: str. Name of a recipe, or path of a `.py` file.

    Raises:
        ValueError: if the recipe or file does not exist.
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
    """Load a `Recipe`.

    Args:
        name: str. Name of a recipe, or path of a `.py` file that defines `RECIPE`.

    Raises:
        ValueError: if the recipe or file does not exist, or the file fails or does not define `RECIPE`.

    >>> from focalnets.training.recipe import load_recipe
    >>> load_recipe("digits").architecture
    'focalnet_pico'
    """
    path = recipe_file(name)
    status = path.stat()
    return _executed(path, path.resolve(), status.st_mtime_ns, status.st_size)


@functools.cache
def _executed(path, *version):
    """The `Recipe` that a Python file defines. Each version of a file is executed once per process."""
    specification = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == specification.origin]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} does not define a recipe. Add RECIPE = focalnets.Recipe(...).")
    return recipe


def data_for(recipe, data=None):
    """`data`, or the data set of the recipe if `data` is None. ValueError if neither is given."""
    data = recipe.data if data is None else data
    if not data:
        raise ValueError(f"Recipe {recipe.name!r} does not set data. Give a folder or zip with --data.")
    return data


def recipe_from_json(values):
    """The `Recipe` in the JSON of a run. ValueError if a field is unknown, missing or out of range."""
    augmentation = values.get("augmentation", {}) if isinstance(values, dict) else {}
    if isinstance(augmentation, dict):  # runs started before November 2026 use the former name
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
            f"Expected an object with the fields of {record.__name__}; got {type(values).__name__}."
        )
    unknown = sorted(set(values) - {one.name for one in dataclasses.fields(record)})
    if unknown:
        names = ", ".join(name if name.isidentifier() else repr(name[:40]) for name in unknown[:10])
        raise ValueError(f"Unknown recipe fields: {names}. Another version of focalnets wrote this recipe.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def replace_fields(recipe, changes):
    """Replace fields of a recipe.

    Args:
        recipe: `Recipe`.
        changes: dict. Names and new values of fields.

    Returns:
        A new `Recipe`.

    Raises:
        ValueError: if a field does not exist, or a value is out of range.

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
    """Replace fields of a recipe, given as text.

    Args:
        recipe: `Recipe`.
        changes: list of str. Each is "NAME=VALUE", such as "epochs=5", "augmentation.mixup=0.2",
            "mean=0.5,0.5,0.5" or "drop_path_rate=none".

    Returns:
        A new `Recipe`.

    Raises:
        ValueError: if a field does not exist, or a value has the wrong type or is out of range.

    >>> from focalnets.training.recipe import change, load_recipe
    >>> change(load_recipe("digits"), ["epochs=5", "augmentation.flip=true"]).augmentation.flip
    True
    """
    kinds = typing.get_type_hints(Recipe)
    inner = typing.get_type_hints(kinds.pop("augmentation"))
    kinds |= {_INNER + name: kind for name, kind in inner.items()}
    values = read_changes(changes, kinds, "recipe field")
    inner = {name: values.pop(name) for name in list(values) if name.startswith(_INNER)}
    # All fields at once: intermediate combinations may be invalid.
    if inner:
        inner = {name.removeprefix(_INNER): value for name, value in inner.items()}
        values["augmentation"] = dataclasses.replace(recipe.augmentation, **inner)
    return dataclasses.replace(recipe, **values)
