"""Checks of the arguments of a verb before Keras is imported, which takes most of the time of a short job.

`arguments.py` checks the ranges of single numbers. The functions behind the verbs check everything again, and
also the content of large files.
"""

import glob
import importlib.util
import os

from focalnets.commands.train import check_resume_options, recipe_from_arguments
from focalnets.commands.words import check_no_presets, means_images
from focalnets.conversion.options import check_combinations, checked_out, read_config_overrides
from focalnets.data.cache import check_cache_directory
from focalnets.data.find import find_images
from focalnets.data.inputs import data_paths, searched_folders
from focalnets.data.names import NAMES, kind_of_data_file
from focalnets.data.naming import ALL, SPLITS, distinct_class_names, split_for
from focalnets.data.shards.manifest import read_manifest
from focalnets.data.sources import read_source
from focalnets.deployment.runtimes import NO_RUNTIME, usable_runtimes
from focalnets.explanation.blocks import chosen_blocks
from focalnets.files import expanded
from focalnets.names import did_you_mean, sibling_names, unknown_name
from focalnets.output.directories import check_output_directory
from focalnets.output.inputs import paths_among, refuse_inside
from focalnets.output.locks import refuse_in_use
from focalnets.presets.architectures import ARCHITECTURES, find_architecture
from focalnets.presets.checkpoints import DEFAULT
from focalnets.presets.files import CONFIG
from focalnets.presets.resolve import resolve, resolve_weights
from focalnets.schema import read_json
from focalnets.training.recipe import data_for
from focalnets.training.run_directory import check_run, read_recipe, read_run

_SMALL_FILE = 2**20  # bytes
_BACKENDS = ("torch", "jax", "tensorflow")
_NEED_KERAS = ("train", "evaluate", "explain", "convert", "export")  # predict may not need it


def check(verb, arguments):
    """Check the arguments of a verb.

    Args:
        verb: str. Name of the verb.
        arguments: Instance of the dataclass of the verb in `commands/arguments.py`.

    Raises:
        ValueError, FileExistsError, ImportError: with the messages of the function behind the verb.
    """
    backend = getattr(arguments, "backend", None)
    if backend is None and verb in _NEED_KERAS:
        backend = os.environ.get("KERAS_BACKEND")
    _check_backend(backend)
    if verb in _CHECKS:
        _CHECKS[verb](arguments)


def _check_train(arguments):
    if (arguments.out is None) == (arguments.resume is None):
        raise ValueError("Give either --out for a new run, or --resume with a run directory.")
    if arguments.resume is not None:
        check_resume_options(arguments)
        path = expanded(arguments.resume)
        refuse_in_use(path)
        settings = read_run(path)
        check_run(settings, path, arguments.backend or settings["backend"], arguments.data is not None)
        read_recipe(path)
        if arguments.data is not None:
            _check_data(arguments.data)
        return
    recipe = recipe_from_arguments(arguments)
    if recipe.architecture:
        find_architecture(recipe.architecture)
    if recipe.preset:
        resolve_weights(recipe.preset)
    data = data_for(recipe, arguments.data)
    _check_data(data)
    data_inputs = data_paths(data)
    inputs = [*data_inputs, *paths_among([arguments.recipe, recipe.preset])]
    refuse_inside(arguments.out, searched_folders(data_inputs))
    check_output_directory(arguments.out, "run", arguments.force, inputs)
    if arguments.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ImportError("--tensorboard needs tensorboardX: pip install 'focalnets[tensorboard]'.")


def _check_evaluate(arguments):
    if (arguments.data is None) == (arguments.manifest is None):
        raise ValueError("Give either --data, a data set, or --manifest, a list of shards.")
    if arguments.manifest is not None:
        _check_evaluate_shards(arguments)
        return
    _refuse_without_manifest(arguments, ("shard", "merge", "ray", "ray_cpus", "ray_gpus"))
    if arguments.engine not in ("auto", "keras"):
        raise ValueError(f"--engine {arguments.engine} needs --manifest. With --data, Keras computes.")
    resolve_weights(arguments.preset)
    if split_for(arguments.split) is None and arguments.split != ALL:
        raise ValueError(unknown_name("split", arguments.split, (*SPLITS, ALL)))
    _check_data(arguments.data)
    if arguments.html and arguments.out is None:
        raise ValueError("--html writes a page into a directory. Give one with --out.")
    if arguments.out is not None:
        data_inputs = data_paths(arguments.data)
        inputs = [*paths_among([arguments.preset]), *data_inputs]
        refuse_inside(arguments.out, searched_folders(data_inputs))
        check_output_directory(arguments.out, "evaluation", arguments.force, inputs)


