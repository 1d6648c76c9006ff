"""Shapes of weights -> arguments of the network that has them."""

import itertools
import re
from dataclasses import dataclass

from focalnets.layers.geometry import kernel_sizes, per_stage, stem_kernel_size
from focalnets.presets.architectures import ARCHITECTURES, find_architecture

# What has no weights: a checkpoint cannot tell it.
CONFIG_OVERRIDES = (
    "normalize_modulator",
    "norm_placement",
    "drop_path_rate",
    "norm_epsilon",
    "stem_padding",
    "dropout_rate",
    "activation",
)
# What is reported, with its default; the others say nothing about outputs.
_REPORTED = {
    "normalize_modulator": False,
    "norm_placement": "pre",
    "norm_epsilon": 1e-5,
    "activation": "gelu",
    "stem_padding": 2,
}
# Where upstream's code builds a variant otherwise than its released weights are: base_iso has a norm in its
# modulation there, which `focalnet_base_iso` of its code lacks (upstream issue 23).
_ALSO = {"focalnet_base_iso": {"norm_after_modulation": False}}

# What has, and their defaults in `FocalNetBackbone`.
_WEIGHTED = {
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "focal_levels": 2,
    "focal_window": 3,
    "focal_factor": 2,
    "norm_after_modulation": False,
    "patch_size": 4,
    "overlap_embed": False,
    "mlp_ratio": 4.0,
    "layer_scale_init": None,
}


_NORM1 = "stage1_block1/norm1/gamma"


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint is.

    Attributes:
        backbone: arguments of `FocalNetBackbone`.
        num_classes: logits of its head, None without one.
        channels: of its images.
        variant: the row of `ARCHITECTURES` that it is, or None.
        notes: where what has no weights was taken from.
    """

    backbone: dict
    num_classes: int | None
    channels: int
    variant: str | None
    notes: list[str]


def recognize(shapes, claims=None, variant=None, config_overrides=None):
    """Find out which network has weights of these shapes.

    Args:
        shapes: dict. Path of a variable of ours -> its shape.
        claims: function. Takes the arguments that the weights tell, the channels of the images and the number
            of classes, and returns claims (`origin`, `values`, `notes`) on the rest, best first. Defaults to
            none.
        variant: str. Name in `ARCHITECTURES`. Defaults to looking for it.
        config_overrides: dict. Values of `CONFIG_OVERRIDES` that the user gives; they win.

    Returns:
        A `Recognised`.

    Raises:
        ValueError: if weights are missing that every FocalNet has, or it is not the `variant`.
    """
    found = _weighted_arguments(shapes)
    channels = shapes["stem/proj/kernel"][2]
    num_classes = shapes["head/kernel"][1] if "head/kernel" in shapes else None
    if variant is None:
        same = [name for name in ARCHITECTURES if not _differences(found, name, shapes)]
        variant = same[0] if same else None
    elif differences := _differences(found, variant, shapes):
        raise ValueError(
            f"The checkpoint is not {variant}: " + "; ".join(differences) + ". Leave out --variant to have "
            "it recognized."
        )
    notes = [f"recognized as {variant}" if variant else "no variant that focalnets knows"]
    if variant in _ALSO and not found["norm_after_modulation"]:
        notes.append("without a norm in its modulation, as upstream's code builds it")
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
            assumed = "ASSUMED, weights cannot tell: set it if that is wrong"
            shown = _REPORTED[name] if value is None else value
            notes.append(f"{name} = {shown}: {origin or assumed}")
            if origin is None:
                backbone[name] = shown
    if _NORM1 not in shapes:
        backbone["norm_placement"] = "mlp_only"
    if backbone.get("stem_padding") == 2 and found["patch_size"] == 4:
        backbone.pop("stem_padding")  # the default of the overlapping stem
    if found["patch_size"] != 4 and "stem_padding" not in (config_overrides or {}):
        backbone.pop("stem_padding", None)  # no other library has such a stem
    if any(re.fullmatch(r"stage\d+_norm/gamma", path) for path in shapes):
        backbone["pyramid_norm"] = True
    notes += [note for claim in claims for note in claim.notes]
    return Recognised(backbone, num_classes, channels, variant, notes)


def is_doubtful(note):
    """Whether a line of the report says that a value is assumed, or that sources contradict each other."""
    return "ASSUMED" in note or "would take" in note


def _settled(name, variant, table, claims, config_overrides):
    """(value, origin) of an argument: the user's, a claim's, the variant's; origin None if nobody knows."""
    if name in config_overrides:
        return config_overrides[name], "as you said"
    claim = next((claim for claim in claims if name in claim.values), None)
    default = _REPORTED.get(name)
    if claim is not None:
        value, origin = claim.values[name], claim.origin
        if variant and name in _REPORTED and value != (expected := table.get(name, default)):
            origin += f"; {variant} has {expected}, which --set {name}={str(expected).lower()} would take"
        return value, origin
    if variant is None:
        return None, None
    if name in table or name in _REPORTED:
        return table.get(name, default), f"as {variant} has it"
    return None, None


