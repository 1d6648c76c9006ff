"""FocalNetImageConverter: the preprocessing that belongs to a checkpoint.

It has two halves. Resizing and cropping happen on the host (`focalnets/resizing.py`). Normalisation happens
inside the graph, so that images travel to the device as uint8, a quarter of the bytes.
"""

import keras
from keras import ops

from focalnets.models.batches import CONVERSIONS
from focalnets.resizing import INTERPOLATIONS, resize_and_crop

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="focalnets")
class FocalNetImageConverter(keras.layers.Layer):
    """Pixels 0..255 -> model input: `prepare` on the host, then the call inside the graph.

    Args:
        image_size: (height, width), or the side of a square, that `prepare` delivers; None to leave
            sizes as they are.
        crop_fraction: side of the center crop as a fraction of the resized image: the published 224 px
            nets resize so that 0.9 of the image is kept (or 0.875), those for 384 px keep all of it.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", Pillow's, with antialiasing.
        mean, std: per channel, of pixels scaled to 0..1.

    Call: (B, H, W, C) of any dtype, values 0..255 -> (value / 255 - mean) / std in the layer's compute
    dtype, computed in float32.

    Raises:
        ValueError: on an unknown interpolation, a crop_fraction outside (0, 1], or a mean and std of unequal
            length.

    Source: timm's `default_cfgs` and upstream's `classification/main.py` hold the published values.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageConverter
    >>> converter = FocalNetImageConverter(image_size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> image = converter.prepare(np.full((20, 30, 1), 255, "uint8"))
    >>> image.shape, image.dtype.name, float(converter(image[None])[0, 0, 0, 0])
    ((8, 8, 1), 'uint8', 1.0)
    """

    def __init__(
        self,
        image_size=None,
        crop_fraction=1.0,
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        **kwargs,
    ):
        kwargs.setdefault("autocast", False)  # bfloat16 would round before the subtraction
        super().__init__(**kwargs)
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}; got {interpolation!r}."
            )
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1]; got {crop_fraction}.")
        if len(mean) != len(std):
            raise ValueError(
                f"mean has {len(mean)} channels and std {len(std)}; give one value a channel in both."
            )
        if min(std) <= 0:
            raise ValueError(f"std must be positive; got {tuple(std)}.")
        image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = None if image_size is None else tuple(image_size)
        self.crop_fraction = crop_fraction
        self.interpolation = interpolation
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.built = True

    def prepare(self, image, crop=True):
        """Resize and crop one image, uint8 (H, W, C) or PIL; see `focalnets.resizing.resize_and_crop`."""
        return resize_and_crop(image, self.image_size, self.crop_fraction, self.interpolation, crop)

    def call(self, x):
        self._check_channels(x)
        x = ops.cast(x, "float32")
        mean = ops.convert_to_tensor([255.0 * value for value in self.mean], dtype="float32")
        std = ops.convert_to_tensor([255.0 * value for value in self.std], dtype="float32")
        return ops.cast((x - mean) / std, self.compute_dtype)

    def _check_channels(self, x):
        if x.shape[-1] != len(self.mean):
            have, expected = x.shape[-1], len(self.mean)
            raise ValueError(
                f"Images have {have} channels; expected {expected}. Convert them, with "
                f"classifier.preprocess(images){CONVERSIONS.get((have, expected), '')}."
            )

    def compute_output_spec(self, x):
        self._check_channels(x)
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "crop_fraction": self.crop_fraction,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
