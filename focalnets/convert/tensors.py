"""Named arrays of other libraries -> a network of ours, and back; an array without a place is an error."""

from dataclasses import dataclass

import numpy as np
from keras import ops

from focalnets._io import listed
from focalnets.convert.architecture import recognise
from focalnets.convert.mapping import our_path, their_key
from focalnets.convert.sources import Source, with_standard_keys
from focalnets.layers.initializers import weights_follow
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetClassifier
from focalnets.presets.labels import class_names_of
from focalnets.presets.preprocessing import converter_of


@dataclass(frozen=True)
class Conversion:
    """A checkpoint as a network.

    Attributes:
        network: `FocalNetClassifier`, or `FocalNetBackbone` where the checkpoint has no head.
        image_converter: the preprocessing that belongs to it.
        source: "official", "timm" or "transformers".
        variant: the row of `ARCHITECTURES` that it is, or None.
        notes: what was found, chosen and assumed, a line each.
    """

    network: FocalNetClassifier | FocalNetBackbone
    image_converter: object
    source: str
    variant: str | None
    notes: list[str]


def from_tensors(source, variant=None, flags=None, labels=None):
    """The network whose weights a checkpoint holds.

    Args:
        source: a `Source`, or a dict from key to array: the state dict of microsoft/FocalNet, timm's
            `focalnet_*` or transformers' `FocalNet*` models.
        variant: name in `ARCHITECTURES`; None to have it recognised from keys and shapes.
        flags: dict of `convert.architecture.FLAGS`, for what the weights cannot tell.
        labels: function from the number of classes to their names; None for those that belong to the
            checkpoint.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: listing what is left over on either side, or has another shape.

    >>> from focalnets import FocalNetBackbone
    >>> from focalnets.convert.tensors import from_tensors, to_tensors
    >>> net = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    >>> theirs = to_tensors(net, "timm")
    >>> from_tensors(theirs).network.depths
    (1, 1)
    """
    source = source if isinstance(source, Source) else Source(dict(source))
    library, arrays, notes = our_arrays(source.tensors)
    known = _known_flags(library, source.tensors, source.config)
    shapes = {path: array.shape for path, array in arrays.items()}
    found = recognise(shapes, known, variant, flags)
    image_converter, note = converter_of(
        found.variant, found.num_classes, found.channels, source.config, source.preprocessing
    )
    notes = [f"format: {library}", *source.notes, *notes, *found.notes, note]
    with weights_follow():
        network = FocalNetBackbone(**found.backbone, image_shape=(None, None, found.channels))
        if found.num_classes is not None:
            count = found.num_classes
            names, note = class_names_of(count, source.config) if labels is None else (labels(count), "")
            notes += [note] if note else []
            network = FocalNetClassifier(network, count, image_converter, names)
    _assign(network, arrays, library)
    return Conversion(network, image_converter, library, found.variant, notes)


def our_arrays(tensors):
    """The arrays of another library by the paths of ours, as views.

    Returns:
        (library, arrays by path, notes).

    Raises:
        ValueError: listing keys that no FocalNet has.
    """
    library, tensors, notes = with_standard_keys(tensors)
    arrays, unknown = {}, []
    for key, tensor in tensors.items():
        found = our_path(library, key)
        if found is None or found[1].axes != np.ndim(tensor):
            unknown.append(key)
        else:
            arrays[found[0]] = found[1].to_ours(tensor)
    if unknown:
        raise ValueError(f"The checkpoint ({library}) has keys that no FocalNet has: {listed(unknown)}.")
    return library, arrays, notes


def to_tensors(network, library):
    """The state dict of another library with the weights of a network.

    Args:
        network: a `FocalNetClassifier` or `FocalNetBackbone`.
        library: "official", "timm" or "transformers".

    Returns:
        Dict from key to float32 array.

    Raises:
        ValueError: if that library has no such network, saying why.
    """
    backbone = network.backbone if isinstance(network, FocalNetClassifier) else network
    if why := _cannot(backbone, library):
        raise ValueError(f"{library} has no such network: {why}.")
    post = backbone.norm_placement == "post"
    last = f"norm{len(backbone.depths) - 1}."
    tensors = {}
    for variable in network.weights:
        key, transform = their_key(library, variable.path, post)
        if backbone.pyramid_norm and key.startswith("norm."):
            key = last + key.removeprefix("norm.")
        value = transform.to_theirs(ops.convert_to_numpy(variable))
        tensors[key] = np.ascontiguousarray(value, "float32")
    return tensors


