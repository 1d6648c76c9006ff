"""Shapes of weights -> arguments of the network that has them."""

import itertools
import re
from dataclasses import dataclass

from focalnets.layers.geometry import per_stage
from focalnets.presets.architectures import ARCHITECTURES, find_architecture

# What has no weights: a checkpoint cannot tell it.
FLAGS = (
    "normalize_modulator",
    "norm_placement",
    "drop_path_rate",
    "norm_epsilon",
    "stem_padding",
    "dropout_rate",
)

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


def recognise(shapes, known=None, variant=None, flags=None):
    """Find out which network has weights of these shapes.

    Args:
        shapes: path of a variable of ours -> its shape.
        known: values of `FLAGS` that the checkpoint's own config or keys tell.
        variant: name in `ARCHITECTURES`; None to look for it.
        flags: values of `FLAGS` that the user gives; they win.

    Returns:
        A `Recognised`.

    Raises:
        ValueError: if weights are missing that every FocalNet has, or it is not the `variant`.
    """
    found = _weighted_arguments(shapes)
    num_classes = shapes["head/kernel"][1] if "head/kernel" in shapes else None
    if variant is None:
        same = [name for name in ARCHITECTURES if not _differences(found, name, shapes)]
        variant = same[0] if same else None
    elif differences := _differences(found, variant, shapes):
        raise ValueError(
            f"The checkpoint is not {variant}: " + "; ".join(differences) + ". Leave out --variant to have "
            "it recognised."
        )
    notes = [f"recognised as {variant}" if variant else "no variant that focalnets knows"]
    table = {} if variant is None else find_architecture(variant).backbone
    chosen = {}
    defaults = {"normalize_modulator": False, "norm_placement": "pre", "norm_epsilon": 1e-5}
    for name, default in defaults.items():
        if name in (flags or {}):
            origin = "as you said"
        elif name in (known or {}):
            origin, chosen[name] = "from the checkpoint", known[name]
            if variant and known[name] != table.get(name, default):
                origin += f"; {variant} has {table.get(name, default)}, which --set {name}=... would take"
        elif variant:
            origin, chosen[name] = f"as {variant} has it", table.get(name, default)
        else:
            origin, chosen[name] = "ASSUMED, weights cannot tell: set it if that is wrong", default
        notes.append(f"{name} = {(flags or {}).get(name, chosen.get(name))}: {origin}")
    rest = {name: table[name] for name in FLAGS if name in table and name not in chosen}
    if _NORM1 not in shapes:
        chosen["norm_placement"] = "mlp_only"
    backbone = {**found, **rest, **(known or {}), **chosen, **(flags or {})}
    if "stage1_norm/gamma" in shapes:
        backbone["pyramid_norm"] = True
        if backbone["overlap_embed"] and "stem_padding" not in (flags or {}):
            backbone["stem_padding"] = 3  # upstream's detection code; its classification code has 2
    return Recognised(backbone, num_classes, shapes["stem/proj/kernel"][2], variant, notes)


def _weighted_arguments(shapes):
    missing = [name for name in ("stem/proj/kernel", "stage1_block1/fc1/kernel") if name not in shapes]
    if missing:
        raise ValueError(f"The checkpoint lacks weights that every FocalNet has: {', '.join(missing)}.")
    counts = {}
    for path in shapes:
        if found := re.match(r"stage(\d+)_block(\d+)/", path):
            stage, block = map(int, found.groups())
            counts[stage] = max(counts.get(stage, 0), block)
    depths = tuple(counts.get(stage, 0) for stage in range(1, max(counts) + 1))
    if 0 in depths:
        raise ValueError(f"The checkpoint has no blocks in stage {depths.index(0) + 1} of {len(depths)}.")
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
        if name in ("focal_levels", "focal_window"):
            expected = per_stage(name, expected, row["depths"])
        elif name == "layer_scale_init":
            expected, value = expected is not None, value is not None
        if expected != value:
            differences.append(f"{name} is {value}, not {expected}")
    return differences
