"""The architecture of a checkpoint, recognized from the shapes of its weights."""

import itertools
import re
from dataclasses import dataclass

from focalnets.layers.geometry import per_stage
from focalnets.presets.architectures import ARCHITECTURES, find_architecture
from focalnets.presets.cost import SHAPE_ARGUMENTS

# Arguments of `FocalNetBackbone` that weights do not determine.
CONFIG_OVERRIDES = (
    "normalize_modulator",
    "norm_placement",
    "drop_path_rate",
    "norm_epsilon",
    "stem_padding",
    "dropout_rate",
    "activation",
)
# Those that are reported because a wrong value gives wrong outputs, with their defaults.
_REPORTED = {
    "normalize_modulator": False,
    "norm_placement": "pre",
    "norm_epsilon": 1e-5,
    "activation": "gelu",
    "stem_padding": 2,
}
# Where upstream's code and upstream's released weights differ: the weights of base_iso have a norm after
# modulation, the code builds none (upstream issue 23).
_ALSO = {"focalnet_base_iso": {"norm_after_modulation": False}}

_NORM1 = "stage1_block1/norm1/gamma"


@dataclass(frozen=True)
class Recognized:
    """The architecture of a checkpoint.

    Attributes:
        backbone: dict. Arguments of `FocalNetBackbone`.
        num_classes: int or None. Number of classes of the head. None without a head.
        channels: int. Number of channels of the images.
        variant: str or None. Name in `ARCHITECTURES`.
        notes: list of str. Sources of the arguments that weights do not determine.
    """

    backbone: dict
    num_classes: int | None
    channels: int
    variant: str | None
    notes: list[str]


def recognize(shapes, claims=None, variant=None, config_overrides=None):
    """Recognize the network that has weights of these shapes.

    Args:
        shapes: dict of path -> tuple of int. Shapes of the variables of a focalnets model.
        claims: function or None. Takes the arguments that the weights determine, the number of channels and
            the number of classes. Returns a list of `Claim` about the other arguments, best first. Defaults
            to None, no claims.
        variant: str or None. Name in `ARCHITECTURES`. Defaults to None, the first one with these shapes.
        config_overrides: dict or None. Values of `CONFIG_OVERRIDES`. They override claims and variant.
            Defaults to None.

    Returns:
        `Recognized`.

    Raises:
        ValueError: if weights are missing that every FocalNet has, or the shapes are not those of `variant`.
    """
    found = _weighted_arguments(shapes)
    channels = shapes["stem/proj/kernel"][2]
    num_classes = shapes["head/kernel"][1] if "head/kernel" in shapes else None
    if variant is None:
        same = [name for name in ARCHITECTURES if not _differences(found, name, shapes)]
        variant = same[0] if same else None
    elif differences := _differences(found, variant, shapes):
        raise ValueError(
            f"The checkpoint is not {variant}: {'; '.join(differences)}. Omit --variant to recognize the "
            "architecture from the weights."
        )
    notes = [f"recognized as {variant}" if variant else "not an architecture of `focalnets presets`"]
    if variant in _ALSO and not found["norm_after_modulation"]:
        notes.append("no norm after modulation, as upstream's code builds it")
    table = {} if variant is None else find_architecture(variant).backbone
    claims = [] if claims is None else claims(found, channels, num_classes)
    backbone = dict(found)
    for name in (*CONFIG_OVERRIDES, "layer_scale_init"):
        if name == "stem_padding" and not found["overlap_embed"]:
            continue
        value, origin = _settled(name, variant, table, claims, config_overrides or {})
        if origin is not None:
            backbone[name] = value
        if name in _REPORTED and (origin is not None or name != "stem_padding"):
            assumed = f"ASSUMED, because weights do not determine it (--set {name}=VALUE changes it)"
            shown = _REPORTED[name] if value is None else value
            notes.append(f"{name} = {shown}: {origin or assumed}")
            if origin is None:
                backbone[name] = shown
    if _NORM1 not in shapes:
        backbone["norm_placement"] = "mlp_only"
    if backbone.get("stem_padding") == 2 and found["patch_size"] == 4:
        backbone.pop("stem_padding")  # the default
    if found["patch_size"] != 4 and "stem_padding" not in (config_overrides or {}):
        backbone.pop("stem_padding", None)  # other libraries have no such stem
    if any(re.fullmatch(r"stage\d+_norm/gamma", path) for path in shapes):
        backbone["pyramid_norm"] = True
    notes += [note for claim in claims for note in claim.notes]
    return Recognized(backbone, num_classes, channels, variant, notes)


