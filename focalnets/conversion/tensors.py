"""Named arrays of other libraries -> a network of ours, and back; an array without a place is an error."""

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
from keras import ops

from focalnets.conversion.architecture import recognize, variable_shapes
from focalnets.conversion.foreign import checked_preprocessing
from focalnets.conversion.mapping import FORMATS, our_path, their_key
from focalnets.conversion.publishers import claims_for
from focalnets.conversion.sources import LoadedCheckpoint
from focalnets.conversion.wrappers import chosen_tensors
from focalnets.layers.initializers import skip_initialization
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.names import listed
from focalnets.presets.labels import class_names_for
from focalnets.presets.preprocessing import converter_for


@dataclass(frozen=True)
class Conversion:
    """A checkpoint as a network.

    Attributes:
        network: `FocalNetImageClassifier`, or `FocalNetBackbone` where the checkpoint has no head.
        image_converter: the preprocessing that belongs to it.
        source: "official", "timm" or "transformers".
        variant: the row of `ARCHITECTURES` that it is, or None.
        notes: what was found, chosen and assumed, a line each.
        arrays: the arrays of the network by the paths of its variables, as views of the checkpoint's.
    """

    network: FocalNetImageClassifier | FocalNetBackbone
    image_converter: object
    source: str
    variant: str | None
    notes: list[str]
    arrays: dict


def from_tensors(source, variant=None, config_overrides=None, labels=None, entry=None, published=False):
    """The network whose weights a checkpoint holds.

    Args:
        source: a `LoadedCheckpoint`, or a dict from key to array: the state dict of microsoft/FocalNet,
            timm's `focalnet_*` or transformers' `FocalNet*` models.
        variant: name in `ARCHITECTURES`; None to have it recognized from keys and shapes.
        config_overrides: dict of `convert.architecture.CONFIG_OVERRIDES`, for what the weights cannot tell.
        labels: function from the number of classes to their names; None for those that belong to the
            checkpoint.
        entry: str. Which weights to take where there are several, such as "ema"; see `chosen_tensors`.
            Defaults to the trained ones.
        published: bool. Whether these are known to be the weights of the paper, so that the variant decides
            what weights cannot tell, and not the library that copied them. Defaults to `False`.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: listing what is left over on either side, or has another shape.

    >>> from focalnets import FocalNetBackbone
    >>> from focalnets.conversion.tensors import from_tensors, to_tensors
    >>> net = FocalNetBackbone(embed_dim=8, depths=(1, 1))
    >>> theirs = to_tensors(net, "timm")
    >>> from_tensors(theirs).network.depths
    (1, 1)
    """
    source = _unwrapped(
        source if isinstance(source, LoadedCheckpoint) else LoadedCheckpoint(dict(source)), entry
    )
    library, arrays, keys, notes = _our_arrays(source.tensors)
    shapes = {path: array.shape for path, array in arrays.items()}

    def claims(found, channels, num_classes):
        return claims_for(library, source, keys, found, channels, num_classes, published)

    found = recognize(shapes, claims, variant, config_overrides)
    checked_preprocessing(source.config, source.preprocessing)
    image_converter, note = converter_for(
        found.variant, found.num_classes, found.channels, source.config, source.preprocessing
    )
    notes = [f"format: {library}", *source.notes, *notes, *found.notes, note]
    notes += _add_missing_norms(arrays, found, library, keys)
    _check_arrays(arrays, variable_shapes(found.backbone, found.channels, found.num_classes), library)
    with skip_initialization():
        network = FocalNetBackbone(**found.backbone, image_shape=(None, None, found.channels))
        if found.num_classes is not None:
            count = found.num_classes
            names, note = class_names_for(count, source.config) if labels is None else (labels(count), "")
            notes += [note] if note else []
            network = FocalNetImageClassifier(network, count, image_converter, names)
    variables = {variable.path: variable for variable in network.weights}
    for path, array in arrays.items():
        variables[path].assign(np.asarray(array, "float32"))
    return Conversion(network, image_converter, library, found.variant, notes, arrays)


def _unwrapped(source, entry):
    """A source without what wrappers put before its keys, where its reader has not taken that off."""
    chosen = chosen_tensors(source.tensors, entry)
    if not chosen.tensors or not chosen.prefix:
        return source
    return dataclasses.replace(
        source,
        tensors=chosen.tensors,
        prefix=source.prefix + chosen.prefix,
        left=[*source.left, *chosen.left],
        notes=[*source.notes, *chosen.notes],
    )


def our_arrays(tensors):
    """The arrays of another library by the paths of ours, as views.

    Returns:
        (library, arrays by path).

    Raises:
        ValueError: listing keys that no FocalNet has.
    """
    return _our_arrays(tensors)[:2]


def _our_arrays(tensors):
    """(library, arrays by path, keys of the library, notes)."""
    library, tensors, keys, notes = _standard_keys(tensors)
    arrays, unknown = {}, []
    for key, tensor in tensors.items():
        found = our_path(library, key)
        if found is None or found[1].axes != np.ndim(tensor):
            unknown.append(key)
        else:
            arrays[found[0]] = found[1].to_ours(tensor)
    if unknown:
        raise ValueError(f"The checkpoint ({library}) has keys that no FocalNet has: {listed(unknown)}.")
    return library, arrays, keys, notes


