"""Checkpoints of other libraries to preset directories, and presets to such checkpoints.

Every output is read back and compared before it gets its final name, so a wrong file never exists.
"""

import gc
import hashlib

import keras
import numpy as np

from focalnets import __version__
from focalnets.conversion.foreign import THEIR_ACTIVATION
from focalnets.conversion.sources import LoadedCheckpoint, read_source
from focalnets.conversion.tensors import differences_elsewhere, from_tensors, our_arrays, to_tensors
from focalnets.files import expanded
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.names import listed
from focalnets.output.files import write_json, writing
from focalnets.output.inputs import refuse_inputs
from focalnets.output.paths import make_directory
from focalnets.output.replace import new_directory
from focalnets.presets.files import read_preset_files
from focalnets.presets.load import load_any, make_converter
from focalnets.presets.preprocessing import transformers_preprocessing
from focalnets.presets.store import write_preset_files

REPORT = "conversion.json"


def convert_checkpoint(
    source,
    out,
    variant=None,
    config_overrides=None,
    labels=None,
    force=False,
    entry=None,
    published=False,
    inputs=(),
):
    """Write the preset directory of a checkpoint, with a report in `conversion.json`.

    Args:
        source: path or `LoadedCheckpoint`. A `.pth` or `.safetensors` file, or a directory with one.
        out: str or path. Preset directory to create.
        variant, config_overrides, labels, entry, published: See `from_tensors`.
        force: bool. Replace an existing preset, and keep all other files. Defaults to `False`.
        inputs: iterable of paths. Paths besides `source` that `force` never replaces. Defaults to `()`.

    Returns:
        list of str. Notes on what was recognized, chosen, assumed and verified, as in the report.

    Raises:
        ValueError: if the checkpoint is damaged or not a FocalNet, if the preset read back differs from it,
            or if `force` would replace a directory that is not a preset.
        FileExistsError: if `out` exists, unless `force`.

    >>> import tempfile
    >>> from focalnets import FocalNetBackbone, FocalNetImageClassifier
    >>> from focalnets.conversion.convert import convert_checkpoint
    >>> from focalnets.conversion.sources import LoadedCheckpoint
    >>> from focalnets.conversion.tensors import to_tensors
    >>> net = FocalNetImageClassifier(FocalNetBackbone(embed_dim=8, depths=(1, 1)), num_classes=5)
    >>> state = to_tensors(net, "timm")  # or a state dict of timm, as NumPy arrays
    >>> convert_checkpoint(LoadedCheckpoint(state), tempfile.mkdtemp() + "/preset")[0]
    'format: timm'
    """
    in_memory = isinstance(source, LoadedCheckpoint)
    inputs = [*inputs, *([] if in_memory else [source])]
    name = "arrays in memory" if in_memory else str(source)
    source = source if in_memory else read_source(source, entry)
    with new_directory(out, "preset", force, inputs) as partial:
        # `read_source` has already selected the entry and removed the wrappers.
        found = from_tensors(
            source, variant, config_overrides, labels, entry if in_memory else None, published
        )
        digests = _digests(found.network)
        _check(found.arrays, digests)
        found.arrays.clear()
        del source  # the largest networks take 3 GB: do not hold the checkpoint and two networks at once
        outputs = _outputs(found.network)
        write_preset_files(found.network, partial, found.image_converter)
        notes, parameters = list(found.notes), found.network.count_params()
        variant = found.variant
        del found
        gc.collect()
        again = load_any(partial)
        if _digests(again) != digests or not np.array_equal(_outputs(again), outputs):
            raise ValueError(
                f"The preset written from {name} differs from it, so it was discarded. Please report this."
            )
        notes.append(
            f"verified: {len(digests)} arrays ({parameters:,} parameters) and the outputs are bit for bit "
            "identical after reading them back"
        )
        overrides = config_overrides or {}
        report = {"source": name, "variant": variant, "config_overrides": overrides, "notes": notes}
        write_json(partial / REPORT, report)
    return notes


