"""Which recipe suits a data set, and what is lost where a recipe and a data set do not fit together."""

import dataclasses
import logging

from focalnets.presets.checkpoints import DEFAULT
from focalnets.training.recipe import load_recipe

# Data sets that a recipe was made for. For all others, fine-tuning reaches more in less time.
_MADE_FOR = {"digits": "digits", "cifar10": "cifar10_small"}

# Networks for images up to this side exist for small images. Larger ones are meant for photographs of any
# size, as is usual for ImageNet.
_SMALL_IMAGE_SIZE = 64

# Reducing or enlarging by less than this is usual.
_REDUCED, _ENLARGED = 3, 4

_BETTER_FOR_PHOTOGRAPHS = "focalnet_tiny_srf_imagenet1k"

_log = logging.getLogger("focalnets")


def recipe_for(data, preset=None):
    """The `Recipe` to use where none is named.

    Args:
        data: as for `train`. None for the digits, if there is no `preset` either.
        preset: weights to start from. None for those of the recipe.

    >>> from focalnets.training.suitability import recipe_for
    >>> recipe_for("digits").name, recipe_for("my_images.zip").name
    ('digits', 'finetune')
    """
    data = "digits" if data is None and preset is None else str(data)
    recipe = load_recipe("finetune" if preset else _MADE_FOR.get(data, "finetune"))
    return dataclasses.replace(recipe, preset=str(preset)) if preset else recipe


def report_choice(recipe, data):
    """Log which recipe is used where none was named, and what it does to `data`."""
    if recipe.preset == DEFAULT:
        what = f"fine-tunes {DEFAULT}, a network for 32 x 32 pixels, on color or grayscale images"
    elif recipe.preset:
        what = f"fine-tunes {recipe.preset}"
    else:
        what = f"trains {recipe.architecture} on {recipe.data or data}"
    _log.warning("No recipe given. Using %r, which %s.", recipe.name, what)


def describe_misfits(recipe, converter, survey):
    """What is lost where the preprocessing of a recipe and the stored images contradict each other.

    Args:
        recipe: `Recipe`.
        converter: `FocalNetImageConverter` of the recipe.
        survey: `data.survey.Survey` of the data set. None if no image could be read.

    Returns:
        List of texts, each with numbers and advice. Empty if everything fits.

    >>> from focalnets import FocalNetImageConverter
    >>> from focalnets.data.survey import Survey
    >>> from focalnets.training.recipe import load_recipe
    >>> from focalnets.training.suitability import describe_misfits
    >>> converter = FocalNetImageConverter((8, 8), mean=(0.3,), std=(0.37,))
    >>> texts = describe_misfits(load_recipe("digits"), converter, Survey(16, 375, 500, color=True))
    >>> for text in texts:
    ...     print(text.split(".")[0])
    The images have color, but recipe 'digits' reads them as grayscale
    The images have 500 x 375 pixels (median), but recipe 'digits' reduces them to 8 x 8
    """
    if survey is None:
        return []
    texts = []
    if survey.color and len(converter.mean) == 1:
        texts.append(
            f"The images have color, but recipe {recipe.name!r} reads them as grayscale. "
            f"{_advice_on_color(recipe)}"
        )
    if converter.image_size is None:
        return texts
    height, width = converter.image_size
    reduced = min(survey.height / height, survey.width / width)
    stored = f"The images have {survey.width} x {survey.height} pixels (median)"
    if max(height, width) <= _SMALL_IMAGE_SIZE and reduced >= _REDUCED:
        texts.append(
            f"{stored}, but recipe {recipe.name!r} reduces them to {width} x {height}. Details smaller than "
            f"{reduced:.0f} pixels are lost. {_advice_on_size(recipe)}"
        )
    if reduced < 1 / _ENLARGED:
        texts.append(
            f"{stored}, but recipe {recipe.name!r} enlarges them to {width} x {height}. This takes "
            f"{1 / reduced**2:.0f} times the computation and adds no detail. Use --set image_size="
            f"{max(32, 2 * min(survey.height, survey.width))}, or a recipe or preset for smaller images."
        )
    return texts


def _advice_on_color(recipe):
    if recipe.preset:
        return "Use a preset that was trained on color images."
    return "Use --recipe finetune, or a recipe of your own with three values in mean and std."


def _advice_on_size(recipe):
    finetune = "" if recipe.preset else "--recipe finetune "
    return (
        f"For photographs, use {finetune}--preset {_BETTER_FOR_PHOTOGRAPHS} (ImageNet weights for 224 x 224 "
        f"pixels, 110 MB to download) or {finetune}--set image_size=96."
    )
