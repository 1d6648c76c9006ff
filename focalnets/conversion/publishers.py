"""Settings that weights do not determine, from the publisher of a checkpoint.

Sources:

- `detection/mmdet/models/backbones/focalnet.py` of microsoft/FocalNet, and its copy for mmsegmentation: stem
  padding 3, pre-norm, no normalized modulator.
- `models/dino/focal.py` of FocalNet-DINO: stem padding 2, post-norm in all six models, a normalized modulator
  in the large and xlarge models of four levels.
- timm's `models/focalnet.py`: stem padding 2. `normalize_modulator` defaults to False.
- transformers' `modeling_focalnet.py`: stem padding 2. config.json has the other settings.
"""

from dataclasses import dataclass, field

from focalnets.conversion.foreign import timm_settings, transformers_settings
from focalnets.conversion.wrappers import members

# Parts and entries by which checkpoints of detection and segmentation frameworks are recognized.
_MM_PARTS = {
    "neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "decode_head", "auxiliary_head",
    "panoptic_head", "query_head", "data_preprocessor",
}  # fmt: skip
_MM_META = {*(f"mm{name}_version" for name in ("det", "seg", "cv", "engine", "cls")), "dataset_meta"}
_DETR_PARTS = {"transformer", "class_embed", "bbox_embed", "input_proj"}
_DINO_WIDTHS = (192, 256, 352)


@dataclass(frozen=True)
class Claim:
    """Values of arguments of `FocalNetBackbone`, with the origin that the report names."""

    origin: str
    values: dict
    notes: list[str] = field(default_factory=list)


def claims_for(library, source, keys, found, channels, num_classes, published=False):
    """Claims about arguments that weights do not determine, best first.

    The settings in the checkpoint come before the behavior of the library.

    Args:
        library: str. "official", "timm" or "transformers".
        source: `LoadedCheckpoint`.
        keys: list of str. Keys of the tensors.
        found: dict. Arguments of `FocalNetBackbone` that the weights determine.
        channels: int. Number of channels of the images.
        num_classes: int or None. Number of classes. None without a head.
        published: bool. Whether these are weights of the paper, so the library that copied them is ignored.
            Defaults to `False`.

    Returns:
        list of `Claim`.
    """
    own = _own_settings(library, source, keys, found, channels, num_classes)
    if published:
        return own
    return [*own, *_library(library, source, keys, found)]


def _own_settings(library, source, keys, found, channels, num_classes):
    said = "from the checkpoint"
    if library == "transformers" and source.config.get("model_type") == "focalnet":
        return [Claim(said, *transformers_settings(source.config, found, channels, num_classes))]
    if library == "timm":
        placement = "post" if any("norm1_post" in key for key in keys) else "pre"
        claims = [Claim(said, {"norm_placement": placement})]
        arguments, pool = source.config.get("model_args"), source.config.get("global_pool")
        if arguments is None:
            arguments = _attributes(source.stored.get("args")).get("model_kwargs")
        if arguments is not None or pool is not None:
            pool = pool if isinstance(pool, str) else None
            values, notes = timm_settings(arguments or {}, pool, found, channels, num_classes)
            claims.append(Claim(said, values, notes))
        return claims
    name = _attributes(source.stored.get("args")).get("backbone")
    if isinstance(name, str) and name.startswith("focalnet_"):
        return [Claim(f"from args.backbone = {name!r} of the checkpoint", _dino(found, name.endswith("fl4")))]
    return []


def _library(library, source, keys, found):
    same = {"activation": "gelu", "norm_epsilon": 1e-5}
    if library == "timm":
        return [Claim("as timm computes", {"normalize_modulator": False, "stem_padding": 2, **same})]
    if library == "transformers":
        note = "other settings: ASSUMED, because there is no config.json of transformers beside the weights"
        notes = [] if source.config.get("model_type") == "focalnet" else [note]
        return [Claim("as transformers computes", {"stem_padding": 2, **same}, notes)]
    if not any(key.startswith("norm") and key[4:5].isdigit() for key in keys):
        return [Claim("as microsoft/FocalNet computes", {"stem_padding": 2, **same})]
    plain = {"stem_padding": 3, "norm_placement": "pre", "normalize_modulator": False}
    parts = {name.rpartition(".")[2] for name in source.left}
    published_width = found["embed_dim"] in _DINO_WIDTHS and found["layer_scale_init"] is not None
    levels = set(found["focal_levels"])
    if source.prefix.endswith("backbone.0.") or (source.prefix == "0." and not parts - {"1"}):
        values = _dino(found, levels == {4}) if published_width else {"stem_padding": 2}
        return [Claim("as FocalNet-DINO computes", {**values, **same})]
    meta = _attributes(source.stored.get("meta"))
    if (parts & _MM_PARTS and not parts & _DETR_PARTS) or _MM_META & set(meta):
        return [Claim("as upstream's class for mmdetection and mmsegmentation computes", {**plain, **same})]
    if published_width and found["overlap_embed"]:
        origin = (
            "ASSUMED as FocalNet-DINO computes, because nobody else published backbones of this width; "
            "a backbone of upstream's class for mmdetection needs --set stem_padding=3 norm_placement=pre "
            "normalize_modulator=false"
        )
        return [Claim(origin, _dino(found, levels == {4})), Claim("as upstream computes", same)]
    if not found["overlap_embed"]:  # FocalNet-DINO published none of these
        return [Claim("as upstream's detection code computes", {**plain, **same})]
    origin = (
        "ASSUMED as upstream's class for mmdetection computes; a backbone of FocalNet-DINO needs --set "
        "stem_padding=2, and also norm_placement=post if it has post-norm"
    )
    return [Claim(origin, plain), Claim("as upstream computes", same)]


def _dino(found, four_levels):
    normalizes = four_levels and found["embed_dim"] in _DINO_WIDTHS[:2]
    return {"stem_padding": 2, "norm_placement": "post", "normalize_modulator": normalizes}


def _attributes(value):
    """Entries of a dict or attributes of a stored object. {} for other values."""
    return members(value) or {}
