"""Callbacks for `fit`: `StopOnNaN`, `TrainMonitor` and `TensorBoard`."""

import math
import time

import keras
import numpy as np
from keras import ops

from focalnets.explanation.attribution import EvidenceModels
from focalnets.explanation.epochs import draw_evidence_filmstrip, epoch_arrays
from focalnets.explanation.modulation import modulation_maps
from focalnets.models.modulation import modulation_model
from focalnets.ops.processes import current
from focalnets.output.files import list_files, shared_directory, writing
from focalnets.output.paths import output_path
from focalnets.report.figures import draw_filmstrip, draw_panels


class StopOnNaN(keras.callbacks.Callback):
    """Stop training when the loss is NaN or infinite.

    Args:
        every: int. Number of batches between two checks. Each check covers all losses since the previous
            one, and waits for the device. Defaults to 16.

    Raises:
        FloatingPointError: from `fit`, with epoch, batch and what to try.

    >>> import keras, numpy as np
    >>> from focalnets.training.callbacks import StopOnNaN
    >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> net.compile("sgd", "mse")
    >>> try:
    ...     net.fit(np.array([[np.nan]]), np.array([[0.0]]), callbacks=[StopOnNaN()], verbose=0)
    ... except FloatingPointError as error:
    ...     print(str(error)[:40])
    The loss became nan in epoch 1, batch 1.
    """

    def __init__(self, every=16):
        super().__init__()
        self.every = every
        self.first_batch = 0
        self._unchecked = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self._unchecked = []

    def on_train_batch_end(self, batch, logs=None):
        self._unchecked.append((batch, logs["loss"]))  # still on the device
        if len(self._unchecked) >= self.every:
            self._check()

    def on_epoch_end(self, epoch, logs=None):
        self._check()
        self.first_batch = 0

    def _check(self):
        losses = [float(ops.convert_to_numpy(loss)) for _, loss in self._unchecked]
        among = current()
        if among is not None and losses:  # the losses of another process may become NaN a batch earlier
            everywhere = among.gather(losses)
            losses = [next((v for v in column if not math.isfinite(v)), 0.0) for column in everywhere.T]
        for (batch, _), value in zip(self._unchecked, losses, strict=True):
            if math.isfinite(value):
                continue
            raise FloatingPointError(
                f"The loss became {value} in epoch {self.epoch + 1}, batch {self.first_batch + batch + 1}. "
                "Check the labels. Try a lower learning rate, a longer warm-up, clip_norm=1, or float32 "
                "instead of bfloat16."
            )
        self._unchecked = []


