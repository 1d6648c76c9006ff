"""Checks of images and labels, with errors that describe them. Keras' errors print the arrays."""

import os

import numpy as np
from keras import ops, tree

from focalnets.models.compiling import INTEGER_LABELS, ONE_HOT_LABELS, identifier_name, is_kind
from focalnets.pixel_range import holds_numbers

# (channels of the images, channels of the network) -> alternative conversion of an array.
CONVERSIONS = {
    (1, 3): " or np.repeat(images, 3, axis=-1)",
    (4, 3): " or, without transparency, images[..., :3]",
}
_IMAGE_CHANNELS = (1, 3, 4)


def first_array(x):
    """First array or TensorSpec in `x`, which may be any data that Keras accepts, or None."""
    if isinstance(x, list | tuple | dict):
        x = next(iter(tree.flatten(x)), None)
    return x if hasattr(x, "shape") else None


def batch_images(x):
    """First array in `x` if it is a batch of images (N, H, W, C), else None."""
    array = first_array(x)
    try:
        return array if array is not None and len(array.shape) == 4 else None
    except ValueError:  # a TensorSpec of unknown rank
        return None


def is_empty(x):
    """Check whether data that Keras accepts have no images, without reading them."""
    array = first_array(x)
    if array is not None:
        return len(array.shape) > 0 and array.shape[0] == 0
    try:
        return len(x) == 0  # a PyDataset, a DataLoader, a tf.data.Dataset, []
    except (TypeError, NotImplementedError):  # None, a generator, endless data
        return False


def images_problem(x, channels):
    """Error text about the type and shape of images, or None.

    Args:
        x: Any data that Keras accepts as `x`.
        channels: int. Number of channels of the network.

    >>> import numpy as np
    >>> from focalnets.models.batches import images_problem
    >>> images_problem(np.zeros((2, 3, 32, 32)), 3)
    'an array of shape (2, 3, 32, 32); expected (N, height, width, 3). Move the channels to the end: \
np.moveaxis(images, 1, -1).'
    """
    several = isinstance(x, list | tuple)
    one = next(iter(tree.flatten(x)), None) if several else x
    expected = f"(N, height, width, {channels})"
    if (one is None and not several) or isinstance(one, str | os.PathLike) or hasattr(one, "getbands"):
        what = repr(one) if one is None or isinstance(one, str) else f"an object of type {type(one).__name__}"
        return (
            f"{what}; expected an array {expected}. For paths and PIL images, use "
            "focalnets.predict(classifier, images) or classifier.preprocess(images)."
        )
    array = first_array(x)
    if array is None:
        return None
    if several and len(x) > 1:
        return (
            f"a {type(x).__name__} of {len(x)} arrays; expected one array {expected}. Use np.stack(images), "
            "or classifier.preprocess(images) if the sizes differ."
        )
    if not holds_numbers(array.dtype):
        return (
            f"an array of dtype {array.dtype}; expected numbers. If it holds images or paths, convert them "
            "with classifier.preprocess(list(images))."
        )
    try:
        shape = tuple(array.shape)
    except ValueError:  # a TensorSpec of unknown rank
        return None
    advice = _advice(shape, channels)
    return None if advice is None else f"an array of shape {shape}; expected {expected}.{advice}"


def _advice(shape, channels):
    """Advice about images of this shape, after a space, or None if the shape is valid."""
    if len(shape) == 4 and shape[-1] in (None, channels):
        return " The images have no pixels." if 0 in shape[1:] else None
    if len(shape) == 4:
        if shape[1] == channels or (shape[1] in _IMAGE_CHANNELS and shape[-1] not in _IMAGE_CHANNELS):
            return " Move the channels to the end: np.moveaxis(images, 1, -1)."
        conversion = CONVERSIONS.get((shape[-1], channels), "")
        return f" Convert the channels with classifier.preprocess(images){conversion}."
    if len(shape) == 3 and shape[-1] == channels:
        return " This looks like one image: use images[None]."
    if len(shape) == 3 and channels == 1:
        return None  # (N, H, W), to which Keras adds the channel axis
    if len(shape) == 2 and channels == 1:
        return " This looks like one image: use images[None, ..., None]."
    return ""


def labels_problem(labels, loss, num_classes):
    """Error text about labels for a classification loss, or None. Unknown losses are not checked.

    Args:
        labels: Any data that Keras accepts as `y`.
        loss: Any loss that `compile` accepts.
        num_classes: int. Number of classes of the classifier.

    >>> import numpy as np
    >>> from focalnets.models.batches import labels_problem
    >>> labels_problem(np.array([1, 2]), "sparse_categorical_crossentropy", 2)
    'labels from 1 to 2; expected 0 to 1 for 2 classes. Classes are counted from 0: use labels - 1.'
    """
    labels, losses = first_array(labels), tree.flatten(loss)
    if labels is None or len(losses) != 1:
        return None
    loss, shape = losses[0], tuple(labels.shape)
    if is_kind(loss, ONE_HOT_LABELS) and shape[1:] != (num_classes,):
        return (
            f"labels of shape {shape}; {identifier_name(loss)} expects one-hot labels (N, {num_classes}). "
            f"Use keras.utils.to_categorical(labels, {num_classes}), or omit the loss for integer labels."
        )
    if not is_kind(loss, INTEGER_LABELS):
        return None
    if not holds_numbers(labels.dtype):
        fix = "Convert names with [class_names.index(name) for name in labels]."
        return f"labels of dtype {labels.dtype}; expected integers. {fix}"
    if shape[1:] not in ((), (1,)):
        return (
            f"labels of shape {shape}; {identifier_name(loss)} expects integers (N,). For one-hot labels, "
            "use labels.argmax(-1) or keras.losses.CategoricalCrossentropy(from_logits=True)."
        )
    if None in shape:  # a TensorSpec has no values
        return None
    values = ops.convert_to_numpy(labels)
    return _range_problem(values[values != getattr(loss, "ignore_class", None)], num_classes)


def _range_problem(values, num_classes):
    low, high = values.min(initial=0), values.max(initial=0)
    if low >= 0 and high < num_classes:  # False for NaN
        return None
    advice = "Increase num_classes, or correct the labels."
    if high == num_classes and values.min() == 1:
        advice = "Classes are counted from 0: use labels - 1."
    elif low < 0:
        advice = "Remove images without a label, or correct the labels."
    low, high = np.min(values), np.max(values)
    return f"labels from {low} to {high}; expected 0 to {num_classes - 1} for {num_classes} classes. {advice}"
