"""FocalNetImageClassifier: images to logits."""

import reprlib

import keras

from focalnets.layers.initializers import dense_initializers
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.batches import labels_problem
from focalnets.models.compiling import (
    default_loss,
    default_metrics,
    default_optimizer,
    outer_loss_problem,
    probability_problem,
)
from focalnets.models.guarded import GuardedModel, in_h5_files, sample, warn_user
from focalnets.models.layers_in_front import scale_in_front
from focalnets.models.presets_property import Presets
from focalnets.names import repeated
from focalnets.pixel_range import range_problem

_SCALED = 1 / 16  # scale of a preceding `Rescaling` below which inputs are not pixels
# Parts of the graph. Assigning them would change what is saved, but not what is computed.
_FIXED = ("backbone", "num_classes", "image_converter", "pooling", "head", "to_float32")


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class FocalNetImageClassifier(GuardedModel):
    """Image classifier: a backbone, global average pooling, and a dense head that returns logits.

    `fit`, `evaluate` and `predict` warn if the pixels of the first batch are not in the range 0..255.
    `evaluate` and `predict` also warn if its size differs from `image_converter.image_size`. `fit` sets
    `image_converter.image_size` to the size of its images, and a preset stores it.

    Args:
        backbone: `FocalNetBackbone`. Use `classifier.backbone.trainable = False` to freeze it.
        num_classes: int. Number of classes.
        image_converter: `FocalNetImageConverter`. Its normalization is the first layer, so the model takes
            pixels 0..255 (uint8 or float). Defaults to `None`, which means that inputs are normalized.
        class_names: list of `num_classes` different str. Names of the classes, saved with the model. They can
            also be assigned later. Defaults to `None`.

    Input shape:
        (B, H, W, channels). H and W may differ from the training size, but the accuracy is lower then.
        `preprocess` resizes and crops images to the training size.

    Output shape:
        (B, num_classes), float32 also under mixed precision.

    Raises:
        ValueError: if `class_names` does not have `num_classes` different names, or `image_converter` and
            `backbone` differ in their number of channels.
        TypeError: if `backbone` is not a `FocalNetBackbone`, or an argument is unknown.

    Source: paper section 3.3; `FocalNet` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
    >>> backbone = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    >>> converter = FocalNetImageConverter()
    >>> classifier = FocalNetImageClassifier(backbone, num_classes=10, image_converter=converter)
    >>> tuple(classifier(np.zeros((2, 32, 32, 3), "uint8")).shape)
    (2, 10)
    """

    presets = Presets()
    _checked_outer_model = None  # (id of a model that contains this one, id of its loss)

    def __init__(self, backbone, num_classes, image_converter=None, class_names=None, dtype=None, name=None):
        if not isinstance(backbone, FocalNetBackbone):
            raise TypeError(
                f"backbone must be a FocalNetBackbone; got {reprlib.repr(backbone)}. For trained weights, "
                "use FocalNetImageClassifier.from_preset(preset, num_classes=...)."
            )
        class_names = _checked_names(class_names, num_classes)
        channels = backbone.image_shape[-1]
        if image_converter is not None and len(image_converter.mean) != channels:
            raise ValueError(
                f"The image_converter normalizes {len(image_converter.mean)} channels, but the backbone "
                f"takes {channels}. Give mean and std one value per channel."
            )

        # === Layers ===
        dtype = backbone.dtype_policy if dtype is None else dtype
        pooling = keras.layers.GlobalAveragePooling2D("channels_last", dtype=dtype, name="pooling")
        kernel, bias = dense_initializers(keras.initializers.get(backbone.kernel_initializer))
        head = keras.layers.Dense(
            num_classes, kernel_initializer=kernel, bias_initializer=bias, dtype=dtype, name="head"
        )
        to_float32 = keras.layers.Identity(dtype="float32", name="logits")

        # === Functional model ===
        inputs = keras.Input(backbone.image_shape, name="images")
        x = inputs if image_converter is None else image_converter(inputs)
        outputs = to_float32(head(pooling(backbone(x))))  # as in `classify`
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = keras.dtype_policies.get(dtype)  # functional models ignore the argument

        # === Config ===
        self.backbone = backbone
        self.num_classes = num_classes
        self.image_converter = image_converter
        self._class_names = class_names
        self.pooling = pooling
        self.head = head
        self.to_float32 = to_float32
        self._complete = True

    def __setattr__(self, name, value):
        if name in _FIXED and getattr(self, "_complete", False):
            raise AttributeError(
                f"{name} is part of the graph and cannot be replaced. Build a new classifier: "
                "FocalNetImageClassifier(classifier.backbone, num_classes, image_converter, class_names)."
            )
        super().__setattr__(name, value)

    @property
    def class_names(self):
        """Tuple of `num_classes` str, or None."""
        return self._class_names

    @class_names.setter
    def class_names(self, names):
        self._class_names = _checked_names(names, self.num_classes)

    def compile(self, optimizer="auto", loss="auto", loss_weights=None, metrics="auto", **kwargs):
        """Configure the classifier for training, with defaults for fine-tuning.

        Warns if a loss or metric expects probabilities, because the classifier returns logits.

        Args:
            optimizer: See `keras.Model.compile`. Defaults to "auto", which is `focalnets.AdamW` with learning
                rate 5e-4 and weight decay 0.05.
            loss: See `keras.Model.compile`. Defaults to "auto", which is
                `SparseCategoricalCrossentropy(from_logits=True)` for integer labels.
            loss_weights: See `keras.Model.compile`. Defaults to `None`.
            metrics: See `keras.Model.compile`. Defaults to "auto", which is accuracy for a categorical
                crossentropy with integer or one-hot labels, and nothing for other losses.
            kwargs: Other arguments of `keras.Model.compile`.

        >>> from focalnets import FocalNetImageClassifier
        >>> classifier = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
        >>> classifier.compile()
        >>> classifier.loss.get_config()["from_logits"]
        True
        """
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = default_optimizer()
        if isinstance(loss, str) and loss == "auto":
            loss = default_loss()
        if isinstance(metrics, str) and metrics == "auto":
            metrics = default_metrics(loss)
        problem = probability_problem(loss, [metrics, kwargs.get("weighted_metrics")])
        if problem is not None:
            warn_user(problem)
        super().compile(optimizer, loss, loss_weights=loss_weights, metrics=metrics, **kwargs)

    def get_compile_config(self):
        """Keras' hook for saving a compiled model. Adds the optimizer, which Keras omits from .h5 files."""
        config = super().get_compile_config()
        if config and "optimizer" not in config and self.optimizer is not None:
            config["optimizer"] = keras.saving.serialize_keras_object(self.optimizer)
        return config

    def compile_from_config(self, config):
        """Keras' hook for loading a compiled model."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def preprocess(self, images):
        """Convert images to the size and channels that the classifier was trained with.

        Decodes files, applies the EXIF orientation, converts to grayscale or RGB (with a white background for
        transparent images), resizes and crops, as `focalnets predict` does.

        Args:
            images: A path, a folder, a PIL image, an array (H, W), (H, W, C) or (N, H, W, C), or a list of
                these. Arrays are uint8, or other numbers from 0 to 255, which are rounded.

        Returns:
            uint8 array of shape (N, height, width, channels).

        Raises:
            ValueError: if an image is unreadable, its values are not from 0 to 255, the classifier has no
                `image_converter`, or there is no image size and the sizes of the images differ.

        >>> import numpy as np
        >>> from focalnets import FocalNetImageClassifier
        >>> classifier = FocalNetImageClassifier.from_preset("focalnet_micro_cifar10")
        >>> classifier.preprocess(np.zeros((480, 640), "uint8")).shape
        (1, 32, 32, 3)
        """
        from focalnets.prediction.images import stack_images

        return stack_images(images, self.image_converter, self.backbone.image_shape[-1])

    def check_first_batch(self, images, verb):
        """Yield warnings about the values and size of the first batch; see `GuardedModel`."""
        yield from self.check_range(images, verb)
        expected = None if self.image_converter is None else self.image_converter.image_size
        size = tuple(images.shape[1:3])
        if verb != "fit" and None not in size and expected not in (None, size):
            yield (
                f"The images have {size[0]} x {size[1]} pixels; the classifier was trained with "
                f"{expected[0]} x {expected[1]} pixels and is less accurate at other sizes. Resize and crop "
                "images with classifier.preprocess(images)."
            )

    def check_range(self, images, verb):
        """Yield warnings about the values of the first batch."""
        if self.image_converter is None:  # the expected range is unknown
            return
        if keras.backend.standardize_dtype(images.dtype) == "uint8":
            return
        pixels = sample(images)
        problem = None if pixels is None else range_problem(pixels)
        if problem is not None:
            yield problem

    def check_labels(self, labels):
        """Error text about labels, or None; see `GuardedModel`."""
        return labels_problem(labels, getattr(self, "loss", None), self.num_classes)

    def trained_on(self, size):
        """Store the (height, width) of training images; see `GuardedModel`."""
        if self.image_converter is not None and self.image_converter.image_size != size:
            self.image_converter.image_size = size  # used by `prepare` only, and not part of the graph

    def compute_output_spec(self, inputs, *arguments, **keywords):
        if self.image_converter is not None and (scale := abs(scale_in_front(inputs))) < _SCALED:
            warn_user(
                f"A Rescaling layer multiplies the inputs of a FocalNetImageClassifier by {scale:.4g}; "
                "expected pixels from 0 to 255. The classifier normalizes them itself: remove the Rescaling."
            )
        return super().compute_output_spec(inputs, *arguments, **keywords)

    def __call__(self, *arguments, **keywords):
        self._check_outer_model()
        return super().__call__(*arguments, **keywords)

    def _check_outer_model(self):
        """Warn about the loss of a model of the user that returns the logits of this classifier.

        Keras calls a compiled model once before its first step, on every backend.
        """
        model = self._get_call_context().entry_layer  # the outermost of nested layers
        self._maybe_reset_call_context()  # if that is this classifier, Keras starts a new context
        key = (id(model), id(getattr(model, "loss", None)))
        if model is self or key == self._checked_outer_model:
            return
        self._checked_outer_model = key
        problem = outer_loss_problem(model, self)
        if problem is not None:
            warn_user(problem)

    def classify(self, features):
        """Logits (B, num_classes) from features of the backbone (B, H, W, C)."""
        return self.to_float32(self.head(self.pooling(features)))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "backbone": serialize(self.backbone),
            "num_classes": self.num_classes,
            "image_converter": serialize(self.image_converter),
            "class_names": self.class_names,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("backbone", "image_converter", "dtype"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        frozen = not config.pop("trainable", True)
        classifier = cls(**config)
        if frozen:  # True would unfreeze a frozen backbone
            classifier.trainable = False
        return classifier

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Load a classifier from a preset or checkpoint.

        Args:
            preset: str or path. A preset or run directory, a name in `CHECKPOINTS`, or a checkpoint of
                microsoft/FocalNet, timm or transformers: a file, directory, URL or hf://organization/name.
                With `load_weights=False`, also a name in `ARCHITECTURES`.
            load_weights: bool. Load trained weights. `False` gives random weights. Defaults to `True`.
            kwargs: Arguments that replace those of the preset. `num_classes` and `class_names` give the
                classifier a new head with random weights if they differ from the preset, which is logged.
                Also `name`, and `dtype`, `image_shape`, `drop_path_rate`, `dropout_rate`, `seed`,
                `mlp_hidden_dropout_rate` and `rematerialize` of `FocalNetBackbone`. With
                `load_weights=False`, all arguments of `FocalNetBackbone`.

        Raises:
            TypeError: if an argument is unknown.
            ValueError: if `preset` is unknown or has no trained weights, or an argument contradicts them.
            OSError: if the download fails.
            ImportError: if a required package is not installed.

        >>> from focalnets import FocalNetImageClassifier
        >>> FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False).num_classes
        10
        >>> pets = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10", class_names=["cat", "dog"])
        >>> pets.num_classes
        2
        """
        from focalnets.conversion.open import open_classifier

        return open_classifier(preset, load_weights, **kwargs)

    def save_to_preset(self, directory):
        """Write configuration, weights, preprocessing and labels to a new preset directory, atomically.

        The image size is that of the last `fit`, and the labels are `class_names`. A preset does not store
        the dtype policy, or which layers are frozen. Use `save` to store both.

        Args:
            directory: str or path. Directory to create.

        Raises:
            FileExistsError: if `directory` exists.
        """
        from focalnets.presets import store

        store.save_preset(self, directory)


def _checked_names(names, num_classes):
    """Class names as a tuple of str, checked. None for None."""
    if names is None:
        return None
    if isinstance(names, str):
        raise ValueError(f"class_names is the string {names!r}; expected a list of {num_classes} names.")
    names = tuple(str(name) for name in names)
    if len(names) != num_classes:
        raise ValueError(
            f"class_names holds {len(names)} names for {num_classes} classes. Give one name per class."
        )
    if twice := repeated(names):
        raise ValueError(
            f"class_names holds {twice[0]!r} twice; expected different names, because results are reported "
            "by name. Rename one of the two."
        )
    return names
