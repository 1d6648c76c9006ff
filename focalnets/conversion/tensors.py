"""Networks from the named arrays of other libraries, and back. Every array must be used exactly once."""

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
from keras import ops

from focalnets.conversion.architecture import recognize
from focalnets.conversion.foreign import checked_preprocessing
from focalnets.conversion.mapping import FORMATS, our_path, their_key
from focalnets.conversion.publishers import claims_for
from focalnets.conversion.sources import LoadedCheckpoint
from focalnets.conversion.wrappers import chosen_tensors
from focalnets.layers.initializers import skip_initialization
from focalnets.models.backbone import FocalNetBackbone
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.names import listed
from focalnets.presets.cost import variable_shapes
from focalnets.presets.labels import class_names_for
from focalnets.presets.preprocessing import converter_for


@dataclass(frozen=True)
class ConvertedNetwork:
    """A checkpoint as a network.

    Attributes:
        network: `FocalNetImageClassifier`, or `FocalNetBackbone` if the checkpoint has no head.
        image_converter: `FocalNetImageConverter` or None. Preprocessing of the checkpoint.
        source: str. "official", "timm" or "transformers".
        variant: str or None. Name in `ARCHITECTURES`.
        notes: list of str. What was recognized, chosen and assumed.
        arrays: dict of path of a variable -> array. Views of the arrays of the checkpoint.
    """

    network: FocalNetImageClassifier | FocalNetBackbone
    image_converter: object
    source: str
    variant: str | None
    notes: list[str]
    arrays: dict


def from_tensors(source, variant=None, config_overrides=None, labels=None, entry=None, published=False):
    """Build the network of a checkpoint, with its weights.

    Args:
        source: `LoadedCheckpoint`, or dict of key -> array. The dict is a state dict of microsoft/FocalNet, a
            `focalnet_*` model of timm, or a `FocalNet*` model of transformers.
        variant: str or None. Name in `ARCHITECTURES`. Defaults to None, recognized from keys and shapes.
        config_overrides: dict or None. Values of arguments in `CONFIG_OVERRIDES`, which weights do not
            determine. Defaults to None.
        labels: function or None. Takes the number of classes and returns their names. Defaults to None, the
            names in the checkpoint.
        entry: str or None. See `chosen_tensors`. Defaults to None, the trained weights.
        published: bool. Whether these are weights of the paper. If so, the variant, not the library, decides
            what weights do not determine. Defaults to `False`.

    Returns:
        `ConvertedNetwork`.

    Raises:
        ValueError: if arrays are missing, unknown, of another shape, or not finite.

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
    library, arrays, keys, notes = our_arrays(source.tensors)
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
    return ConvertedNetwork(network, image_converter, library, found.variant, notes, arrays)


def _unwrapped(source, entry):
    """A source without the prefix of wrappers before its keys."""
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
    """Arrays of another library by the paths of our variables, as views.

    Args:
        tensors: dict of key -> array.

    Returns:
        (library, dict of path -> array, list of the original keys, list of notes).

    Raises:
        ValueError: if a key is unknown.
    """
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
    """(library, tensors by the keys of classifiers, original keys, notes).

    `FocalNetModel` of transformers, `features_only` models of timm and upstream's detection backbones have
    other keys than classifiers. The decoder and mask token of a pretraining are omitted.
    """
    notes = []
    if any(key.startswith("embeddings.") for key in tensors):
        tensors = {f"focalnet.{key}": array for key, array in tensors.items()}
    tensors = {re.sub(r"^layers_(\d+)\.", r"layers.\1.", key): array for key, array in tensors.items()}
    known = {source: sum(our_path(source, key) is not None for key in tensors) for source in FORMATS}
    library = max(FORMATS, key=known.get)
    if known[library] < len(tensors) / 2 or not tensors:
        raise ValueError(
            f"These are not weights of a FocalNet: {listed(sorted(tensors))}. Expected keys of the official "
            "code, timm or transformers."
        )
    if library == "transformers":
        idle = {key for key in tensors if key.startswith("decoder.") or key.endswith("embeddings.mask_token")}
        if idle:
            tensors = {key: array for key, array in tensors.items() if key not in idle}
            notes.append("masked image modeling: decoder and mask token are ignored")
    keys = list(tensors)
    if library == "official" and (stages := _normed_stages(tensors)):
        last = _stages(tensors) - 1
        # The norm of the last stage is the final norm of classifiers.
        tensors = {re.sub(rf"^norm{last}\.", "norm.", key): array for key, array in tensors.items()}
        names = ", ".join(f"norm{stage}" for stage in stages)
        notes.append(f"detection or segmentation backbone with {names} and without a head")
    return library, tensors, keys, notes


def _normed_stages(tensors):
    return sorted({int(key[4 : key.index(".")]) for key in tensors if re.match(r"norm\d{1,4}\.", key)})


def _stages(tensors):
    """Number of stages that have blocks."""
    return len({key.split(".")[1] for key in tensors if key.startswith("layers.") and ".blocks." in key})


def _add_missing_norms(arrays, found, library, keys):
    """Add norms of stages that a detector does not use, with scale 1 and shift 0. Returns notes.

    The outputs of the original model do not depend on these norms.
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
    if count > 16:  # no network has these sizes, so nothing is allocated
        return []
    for path in missing:
        arrays[f"{path}/gamma"] = np.ones(paths[path], "float32")
        arrays[f"{path}/beta"] = np.zeros(paths[path], "float32")
    if not missing:
        return []
    return [f"norms missing in the checkpoint, initialized to scale 1 and shift 0: {listed(missing)}"]


