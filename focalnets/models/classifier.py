"""FocalNetClassifier: pixels or normalised images -> logits."""

import keras

from focalnets.layers.initializers import dense_initializers


@keras.saving.register_keras_serializable(package="focalnets")
class FocalNetClassifier(keras.Model):
    """A backbone, the mean over positions, and a linear head.

    Args:
        backbone: a `FocalNetBackbone`; `classifier.backbone.trainable = False` freezes it.
        num_classes: number of logits.
        image_converter: an `ImageConverter` whose normalisation becomes the first layer, so that the
            model takes pixels 0..255 (uint8 welcome); None if inputs come normalised.
        class_names: `num_classes` names, kept with the model, or None.

    Input: (B, H, W, channels), any H and W unless the backbone fixes them. Output: logits
    (B, num_classes), float32 also under mixed precision; use `from_logits=True` in losses.

    Raises:
        ValueError: if the number of names is not `num_classes`.

    Source: paper section 3.3; `FocalNet` in upstream's `classification/focalnet.py`.

    >>> import numpy as np
    >>> from focalnets import FocalNetBackbone, FocalNetClassifier, ImageConverter
    >>> backbone = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    >>> classifier = FocalNetClassifier(backbone, num_classes=10, image_converter=ImageConverter())
    >>> tuple(classifier(np.zeros((2, 32, 32, 3), "uint8")).shape)
    (2, 10)
    """

    def __init__(
        self,
        backbone,
        num_classes,
        image_converter=None,
        class_names=None,
        dtype=None,
        name=None,
    ):
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"class_names holds {len(class_names)} names for {num_classes} classes.")

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
        self.class_names = None if class_names is None else tuple(class_names)
        self.pooling = pooling
        self.head = head
        self.to_float32 = to_float32

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
    def from_preset(cls, preset, load_weights=True, num_classes=None):
        """A classifier with trained weights, or, with random ones, from an architecture's name.

        Args:
            preset: path of a preset or run directory; a name in `CHECKPOINTS`, which is downloaded and
                converted once; a checkpoint of microsoft/FocalNet, timm or transformers: file, directory,
                https:// URL, or hf://organisation/name; or, without weights, a name in `ARCHITECTURES`.
            load_weights: False for random weights.
            num_classes: if it is not what the preset has, the classifier gets a new head with random
                weights, which is logged.

        Raises:
            ValueError: if `preset` is none of these, or an architecture is asked for its weights.
            OSError: if it cannot be downloaded.
            ImportError: naming what has to be installed to read it.

        >>> from focalnets import FocalNetClassifier
        >>> FocalNetClassifier.from_preset("focalnet_pico", load_weights=False).num_classes
        10
        """
        from focalnets.convert.open import open_classifier

        return open_classifier(preset, load_weights, num_classes)

    def save_to_preset(self, directory):
        """Write config, weights, preprocessing and labels as a preset directory, atomically.

        A preset is the network itself: what was frozen and the dtype policy belong to a training and are
        not kept (`save` keeps them).

        Raises:
            FileExistsError: if `directory` exists.
        """
        from focalnets.presets import store

        store.save_preset(self, directory)
