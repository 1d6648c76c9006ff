"""Names of weights in focalnets and in the checkpoints of three other libraries, one layer per row.

Stages, blocks and levels count from 0 in `{s}`, `{b}`, `{l}`, and from 1 in `{S}`, `{B}`:

    ours            paths of the variables of `FocalNetImageClassifier` and `FocalNetBackbone`
    official        microsoft/FocalNet, `checkpoint["model"]`
    timm            the twelve `focalnet_*` models; `{post}` is "_post" in networks with post-norm
    transformers    `FocalNetForImageClassification`, `FocalNetModel` and `FocalNetBackbone`

`their_key` maps a path to a key, and `our_path` a key to a path. No other module contains these names.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FORMATS = ("official", "timm", "transformers")

# Values of `{block}` in our paths, then in each format.
_BLOCKS = (
    "stage{S}_block{B}",
    "layers.{s}.blocks.{b}",
    "layers.{s}.blocks.{b}",
    "focalnet.encoder.stages.{s}.layers.{b}",
)

_LEVEL = "{block}.modulation.focal_layers.{l}.0"

# fmt: off
# ours, kind, official, timm, transformers
LAYERS = (
    ("stem/proj", "conv", "patch_embed.proj", "stem.proj", "focalnet.embeddings.patch_embeddings.projection"),
    ("stem/norm", "norm", "patch_embed.norm", "stem.norm", "focalnet.embeddings.norm"),
    ("{block}/norm1", "norm", "{block}.norm1", "{block}.norm1{post}", "{block}.norm1"),
    ("{block}/modulation/f", "dense",
        "{block}.modulation.f", "{block}.modulation.f", "{block}.modulation.projection_in"),
    ("{block}/modulation/focal_kernel_{l}", "depthwise", _LEVEL, _LEVEL, _LEVEL),
    ("{block}/modulation/h", "pointwise",
        "{block}.modulation.h", "{block}.modulation.h", "{block}.modulation.projection_context"),
    ("{block}/modulation/norm", "norm",
        "{block}.modulation.ln", "{block}.modulation.norm", "{block}.modulation.layernorm"),
    ("{block}/modulation/proj", "dense",
        "{block}.modulation.proj", "{block}.modulation.proj", "{block}.modulation.projection_out"),
    ("{block}/scale1", "scale", "{block}.gamma_1", "{block}.ls1.gamma", "{block}.gamma_1"),
    ("{block}/norm2", "norm", "{block}.norm2", "{block}.norm2{post}", "{block}.norm2"),
    ("{block}/fc1", "dense", "{block}.mlp.fc1", "{block}.mlp.fc1", "{block}.mlp.fc1"),
    ("{block}/fc2", "dense", "{block}.mlp.fc2", "{block}.mlp.fc2", "{block}.mlp.fc2"),
    ("{block}/scale2", "scale", "{block}.gamma_2", "{block}.ls2.gamma", "{block}.gamma_2"),
    # timm down-samples at the start of the next stage.
    ("stage{S}_downsample/proj", "conv", "layers.{s}.downsample.proj",
        "layers.{S}.downsample.proj", "focalnet.encoder.stages.{s}.downsample.projection"),
    ("stage{S}_downsample/norm", "norm", "layers.{s}.downsample.norm",
        "layers.{S}.downsample.norm", "focalnet.encoder.stages.{s}.downsample.norm"),
    # Only in detection and segmentation backbones, which have norm<last> instead of norm.
    ("stage{S}_norm", "norm", "norm{s}", None, None),
    ("norm", "norm", "norm", "norm", "focalnet.layernorm"),
    ("head", "head", "head", "head.fc", "classifier"),
)
# fmt: on


@dataclass(frozen=True)
class Transform:
    """Functions from array to array, between a library whose array has `axes` axes and focalnets."""

    axes: int
    to_ours: Callable
    to_theirs: Callable


_SAME = Transform(1, lambda a: a, lambda a: a)
_LINEAR = Transform(2, np.transpose, np.transpose)  # (out, in) <-> (in, out)
_POINTWISE = Transform(4, lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])  # (out, in, 1, 1)
_CONV = Transform(4, lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# (C, 1, k, k) <-> (k, k, C, 1)
_DEPTHWISE = Transform(4, lambda a: a.transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1))

# Kind of layer -> its arrays: (end of our path, end of their key, transform).
_BIAS = ("/bias", ".bias", _SAME)
_KINDS = {
    "conv": (("/kernel", ".weight", _CONV), _BIAS),
    "dense": (("/kernel", ".weight", _LINEAR), _BIAS),
    "pointwise": (("/kernel", ".weight", _POINTWISE), _BIAS),
    "head": (("/kernel", ".weight", _LINEAR), _BIAS),
    "norm": (("/gamma", ".weight", _SAME), ("/beta", ".bias", _SAME)),
    "scale": (("/gamma", "", _SAME),),
    "depthwise": (("", ".weight", _DEPTHWISE),),
}


@functools.cache
def _rows(source):
    """Rows (compiled path, compiled key, path pattern, key pattern, transform) of a format, one per array."""
    rows, column = [], FORMATS.index(source)
    for ours, kind, *theirs in LAYERS:
        if theirs[column] is None:
            continue
        ours = ours.replace("{block}", _BLOCKS[0])
        name = theirs[column].replace("{block}", _BLOCKS[1 + column])
        # timm stores the dense layers of blocks as 1 x 1 convolutions.
        kind = "pointwise" if source == "timm" and kind == "dense" else kind
        rows += [(ours + end, name + their_end, transform) for end, their_end, transform in _KINDS[kind]]
    return [(_expression(ours), _expression(theirs), ours, theirs, change) for ours, theirs, change in rows]


def _expression(pattern):
    """Compiled pattern with one named group per placeholder."""
    text = re.escape(pattern).replace(r"\{post\}", "(?P<post>_post)?")
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>[0-9]+)", text))


def _indices(found):
    """Values of all placeholders; those that count from 0 and from 1 are computed from each other."""
    values = {name: int(value) for name, value in found.groupdict().items() if value and name != "post"}
    for low, high in ("sS", "bB"):
        if high in values:
            values[low] = values[high] - 1
        elif low in values:
            values[high] = values[low] + 1
    return values


def our_path(source, key):
    """(path of our variable, transform) for a key of another library, or None for an unknown key.

    >>> from focalnets.conversion.mapping import our_path
    >>> our_path("official", "layers.0.blocks.1.modulation.f.weight")[0]
    'stage1_block2/modulation/f/kernel'
    """
    for _, expression, ours, _, transform in _rows(source):
        if found := expression.fullmatch(key):
            return ours.format(**_indices(found)), transform
    return None


def their_key(source, path, post_norm=False):
    """(key in another library, transform) for the path of our variable, or None if there is no such key.

    >>> from focalnets.conversion.mapping import their_key
    >>> their_key("timm", "stage1_downsample/norm/gamma")[0]
    'layers.1.downsample.norm.weight'
    """
    for expression, _, _, theirs, transform in _rows(source):
        if found := expression.fullmatch(path):
            return theirs.format(**_indices(found), post="_post" if post_norm else ""), transform
    return None
