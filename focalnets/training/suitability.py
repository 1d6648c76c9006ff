"""Choice of a recipe for a data set, and warnings when a recipe does not suit the images."""

import dataclasses
import logging

from focalnets.presets.checkpoints import DEFAULT
from focalnets.training.recipe import load_recipe

# Data sets with their own recipe. On all others, fine-tuning reaches a higher accuracy in less time.
_MADE_FOR = {"digits": "digits", "cifar10": "cifar10_small"}

# Networks for images up to this side are meant for small images. Larger networks take photographs of any
# size, as is usual for ImageNet.
_SMALL_IMAGE_SIZE = 64

# Smaller factors of reduction and enlargement are usual.
_REDUCED, _ENLARGED = 3, 4

_BETTER_FOR_PHOTOGRAPHS = "focalnet_tiny_srf_imagenet1k"

_log = logging.getLogger("focalnets")


def recipe_for(data, preset=None):
    """Choose the `Recipe` for a data set.

    Args:
        data: Data set, as for `train`. None stands for the digits, unless a preset is given.
        preset: str or None. Weights to start from. Defaults to `None`, those of the recipe.

    >>> from focalnets.training.suitability import recipe_for
    >>> recipe_for("digits").name, recipe_for("my_images.zip").name
    ('digits', 'finetune')
    """
    data = "digits" if data is None and preset is None else str(data)
    recipe = load_recipe("finetune" if preset else _MADE_FOR.get(data, "finetune"))
    return dataclasses.replace(recipe, preset=str(preset)) if preset else recipe


def report_choice(recipe, data):
    """Log the recipe that was chosen for `data`, and what it does."""
    if recipe.preset == DEFAULT:
        what = f"fine-tunes {DEFAULT}, a network for 32 x 32 pixels, on color or grayscale images"
    elif recipe.preset:
        what = f"fine-tunes {recipe.preset}"
    else:
        what = f"trains {recipe.architecture} on {recipe.data or data}"
    _log.warning("No recipe given. Using %r, which %s.", recipe.name, what)


def describe_misfits(recipe, converter, survey):
    """Describe how the preprocessing of a recipe does not suit the stored images.

    Args:
        recipe: `Recipe`.
        converter: `FocalNetImageConverter` of the recipe.
        survey: `data.survey.Survey` of the data set. None if no image could be read.

    Returns:
        list of str. Warnings with numbers and advice. Empty if the recipe suits the images.

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