def _check_predict(arguments):
    if arguments.as_json and arguments.as_csv:
        raise ValueError("Give either --json or --csv, not both.")
    _check_engine(arguments)
    if arguments.manifest is not None:
        if arguments.images:
            raise ValueError(f"--manifest lists the images; got also {arguments.images[0]}. Leave it out.")
        if arguments.as_json or arguments.as_csv:
            raise ValueError("--manifest writes Parquet files. Leave out --json and --csv.")
        _check_shards(arguments)
        return
    _refuse_without_manifest(arguments, ("out", "shard", "merge", "ray", "ray_cpus", "ray_gpus"))
    _check_preset_and_images(arguments, is_prediction=True)


def _check_engine(arguments):
    if arguments.backend is not None and arguments.engine not in ("auto", "keras"):
        raise ValueError(
            f"--backend {arguments.backend} implies --engine keras; got --engine {arguments.engine}. Give "
            "only one of them."
        )


def _check_embed(arguments):
    _check_engine(arguments)
    _check_shards(arguments)


_NOT_OF_SHARDS = {  # options of `evaluate` for a data set, with their defaults
    **{"split": "test", "restrict": False, "tta": "none", "corruptions": False, "limit": None},
    **{"on_bad_image": "error", "cache_images": "auto"},
}


def _check_evaluate_shards(arguments):
    for name, default in _NOT_OF_SHARDS.items():
        if getattr(arguments, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} needs --data. Leave it out with --manifest.")
    if arguments.merge is None and (arguments.html or arguments.force):
        option = "--html" if arguments.html else "--force"
        raise ValueError(f"{option} needs --merge, the directory of the figures, if --manifest is given.")
    _check_engine(arguments)
    _check_shards(arguments)
    if arguments.merge is not None:
        inputs = paths_among([arguments.preset, arguments.out])
        check_output_directory(arguments.merge, "evaluation", arguments.force, inputs)


def _refuse_without_manifest(arguments, names):
    for name in names:
        if getattr(arguments, name) is not None:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} needs --manifest, a list of shards. Add it, or leave out --{option}."
            )


def _check_shards(arguments):
    if arguments.out is None:
        raise ValueError("--manifest needs --out, the folder of the results.")
    for name in ("shard", "ray"):
        if arguments.merge is not None and getattr(arguments, name) is not None:
            raise ValueError(f"Give either --{name} or --merge, not both.")
    for name in ("ray_cpus", "ray_gpus"):
        if arguments.ray is None and getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} needs --ray, the address of a cluster.")
    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError("--manifest needs pyarrow: pip install 'focalnets[bulk]'.", name="pyarrow")
    if arguments.ray is not None and importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError("--ray needs Ray: pip install 'focalnets[ray]'.", name="ray")
    shards = read_manifest(arguments.manifest)
    if arguments.shard is not None and int(arguments.shard.split("/")[0]) >= len(shards):
        raise ValueError(f"--shard {arguments.shard} has no shards: the manifest lists {len(shards)}.")
    preset = DEFAULT if arguments.preset is None else arguments.preset
    if resolve(preset).kind != "export":
        resolve_weights(preset)


def _check_explain(arguments):
    if arguments.score is not None or arguments.epochs is not None:
        _check_explain_without_images(arguments)
        return
    preset = _check_preset_and_images(arguments)
    blocks = _blocks(resolve_weights(preset))
    if blocks:
        chosen_blocks(blocks, arguments.block, arguments.stage)
    inputs = paths_among([preset, *arguments.images])
    check_output_directory(arguments.out, "explanation", arguments.force, inputs, names=())


