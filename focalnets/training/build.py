"""What a recipe is made into: preprocessing, network and splits."""

import dataclasses
import logging

import numpy as np

from focalnets.data.splits import split_validation
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.image_converter import FocalNetImageConverter
from focalnets.names import listed
from focalnets.presets.architectures import find_architecture
from focalnets.presets.labels import in_words
from focalnets.presets.load import build_architecture

_log = logging.getLogger("focalnets")


def make_converter(recipe, start):
    """The FocalNetImageConverter of a recipe; what the recipe leaves open is the preset's."""
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
        raise ValueError(f"The preset {recipe.preset} has no preprocessing to go on with.")
    return FocalNetImageConverter.from_config({**start.image_converter.get_config(), **chosen})


def make_classifier(recipe, start, converter, class_names):
    """The network of the recipe's architecture, or the preset's, with its head if classes are the same."""
    class_names = tuple(in_words(class_names))  # of ImageNet's folders, WordNet's identifiers
    names = {"num_classes": len(class_names), "image_converter": converter, "class_names": class_names}
    if start is None:
        architecture = find_architecture(recipe.architecture)
        backbone = {**architecture.backbone, **_rates(recipe)}
        architecture = dataclasses.replace(architecture, backbone=backbone, channels=len(converter.mean))
        return build_architecture(architecture, **names)
    config = {**start.backbone.get_config(), **_rates(recipe)}
    config.pop("dtype", None)
    config["seed"] = None  # drawn anew, from the recipe's
    classifier = FocalNetImageClassifier(type(start.backbone).from_config(config), **names)
    classifier.backbone.set_weights(start.backbone.get_weights())
    if start.class_names == class_names:
        classifier.set_weights(start.get_weights())
    else:
        _log.warning("new head for %d classes; the preset's has %d", len(class_names), start.num_classes)
    return classifier


def _rates(recipe):
    """The backbone's arguments that the recipe replaces."""
    rates = {name: getattr(recipe, name) for name in ("drop_path_rate", "dropout_rate")}
    return {name: rate for name, rate in rates.items() if rate is not None}


def freeze(classifier, stages):
    """Keep the weights of the stem and of the first stages, with the down-sampling that ends each.

    The last norm learns in any case, with the head.
    """
    if stages == 0:
        return
    blocks = classifier.backbone.stages
    if stages > len(blocks):
        raise ValueError(
            f"frozen_stages must be at most {len(blocks)}, the stages of this network; got {stages}."
        )
    first_trainable = blocks[stages][0] if stages < len(blocks) else None
    for layer in classifier.backbone.layers:
        if layer is first_trainable:
            return
        layer.trainable = layer.name == "norm"


def training_splits(dataset, recipe):
    """(train, val) of a data set; without a val split of its own, the recipe's share of train.

    Raises:
        ValueError: if there is no train split, one class only, or nothing to validate with.
    """
    if "train" not in dataset.splits:
        raise ValueError(f"The data have no split train; they have: {', '.join(dataset.splits)}.")
    training = dataset.splits["train"]
    _check_classes(training, dataset.class_names)
    if "val" in dataset.splits:
        return training, dataset.splits["val"]
    if np.bincount(training.labels).max() == 1:
        raise ValueError(
            "Each class has one training image only: none can be held out for validation. Add images, or "
            "give the data set a val/ folder."
        )
    training, validation = split_validation(training, recipe.validation_fraction, recipe.seed)
    if len(validation) == 0:
        raise ValueError(
            f"The recipe's validation_fraction, {recipe.validation_fraction}, leaves no validation images; "
            "raise it, or give the data set a val/ folder."
        )
    return training, validation


def _check_classes(training, class_names):
    """Refuse data that show one class only; warn of classes that are never seen."""
    seen = np.bincount(training.labels, minlength=len(class_names)) > 0
    if seen.sum() < 2:
        names = [name for name, one in zip(class_names, seen, strict=True) if one]
        raise ValueError(
            f"The training images have one class only, {', '.join(names)}: give every class a folder of its "
            "own, named like it."
        )
    unseen = [name for name, one in zip(class_names, seen, strict=True) if not one]
    if unseen:
        _log.warning("no training images of: %s. The network cannot learn these classes.", listed(unseen))


def class_weights(recipe, training, num_classes):
    """The recipe's factors on the loss, (classes,), mean 1 over the training images; None for none.

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
