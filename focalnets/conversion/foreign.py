"""Settings that other libraries store beside weights. Each field is used, compared with weights, or reported.

The files may come from untrusted sources, so types and limits are checked first (`focalnets.schema`).
"""

from typing import Annotated

import msgspec

from focalnets.names import listed, plural
from focalnets.schema import checked

_HINT = "Copy or download the file again, or remove it and use --set."
_Int = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
_Ints = Annotated[list[_Int], msgspec.Meta(min_length=1, max_length=64)]
_Rate = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_Number = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
_Epsilon = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Text = Annotated[str, msgspec.Meta(max_length=10_000)]
_Channels = Annotated[list[_Number], msgspec.Meta(min_length=1, max_length=1024)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]


def _record(name, **fields):
    return msgspec.defstruct(name, [(key, kind | None, None) for key, kind in fields.items()])


_TRANSFORMERS = _record(
    "TransformersConfig",
    # Not determined by weights.
    normalize_modulator=bool,
    use_post_layernorm=bool,
    drop_path_rate=_Rate,
    layer_norm_eps=_Epsilon,
    hidden_dropout_prob=_Rate,
    hidden_act=_Text,
    layerscale_value=_Number,
    id2label=dict[str, _Text],
    # Compared with the weights.
    num_channels=_Int,
    embed_dim=_Int,
    depths=_Ints,
    focal_levels=_Ints,
    focal_windows=_Ints,
    mlp_ratio=_Number,
    patch_size=_Int | _Ints,
    use_conv_embed=bool,
    use_layerscale=bool,
    use_post_layernorm_in_modulation=bool,
)
_TIMM_ARGUMENTS = _record(
    "TimmModelArguments",
    normalize_modulator=bool,
    drop_path_rate=_Rate,
    proj_drop_rate=_Rate,
    layerscale_value=_Number,
    use_post_norm=bool,
    in_chans=_Int,
    embed_dim=_Int,
    depths=_Ints,
    focal_levels=_Ints,
    focal_windows=_Ints,
    mlp_ratio=_Number,
    use_overlap_down=bool,
    use_post_norm_in_modulation=bool,
    num_classes=_Count,
    global_pool=_Text,
    head_hidden_size=_Int,
)
_PREPROCESSING = _record(
    "PreprocessorConfig",
    do_resize=bool,
    do_center_crop=bool,
    do_rescale=bool,
    do_normalize=bool,
    rescale_factor=Annotated[float, msgspec.Meta(gt=0, le=1e6)],
    resample=_Int,
    size=_Side | dict[str, _Side],
    crop_size=_Side | dict[str, _Side],
    image_mean=_Channels,
    image_std=_Channels,
)
_TIMM_PREPROCESSING = _record(
    "TimmPretrainedConfig",
    input_size=Annotated[list[_Side], msgspec.Meta(min_length=3, max_length=3)],
    crop_pct=Annotated[float, msgspec.Meta(ge=0.01, le=1)],
    interpolation=_Text,
    mean=_Channels,
    std=_Channels,
)

# Fields without an effect on the outputs of a network.
_IDLE = {
    "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "encoder_stride", "finetuning_task",
    "focalnets_version", "hidden_sizes", "image_size", "initializer_range", "is_encoder_decoder", "label2id",
    "model_type", "num_labels", "out_features", "out_indices", "output_attentions", "output_hidden_states",
    "problem_type", "return_dict", "stage_names", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
_IDLE_TIMM = {"img_size", "device", "dtype", "pretrained", "drop_rate", "head_init_scale", "drop_block_rate"}

# Names of activation functions: transformers -> focalnets, and focalnets -> transformers.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
THEIR_ACTIVATION = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}