def export_checkpoint(preset, out, library, force=False, inputs=()):
    """Write the weights of a network as a checkpoint of another library.

    Args:
        preset: str or path. Preset directory.
        out: str or path. A `.pth` or `.safetensors` file. For transformers also a directory, which gets
            `config.json` and `model.safetensors` for `from_pretrained`.
        library: str. "official", "timm" or "transformers".
        force: bool. Replace an existing file, or the files that an earlier export wrote into the directory.
            Defaults to `False`.
        inputs: iterable of paths. Paths besides `preset` that `force` never replaces. Defaults to `()`.

    Returns:
        list of str. Notes on the format, the verification, and differences between the libraries.

    Raises:
        ValueError: if the library has no such network, if the file read back differs from it, or if `force`
            would replace a directory that is not a checkpoint.
        FileExistsError: if `out` exists, unless `force`.
    """
    out, preset = expanded(out), expanded(preset)
    is_file = out.suffix in (".pth", ".safetensors")
    if not is_file and library != "transformers":
        raise ValueError(f"{out.name!r} is not the name of a .pth or .safetensors file. Choose such a name.")
    if is_file and out.exists() and not force:
        raise FileExistsError(f"{out} exists already. Choose another name, or replace it with --force.")
    if is_file and out.is_dir():
        raise FileExistsError(f"{out} is a directory, but the checkpoint is a file. Choose another name.")
    if is_file:
        refuse_inputs(out, [preset, *inputs])
    network = load_any(preset)
    tensors, digests = to_tensors(network, library), _digests(network)
    config, notes = transformers_config(network), differences_elsewhere(network, library)
    _, preprocessing, _ = read_preset_files(preset)
    converter = make_converter(preprocessing, preset)
    del network  # the largest networks take 3 GB, and the writer makes a copy
    gc.collect()
    if is_file:
        make_directory(out.parent)
        with writing(out, own=False, replace=force) as partial:
            _write_tensors(partial, tensors)
            tensors.clear()
            _check(our_arrays(read_source(partial).tensors)[1], digests)
    else:
        with new_directory(out, "checkpoint", force, [preset, *inputs]) as partial:
            write_json(partial / "config.json", config)
            theirs = None if converter is None else transformers_preprocessing(converter)
            if theirs is not None:
                write_json(partial / "preprocessor_config.json", theirs)
            elif converter is not None:
                notes.append(
                    "no preprocessor_config.json: it can only describe square images of 1 or 3 channels"
                )
            _write_tensors(partial / "model.safetensors", tensors)
            tensors.clear()
            _check(our_arrays(read_source(partial).tensors)[1], digests)
    verified = f"verified: {len(digests)} arrays are bit for bit identical after reading them back"
    return [f"format: {library}", verified, *(f"note: {text}" for text in notes)]


def transformers_config(network):
    """The config.json of transformers' `FocalNetForImageClassification` for a focalnets network."""
    backbone = network.backbone if isinstance(network, FocalNetImageClassifier) else network
    names = getattr(network, "class_names", None)
    classes = getattr(network, "num_classes", 0)
    labels = names or [f"LABEL_{index}" for index in range(classes)]
    return {
        "focalnets_version": __version__,
        "model_type": "focalnet",
        "architectures": ["FocalNetForImageClassification" if classes else "FocalNetBackbone"],
        "image_size": _image_side(network),
        "patch_size": backbone.patch_size,
        "num_channels": backbone.image_shape[-1],
        "embed_dim": backbone.embed_dim,
        "use_conv_embed": backbone.overlap_embed,
        "hidden_sizes": _hidden_sizes(backbone),
        "hidden_act": THEIR_ACTIVATION[backbone.activation],
        "depths": list(backbone.depths),
        "focal_levels": list(backbone.focal_levels),
        "focal_windows": list(backbone.focal_window),
        "mlp_ratio": backbone.mlp_ratio,
        "hidden_dropout_prob": backbone.dropout_rate,
        "drop_path_rate": backbone.drop_path_rate,
        "use_layerscale": backbone.layer_scale_init is not None,
        "layerscale_value": backbone.layer_scale_init or 1e-4,
        "use_post_layernorm": backbone.norm_placement == "post",
        "use_post_layernorm_in_modulation": backbone.norm_after_modulation,
        "normalize_modulator": backbone.normalize_modulator,
        "layer_norm_eps": backbone.norm_epsilon,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _hidden_sizes(backbone):
    """Output channels of each stage. A stage of transformers includes the down-sampling after it."""
    last = len(backbone.depths) - 1
    return [backbone.embed_dim * 2 ** min(stage + 1, last) for stage in range(last + 1)]


def _image_side(network):
    converter = getattr(network, "image_converter", None)
    size = None if converter is None else converter.image_size
    return 224 if size is None else size[0]


def _outputs(network):
    """Outputs of a network for a fixed image, whose sides are not multiples of the strides."""
    channels = network.input_shape[-1]
    image = np.random.default_rng(0).integers(0, 256, (1, 67, 90, channels)).astype("float32")
    if getattr(network, "image_converter", None) is None:
        image = image / 128 - 1
    return keras.ops.convert_to_numpy(network(image, training=False))


def _digests(network):
    """SHA-256 of the values of each weight by its path."""
    return {w.path: _digest(keras.ops.convert_to_numpy(w)) for w in network.weights}


def _digest(array):
    return hashlib.sha256(np.ascontiguousarray(array, "float32")).hexdigest()


def _check(arrays, digests):
    """Raise a ValueError unless the arrays have these digests."""
    found = {path: _digest(array) for path, array in arrays.items()}
    wrong = sorted(path for path in {*found, *digests} if found.get(path) != digests.get(path))
    if wrong:
        raise ValueError(
            f"Weights read back differ from the source, so the output was discarded: {listed(wrong)}. Please "
            "report this as a bug."
        )


def _write_tensors(path, tensors):
    if path.suffix == ".safetensors":
        try:
            import safetensors.numpy
        except ImportError as error:
            raise ImportError("Writing .safetensors needs: pip install 'focalnets[hub]'.") from error
        safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
        return
    try:
        import torch
    except ImportError as error:
        raise ImportError("Writing .pth needs: pip install torch. Or write .safetensors.") from error
    torch.save({"model": {key: torch.from_numpy(value) for key, value in tensors.items()}}, path)
