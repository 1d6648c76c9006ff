"""Parts of a training run that a recipe describes: preprocessing, network and splits."""

import dataclasses
import logging

import numpy as np

from focalnets.data.find import NO_PREPROCESSING
from focalnets.data.splits import split_validation
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.image_converter import FocalNetImageConverter
from focalnets.names import listed
from focalnets.ops.processes import fetch
from focalnets.presets.architectures import find_architecture
from focalnets.presets.labels import in_words
from focalnets.presets.load import build_architecture

_log = logging.getLogger("focalnets")


def make_converter(recipe, start):
    """Make the `FocalNetImageConverter` of a recipe. `start` is the classifier of the preset, or None."""
    chosen = {
        name: getattr(recipe, name)
        for name in ("mean", "std", "interpolation", "crop_fraction")
        if getattr(recipe, name) is not None
    }
    if recipe.image_size is not None:
        chosen["image_size"] = (recipe.image_size,) * 2
    if start is None:
        return FocalNetImageConverter(**chosen)
    if start.image_converter is None:
        raise ValueError(NO_PREPROCESSING)
    return FocalNetImageConverter.from_config({**start.image_converter.get_config(), **chosen})


def make_classifier(recipe, start, converter, class_names):
    """Make the network of a recipe. The head of the preset is used if it has the same classes."""
    class_names = tuple(in_words(class_names))  # ImageNet folders are named by WordNet identifiers
    names = {"num_classes": len(class_names), "image_converter": converter, "class_names": class_names}
    if start is None:
        architecture = find_architecture(recipe.architecture)
        backbone = {**architecture.backbone, **_rates(recipe)}
        architecture = dataclasses.replace(architecture, backbone=backbone, channels=len(converter.mean))
        return build_architecture(architecture, **names)
    config = {**start.backbone.get_config(), **_rates(recipe)}
    config.pop("dtype", None)
    config["seed"] = None  # drawn from the seed of the recipe
    classifier = FocalNetImageClassifier(type(start.backbone).from_config(config), **names)
    classifier.backbone.set_weights(fetch(start.backbone.weights))
    if start.class_names == class_names:
        classifier.set_weights(fetch(start.weights))
    else:
        _log.warning(
            "The head is new: %d classes in the data, %d in the preset.", len(class_names), start.num_classes
        )
    return classifier


def _rates(recipe):
    """Arguments of the backbone that the recipe sets."""
    rates = {name: getattr(recipe, name) for name in ("drop_path_rate", "dropout_rate")}
    return {name: rate for name, rate in rates.items() if rate is not None}


def freeze(classifier, stages):
    """Freeze the stem and the first stages, with the down-sampling after each stage.

    The last norm and the head always train.
    """
    if stages == 0:
        return
    blocks = classifier.backbone.stages
    if stages > len(blocks):
        raise ValueError(f"frozen_stages must be at most {len(blocks)}, the number of stages; got {stages}.")
    first_trainable = blocks[stages][0] if stages < len(blocks) else None
    for layer in classifier.backbone.layers:
        if layer is first_trainable:
            return
        layer.trainable = layer.name == "norm"


def training_splits(dataset, recipe):
    """Training and validation split of a data set.

    Args:
        dataset: `ImageDataset`. Without a "val" split, validation images are held out of "train".
        recipe: `Recipe`.

    Raises:
        ValueError: if there is no "train" split, only one class, or no validation image.
    """
    if "train" not in dataset.splits:
        raise ValueError(f"The data set has no split 'train'. It has: {', '.join(dataset.splits)}.")
    training = dataset.splits["train"]
    _check_classes(training, dataset.class_names)
    if "val" in dataset.splits:
        return training, dataset.splits["val"]
    if np.bincount(training.labels).max() == 1:
        raise ValueError(
            "Each class has only one training image, so none can be held out for validation. Add images or a "
            "val/ folder."
        )
    training, validation = split_validation(training, recipe.validation_fraction, recipe.seed)
    if len(validation) == 0:
        raise ValueError(
            f"validation_fraction={recipe.validation_fraction} leaves no validation images. Increase it, or "
            "add a val/ folder."
        )
    return training, validation


def _check_classes(training, class_names):
    """Raise if the training images have only one class. Warn of classes without training images."""
    seen = np.bincount(training.labels, minlength=len(class_names)) > 0
    if seen.sum() < 2:
        names = [name for name, one in zip(class_names, seen, strict=True) if one]
        raise ValueError(
            f"The training images have only one class: {', '.join(names)}. Put the images of each class into "
            "a folder with its name."
        )
    unseen = [name for name, one in zip(class_names, seen, strict=True) if not one]
    if unseen:
        _log.warning("No training images of: %s. The network cannot learn these classes.", listed(unseen))


def class_weights(recipe, training, num_classes):
    """Factors on the loss of each class, or None for `class_weights="none"`.

    Args:
        recipe: `Recipe`.
        training: `Split`.
        num_classes: int.

    Returns:
        Array of shape (num_classes,), with mean 1 over the training images and 0 for absent classes.

    >>> import numpy as np
    >>> from focalnets.data.splits import Split
    >>> from focalnets.training.build import class_weights
    >>> from focalnets.training.recipe import Recipe
    >>> split = Split(np.zeros((3, 1, 1, 3), "uint8"), np.array([0, 0, 1]))
    >>> class_weights(Recipe("mine", class_weights="balanced"), split, 2).tolist()
    [0.75, 1.5]
    """
    if recipe.class_weights == "none":
        return None
    counts = np.bincount(training.labels, minlength=num_classes)
    present = counts > 0
    return np.where(present, len(training) / (present.sum() * counts.clip(1)), 0.0)
