"""Preprocessing of published checkpoints, and its form in transformers."""

import math

from focalnets.models.image_converter import IMAGENET_MEAN, IMAGENET_STD, FocalNetImageConverter
from focalnets.presets.architectures import find_architecture
from focalnets.presets.checkpoints import CHECKPOINTS

# Pillow's filter numbers, which transformers uses in preprocessor_config.json.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def converter_for(variant, num_classes, channels, config, preprocessing):
    """Preprocessing of a checkpoint, from the settings beside it if there are any.

    Args:
        variant: str or None. Name in `ARCHITECTURES`.
        num_classes: int or None. Number of classes. None without a head.
        channels: int. Number of channels of the images.
        config: dict. Content of config.json of timm or transformers, or {}.
        preprocessing: dict. Content of transformers' preprocessor_config.json, or {}.

    Returns:
        (`FocalNetImageConverter` or None, note). The note is a line of the report.

    Sources: `data/build.py` of microsoft/FocalNet (bicubic, the shorter side to 256/224 of the size, center
    crop), and `default_cfgs` of timm (crop fraction 0.9 at 224 pixels, 1 at 384).
    """
    preprocessing = {name: value for name, value in preprocessing.items() if value is not None}
    timm = config.get("pretrained_cfg")
    if isinstance(timm, dict) and timm.get("input_size") is not None:
        timm = {name: value for name, value in timm.items() if value is not None}
        arguments = {  # timm's defaults where a field is absent
            "crop_fraction": timm.get("crop_pct", 0.875),
            "interpolation": timm.get("interpolation", "bicubic"),
            "mean": timm.get("mean", IMAGENET_MEAN),
            "std": timm.get("std", IMAGENET_STD),
        }
        converter = FocalNetImageConverter(tuple(timm["input_size"][1:]), **arguments)
        return _checked(_described(converter, "from timm's config.json"), channels)
    if "image_mean" in preprocessing and "image_std" in preprocessing:
        size, fraction = _sizes(preprocessing)
        # transformers computes (pixel * rescale_factor - mean) / std, focalnets (pixel / 255 - mean) / std.
        rescale = preprocessing.get("do_rescale", True)
        factor = 255 * preprocessing.get("rescale_factor", 1 / 255) if rescale else 255
        mean, std = preprocessing["image_mean"], preprocessing["image_std"]
        if not preprocessing.get("do_normalize", True):
            mean, std = [0.0] * len(mean), [1.0] * len(std)
        converter = FocalNetImageConverter(
            size,
            crop_fraction=fraction,
            interpolation=_RESAMPLE.get(preprocessing.get("resample"), "bicubic"),
            mean=[value / factor for value in mean],
            std=[value / factor for value in std],
        )
        origin = "from transformers' preprocessor_config.json"
        given = preprocessing.get("size")
        if isinstance(given, dict) and "height" in given and not preprocessing.get("do_center_crop"):
            origin += ", which stretches images to this shape; center crop ASSUMED instead"
        return _checked(_described(converter, origin), channels)
    if channels != 3:
        return None, "preprocessing: none, because images are not RGB; inputs must be normalized"
    published = {row.architecture for row in CHECKPOINTS.values() if row.data.startswith("ImageNet")}
    if variant not in published or num_classes not in (None, find_architecture(variant).num_classes):
        return _described(FocalNetImageConverter(), "ImageNet's normalization ASSUMED, any size")
    size = find_architecture(variant).image_size
    fraction = 1.0 if size > 224 else 224 / 256
    converter = FocalNetImageConverter((size, size), fraction, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    return _described(converter, f"as {variant} was evaluated")


def _checked(described, channels):
    """Raise a ValueError unless the preprocessing has the channels of the network."""
    converter, _ = described
    if len(converter.mean) != channels:
        raise ValueError(
            f"The preprocessing beside the weights has {len(converter.mean)} channels, but the weights have "
            f"{channels}. Replace or remove the file."
        )
    return described


def transformers_preprocessing(converter):
    """transformers' preprocessor_config.json for a `FocalNetImageConverter`, or None if there is none.

    transformers rounds the corner of the crop down, so for some sizes the crop differs by one pixel.

    >>> from focalnets import FocalNetImageConverter
    >>> from focalnets.presets.preprocessing import transformers_preprocessing
    >>> transformers_preprocessing(FocalNetImageConverter((224, 224), crop_fraction=0.875))["size"]
    {'shortest_edge': 256}
    """
    size, channels = converter.image_size, len(converter.mean)
    if channels not in (1, 3) or (size is not None and size[0] != size[1]):
        return None
    numbers = {name: number for number, name in _RESAMPLE.items()}
    sizes = {"do_resize": False, "do_center_crop": False}
    if size is not None:
        edge = math.floor(size[0] / converter.crop_fraction)
        sizes = {
            "do_resize": True,
            "size": {"shortest_edge": edge},
            "do_center_crop": True,
            "crop_size": {"height": size[0], "width": size[1]},
        }
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": channels == 3,
        **sizes,
        "resample": numbers[converter.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(converter.mean),
        "image_std": list(converter.std),
    }


def _sizes(preprocessing):
    """(image size, crop fraction) of transformers' preprocessor_config.json."""
    if not preprocessing.get("do_resize", True) and not preprocessing.get("do_center_crop"):
        return None, 1.0
    height, width = _sides(preprocessing.get("size"))
    if preprocessing.get("do_center_crop"):
        crop_height, crop_width = _sides(preprocessing.get("crop_size", preprocessing.get("size")))
    else:
        crop_height, crop_width = height, width
    if None in (height, crop_height):
        return None, 1.0
    edge, side = min(height, width), min(crop_height, crop_width)
    fraction = side / edge
    if math.floor(side / fraction) != edge:  # 48 / (48 / 59) is a little less than 59
        fraction = math.nextafter(fraction, 0)
    return (crop_height, crop_width), fraction


def _sides(size):
    """(height, width) of a size in transformers' file, or (None, None)."""
    if not isinstance(size, dict):
        return size, size
    edge = size.get("shortest_edge")
    return size.get("height", edge), size.get("width", size.get("height", edge))


def _described(converter, origin):
    if converter.image_size is None:
        return converter, f"preprocessing: {origin}"
    height, width = converter.image_size
    return converter, (
        f"preprocessing: {height} x {width}, {converter.interpolation}, {converter.crop_fraction:.4g} of the "
        f"image; {origin}"
    )
