"""Arguments of every verb of the command line. Imports no Keras, so that `--help` is fast.

The placeholder of a value (PRESET, IMAGE, DIR, ...) also selects its completion in `completion.py`. Options
whose default is None describe the default in words. Each help text is one line, because tyro prints the line
breaks of longer texts.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Optional

import tyro
from tyro.constructors import PrimitiveConstructorSpec

# `str | None` makes tyro import typeguard, which takes a fifth of the time of `--help`.
OptionalStr, OptionalInt, OptionalFloat = Optional[str], Optional[int], Optional[float]  # noqa: UP045


def _value(placeholder, read=str, expected="", fits=lambda value: True, choices=None):
    """Specification of one word, shown as `placeholder`, converted by the type `read`, and checked by `fits`.

    tyro's default for `int | None` shows `{None}|INT`, accepts the word None, and reports Python's errors.
    """

    def from_words(words):
        try:
            value = read(words[0])
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise ValueError(f"expected {expected}, got {words[0]!r}.")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=placeholder,
        instance_from_str=from_words,
        is_instance=lambda value: value is None or isinstance(value, read),
        str_from_instance=lambda value: [str(value)],
        choices=choices,
    )


def _is_part(text):
    first, slash, second = text.partition("/")
    return slash == "/" and first.isdecimal() and second.isdecimal() and int(first) < int(second)


def _values(placeholder):
    """Specification of all words up to the next option, as a tuple of str."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=placeholder,
        instance_from_str=tuple,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    )


def _choice(*words):
    return _value("{" + ",".join(words) + "}", choices=words)


def _default(text, name=None):
    """Help text that replaces tyro's "(default: None)"."""
    return tyro.conf.arg(name=name, help_behavior_hint=f"(default: {text})")


