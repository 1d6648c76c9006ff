"""Recipe: everything that a training run depends on, in one record."""

import importlib
import pkgutil
from dataclasses import dataclass, field

from focalnets.data.augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """One experiment. Runs keep it as `recipe.json`.

    Attributes:
        name: what the recipe is called.
        data: default of `open_dataset`'s spec; "" if the user has to name it.
        architecture: name in `ARCHITECTURES`.
        image_size: side of the square images in pixels.
        mean, std: per channel, for the ImageConverter.
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: peak, reached after the warm-up; then half a cosine down to 0 at the last step.
        warmup_fraction: share of all steps in which the rate rises linearly.
        weight_decay: decoupled (AdamW), on kernels only: not on biases, norms and layer scales.
        label_smoothing: share of the target spread over all classes.
        clip_norm: largest global norm of the gradients.
        augmentation: how training images are varied; see `Augmentation`.
        validation_fraction: share of the training images held out, where the data set has no "val" split.
        seed: of initial values, order, augmentation, dropout and drop path.
    """

    name: str
    data: str
    architecture: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_fraction: float = 0.1
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    clip_norm: float = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    validation_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "learning_rate", "image_size"):
            if not getattr(self, name) > 0:  # also if it is not a number
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32); got {self.seed}.")
        for name in ("warmup_fraction", "label_smoothing", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}.")


def recipe_names():
    """Names of the recipes that come with focalnets.

    >>> from focalnets.training.recipe import recipe_names
    >>> recipe_names()
    ['cifar10_small', 'digits']
    """
    from focalnets.training import recipes

    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def load_recipe(name):
    """The `Recipe` of that name; ValueError listing the names if there is none.

    >>> from focalnets.training.recipe import load_recipe
    >>> load_recipe("digits").architecture
    'focalnet_pico'
    """
    if name not in recipe_names():
        raise ValueError(f"There is no recipe {name!r}; there are: {', '.join(recipe_names())}.")
    return importlib.import_module(f"focalnets.training.recipes.{name}").RECIPE