def _check_explain_without_images(arguments):
    preset = DEFAULT if arguments.preset is None else arguments.preset
    named = arguments.preset is not None and (arguments.epochs is not None or means_images(preset))
    if words := (*arguments.images, *([preset] if named else [])):
        option = "--score measures its data set" if arguments.epochs is None else "--epochs draws its run"
        raise ValueError(f"{option} alone; got also {words[0]}. Leave it out.")
    if arguments.epochs is not None:
        if not (expanded(arguments.epochs) / "monitor").is_dir():
            raise ValueError(
                f"{arguments.epochs} has no folder monitor; expected a run directory of focalnets train with "
                "--monitor-every above 0."
            )
        inputs = paths_among([arguments.epochs])
    else:
        _check_data(arguments.score)
        resolve_weights(preset)
        inputs = paths_among([preset, arguments.score])
    check_output_directory(arguments.out, "explanation", arguments.force, inputs, names=())


def _check_convert(arguments):
    resolve_weights(arguments.source)
    out = checked_out(arguments.source, arguments.out, arguments.to)
    refuse_in_use(out)
    if out.exists() and not arguments.force:
        raise FileExistsError(f"{out} exists already. Choose another name, or replace it with --force.")
    if arguments.to is None:
        inputs = paths_among([arguments.source, arguments.labels])
        check_output_directory(out, "preset", arguments.force, inputs)
    read_config_overrides(arguments.set)
    check_combinations(arguments.half, arguments.to, arguments.window, arguments.levels)
    if arguments.variant is not None:
        find_architecture(arguments.variant)
    if arguments.labels is not None and not expanded(arguments.labels).is_file():
        path = expanded(arguments.labels)
        raise ValueError(f"Labels file not found: {path}.{did_you_mean(path, sibling_names(path))}")


def _check_export(arguments):
    resolve_weights(arguments.preset)
    check_output_directory(arguments.out, "deployment", arguments.force, paths_among([arguments.preset]))
    needs_runtime = arguments.format == "onnx" or (arguments.explain and arguments.format != "web")
    if needs_runtime and not usable_runtimes():
        raise ImportError(NO_RUNTIME)
    if arguments.data is not None:
        _check_data(arguments.data)


def _check_serve(arguments):
    missing = [
        name
        for name in ("starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(f"focalnets serve needs {', '.join(missing)}: pip install 'focalnets[serve]'.")
    if not arguments.exports:
        raise ValueError(
            "Give at least one export directory. Write one: focalnets export focalnet_micro_cifar10 exported"
        )


def _check_cache(arguments):
    _check_data(arguments.data)
    inputs = data_paths(arguments.data)
    refuse_inside(arguments.out, searched_folders(inputs))
    check_cache_directory(arguments.out, arguments.force, inputs)


_CHECKS = {
    "train": _check_train,
    "evaluate": _check_evaluate,
    "predict": _check_predict,
    "embed": _check_embed,
    "explain": _check_explain,
    "convert": _check_convert,
    "export": _check_export,
    "serve": _check_serve,
    "cache": _check_cache,
}


def _check_backend(name):
    if name in _BACKENDS and importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(name=name)


def _check_data(spec):
    """Check name or path of a data set, and the content of small files. Folders and archives can be large."""
    if spec in NAMES or spec.lower().startswith(("hf://", "tfds:")):
        return
    path = expanded(spec)
    small = path.is_file() and (path.stat().st_size < _SMALL_FILE or not kind_of_data_file(path))
    if small or not path.exists() or (path / "run.json").is_file():
        distinct_class_names(getattr(read_source(spec), "class_names", None) or ())


def _check_preset_and_images(arguments, is_prediction=False):
    """Check that preset and images exist, and return the preset. Folders and patterns are not searched."""
    preset, images = arguments.preset, arguments.images
    if preset is None or means_images(preset):
        preset, images = DEFAULT, (*([preset] if preset else []), *images)
    resolve(preset) if is_prediction else resolve_weights(preset)
    check_no_presets(images)
    missing = [word for word in images if not _may_have_images(word)]
    if missing or not images:
        find_images(missing)
    return preset


def _may_have_images(word):
    path = expanded(word)
    return word == "-" or glob.has_magic(word) or (os.path.lexists(path) and not kind_of_data_file(path))


def _blocks(source):
    """Names of the blocks of each stage of a network, or [] if its configuration is not readable."""
    try:
        if source.kind == "preset":
            depths = read_json(source.place / CONFIG)["backbone"]["depths"]
        else:
            depths = ARCHITECTURES[source.architecture].backbone["depths"]
        return [[f"stage{i}_block{j + 1}" for j in range(depth)] for i, depth in enumerate(depths, 1)]
    except (OSError, ValueError, TypeError, LookupError):  # loading the preset reports the error
        return []
