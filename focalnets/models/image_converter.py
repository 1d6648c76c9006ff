"""FocalNetImageConverter: the image preprocessing of a checkpoint.

Images are resized and cropped on the host (`focalnets/resizing.py`). They are normalized in the graph, so
they are copied to the device as uint8, a quarter of the bytes of float32.
"""

import keras
from keras import ops

from focalnets.models.batches import CONVERSIONS
from focalnets.resizing import INTERPOLATIONS, resize_and_crop

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="focalnets")
class FocalNetImageConverter(keras.layers.Layer):
    """Preprocessing layer: `prepare` resizes and crops on the host, and the call normalizes in the graph.

    The call computes (pixel / 255 - mean) / std in float32 and casts the result to the compute dtype.

    Args:
        image_size: int or (height, width). Size of the images that `prepare` returns. Defaults to `None`,
            which keeps the size.
        crop_fraction: float. Side of the center crop as a fraction of the resized image. The published
            networks for 224 pixels use 0.9 or 0.875, and those for 384 pixels use 1. Defaults to 1.
        interpolation: str. Method of Pillow, with antialiasing: "nearest", "bilinear", "bicubic" or
            "lanczos". Defaults to "bicubic".
        mean: tuple of float. Mean of each channel of pixels in 0..1. Defaults to the mean of ImageNet.
        std: tuple of float. Standard deviation of each channel. Defaults to that of ImageNet.

    Input shape:
        (B, H, W, C), pixels 0..255 of any dtype. The output has the same shape.

    Raises:
        ValueError: if `interpolation` is unknown, `crop_fraction` is outside (0, 1], `mean` and `std` differ
            in length, or `std` is not positive.

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
        kwargs.setdefault("autocast", False)  # bfloat16 would round pixels before the subtraction
        super().__init__(**kwargs)
        if interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation must be one of {known}; got {interpolation!r}.")
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1]; got {crop_fraction}.")
        if len(mean) != len(std):
            raise ValueError(
                f"mean has {len(mean)} values and std has {len(std)}; expected one value per channel in both."
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

    def prepare(self, image, crop=True, image_size=None):
        """Resize and crop an image: uint8 (H, W, C) or PIL. See `focalnets.resizing.resize_and_crop`.

        `image_size` gives the same view at another resolution. It defaults to that of the converter.
        """
        size = self.image_size if image_size is None else image_size
        return resize_and_crop(image, size, self.crop_fraction, self.interpolation, crop)

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
                f"Images have {have} channels; expected {expected}. Convert the channels with "
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