def differences_elsewhere(network, library):
    """In what another library computes something else with the same weights, a sentence each."""
    backbone = network.backbone if isinstance(network, FocalNetClassifier) else network
    found = []
    if library == "timm" and backbone.normalize_modulator:
        found.append("timm never normalises the modulator: its outputs will differ.")
    epsilons = {backbone.norm_epsilon, backbone.embedding_norm_epsilon}
    if library != "transformers" and epsilons != {1e-5}:
        others = " and ".join(f"{epsilon:g}" for epsilon in sorted(epsilons - {1e-5}))
        found.append(f"its norms have an epsilon of 1e-5, not {others}: outputs will differ.")
    elif len(epsilons) > 1:
        found.append(
            f"all its norms have the epsilon {backbone.norm_epsilon}, those after embeddings here "
            f"{backbone.embedding_norm_epsilon}: outputs will differ."
        )
    return found


def _cannot(backbone, library):
    if backbone.norm_placement == "mlp_only":
        return "it has a norm before modulation, and the tutorial's has none"
    if backbone.focal_factor != 2:
        return f"its kernels grow by 2 from level to level; these by {backbone.focal_factor}"
    if backbone.pyramid_norm and library != "official":
        return "a norm for each stage is of upstream's detection backbones alone"
    if library == "timm" and backbone.patch_size != 4:
        return f"its stem has stride 4; this one {backbone.patch_size}"
    if backbone.overlap_embed and backbone.patch_size != 4:
        return f"its overlapping stem has stride 4; this one {backbone.patch_size}"
    if library != "official" and backbone.stem_padding not in (None, 2) and backbone.overlap_embed:
        return f"its overlapping stem has padding 2; this one {backbone.stem_padding}"
    return None


def _known_flags(library, tensors, config):
    """What the checkpoint's own config and keys tell of what has no weights."""
    if library == "timm":
        # `normalize_modulator` is no argument of timm's published models: the variant decides it.
        return {"norm_placement": "post" if any("norm1_post" in key for key in tensors) else "pre"}
    if library == "transformers" and config.get("model_type") == "focalnet":
        return {
            "normalize_modulator": config.get("normalize_modulator", False),
            "norm_placement": "post" if config.get("use_post_layernorm", False) else "pre",
            "drop_path_rate": config.get("drop_path_rate", 0.1),
            "norm_epsilon": config.get("layer_norm_eps", 1e-5),
            "dropout_rate": config.get("hidden_dropout_prob", 0.0),
        }
    return {}


def _assign(network, arrays, library):
    variables = {variable.path: variable for variable in network.weights}
    for text, paths in (
        ("lacks weights of", sorted(set(variables) - set(arrays))),
        ("has weights without a place in", sorted(set(arrays) - set(variables))),
    ):
        if paths:
            post = any("norm1_post" in path for path in paths)
            keys = [their_key(library, path, post)[0] for path in paths]
            raise ValueError(f"The checkpoint {text} the network that it seems to be: {listed(keys)}.")
    wrong = [
        f"{path} {array.shape}, not {tuple(variables[path].shape)}"
        for path, array in arrays.items()
        if array.shape != tuple(variables[path].shape)
    ]
    if wrong:
        raise ValueError(f"Weights of the checkpoint have other shapes than its network: {listed(wrong)}.")
    # Largest and smallest, not all of them: an array of truths would take a quarter of the array.
    bad = [path for path, array in arrays.items() if not np.isfinite([array.min(), array.max()]).all()]
    if bad:
        raise ValueError(f"Weights of the checkpoint are not finite, it is damaged: {listed(bad)}.")
    for path, array in arrays.items():
        variables[path].assign(np.asarray(array, "float32"))
