"""The arguments of every verb of the command line, free of keras so that each `--help` is instant."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Backend = Literal["torch", "jax", "tensorflow"]


@dataclass
class TrainArguments:
    """Train a focal modulation network and draw what it looks at.

    Example: focalnets train --recipe digits --out runs/digits
    """

    out: str
    """Run directory to make: weights, config, history.csv, curves.png, panels/."""
    recipe: str = "digits"
    """Recipe by name: digits, cifar10_small."""
    data: str | None = None
    """Folder or zip with train/<class>/<image> and test/<class>/<image>; the recipe's own if left out."""
    epochs: int | None = None
    """Passes over the training images, instead of the recipe's."""
    batch_size: int | None = None
    """Images a step, instead of the recipe's."""
    learning_rate: float | None = None
    """Peak learning rate, instead of the recipe's."""
    seed: int | None = None
    """Seed of everything random, instead of the recipe's."""
    force: bool = False
    """Replace the run that --out names."""
    backend: Backend | None = None
    """Keras backend; by default $KERAS_BACKEND, or the first installed of torch, jax, tensorflow."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass
class PresetsArguments:
    """List the architectures with parameters and multiply-accumulates.

    Example: focalnets presets
    """

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON, one object an architecture."""
    debug: bool = False
    """Show the traceback of an error."""