class TrainMonitor(keras.callbacks.Callback):
    """Draw evidence, gates and modulators of a `FocalNetImageClassifier` during training.

    After the first epoch and every `epoch_interval` epochs, the callback writes one figure per block and an
    `.npz` file with the underlying arrays. At the end of training, it writes one filmstrip of the evidence,
    and one per block. On JAX, the arrays have no evidence of the focal levels.

    Args:
        images: array of shape (N, H, W, C). The same few inputs of the classifier are drawn each time.
        directory: str or `pathlib.Path`. Output directory, created if it does not exist.
        epoch_interval: int. Number of epochs between two figures. Defaults to 1.
        blocks: list of str or None. Blocks such as "stage2_block1". Defaults to the last of each stage.
        titles: list of N str or None. Titles of the rows. Defaults to "1", "2", ...
        labels: int array of shape (N,) or None. Classes that the evidence explains. Defaults to the predicted
            classes of each epoch.

    Source: `TrainMonitor` of the 2023 Keras tutorial.

    >>> import tempfile
    >>> from focalnets import FocalNetImageClassifier, TrainMonitor, open_dataset
    >>> digits = open_dataset("digits", channels=1).splits["test"].take(range(64))
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> net.compile()
    >>> monitor = TrainMonitor(digits.images[:3], tempfile.mkdtemp() + "/monitor")
    >>> history = net.fit(digits.images, digits.labels, callbacks=[monitor], verbose=0)
    >>> sorted(path.name for path in monitor.directory.glob("epoch*"))[:2]
    ['epoch0001.npz', 'epoch0001.stage1_block2.png']
    """

    def __init__(self, images, directory, epoch_interval=1, blocks=None, titles=None, labels=None):
        super().__init__()
        if epoch_interval < 1:
            raise ValueError(f"epoch_interval must be at least 1; got {epoch_interval}.")
        self.images = np.asarray(images)
        self.directory = output_path(directory)
        self.epoch_interval = epoch_interval
        self.blocks = blocks
        self.labels = labels
        self.titles = [str(i + 1) for i in range(len(self.images))] if titles is None else list(titles)

    def on_train_begin(self, logs=None):
        if self.blocks is None:
            self.blocks = [stage[-1].name for stage in self.model.backbone.stages]
        shared_directory(self.directory, "monitor")
        self._graph = modulation_model(self.model)
        # On JAX, compiling the operations of the levels takes longer than a short training.
        self._levels = keras.backend.backend() != "jax"
        self._models = EvidenceModels(self.model, eager=True)

    def on_epoch_end(self, epoch, logs=None):
        if epoch and (epoch + 1) % self.epoch_interval:
            return
        maps = modulation_maps(self.model, self.images, graph=self._graph)
        arrays = {"images": self.images}
        classes = self.labels
        if classes is None:
            classes = self._graph.predict(self.images, verbose=0)["logits"].argmax(axis=-1)
        arrays |= epoch_arrays(self.model, self.images, classes, self._models, self._levels)
        for name in self.blocks:
            arrays[f"{name}.gates"] = maps[name].gates
            arrays[f"{name}.modulator_norm"] = maps[name].modulator_norm
            arrays[f"{name}.receptive_fields"] = np.array(maps[name].receptive_fields)
            path = self.directory / f"epoch{epoch + 1:04}.{name}.png"
            draw_panels(path, self.images, maps[name], self.titles, f"{name}, epoch {epoch + 1}")
        with writing(self.directory / f"epoch{epoch + 1:04}.npz") as partial:
            np.savez_compressed(partial, **arrays)

    def on_train_end(self, logs=None):
        self.draw_filmstrips()

    def draw_filmstrips(self):
        """Write filmstrip.<block>.png from the `.npz` files of all sessions, and return the paths."""
        files = {int(path.stem.removeprefix("epoch")): path for path in self.directory.glob("epoch*.npz")}
        if not files:
            return []
        frames = {epoch: dict(np.load(path)) for epoch, path in sorted(files.items())}
        first, paths = frames[min(frames)], []
        explained = {epoch: arrays for epoch, arrays in frames.items() if "evidence" in arrays}
        if explained:
            paths.append(self.directory / "filmstrip.evidence.png")
            draw_evidence_filmstrip(paths[0], explained, self.titles)
        for name in [key.removesuffix(".gates") for key in first if key.endswith(".gates")]:
            paths.append(self.directory / f"filmstrip.{name}.png")
            gates = {epoch: arrays[f"{name}.gates"] for epoch, arrays in frames.items()}
            norms = {epoch: arrays[f"{name}.modulator_norm"] for epoch, arrays in frames.items()}
            draw_filmstrip(paths[-1], self.images, gates, norms, self.titles, name)
        return paths


class TensorBoard(keras.callbacks.Callback):
    """Write the metrics of each epoch as TensorBoard event files. Call `close` after training.

    Args:
        directory: str or `pathlib.Path`. Directory of the event files.

    Raises:
        ImportError: if tensorboardX is not installed.
    """

    def __init__(self, directory):
        super().__init__()
        directory = shared_directory(directory, "run")
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "--tensorboard needs tensorboardX: pip install 'focalnets[tensorboard]'."
            ) from error
        # Default names have whole seconds: a run resumed within one second would overwrite its file.
        suffix = f".{time.time_ns()}"
        self.writer = SummaryWriter(str(directory), flush_secs=5, filename_suffix=suffix)
        list_files(directory.glob(f"*{suffix}"))

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.writer.add_scalar(name, float(value), epoch + 1)

    def close(self):
        """Write all queued events. The writer's `flush` does not wait for its queue."""
        self.writer.close()