def to_tensors(network, library):
    """State dict of another library with the weights of a network.

    Args:
        network: `FocalNetImageClassifier` or `FocalNetBackbone`.
        library: str. "official", "timm" or "transformers".

    Returns:
        dict of key -> float32 array.

    Raises:
        ValueError: if the library cannot represent the network.
    """
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
    if why := _cannot(backbone, library):
        raise ValueError(f"{library} cannot represent this network: {why}.")
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
    """Sentences about what another library computes differently with the same weights."""
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
    found = []
    if library == "timm" and backbone.normalize_modulator:
        found.append(
            "timm does not normalize the modulator by default: outputs differ unless its model is built with "
            "normalize_modulator=True."
        )
    epsilons = {backbone.norm_epsilon, backbone.embedding_norm_epsilon}
    if library != "transformers" and epsilons != {1e-5}:
        others = " and ".join(f"{epsilon:g}" for epsilon in sorted(epsilons - {1e-5}))
        found.append(f"norms of {library} have epsilon 1e-5, not {others}: outputs differ.")
    elif len(epsilons) > 1:
        found.append(
            f"all norms of {library} have epsilon {backbone.norm_epsilon}, but those after embeddings have "
            f"{backbone.embedding_norm_epsilon} here: outputs differ."
        )
    return found


def _cannot(backbone, library):
    """Reason why a library cannot represent a backbone, or None."""
    if backbone.norm_placement == "mlp_only":
        return "it has no norm before modulation"
    if backbone.activation != "gelu" and library != "transformers":
        return f"its activation is {backbone.activation}, but must be gelu"
    if backbone.focal_factor != 2:
        return f"its focal_factor is {backbone.focal_factor}, but must be 2"
    if backbone.pyramid_norm and library != "official":
        return "it has stage norms, as only upstream's detection backbones have"
    if library == "timm" and backbone.patch_size != 4:
        return f"its patch_size is {backbone.patch_size}, but must be 4"
    if backbone.overlap_embed and backbone.patch_size != 4:
        return f"its patch_size is {backbone.patch_size}, but must be 4 with overlapping patches"
    if library != "official" and backbone.stem_padding not in (None, 2) and backbone.overlap_embed:
        return f"its stem_padding is {backbone.stem_padding}, but must be 2"
    return None


def _check_arrays(arrays, shapes, library):
    """Raise a ValueError unless the arrays have these shapes and are finite."""
    for text, paths in (
        ("lacks weights of", sorted(set(shapes) - set(arrays))),
        ("has weights that do not belong to", sorted(set(arrays) - set(shapes))),
    ):
        if paths:
            post = any("norm1_post" in path for path in paths)
            keys = [(their_key(library, path, post) or [path])[0] for path in paths]
            raise ValueError(f"The checkpoint {text} the recognized network: {listed(keys)}.")
    wrong = [
        f"{path} has {array.shape}, expected {shapes[path]}"
        for path, array in arrays.items()
        if array.shape != shapes[path]
    ]
    if wrong:
        raise ValueError(f"The checkpoint has weights of wrong shapes: {listed(wrong)}.")
    # Minimum and maximum, because `isfinite` of the whole array would take a quarter of its memory.
    bad = [path for path, array in arrays.items() if not np.isfinite([array.min(), array.max()]).all()]
    if bad:
        raise ValueError(f"The checkpoint is damaged: these weights are NaN or infinite: {listed(bad)}.")