def is_doubtful(note):
    """Whether a note reports an assumed value, or sources that contradict each other."""
    return "ASSUMED" in note or "(--set" in note


def _settled(name, variant, table, claims, config_overrides):
    """(value, origin) of an argument from the overrides, claims or variant. Origin None if all are silent."""
    if name in config_overrides:
        return config_overrides[name], "as requested"
    claim = next((claim for claim in claims if name in claim.values), None)
    default = _REPORTED.get(name)
    if claim is not None:
        value, origin = claim.values[name], claim.origin
        if variant and name in _REPORTED and value != (expected := table.get(name, default)):
            origin += f"; {variant} has {expected} (--set {name}={str(expected).lower()} selects it)"
        return value, origin
    if variant is None:
        return None, None
    if name in table or name in _REPORTED:
        return table.get(name, default), f"as in {variant}"
    return None, None


def _weighted_arguments(shapes):
    """The arguments of `FocalNetBackbone` that the shapes of weights determine."""
    missing = [name for name in ("stem/proj/kernel", "stage1_block1/fc1/kernel") if name not in shapes]
    if missing:
        raise ValueError(f"The checkpoint lacks weights that every FocalNet has: {', '.join(missing)}.")
    blocks = {}
    for path in shapes:
        if found := re.match(r"stage(\d+)_block(\d+)/", path):
            stage, block = map(int, found.groups())
            blocks.setdefault(stage, set()).add(block)
    for stage in range(1, len(blocks) + 1):
        if stage not in blocks:
            raise ValueError(f"The checkpoint has blocks in stage {max(blocks)}, but not in stage {stage}.")
        if max(blocks[stage]) != len(blocks[stage]):
            missing = next(block for block in range(1, len(blocks[stage]) + 1) if block not in blocks[stage])
            raise ValueError(
                f"The checkpoint has block {max(blocks[stage])} of stage {stage}, but not block {missing}."
            )
    depths = tuple(len(blocks[stage]) for stage in range(1, len(blocks) + 1))
    sizes = []
    for stage in range(1, len(depths) + 1):
        prefix = f"stage{stage}_block1/modulation/focal_kernel_"
        levels = sorted((int(path.removeprefix(prefix)), path) for path in shapes if path.startswith(prefix))
        if not levels:
            raise ValueError(f"The checkpoint has no depthwise kernels in stage {stage}.")
        sizes.append([shapes[path][0] for _, path in levels])
    steps = {after - before for kernels in sizes for before, after in itertools.pairwise(kernels)}
    if len(steps) > 1:
        raise ValueError(f"Kernel sizes {sizes} do not increase by the same step between all levels.")
    kernel, _, _, embed_dim = shapes["stem/proj/kernel"]
    overlap = shapes.get("stage1_downsample/proj/kernel", (kernel if kernel % 2 else 2,))[0] != 2
    return {
        "embed_dim": embed_dim,
        "depths": depths,
        "focal_levels": tuple(len(kernels) for kernels in sizes),
        "focal_window": tuple(kernels[0] for kernels in sizes),
        "focal_factor": steps.pop() if steps else 2,
        "norm_after_modulation": "stage1_block1/modulation/norm/gamma" in shapes,
        "patch_size": (kernel + 1) // 2 if overlap else kernel,
        "overlap_embed": overlap,
        "mlp_ratio": shapes["stage1_block1/fc1/kernel"][1] / embed_dim,
        "layer_scale_init": 1e-4 if "stage1_block1/scale1/gamma" in shapes else None,
    }


def _differences(found, variant, shapes):
    """Sentences about the arguments in which a checkpoint differs from a variant."""
    row = {**SHAPE_ARGUMENTS, **find_architecture(variant).backbone}
    differences = []
    if (_NORM1 in shapes) == (row.get("norm_placement") == "mlp_only"):
        differences.append(f"it has {'a' if _NORM1 in shapes else 'no'} norm before the modulation")
    for name in SHAPE_ARGUMENTS:
        expected, value = row[name], found[name]
        if value == _ALSO.get(variant, {}).get(name, expected):
            continue
        if name in ("focal_levels", "focal_window"):
            expected = per_stage(name, expected, row["depths"])
        elif name == "layer_scale_init":
            expected, value = expected is not None, value is not None
        if expected != value:
            differences.append(f"{name} is {value}, not {expected}")
    return differences
