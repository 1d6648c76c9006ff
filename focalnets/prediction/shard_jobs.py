"""Work on a shard: its images are decoded in threads, computed in batches, and written as rows.

A job is what is computed for each image: most probable classes, features, or scores for its label. Jobs and
the arguments of `ShardWorker` can be pickled, so that other processes can do the same work.
"""

import collections
import functools
import hashlib
import io
import os
from dataclasses import dataclass

import numpy as np

from focalnets.data.find import NO_PREPROCESSING
from focalnets.data.shards.read import read_shard
from focalnets.deployment.record import GRAPH, IR_GRAPH
from focalnets.deployment.record import WEIGHTS as EXPORT_WEIGHTS
from focalnets.files import file_sha256
from focalnets.images.decode import open_image
from focalnets.prediction.evaluation import scores
from focalnets.prediction.predictor import NOT_FINITE, Predictor, softmax
from focalnets.prediction.shard_files import shard_file, write_rows
from focalnets.presets.files import CONFIG, EXPORT, LABELS, PREPROCESSING, WEIGHTS
from focalnets.presets.labels import in_words
from focalnets.presets.resolve import is_checkpoint_name, resolve
from focalnets.threads import cores, parallel_map

_IR_WEIGHTS = "model.bin"
# Files that the results of a network depend on.
_FILES = (CONFIG, PREPROCESSING, LABELS, WEIGHTS, EXPORT, GRAPH, EXPORT_WEIGHTS, IR_GRAPH, _IR_WEIGHTS)


@functools.lru_cache(1)
def places_of(names):
    """Dict of class name -> index, for a tuple of names."""
    return {name: place for place, name in enumerate(names)}


class NotFiniteError(ValueError):
    """The network is damaged. Other shards would fail, too."""


@dataclass(frozen=True)
class ClassesJob:
    """The `top` most probable classes of each image, with their probabilities."""

    top: int
    name = "predict"

    def settings(self):
        return {"top": self.top}

    def columns(self, predictor):
        import pyarrow

        return [
            ("classes", pyarrow.list_(pyarrow.string())),
            ("probabilities", pyarrow.list_(pyarrow.float32())),
        ]

    def rows(self, predictor, images, labels):
        names = predictor.class_names
        for one in softmax(_finite(predictor.engine.run(images))):
            best = np.argsort(-one, kind="stable")[: self.top]
            probabilities = [float(one[index]) for index in best]
            yield {"classes": [names[index] for index in best], "probabilities": probabilities}

    def unreadable(self):
        return {"classes": [], "probabilities": []}

    def decided(self, row):
        return row["classes"][0] if row["classes"] else None


@dataclass(frozen=True)
class FeaturesJob:
    """Input of the classification head for each image."""

    name = "embed"

    def settings(self):
        return {}

    def columns(self, predictor):
        import pyarrow

        blank = predictor.prepare(np.zeros((64, 64, predictor.channels), "uint8"))
        width = predictor.engine.features(blank[None]).shape[1]
        return [("embedding", pyarrow.list_(pyarrow.float32(), width))]

    def rows(self, predictor, images, labels):
        for one in _finite(predictor.engine.features(images)):
            yield {"embedding": one}

    def unreadable(self):
        return {"embedding": None}

    def decided(self, row):
        return None


@dataclass(frozen=True)
class ScoresJob:
    """Predicted class of each image, and the probability and rank of its label."""

    name = "evaluate"

    def settings(self):
        return {}

    def columns(self, predictor):
        import pyarrow

        return [
            ("predicted", pyarrow.string()),
            ("confidence", pyarrow.float64()),
            ("probability", pyarrow.float64()),
            ("rank", pyarrow.int32()),
        ]

    def rows(self, predictor, images, labels):
        logits = _finite(predictor.engine.run(images))
        names = predictor.class_names
        places = places_of(names)
        known = [places.get(label) for label in labels]
        found = scores(logits, np.array([place or 0 for place in known]))
        for row, place in enumerate(known):
            values = {name: column[row].item() for name, column in found.items()}
            values["predicted"] = names[values["predicted"]]
            yield values if place is not None else {**values, "probability": None, "rank": None}

    def unreadable(self):
        return dict.fromkeys(("predicted", "confidence", "probability", "rank"))

    def decided(self, row):
        return row["predicted"] if row["rank"] is not None else None


