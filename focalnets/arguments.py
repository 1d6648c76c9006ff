"""The arguments of every verb of the command line, free of keras so that each `--help` is instant."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Backend = Literal["torch", "jax", "tensorflow"]
OnBadImage = Literal["error", "skip"]
Keep = Literal["auto", "memory", "stream"]
Json = Annotated[bool, tyro.conf.arg(name="json")]


@dataclass
class TrainArguments:
    """Train a focal modulation network and draw what it looks at.

    Example: focalnets train --recipe digits --out runs/digits
    """

    out: str | None = None
    """Run directory to make: weights, config, history.csv, curves.png, report.html, panels/."""
    resume: str | None = None
    """Run directory to take up, after a crash or a time limit, instead of --out and the rest."""
    recipe: str | None = None
    """Recipe by name (focalnets recipes list), or a Python file that defines RECIPE. By default one that
    suits the data: finetune for images of your own, digits if there is no --data."""
    data: str | None = None
    """A name such as digits, or a folder, zip, csv or npz; the recipe's own if left out."""
    preset: str | None = None
    """Weights to start from, instead of the recipe's: a run, a preset directory or a published name."""
    epochs: int | None = None
    """Passes over the training images, instead of the recipe's."""
    batch_size: int | None = None
    """Images a step, instead of the recipe's."""
    learning_rate: float | None = None
    """Peak learning rate, instead of the recipe's."""
    seed: int | None = None
    """Seed of everything random, instead of the recipe's."""
    set: tuple[str, ...] = ()
    """Other fields of the recipe: --set ema_decay=0.999 augmentation.mixup=0.2."""
    max_minutes: float | None = None
    """Stop after so many minutes, saved, to be resumed."""
    monitor_every: int | None = None
    """Epochs between two panels of what the network looks at; 0 for none, about ten in all if left out."""
    tensorboard: bool = False
    """Write event files for TensorBoard, too."""
    force_bfloat16: bool = False
    """Use bfloat16 even where it is slower than float32."""
    on_bad_image: OnBadImage = "error"
    """Name the pictures that cannot be read (the first 20) and stop, or leave them out."""
    keep: Keep = "auto"
    """Prepared images in memory, or read anew every time (as recipes with random crops of the original
    pictures always do); auto: in memory up to 2 GiB."""
    force: bool = False
    """Replace the run that --out names."""
    backend: Backend | None = None
    """Keras backend; by default $KERAS_BACKEND, or the first installed of torch, jax, tensorflow."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class RecipesArguments:
    """List the recipes, show one as JSON, or copy its file to change it.

    Example: focalnets recipes list
    """

    action: tyro.conf.Positional[Literal["list", "show", "copy"]]
    """What to do."""
    name: tyro.conf.Positional[str | None] = None
    """Recipe to show or copy."""
    to: tyro.conf.Positional[str | None] = None
    """File to copy it to, such as mine.py."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class PresetsArguments:
    """List the architectures with parameters and multiply-accumulates, and published weights.

    Example: focalnets presets
    """

    as_json: Json = False
    """Print JSON, one object an architecture."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class EvaluateArguments:
    """Accuracy, loss and confusion of a trained network on labelled images.

    Example: focalnets evaluate runs/digits --data digits
    """

    preset: tyro.conf.Positional[str]
    """Run or preset directory, name of published weights, checkpoint, URL or hf://..."""
    data: str
    """A name such as digits, or a folder, zip, csv or npz."""
    split: str = "test"
    """Split of the data to classify."""
    restrict: bool = False
    """Choose among the classes of the data alone: a 22k net on ImageNet-1k, for instance."""
    tta: Literal["none", "flip", "shift"] = "none"
    """Also average over views of each image: it and its mirror image, or both also shifted by a pixel."""
    corruptions: bool = False
    """Also classify noisy, blurred, faded images: 12 corruptions in 5 severities, 60 times the work."""
    limit: int | None = None
    """Classify so many images only, each class by its share."""
    out: str | None = None
    """Directory for evaluation.json, confusion.png, reliability.png and corruptions.png."""
    html: bool = False
    """Write evaluation.html into it: all of it on one page, with the surest mistakes."""
    batch_size: int = 64
    """Images at a time."""
    as_json: Json = False
    """Print JSON."""
    on_bad_image: OnBadImage = "error"
    """Name the pictures that cannot be read (the first 20) and stop, or leave them out."""
    keep: Keep = "auto"
    """Prepared images in memory, or read anew every time; auto: in memory up to 2 GiB."""
    force: bool = False
    """Write into the directory that --out names even if it is not empty."""
    backend: Backend | None = None
    """Keras backend."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class PredictArguments:
    """Say what is on pictures: the likeliest classes with their probabilities.

    Example: focalnets predict runs/digits photo.png folder/ 'more/*.jpg'
    """

    preset: tyro.conf.Positional[str]
    """Run or preset directory, name of trained weights, checkpoint, URL or hf://...; may be left out."""
    pictures: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders, patterns, or - for one path a line on standard input."""
    top: int = 5
    """How many classes to name for each picture."""
    as_json: Json = False
    """Print JSON."""
    as_csv: Annotated[bool, tyro.conf.arg(name="csv")] = False
    """Print CSV."""
    on_bad_image: OnBadImage = "error"
    """Name the pictures that cannot be read (the first 20) and stop, or leave them out."""
    engine: Literal["auto", "keras", "onnxruntime", "openvino"] = "auto"
    """What computes; auto: on a CPU the fastest runtime that is installed, Keras otherwise."""
    backend: Backend | None = None
    """Keras backend; with one, Keras computes."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class ExplainArguments:
    """Draw what a trained network modulates with: gates and modulators over pictures.

    Example: focalnets explain runs/digits photo.png --out explained
    """

    out: str
    """Directory for a panel (PNG) a block and the arrays (.npz) of each picture."""
    preset: tyro.conf.Positional[str]
    """Run or preset directory, name of trained weights, checkpoint, URL or hf://...; may be left out."""
    pictures: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders, patterns, or - for one path a line on standard input."""
    block: str | None = None
    """Block to draw, such as stage2_block1; the last of every stage if left out."""
    stage: int | None = None
    """Stage whose blocks are drawn, counted from 1."""
    crop: bool = False
    """Crop the centre as for predictions, instead of keeping the whole picture and its aspect."""
    on_bad_image: OnBadImage = "error"
    """Name the pictures that cannot be read (the first 20) and stop, or leave them out."""
    force: bool = False
    """Write into the directory that --out names even if it is not empty."""
    backend: Backend | None = None
    """Keras backend."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class ConvertArguments:
    """Turn a checkpoint of microsoft/FocalNet, timm or transformers into a preset, or a preset into one.

    Example: focalnets convert focalnet_tiny_srf.pth runs/tiny_srf
    """

    source: tyro.conf.Positional[str]
    """A .pth or .safetensors file, a directory with one, a URL, hf://..., or, with --to, a preset."""
    out: tyro.conf.Positional[str]
    """Preset directory to make; with --to a .pth or .safetensors file."""
    to: Literal["official", "timm", "transformers"] | None = None
    """Write a checkpoint of that library; for transformers a directory serves for from_pretrained."""
    variant: str | None = None
    """Name of the architecture (focalnets presets); recognised from the weights if left out."""
    set: tuple[str, ...] = ()
    """What weights cannot tell: --set normalize_modulator=true norm_placement=post."""
    labels: str | None = None
    """Text file of class names: a name a line, or a name and its number."""
    window: int | None = None
    """Enlarge the first focal window to this, in every stage."""
    levels: int | None = None
    """Add focal levels up to so many, in every stage."""
    half: bool = False
    """Write the weights as float16, half the size; they are loaded as float32 again."""
    force: bool = False
    """Replace OUT if it is a checkpoint, a preset or a run."""
    backend: Backend | None = None
    """Keras backend."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class CacheArguments:
    """Resize a data set once, into memory-mapped arrays, so that training on it decodes nothing.

    Example: focalnets cache digits --grey --image-size 16 --out runs/digits16
    """

    data: tyro.conf.Positional[str]
    """A name such as cifar10, or a folder, zip, csv or npz."""
    out: str
    """Directory to make; give it to --data afterwards."""
    image_size: int = 256
    """Side of the square images in pixels: the shorter side is resized to it, the centre kept."""
    grey: bool = False
    """One channel instead of three."""
    on_bad_image: OnBadImage = "error"
    """Name the pictures that cannot be read (the first 20) and stop, or leave them out."""
    force: bool = False
    """Replace the cache that --out names."""
    backend: Backend | None = None
    """Keras backend; only data sets that Keras loads need one."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class CompletionArguments:
    """Print a script that lets the shell complete verbs, options and their values.

    Example: focalnets completion bash
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Which shell; put eval "$(focalnets completion bash)" into its start-up file."""
    debug: bool = False
    """Show the traceback of an error."""
