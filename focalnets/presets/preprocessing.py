"""The preprocessing that belongs to a published checkpoint."""

import math

from focalnets.models.image_converter import IMAGENET_MEAN, IMAGENET_STD, ImageConverter
from focalnets.presets.architectures import find_architecture
from focalnets.presets.checkpoints import CHECKPOINTS

# Pillow's numbers of its filters, in which transformers' files name them.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def converter_of(variant, num_classes, channels, config, preprocessing):
    """The `ImageConverter` of a checkpoint, from the files beside it if there are any.

    Args:
        variant: name in `ARCHITECTURES`, or None.
        num_classes: of its head, None without one.
        channels: of its images.
        config: timm's config.json, or another, or {}.
        preprocessing: transformers' preprocessor_config.json, or {}.

    Returns:
        (`ImageConverter`, where its values are from).

    Source: `data/build.py` of microsoft/FocalNet: bicubic, the shorter side to 256/224 of the size, centre
    crop; timm's `default_cfgs`: 0.9 of the picture at 224 pixels, all of it at 384.
    """
    if isinstance(config.get("pretrained_cfg"), dict):
        timm = config["pretrained_cfg"]
        return _described(
            ImageConverter(
                tuple(timm["input_size"][1:]),
                crop_fraction=timm["crop_pct"],
                interpolation=timm["interpolation"],
                mean=timm["mean"],
                std=timm["std"],
            ),
            "from timm's config.json",
        )
    if "image_mean" in preprocessing:
        size, fraction = _sizes(preprocessing)
        return _described(
            ImageConverter(
                size,
                crop_fraction=fraction,
                interpolation=_RESAMPLE.get(preprocessing.get("resample"), "bicubic"),
                mean=preprocessing["image_mean"],
                std=preprocessing["image_std"],
            ),
            "from transformers' preprocessor_config.json",
        )
    if channels != 3:
        return None, "preprocessing: none, the checkpoint is not for RGB pictures; inputs come normalised"
    published = {row.architecture for row in CHECKPOINTS.values() if row.data.startswith("ImageNet")}
    if variant not in published or num_classes not in (None, find_architecture(variant).num_classes):
        return _described(ImageConverter(), "ImageNet's normalisation ASSUMED, any size")
    size = find_architecture(variant).image_size
    fraction = 1.0 if size > 224 else 224 / 256
    converter = ImageConverter((size, size), fraction, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    return _described(converter, f"as {variant} was evaluated")


def transformers_preprocessing(converter):
    """transformers' preprocessor_config.json for an `ImageConverter`, None if it knows no such preprocessing.

    It is the same but for the corner of the crop, which theirs rounds down: a pixel, for some sizes.

    >>> from focalnets import ImageConverter
    >>> from focalnets.presets.preprocessing import transformers_preprocessing
    >>> transformers_preprocessing(ImageConverter((224, 224), crop_fraction=0.875))["size"]
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
    """(image size, crop fraction) that transformers' preprocessor_config.json means."""
    if not preprocessing.get("do_resize", True) and not preprocessing.get("do_center_crop"):
        return None, 1.0
    size, crop = preprocessing.get("size", {}), preprocessing.get("crop_size", {})
    edge = size.get("shortest_edge", size.get("height")) if isinstance(size, dict) else size
    side = crop.get("height", edge) if isinstance(crop, dict) else crop
    side = side if preprocessing.get("do_center_crop") else edge
    fraction = side / edge
    if math.floor(side / fraction) != edge:  # 48 / (48 / 59) is a little less than 59
        fraction = math.nextafter(fraction, 0)
    return (side, side), fraction


def _described(converter, origin):
    if converter.image_size is None:
        return converter, f"preprocessing: {origin}"
    height, width = converter.image_size
    return converter, (
        f"preprocessing: {height} x {width}, {converter.interpolation}, {converter.crop_fraction:.4g} of the "
        f"picture; {origin}"
    )