PRESET, DATA, RECIPE, ARCHITECTURE = map(_value, ("PRESET", "DATA", "RECIPE", "ARCHITECTURE"))
DIR, FILE, PATH, NAME, SPLIT, ENTRY = map(_value, ("DIR", "FILE", "PATH", "NAME", "SPLIT", "ENTRY"))
CLASS = _value("CLASS")
INDEX = _value("INT", int, "a whole number of at least 0", lambda value: value >= 0)
COUNT = _value("INT", int, "a whole number of at least 1", lambda value: value >= 1)
SEED = _value("INT", int, "a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)
TIME = _value("FLOAT", float, "a number of at least 0", lambda value: 0 <= value < 1e6)
PART = _value("I/N", str, "I/N with I from 0 to N - 1", lambda text: _is_part(text))
POSITIVE = _value("FLOAT", float, "a number above 0", lambda value: 0 < value < math.inf)

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Json = Annotated[bool, tyro.conf.arg(name="json", help_behavior_hint="")]
Csv = Annotated[bool, tyro.conf.arg(name="csv", help_behavior_hint="")]
Changes = Annotated[
    tuple, _values("NAME=VALUE..."), tyro.conf.arg(help_behavior_hint="(default: no changes)")
]
Images = Annotated[
    tyro.conf.Positional[tuple],
    _values("IMAGE..."),
    tyro.conf.arg(metavar="IMAGE...", help_behavior_hint=""),
]
OptionalPreset = Annotated[
    tyro.conf.Positional[OptionalStr],
    PRESET,
    tyro.conf.arg(
        metavar="[PRESET]",
        help_behavior_hint="(default: focalnet_micro_cifar10, which ships with the package)",
    ),
]
Backend = Annotated[
    OptionalStr,
    _choice("torch", "jax", "tensorflow"),
    _default("$KERAS_BACKEND, or the first installed one of torch, jax and tensorflow"),
]
OnBadImage = Literal["error", "skip"]
Engine = Literal["auto", "keras", "onnxruntime", "openvino"]
Manifest = Annotated[OptionalStr, FILE, _default("none")]
Part = Annotated[OptionalStr, PART, _default("all shards")]
Ray = Annotated[OptionalStr, _value("ADDRESS"), _default("none; this process")]
RayCpus = Annotated[OptionalInt, COUNT, _default("1; with GPUs, the cores per GPU")]
RayGpus = Annotated[
    OptionalFloat,
    _value("FLOAT", float, "a number of at least 0", lambda value: 0 <= value < 1e6),
    _default("1 if the cluster has GPUs, for Keras"),
]
CacheImages = Literal["auto", "memory", "stream"]


@dataclass
class TrainArguments:
    """Train a classifier and write its weights, metrics and figures to a run directory.

    Example: focalnets train --recipe digits --out runs/digits
    """

    out: Annotated[OptionalStr, DIR, _default("none; required for a new run")] = None
    """Run directory to create, with weights, config, history.csv, curves.png, report.html and panels/."""
    resume: Annotated[OptionalStr, DIR, _default("none; a new run")] = None
    """Run directory to resume, without options of a new run. Add --data if the data were moved."""
    recipe: Annotated[
        OptionalStr, RECIPE, _default("digits; with --data, one that suits the data, such as finetune")
    ] = None
    """Name of a recipe (`focalnets recipes list`), or a Python file that defines RECIPE."""
    data: Annotated[OptionalStr, DATA, _default("the data set of the recipe")] = None
    """Name of a data set such as digits, or a folder, .zip, .tar, .csv or .npz file."""
    preset: Annotated[OptionalStr, PRESET, _default("from the recipe")] = None
    """Weights to start from: a preset or run directory, or a published name (`focalnets presets`)."""
    epochs: Annotated[OptionalInt, COUNT, _default("from the recipe")] = None
    """Number of passes over the training images."""
    batch_size: Annotated[OptionalInt, COUNT, _default("from the recipe")] = None
    """Number of images per training step."""
    learning_rate: Annotated[OptionalFloat, POSITIVE, _default("from the recipe")] = None
    """Peak learning rate."""
    seed: Annotated[OptionalInt, SEED, _default("from the recipe")] = None
    """Seed of initial weights, image order, augmentation and dropout."""
    set: Changes = ()
    """Change other fields of the recipe: --set ema_decay=0.999 augmentation.mixup=0.2."""
    max_minutes: Annotated[OptionalFloat, POSITIVE, _default("no limit")] = None
    """Save a snapshot and stop after this many minutes."""
    monitor_every: Annotated[OptionalInt, INDEX, _default("about ten figures per run")] = None
    """Epochs between two figures of gates and modulators in monitor/. 0 draws none."""
    tensorboard: Flag = False
    """Also write TensorBoard event files."""
    force_bfloat16: Flag = False
    """Use bfloat16 even where it is slower than float32."""
    distributed: Flag = False
    """Train on the processes of torchrun (also without this option) or srun, or on all devices of JAX."""
    model_parallel: Annotated[int, COUNT] = 1
    """Number of devices that share one copy of the network, for networks larger than a device (JAX)."""
    on_bad_image: OnBadImage = "error"
    """List unreadable images (the first 20) and stop, or leave them out."""
    cache_images: CacheImages = "auto"
    """Hold prepared images in memory (auto: up to 2 GiB), or decode them again in every epoch (stream)."""
    force: Flag = False
    """Replace the run in the --out directory."""
    backend: Backend = None
    """Keras backend."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class RecipesArguments:
    """List the recipes, print one as JSON, or copy its file to edit it.

    Example: focalnets recipes list
    """

    action: tyro.conf.Positional[Literal["list", "show", "copy"]]
    """Action to run."""
    name: Annotated[
        tyro.conf.Positional[OptionalStr],
        RECIPE,
        tyro.conf.arg(metavar="[RECIPE]", help_behavior_hint="(required by show and copy)"),
    ] = None
    """Recipe to show or copy."""
    to: Annotated[
        tyro.conf.Positional[OptionalStr],
        FILE,
        tyro.conf.arg(metavar="[FILE]", help_behavior_hint="(required by copy)"),
    ] = None
    """Python file to create, such as mine.py."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class PresetsArguments:
    """List the architectures with their parameters and multiply-accumulates, and the published weights.

    Example: focalnets presets
    """

    as_json: Json = False
    """Print JSON, one object per architecture."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class EvaluateArguments:
    """Measure accuracy, loss, calibration and confusion of a classifier on labeled images.

    Example: focalnets evaluate runs/digits --data digits
    """

    preset: Annotated[tyro.conf.Positional[str], PRESET]
    """Preset or run directory, published name (`focalnets presets`), checkpoint, URL or hf://owner/name."""
    data: Annotated[OptionalStr, DATA, _default("none; required without --manifest")] = None
    """Name of a data set such as digits, or a folder, .zip, .tar, .csv or .npz file."""
    split: Annotated[str, SPLIT] = "test"
    """Split of the data to evaluate: test, val or train, or all for the images of all splits."""
    restrict: Flag = False
    """Predict only classes of the data, for example with ImageNet-22k weights on ImageNet-1k."""
    tta: Literal["none", "flip", "shift"] = "none"
    """Also evaluate with test-time augmentation: mirrored (flip), or mirrored and shifted images (shift)."""
    corruptions: Flag = False
    """Also evaluate 12 corruptions such as noise and blur at 5 severities, which takes 60 times as long."""
    limit: Annotated[OptionalInt, COUNT, _default("all images")] = None
    """Evaluate only this many images, the same fraction of each class."""
    out: Annotated[OptionalStr, DIR, _default("none; nothing is written")] = None
    """Directory for evaluation.json, confusion.png, ... With --manifest, for one Parquet file per shard."""
    html: Flag = False
    """Also write evaluation.html to --out: all results on one page, with the most confident errors."""
    batch_size: Annotated[int, COUNT] = 64
    """Number of images per batch."""
    as_json: Json = False
    """Print JSON."""
    on_bad_image: OnBadImage = "error"
    """List unreadable images (the first 20) and stop, or leave them out."""
    cache_images: CacheImages = "auto"
    """Hold prepared images in memory (auto: up to 2 GiB), or decode them when they are needed (stream)."""
    manifest: Manifest = None
    """Instead of --data: text file with one shard per line (tar, Parquet, folder, address)."""
    shard: Part = None
    """With --manifest: 3/64 does every 64th shard, starting with number 3, counted from 0."""
    merge: Annotated[OptionalStr, DIR, _default("none")] = None
    """With --manifest: directory for evaluation.json, confusion.png, ... of the complete shards of --out."""
    engine: Engine = "auto"
    """With --manifest: library that computes the logits, as of `focalnets predict`."""
    ray: Ray = None
    """With --manifest: Ray cluster that does the shards: host:port, auto (a running one) or local."""
    ray_cpus: RayCpus = None
    """Cores per worker of --ray."""
    ray_gpus: RayGpus = None
    """GPUs per worker of --ray."""
    force: Flag = False
    """Write to the --out directory (with --manifest: --merge) even if it is not empty."""
    backend: Backend = None
    """Keras backend."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class PredictArguments:
    """Classify images: print the most probable classes of each image with their probabilities.

    Example: focalnets predict runs/digits photo.png folder/ 'more/*.jpg'
    """

    preset: OptionalPreset = None
    """Preset or run directory, published name (`focalnets presets`), checkpoint, URL or hf://owner/name."""
    images: Images = ()
    """Files, folders, patterns, or - for one path per line on standard input."""
    top: Annotated[int, COUNT] = 5
    """Number of classes to print per image."""
    as_json: Json = False
    """Print JSON."""
    as_csv: Csv = False
    """Print CSV. Names that a spreadsheet would run as a formula get an apostrophe in front."""
    on_bad_image: OnBadImage = "error"
    """List unreadable images (the first 20) and stop, or leave them out."""
    engine: Engine = "auto"
    """Library that computes the logits. auto: the fastest installed runtime on CPUs, Keras otherwise."""
    manifest: Manifest = None
    """Instead of images: text file with one shard per line (tar, Parquet, folder, address). Needs --out."""
    out: Annotated[OptionalStr, DIR, _default("none")] = None
    """With --manifest: folder for one Parquet file per shard. Complete shards are skipped."""
    shard: Part = None
    """With --manifest: 3/64 does every 64th shard, starting with number 3, counted from 0."""
    merge: Annotated[OptionalStr, FILE, _default("none")] = None
    """With --manifest: Parquet file to write from the complete shards of --out, without predicting."""
    ray: Ray = None
    """With --manifest: Ray cluster that does the shards: host:port, auto (a running one) or local."""
    ray_cpus: RayCpus = None
    """Cores per worker of --ray."""
    ray_gpus: RayGpus = None
    """GPUs per worker of --ray."""
    backend: Backend = None
    """Keras backend. Setting it implies --engine keras."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class EmbedArguments:
    """Write the features of the images in shards: the input of the classification head, one row per image.

    Example: focalnets embed runs/digits --manifest photos.txt --out embedded
    """

    manifest: Annotated[str, FILE]
    """Text file with one shard per line (tar, Parquet, folder, address)."""
    out: Annotated[str, DIR]
    """Folder for one Parquet file per shard. Complete shards are skipped."""
    preset: OptionalPreset = None
    """Preset or run directory, published name (`focalnets presets`), checkpoint, URL or hf://owner/name."""
    shard: Part = None
    """3/64 does every 64th shard, starting with number 3, counted from 0."""
    merge: Annotated[OptionalStr, FILE, _default("none")] = None
    """Parquet file to write from the complete shards of --out, without computing."""
    engine: Engine = "auto"
    """Library that computes the features. auto: the fastest installed runtime on CPUs, Keras otherwise."""
    ray: Ray = None
    """Ray cluster that does the shards: host:port, auto (a running one) or local."""
    ray_cpus: RayCpus = None
    """Cores per worker of --ray."""
    ray_gpus: RayGpus = None
    """GPUs per worker of --ray."""
    backend: Backend = None
    """Keras backend. Setting it implies --engine keras."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class ExplainArguments:
    """Show what a network looked at: exact evidence for a class over images, and by focal level.

    Example: focalnets explain runs/digits photo.png --out explained
    """

    out: Annotated[str, DIR]
    """Directory for one figure (PNG) and one file of arrays (.npz) per image."""
    preset: OptionalPreset = None
    """Preset or run directory, published name (`focalnets presets`), checkpoint, URL or hf://owner/name."""
    images: Images = ()
    """Files, folders, patterns, or - for one path per line on standard input."""
    target: Annotated[OptionalStr, CLASS, _default("the predicted class")] = None
    """Class to explain: a name, or an index counted from 0."""
    versus: Annotated[OptionalStr, CLASS, _default("none")] = None
    """Explain the target rather than this class."""
    reference: Annotated[str, _choice("mean", "blur")] = "mean"
    """Image with no evidence: the mean color, or the image blurred."""
    html: Flag = False
    """Also write explorer.html, one page with all images that works without a connection."""
    score: Annotated[OptionalStr, DATA, _default("none")] = None
    """Instead of explaining images, measure the faithfulness of maps on the test split of a data set."""
    limit: Annotated[OptionalInt, COUNT, _default("200")] = None
    """Number of images for --score."""
    epochs: Annotated[OptionalStr, DIR, _default("none")] = None
    """Instead of explaining images, draw the evidence over the epochs of a run: a filmstrip and a GIF."""
    block: Annotated[OptionalStr, NAME, _default("none")] = None
    """Also draw the gates and modulators of this block, such as stage2_block1."""
    stage: Annotated[OptionalInt, COUNT, _default("none")] = None
    """Also draw the gates and modulators of the blocks of this stage, counted from 1."""
    whole: Flag = False
    """Keep the whole image and its aspect ratio. The decision is then not that of `focalnets predict`."""
    on_bad_image: OnBadImage = "error"
    """List unreadable images (the first 20) and stop, or leave them out."""
    force: Flag = False
    """Write to the --out directory even if it is not empty."""
    backend: Backend = None
    """Keras backend."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class ConvertArguments:
    """Convert a checkpoint of microsoft/FocalNet, timm or transformers to a preset, or a preset to one.

    Example: focalnets convert focalnet_tiny_srf.pth runs/tiny_srf
    """

    source: Annotated[tyro.conf.Positional[str], PRESET, tyro.conf.arg(metavar="SOURCE")]
    """Checkpoint (.pth or .safetensors), directory with one, URL or hf://owner/name; or a preset."""
    out: Annotated[tyro.conf.Positional[str], PATH, tyro.conf.arg(metavar="OUT")]
    """Preset directory to create. With --to, a .pth or .safetensors file, or a transformers directory."""
    to: Annotated[
        OptionalStr, _choice("official", "timm", "transformers"), _default("none; write a preset")
    ] = None
    """Write a checkpoint of this library. For transformers, it is a directory for from_pretrained."""
    variant: Annotated[OptionalStr, ARCHITECTURE, _default("recognized from the weights")] = None
    """Name of the architecture (`focalnets presets`)."""
    set: Changes = ()
    """Set options that weights do not determine: --set normalize_modulator=true norm_placement=post."""
    entry: Annotated[OptionalStr, ENTRY, _default("the trained weights, not their average")] = None
    """Weights to convert if a file has several: --entry ema, --entry state_dict_ema."""
    labels: Annotated[OptionalStr, FILE, _default("those of the checkpoint")] = None
    """Text file of class names: one name per line, or a name and its index."""
    window: Annotated[OptionalInt, COUNT, _default("unchanged")] = None
    """Enlarge the first focal window of every stage to this size."""
    levels: Annotated[OptionalInt, COUNT, _default("unchanged")] = None
    """Add focal levels to every stage, up to this number."""
    half: Flag = False
    """Write the weights as float16, half the size. They are loaded as float32 again."""
    force: Flag = False
    """Replace the checkpoint, preset or run at OUT, no matter which program wrote it."""
    backend: Backend = None
    """Keras backend."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class ExportArguments:
    """Export a network for another program, with preprocessing and labels, and verify it in its runtime.

    Example: focalnets export runs/digits exported
    """

    preset: Annotated[tyro.conf.Positional[str], PRESET]
    """Preset or run directory, published name (`focalnets presets`), checkpoint, URL or hf://owner/name."""
    out: Annotated[tyro.conf.Positional[str], DIR, tyro.conf.arg(metavar="OUT")]
    """Directory to create, with the network, export.json and README.md. `focalnets predict OUT` uses it."""
    force: Flag = False
    """Replace the export in the directory OUT."""
    format: Annotated[str, _choice("onnx", "openvino", "web", "saved_model", "litert", "torch", "keras")] = (
        "onnx"
    )
    """Format of the export. saved_model is TensorFlow's; torch writes a .pt2 file."""
    data: Annotated[OptionalStr, DATA, _default("made images")] = None
    """Data set or folder of images for the verification."""
    any_size: Flag = False
    """Export for images of any height and width."""
    quantize: Annotated[OptionalStr, _choice("int8"), _default("float32")] = None
    """Compute in 8 bits, calibrated and measured on labeled images (--data)."""
    most_loss: Annotated[float, POSITIVE] = 0.005
    """Largest loss of accuracy that --quantize may cost, 0 to 1."""
    explain: Flag = False
    """Also write explain.onnx, which returns the exact evidence of a decision."""
    backend: Backend = None
    """Keras backend."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class ServeArguments:
    """Answer requests over HTTP with exported networks: predictions, and the evidence for them.

    Example: focalnets serve exported
    """

    exports: Annotated[
        tyro.conf.Positional[tuple],
        _values("EXPORT..."),
        tyro.conf.arg(metavar="EXPORT...", help_behavior_hint=""),
    ] = ()
    """Directories of `focalnets export` (onnx, openvino), or NAME=DIRECTORY. The first is the default."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 accepts requests from other machines."""
    port: Annotated[int, INDEX] = 8000
    """Port to listen on. 0 chooses a free one, which the log shows."""
    token_file: Annotated[OptionalStr, FILE, _default("no token")] = None
    """File with a token that requests must send (Authorization: Bearer TOKEN)."""
    workers: Annotated[int, COUNT] = 1
    """Number of processes. A process that dies is replaced."""
    threads: Annotated[OptionalInt, COUNT, _default("the cores divided by --workers")] = None
    """Cores that a process uses."""
    queue: Annotated[int, COUNT] = 64
    """Requests that may wait, per process. Further ones get the status 503."""
    max_batch: Annotated[int, COUNT] = 8
    """Requests that may share a batch, at most. Fewer do if images are slow to compute."""
    max_delay: Annotated[float, TIME] = 0.0
    """Milliseconds that a request waits for others to share its batch."""
    timeout: Annotated[float, POSITIVE] = 10.0
    """Seconds for a request to arrive, and seconds until its answer."""
    max_body: Annotated[float, POSITIVE] = 20.0
    """Largest body of a request in megabytes."""
    lame_duck: Annotated[float, TIME] = 5.0
    """Seconds between SIGTERM and the end, in which the server answers but is not ready."""
    reload: Annotated[float, TIME] = 2.0
    """Seconds between checks for exports that changed, which are loaded without a pause. 0 does not check."""
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    """Runtime. auto: onnxruntime if it is installed."""
    no_access_log: Flag = False
    """Log no single requests."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class CacheArguments:
    """Resize a data set once and store it as memory-mapped arrays, so that training does not decode images.

    Example: focalnets cache digits --grayscale --image-size 16 --out runs/digits16
    """

    data: Annotated[tyro.conf.Positional[str], DATA]
    """Name of a data set such as cifar10, or a folder, .zip, .tar, .csv or .npz file."""
    out: Annotated[str, DIR]
    """Directory to create. Pass it to --data afterwards."""
    image_size: Annotated[int, COUNT] = 256
    """Side of the square images in pixels. The shorter side is resized to it and the center is cropped."""
    grayscale: Flag = False
    """Store one channel (grayscale) instead of three."""
    on_bad_image: OnBadImage = "error"
    """List unreadable images (the first 20) and stop, or leave them out."""
    force: Flag = False
    """Replace the cache in the --out directory. Directories with anything else are refused."""
    backend: Backend = None
    """Keras backend. Only data sets that Keras loads need one."""
    debug: Flag = False
    """Show the traceback of an error."""


@dataclass
class CompletionArguments:
    """Print a script with which the shell completes verbs, options, names and paths.

    Example: focalnets completion bash
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Shell. Add this line to its start-up file: eval "$(focalnets completion bash)"."""
    debug: Flag = False
    """Show the traceback of an error."""


def arguments_for(verb):
    """Dataclass of the arguments of a verb.

    >>> from focalnets.commands.arguments import arguments_for
    >>> arguments_for("predict").__name__
    'PredictArguments'
    """
    return globals()[f"{verb.capitalize()}Arguments"]