def _weighted_arguments(shapes):
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
            raise ValueError(f"The checkpoint has no blocks in stage {stage} of {max(blocks)}.")
        if max(blocks[stage]) != len(blocks[stage]):
            missing = next(block for block in range(1, len(blocks[stage]) + 1) if block not in blocks[stage])
            raise ValueError(
                f"The checkpoint has a block {max(blocks[stage])} in stage {stage} and lacks block {missing}."
            )
    depths = tuple(len(blocks[stage]) for stage in range(1, len(blocks) + 1))
    sizes = []
    for stage in range(1, len(depths) + 1):
        prefix = f"stage{stage}_block1/modulation/focal_kernel_"
        levels = sorted((int(path.removeprefix(prefix)), path) for path in shapes if path.startswith(prefix))
        if not levels:
            raise ValueError(f"The checkpoint lacks the depthwise kernels of stage {stage}.")
        sizes.append([shapes[path][0] for _, path in levels])
    steps = {after - before for kernels in sizes for before, after in itertools.pairwise(kernels)}
    if len(steps) > 1:
        raise ValueError(f"Kernel sizes {sizes} do not grow by the same step from level to level.")
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
    """In which arguments a checkpoint is not that variant, in words."""
    row = {**_WEIGHTED, **find_architecture(variant).backbone}
    differences = []
    if (_NORM1 in shapes) == (row.get("norm_placement") == "mlp_only"):
        differences.append(f"it has {'a' if _NORM1 in shapes else 'no'} norm before the modulation")
    for name in _WEIGHTED:
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


def variable_shapes(backbone, channels, num_classes):
    """Path of each variable of a network -> its shape, without building it.

    Args:
        backbone: dict. Arguments of `FocalNetBackbone`; absent ones have its defaults.
        channels, num_classes: int. Of the images, and of the head, or None for a backbone alone.

    Returns:
        Dict from path to tuple.

    >>> from focalnets.conversion.architecture import variable_shapes
    >>> variable_shapes({"embed_dim": 8, "depths": (1,)}, channels=3, num_classes=5)["head/kernel"]
    (8, 5)
    """
    net = {**_WEIGHTED, **backbone}
    depths, width = net["depths"], net["embed_dim"]
    levels = per_stage("focal_levels", net["focal_levels"], depths)
    windows = per_stage("focal_window", net["focal_window"], depths)
    shapes = {}

    def dense(path, inputs, units):
        shapes.update({f"{path}/kernel": (inputs, units), f"{path}/bias": (units,)})

    def norm(path, size):
        shapes.update({f"{path}/gamma": (size,), f"{path}/beta": (size,)})

    def embedding(path, kernel, inputs, units):
        shapes.update({f"{path}/proj/kernel": (kernel, kernel, inputs, units), f"{path}/proj/bias": (units,)})
        norm(f"{path}/norm", units)

    embedding("stem", stem_kernel_size(net["patch_size"], net["overlap_embed"]), channels, width)
    for stage, depth in enumerate(depths):
        hidden = int(width * net["mlp_ratio"])
        kernels = kernel_sizes(levels[stage], windows[stage], net["focal_factor"])
        for block in range(depth):
            path = f"stage{stage + 1}_block{block + 1}"
            dense(f"{path}/modulation/f", width, 2 * width + levels[stage] + 1)
            dense(f"{path}/modulation/h", width, width)
            dense(f"{path}/modulation/proj", width, width)
            for level, size in enumerate(kernels):
                shapes[f"{path}/modulation/focal_kernel_{level}"] = (size, size, width, 1)
            dense(f"{path}/fc1", width, hidden)
            dense(f"{path}/fc2", hidden, width)
            norm(f"{path}/norm2", width)
            if net.get("norm_placement") != "mlp_only":
                norm(f"{path}/norm1", width)
            if net["norm_after_modulation"]:
                norm(f"{path}/modulation/norm", width)
            if net["layer_scale_init"] is not None:
                shapes.update({f"{path}/scale{branch}/gamma": (width,) for branch in (1, 2)})
        if stage + 1 < len(depths):
            if net.get("pyramid_norm"):
                norm(f"stage{stage + 1}_norm", width)
            embedding(f"stage{stage + 1}_downsample", 3 if net["overlap_embed"] else 2, width, 2 * width)
            width *= 2
    norm("norm", width)
    if num_classes is not None:
        dense("head", width, num_classes)
    return shapes
