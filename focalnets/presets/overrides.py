"""Arguments of `from_preset`, and advice for arguments of other libraries. Free of Keras."""

from focalnets.names import did_you_mean

# Arguments of the backbone that do not affect its weights.
KEEP_WEIGHTS = (
    *("dtype", "drop_path_rate", "dropout_rate", "mlp_hidden_dropout_rate", "rematerialize", "seed"),
    "image_shape",
)

# Arguments of the backbone that determine its weights or the use of them.
CHANGE_WEIGHTS = (
    *("embed_dim", "depths", "focal_levels", "focal_window", "focal_factor", "normalize_modulator"),
    *("norm_after_modulation", "patch_size", "overlap_embed", "stem_padding", "mlp_ratio", "activation"),
    *("norm_placement", "layer_scale_init", "norm_epsilon", "embedding_norm_epsilon", "pyramid_norm"),
    "kernel_initializer",
)

_OF_CLASSIFIERS = ("num_classes", "image_converter", "class_names")

# Arguments of other libraries, with advice.
_IN_OTHER_LIBRARIES = {
    "weights pretrained": "from_preset loads trained weights. Write load_weights=False for random weights.",
    "include_top": "Write FocalNetBackbone.from_preset(preset) for the network without its head, or "
    "num_classes=N for a new head.",
    "classes num_labels nb_classes": "Write num_classes=N.",
    "labels id2label classes_names": "Write class_names=[...].",
    "input_shape img_size image_size": "Write image_shape=(height, width, channels).",
    "in_chans channels": "The number of channels of a preset is fixed. classifier.preprocess(images) "
    "converts images to it.",
    "classifier_activation": "The classifier returns logits. keras.Sequential([classifier, "
    "keras.layers.Softmax()]) returns probabilities.",
    "preprocessor image_converter": "The preset has its own preprocessing. For another one, use "
    "FocalNetImageClassifier(FocalNetBackbone.from_preset(preset), num_classes, "
    "image_converter=FocalNetImageConverter(...)).",
    "pooling head_dtype input_tensor dropout": "For a head or inputs of your own, build a keras.Model on "
    "FocalNetBackbone.from_preset(preset).",
    "drop_rate dropout_prob": "Write dropout_rate=P.",
    "trainable": "Set classifier.backbone.trainable afterwards.",
}


def check_arguments(arguments, load_weights, others=()):
    """Refuse arguments that `from_preset` does not have.

    Args:
        arguments: dict. The arguments besides the preset and `load_weights`.
        load_weights: bool. Whether weights are loaded. If so, they determine the architecture.
        others: tuple of str. Names of valid arguments besides those of the backbone. Defaults to `()`.

    Raises:
        TypeError: if an argument is unknown.
        ValueError: if an argument would change the shapes or the use of trained weights.

    >>> from focalnets.presets.overrides import check_arguments
    >>> check_arguments({"classes": 5}, True)
    Traceback (most recent call last):
        ...
    TypeError: from_preset() has no argument classes (got classes=5). Write num_classes=N.
    """
    known = (*others, *KEEP_WEIGHTS)
    for name, value in arguments.items():
        if name in known or (name in CHANGE_WEIGHTS and not load_weights):
            continue
        if name in CHANGE_WEIGHTS:
            raise ValueError(
                f"from_preset() got {name}={value!r}, which the weights of the preset determine. Remove it, "
                "or write load_weights=False for random weights."
            )
        raise TypeError(unknown_argument("from_preset", name, value, ("load_weights", *known)))


def unknown_argument(function, name, value, known):
    """Error message for an argument that a function or constructor does not have.

    Args:
        function: str. Name of the function.
        name: str. Name of the argument.
        value: Value of the argument.
        known: tuple of str. Names of the arguments of the function.

    >>> from focalnets.presets.overrides import unknown_argument
    >>> unknown_argument("FocalNetImageClassifier", "depths", (2, 2), ("backbone", "num_classes"))
    'FocalNetImageClassifier() has no argument depths (got depths=(2, 2)). It is an argument of the \
backbone: FocalNetBackbone(depths=...).'
    """
    if function != "from_preset" and name in (*KEEP_WEIGHTS, *CHANGE_WEIGHTS):
        fix = f"It is an argument of the backbone: FocalNetBackbone({name}=...)."
    elif function != "from_preset" and name in _OF_CLASSIFIERS:
        arguments = ", ".join(_OF_CLASSIFIERS)
        fix = f"It is an argument of the classifier: FocalNetImageClassifier(backbone, {arguments})."
    else:
        advice = [text for names, text in _IN_OTHER_LIBRARIES.items() if name in names.split()]
        fix = advice[0] if advice else f"Available arguments: {', '.join(known)}.{did_you_mean(name, known)}"
    return f"{function}() has no argument {name} (got {name}={value!r:.60}). {fix}"