def _finite(outputs):
    if not np.isfinite(outputs).all():
        raise NotFiniteError(NOT_FINITE)
    return outputs


class ShardWorker:
    """A network, and what it computes for the images of shards.

    Args:
        preset, batch_size, engine: See `Predictor`.
        job: `ClassesJob`, `FeaturesJob` or `ScoresJob`.
        out: `pathlib.Path`. Folder of the results.
        settings: dict. Result of `settings_of` in the process that distributes the shards.

    Raises:
        ValueError: if the preset has no preprocessing, or differs from that of `settings`.
    """

    def __init__(self, preset, batch_size, engine, job, out, settings):
        self._predictor = Predictor(preset, batch_size, engine)
        if not self._predictor.engine.takes_images:
            raise ValueError(NO_PREPROCESSING)
        if settings_of(preset, job) != settings:
            raise ValueError(f"The files of {preset} differ between the machines. Copy the preset again.")
        self._job, self._out, self._settings = job, out, settings
        self._columns = job.columns(self._predictor)
        self._places = places_of(self._predictor.class_names)

    def write(self, index, shard):
        """Write the results of a shard, unless they exist.

        Args:
            index: int. Place of the shard in the manifest.
            shard: str. See `read_shard`.

        Raises:
            ValueError: if the shard cannot be read.
            NotFiniteError: if a logit is not finite.
        """
        import pyarrow

        path = shard_file(self._out, index)
        if path.exists():  # of an attempt whose process ended after it
            return
        columns = [
            ("shard", pyarrow.int32()),
            ("row", pyarrow.int64()),
            ("key", pyarrow.string()),
            *self._columns,
            ("label", pyarrow.string()),
            ("problem", pyarrow.string()),
        ]
        rows = self._rows(index, read_shard(shard))
        write_rows(path, columns, rows, {"shard": shard, **self._settings})

    def _rows(self, index, images):
        """Yield the values of each image, in order, with its predicted class. Threads decode in advance."""
        predictor, job = self._predictor, self._job

        def prepared(image):
            if image.problem is not None:
                return image, None, image.problem
            try:
                decoded = open_image(io.BytesIO(image.data), predictor.channels, image.key)
                return image, predictor.prepare(decoded), None
            except ValueError as error:
                return image, None, str(error)

        # With one core, a thread that decodes in advance only makes both wait for the interpreter's lock.
        threads, row = cores() if cores() > 1 else 0, 0
        for batch in _batches(parallel_map(prepared, images, threads), predictor.batch_size):
            labels = [self._class_of(image.label) for image, _, _ in batch]
            groups = collections.defaultdict(list)  # networks for images of any size
            for place, (_, pixels, _) in enumerate(batch):
                if pixels is not None:
                    groups[pixels.shape].append(place)
            found = {}
            for places in groups.values():
                stacked = np.stack([batch[place][1] for place in places])
                values = job.rows(predictor, stacked, [labels[place] for place in places])
                found |= dict(zip(places, values, strict=True))
            for place, (image, _, problem) in enumerate(batch):
                values = found.get(place) or job.unreadable()
                common = {"shard": index, "row": row, "key": image.key}
                yield {**common, **values, "label": labels[place], "problem": problem}, job.decided(values)
                row += 1

    def _class_of(self, label):
        """Class of a label, which is a name, a WordNet identifier or an index. Others are unchanged."""
        if label is None or label in self._places:
            return label
        names, (words,) = self._predictor.class_names, in_words([label])
        if words in self._places:
            return words
        return names[int(label)] if label.isdecimal() and int(label) < len(names) else label


def _batches(items, size):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def settings_of(preset, job):
    """Dict of JSON values that the rows of a job depend on."""
    return {"job": job.name, "preset": _digest(preset), **job.settings()}


def _digest(preset):
    """Hash of the files of a network, or of its weights in memory, or the address of a published one."""
    if not isinstance(preset, str | os.PathLike):
        found = hashlib.sha256()
        for array in preset.get_weights():
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]
    source = resolve(preset)
    if not source.is_local:
        return str(source.place)
    files = [source.place]
    if source.place.is_dir():
        files = [
            path for path in sorted(source.place.iterdir()) if path.name in _FILES or is_checkpoint_name(path)
        ]
    hashes = "".join(file_sha256(path) for path in files)
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]