def _standard_keys(tensors):
    """(library, tensors by the keys of the table, keys of the library, notes).

    A bare `FocalNetModel` of transformers, timm's `features_only` models and upstream's detection backbones
    get the keys of classifiers. What a pre-training adds is left out.
    """
    notes = []
    if any(key.startswith("embeddings.") for key in tensors):
        tensors = {f"focalnet.{key}": array for key, array in tensors.items()}
    tensors = {re.sub(r"^layers_(\d+)\.", r"layers.\1.", key): array for key, array in tensors.items()}
    known = {source: sum(our_path(source, key) is not None for key in tensors) for source in FORMATS}
    library = max(FORMATS, key=known.get)
    if known[library] < len(tensors) / 2 or not tensors:
        raise ValueError(
            "These are not the weights of a FocalNet that focalnets knows (official, timm or transformers): "
            f"{listed(sorted(tensors))}."
        )
    if library == "transformers":
        idle = {key for key in tensors if key.startswith("decoder.") or key.endswith("embeddings.mask_token")}
        if idle:
            tensors = {key: array for key, array in tensors.items() if key not in idle}
            notes.append("masked image modeling: the backbone is taken, its decoder and mask token are left")
    keys = list(tensors)
    if library == "official" and (stages := _normed_stages(tensors)):
        last = _stages(tensors) - 1
        # The norm of the last stage is the classifiers' final one.
        tensors = {re.sub(rf"^norm{last}\.", "norm.", key): array for key, array in tensors.items()}
        names = ", ".join(f"norm{stage}" for stage in stages)
        notes.append(f"detection or segmentation backbone: norms of stages ({names}), no head")
    return library, tensors, keys, notes


def _normed_stages(tensors):
    return sorted({int(key[4 : key.index(".")]) for key in tensors if re.match(r"norm\d{1,4}\.", key)})


def _stages(tensors):
    """How many stages there are blocks of."""
    return len({key.split(".")[1] for key in tensors if key.startswith("layers.") and ".blocks." in key})


def _add_missing_norms(arrays, found, library, keys):
    """Norms that only our backbone has: those of stages that a detector did not use. Returns notes.

    They start at scale 1 and shift 0. What the checkpoint's own model gives out does not depend on them.
    """
    features = library == "timm" and found.num_classes is None
    if not features and not found.backbone.get("pyramid_norm") and not _normed_stages(keys):
        return []
    if not features:
        found.backbone["pyramid_norm"] = True
    width, count = found.backbone["embed_dim"], len(found.backbone["depths"])
    paths = {"norm": width * 2 ** (count - 1)}
    if not features:
        paths |= {f"stage{stage}_norm": width * 2 ** (stage - 1) for stage in range(1, count)}
    missing = [path for path in paths if f"{path}/gamma" not in arrays and f"{path}/beta" not in arrays]
    if count > 16:  # nothing is made for sizes that no network has
        return []
    for path in missing:
        arrays[f"{path}/gamma"] = np.ones(paths[path], "float32")
        arrays[f"{path}/beta"] = np.zeros(paths[path], "float32")
    if not missing:
        return []
    return [f"norms that the checkpoint lacks, since its model has none, start at 1 and 0: {listed(missing)}"]


def to_tensors(network, library):
    """The state dict of another library with the weights of a network.

    Args:
        network: a `FocalNetImageClassifier` or `FocalNetBackbone`.
        library: "official", "timm" or "transformers".

    Returns:
        Dict from key to float32 array.

    Raises:
        ValueError: if that library has no such network, saying why.
    """
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
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
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
    found = []
    if library == "timm" and backbone.normalize_modulator:
        found.append(
            "timm does not normalize the modulator by itself: outputs will differ unless its model is made "
            "with normalize_modulator=True."
        )
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
    if backbone.activation != "gelu" and library != "transformers":
        return f"its MLPs have GELU; these {backbone.activation}"
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


def _check_arrays(arrays, shapes, library):
    """ValueError unless the arrays are those of a network with these shapes of variables, and finite."""
    for text, paths in (
        ("lacks weights of", sorted(set(shapes) - set(arrays))),
        ("has weights without a place in", sorted(set(arrays) - set(shapes))),
    ):
        if paths:
            post = any("norm1_post" in path for path in paths)
            keys = [(their_key(library, path, post) or [path])[0] for path in paths]
            raise ValueError(f"The checkpoint {text} the network that it seems to be: {listed(keys)}.")
    wrong = [
        f"{path} {array.shape}, not {shapes[path]}"
        for path, array in arrays.items()
        if array.shape != shapes[path]
    ]
    if wrong:
        raise ValueError(f"Weights of the checkpoint have other shapes than its network: {listed(wrong)}.")
    # Largest and smallest, not all of them: an array of truths would take a quarter of the array.
    bad = [path for path, array in arrays.items() if not np.isfinite([array.min(), array.max()]).all()]
    if bad:
        raise ValueError(f"Weights of the checkpoint are not finite, it is damaged: {listed(bad)}.")