def transformers_settings(config, found, channels, num_classes):
    """Arguments of `FocalNetBackbone` from the config.json of transformers.

    Args:
        config: dict. Content of the file.
        found: dict. Arguments of `FocalNetBackbone` that the weights determine.
        channels: int. Number of channels of the images.
        num_classes: int or None. Number of classes. None without a head.

    Returns:
        (dict of arguments, list of notes).

    Raises:
        ValueError: if a field has another type or range, contradicts the weights, or is not supported.
    """
    fields = checked(config, _TRANSFORMERS, "config.json", _HINT)
    if fields.hidden_act not in (None, *ACTIVATIONS):
        raise ValueError(
            f"config.json: `hidden_act` is {fields.hidden_act!r}, expected one of {', '.join(ACTIVATIONS)}."
        )
    patch = fields.patch_size[0] if isinstance(fields.patch_size, list) else fields.patch_size
    if found["overlap_embed"]:
        patch = None  # the overlapping stem always has a stride of 4
    _compare(
        fields,
        {
            "num_channels": channels,
            "embed_dim": found["embed_dim"],
            "depths": found["depths"],
            "focal_levels": found["focal_levels"],
            "focal_windows": found["focal_window"],
            "mlp_ratio": found["mlp_ratio"],
            "use_conv_embed": found["overlap_embed"],
            "use_layerscale": found["layer_scale_init"] is not None,
            "use_post_layernorm_in_modulation": found["norm_after_modulation"],
        },
    )
    if patch not in (None, found["patch_size"]):
        raise _contradiction("patch_size", patch, found["patch_size"])
    if fields.id2label and num_classes is not None and len(fields.id2label) != num_classes:
        names = len(fields.id2label)
        classes = f"{num_classes} {plural(num_classes, 'class', 'classes')}"
        raise _contradiction("id2label", f"{names} {plural(names, 'name')}", classes)
    values = {  # `save_pretrained` omits fields that have transformers' defaults
        "normalize_modulator": bool(fields.normalize_modulator),
        "norm_placement": "post" if fields.use_post_layernorm else "pre",
        "drop_path_rate": 0.1 if fields.drop_path_rate is None else fields.drop_path_rate,
        "norm_epsilon": fields.layer_norm_eps or 1e-5,
        "dropout_rate": fields.hidden_dropout_prob or 0.0,
        "activation": ACTIVATIONS[fields.hidden_act or "gelu"],
        "stem_padding": 2,
    }
    if found["layer_scale_init"] is not None and fields.layerscale_value is not None:
        values["layer_scale_init"] = fields.layerscale_value
    rest = sorted(set(config) - set(_TRANSFORMERS.__struct_fields__) - _IDLE)
    return values, [f"unused fields of config.json: {listed(rest)}"] if rest else []


def timm_settings(arguments, pool, found, channels, num_classes):
    """Arguments of `FocalNetBackbone` from the arguments of a timm model; see `transformers_settings`.

    Args:
        arguments: dict. `model_args` of timm's config.json, or `model_kwargs` of timm's training script.
        pool: str or None. `global_pool` of config.json.
    """
    fields = checked(arguments, _TIMM_ARGUMENTS, "timm's model_args", _HINT)
    pool = fields.global_pool or pool
    if num_classes is not None and pool not in (None, "", "avg", "fast", "fastavg"):
        raise ValueError(f"timm's `global_pool` is {pool!r}. Only average pooling ('avg') is supported.")
    if fields.head_hidden_size:
        raise ValueError("timm's `head_hidden_size` is set. Only heads of one layer are supported.")
    compared = {
        "in_chans": channels,
        "embed_dim": found["embed_dim"],
        "depths": found["depths"],
        "focal_levels": found["focal_levels"],
        "focal_windows": found["focal_window"],
        "mlp_ratio": found["mlp_ratio"],
        "use_overlap_down": found["overlap_embed"],
        "use_post_norm_in_modulation": found["norm_after_modulation"],
    }
    if num_classes is not None:
        compared["num_classes"] = num_classes
    _compare(fields, compared)
    names = {
        "normalize_modulator": "normalize_modulator",
        "drop_path_rate": "drop_path_rate",
        "proj_drop_rate": "dropout_rate",
    }
    values = {ours: getattr(fields, name) for name, ours in names.items()}
    if found["layer_scale_init"] is not None:
        values["layer_scale_init"] = fields.layerscale_value
    rest = sorted(set(map(str, arguments)) - set(_TIMM_ARGUMENTS.__struct_fields__) - _IDLE_TIMM)
    notes = [f"unused model_args of timm: {listed(rest)}"] if rest else []
    return {name: value for name, value in values.items() if value is not None}, notes


def checked_preprocessing(config, preprocessing):
    """Raise a ValueError unless the fields that `converter_for` reads have the expected types."""
    if isinstance(config.get("pretrained_cfg"), dict):
        checked(config["pretrained_cfg"], _TIMM_PREPROCESSING, "config.json, pretrained_cfg", _HINT)
    if not isinstance(preprocessing, dict):
        raise ValueError(
            f"preprocessor_config.json holds a {type(preprocessing).__name__}, expected an object. {_HINT}"
        )
    checked(preprocessing, _PREPROCESSING, "preprocessor_config.json", _HINT)


def _compare(fields, weights):
    for name, value in weights.items():
        said = getattr(fields, name)
        said = tuple(said) if isinstance(said, list) else said
        if said is not None and said != value:
            raise _contradiction(name, said, value)


def _contradiction(name, said, value):
    return ValueError(
        f"config.json or the model arguments have {name} = {said}, but the weights have {value}. They "
        "belong to another network. Replace them, or remove them and use --set."
    )
