"""FocalNetImageClassifier: pixels or normalized images -> logits."""

import reprlib

import keras

from focalnets.layers.initializers import dense_initializers
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.batches import labels_problem
from focalnets.models.compiling import (
    default_loss,
    default_metrics,
    default_optimizer,
    probability_problem,
    problem_around,
)
from focalnets.models.guarded import GuardedModel, in_h5_files, sample, warn_user
from focalnets.models.layers_in_front import scale_in_front
from focalnets.names import repeated
from focalnets.pixel_range import range_problem

# Parts of the graph: to assign them would change what is saved, not what is computed.
_SCALED = 1 / 16  # pixels that are scaled by less are no pixels anymore
_FIXED = ("backbone", "num_classes", "image_converter", "pooling", "head", "to_float32")


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class FocalNetImageClassifier(GuardedModel):
    """A backbone, the mean over positions, and a linear head.

    Args:
        backbone: a `FocalNetBackbone`; `classifier.backbone.trainable = False` freezes it.
        num_classes: number of logits.
        image_converter: a `FocalNetImageConverter` whose normalization becomes the first layer, so that the
            model takes pixels 0..255 (uint8 or float); None if inputs come normalized.
        class_names: `num_classes` different names, stored with the model, or None. They can be assigned
            later.

    Input: (B, H, W, channels). A network computes with any H and W unless the backbone fixes them, but
    recognizes only what has about the size that it was trained with: `preprocess` resizes and crops.
    Output: logits (B, num_classes), float32 also under mixed precision; `compile` without arguments
    chooses a loss on logits.

    `fit`, `evaluate` and `predict` warn, once per call, if the first batch is not in the range 0..255, and
    the latter two if it has another size than `image_converter.image_size`. `fit` writes the size of its
    images to `image_converter.image_size`, so that a preset records it.

    Raises:
        ValueError: if the number of names is not `num_classes`, two names are equal, or the `image_converter`
            normalizes another number of channels than the backbone takes.
        TypeError: if the `backbone` is something else, or there is no such argument, saying what to write.

    Source: paper section 3.3; `FocalNet` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
    >>> backbone = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    >>> converter = FocalNetImageConverter()
    >>> classifier = FocalNetImageClassifier(backbone, num_classes=10, image_converter=converter)
    >>> tuple(classifier(np.zeros((2, 32, 32, 3), "uint8")).shape)
    (2, 10)
    """

    _looked_around = None  # (id of a model around this one, id of its loss)

    def __init__(
        self,
        backbone,
        num_classes,
        image_converter=None,
        class_names=None,
        dtype=None,
        name=None,
    ):
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
                f"takes {channels}: give mean and std one value per channel."
            )

        # === Layers ===
        dtype = backbone.dtype_policy if dtype is None else dtype
        pooling = keras.layers.GlobalAveragePooling2D("channels_last", dtype=dtype, name="pooling")
        kernel, bias = dense_initializers(
            keras.initializers.get(backbone.kernel_initializer)  # the tutorial's reaches the head
        )
        head = keras.layers.Dense(
            num_classes,
            kernel_initializer=kernel,
            bias_initializer=bias,
            dtype=dtype,
            name="head",
        )
        to_float32 = keras.layers.Identity(dtype="float32", name="logits")

        # === Functional model ===
        inputs = keras.Input(backbone.image_shape, name="images")
        x = inputs if image_converter is None else image_converter(inputs)
        outputs = to_float32(head(pooling(backbone(x))))  # as in `classify`
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = keras.dtype_policies.get(dtype)  # Keras' functional models ignore the argument

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
                f"{name} is part of the graph and cannot be replaced in it. Build another classifier: "
                "FocalNetImageClassifier(classifier.backbone, num_classes, image_converter, class_names)."
            )
        super().__setattr__(name, value)

    @property
    def class_names(self):
        """Tuple of `num_classes` names, or None."""
        return self._class_names

    @class_names.setter
    def class_names(self, names):
        self._class_names = _checked_names(names, self.num_classes)

    def compile(self, optimizer="auto", loss="auto", loss_weights=None, metrics="auto", **kwargs):
        """Configure the classifier for training, with defaults for fine-tuning.

        Args:
            optimizer: as in `keras.Model.compile`. Defaults to "auto", `focalnets.AdamW` with
                learning rate 5e-4 and weight decay 0.05.
            loss: as in `keras.Model.compile`. Defaults to "auto",
                `SparseCategoricalCrossentropy(from_logits=True)`: labels are integers.
            loss_weights: as in `keras.Model.compile`. Defaults to None.
            metrics: as in `keras.Model.compile`. Defaults to "auto", the accuracy for a categorical
                cross-entropy, with integer or one-hot labels, and nothing for other losses.
            kwargs: other arguments of `keras.Model.compile`.

        Warns, once, if a loss or metric expects probabilities, since the classifier returns logits.

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
        """Keras' hook for saving a compiled model. Keras forgets the optimizer when it saves an .h5 file."""
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
        """Images of any kind and size as the classifier was trained with them.

        What `focalnets predict` does with image files: decode, apply the EXIF orientation, convert to
        the classifier's channels (grayscale or RGB, transparency on white), resize, crop.

        Args:
            images: a path, PIL image or array (H, W), (H, W, C) or (N, H, W, C); or a list of these. Arrays
                are uint8, or other numbers from 0 to 255, which are rounded. A folder means all images in
                it.

        Returns:
            uint8 array (N, height, width, channels).

        Raises:
            ValueError: if an image cannot be read, its values are not from 0 to 255, the classifier has
                no `image_converter`, or it has no image size and the images have several.

        >>> import numpy as np
        >>> from focalnets import FocalNetImageClassifier
        >>> classifier = FocalNetImageClassifier.from_preset("focalnet_micro_cifar10")
        >>> classifier.preprocess(np.zeros((480, 640), "uint8")).shape
        (1, 32, 32, 3)
        """
        from focalnets.prediction.images import stack_images

        return stack_images(images, self.image_converter, self.backbone.image_shape[-1])

    def check_first_batch(self, images, verb):
        """Yield what is wrong with the first batch of a call; see `GuardedModel`."""
        yield from self.check_range(images, verb)
        expected = None if self.image_converter is None else self.image_converter.image_size
        size = tuple(images.shape[1:3])
        if verb != "fit" and None not in size and expected not in (None, size):
            yield (
                f"The images have {size[0]} x {size[1]} pixels; the classifier was trained with "
                f"{expected[0]} x {expected[1]}, and recognizes less at other sizes. Resize and crop them "
                "with classifier.preprocess(images)."
            )

    def check_range(self, images, verb):
        """Yield what is wrong with the values of the first batch of a call."""
        if self.image_converter is None:  # nothing says what its inputs should be
            return
        if keras.backend.standardize_dtype(images.dtype) == "uint8":
            return
        pixels = sample(images)
        problem = None if pixels is None else range_problem(pixels)
        if problem is not None:
            yield problem

    def check_labels(self, labels):
        """What is wrong with the labels of a call; see `GuardedModel`."""
        return labels_problem(labels, getattr(self, "loss", None), self.num_classes)

    def trained_on(self, size):
        """Record the (height, width) of the images of a training; see `GuardedModel`."""
        if self.image_converter is not None and self.image_converter.image_size != size:
            self.image_converter.image_size = size  # says what `prepare` delivers, and is not in the graph

    def compute_output_spec(self, inputs, *arguments, **keywords):
        if self.image_converter is not None and (scale := abs(scale_in_front(inputs))) < _SCALED:
            warn_user(
                f"A Rescaling by {scale:.4g} stands before a FocalNetImageClassifier, which expects pixels "
                "from 0 to 255 and normalizes them itself: remove the Rescaling."
            )
        return super().compute_output_spec(inputs, *arguments, **keywords)

    def __call__(self, *arguments, **keywords):
        self._look_around()
        return super().__call__(*arguments, **keywords)

    def _look_around(self):
        """Warn of the loss of a user's model that returns what this classifier returns.

        Keras calls a compiled model once before its first step, on every backend.
        """
        model = self._get_call_context().entry_layer  # what was called first, of layers in layers
        self._maybe_reset_call_context()  # if that is this one, Keras begins anew
        around = (id(model), id(getattr(model, "loss", None)))
        if model is self or around == self._looked_around:
            return
        self._looked_around = around
        if (problem := problem_around(model, self)) is not None:
            warn_user(problem)

    def classify(self, features):
        """Logits (B, num_classes) from what the backbone returns, (B, H, W, C)."""
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
        if frozen:  # setting True would thaw a frozen backbone
            classifier.trainable = False
        return classifier

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """A classifier with trained weights, or, with random ones, from an architecture's name.

        Args:
            preset: path of a preset or run directory; a name in `CHECKPOINTS`, which is downloaded and
                converted once; a checkpoint of microsoft/FocalNet, timm or transformers: file, directory,
                https:// URL, or hf://organization/name; or, without weights, a name in `ARCHITECTURES`.
            load_weights: bool. False for random weights. Defaults to True.
            kwargs: what should differ from the preset: `num_classes` or `class_names`, which give the
                classifier a new head with random weights, reported by a log message, if they are not the
                preset's; `name`; and arguments of `FocalNetBackbone` that weights do not depend on: `dtype`,
                `image_shape`, `drop_path_rate`, `dropout_rate`, `mlp_hidden_dropout_rate`, `rematerialize`,
                `seed`; without weights, all of them.

        Raises:
            TypeError: on another argument, saying what to write.
            ValueError: if `preset` is none of these, an architecture is asked for its weights, or an
                argument does not fit the weights.
            OSError: if it cannot be downloaded.
            ImportError: naming what has to be installed to read it.

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
        """Write config, weights, preprocessing and labels as a preset directory, atomically.

        A preset is the network itself: what was frozen and the dtype policy belong to a training and are
        not stored (`save` stores them). The image size is that of the last `fit`, the labels are
        `class_names`.

        Raises:
            FileExistsError: if `directory` exists.
        """
        from focalnets.presets import store

        store.save_preset(self, directory)


def _checked_names(names, num_classes):
    """Class names as a tuple of different str; None for None."""
    if names is None:
        return None
    if isinstance(names, str):
        raise ValueError(f"class_names is the text {names!r}; expected a list of {num_classes} names.")
    names = tuple(str(name) for name in names)
    if len(names) != num_classes:
        raise ValueError(f"class_names holds {len(names)} names for {num_classes} classes.")
    if twice := repeated(names):
        raise ValueError(
            f"class_names holds {twice[0]!r} twice; expected different names, as results are given by name. "
            "Rename one of the two."
        )
    return names
