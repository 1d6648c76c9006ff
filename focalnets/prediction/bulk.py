"""`predict_shards`, `embed_shards` and `evaluate_shards`: work on the shards of a large set of images.

Each shard becomes one Parquet file. A scheduler can run any part of the work anywhere and again: a file is
written when it is complete, and shards whose file exists are skipped.
"""

import functools
import logging
import pathlib
from dataclasses import dataclass

import numpy as np

from focalnets.data.shards.manifest import read_manifest
from focalnets.files import expanded
from focalnets.names import plural
from focalnets.output.locks import settle_left
from focalnets.prediction.engines import class_names_of
from focalnets.prediction.evaluation import Evaluation, Totals
from focalnets.prediction.predictor import check_count
from focalnets.prediction.shard_files import (
    batches_of,
    check_complete,
    check_origin,
    counts_of,
    merge_files,
    origin_settings,
    shard_file,
)
from focalnets.prediction.shard_jobs import (
    ClassesJob,
    FeaturesJob,
    NotFiniteError,
    ScoresJob,
    ShardWorker,
    places_of,
    settings_of,
)
from focalnets.progress import progress

_log = logging.getLogger("focalnets")


@dataclass(frozen=True)
class BulkResult:
    """Result of `predict_shards`, `embed_shards` and `merge_shards`.

    Attributes:
        files: list of `pathlib.Path`. Parquet files.
        images: int. Number of rows in them.
        unreadable: int. Number of images that could not be read.
        skipped: int. Number of shards that were complete already.
        accuracy: float or None. Fraction of labeled images whose first class is their label.
    """

    files: list[pathlib.Path]
    images: int
    unreadable: int
    skipped: int
    accuracy: float | None = None


@dataclass(frozen=True)
class BulkEvaluation(BulkResult):
    """Result of `evaluate_shards` and `merge_evaluations`.

    Attributes:
        files, images, unreadable, skipped, accuracy: See `BulkResult`.
        unlabeled: int. Number of readable images without a label.
        unknown: dict of str -> int. Number of readable images for each label that is not a class of the
            network. Neither these nor unlabeled images are evaluated.
        evaluation: `Evaluation` of the other readable images, or None if there are none.
    """

    unlabeled: int = 0
    unknown: dict[str, int] | None = None
    evaluation: Evaluation | None = None


def predict_shards(preset, manifest, out, shard=None, top=5, batch_size=64, engine="auto", ray=None):
    """Classify the shards of a manifest. Complete shards are skipped.

    Args:
        preset: See `predict`.
        manifest: str or `pathlib.Path`. List of shards, see `data.shards.manifest.read_manifest`.
        out: str or `pathlib.Path`. Folder of the Parquet files `shard-000000.parquet`, ..., one per line of
            the manifest, with one row per image: `shard` and `row` (int), `key` (str), `classes` (list of
            str), `probabilities` (list of float), `label` (class name or null), and `problem` (str, or null
            if the image was read). Several processes may write it.
        shard: tuple (int, int) or None. `(3, 64)` does every 64th shard, starting with number 3, counted from
            0. Defaults to `None`, all shards.
        top: int. Number of classes per image. Defaults to 5.
        batch_size: int. Number of images per batch. Defaults to 64.
        engine: str. See `predict`. Defaults to "auto".
        ray: str, `RayPool` or None. Address of a Ray cluster whose workers share the shards, or "local".
            Defaults to `None`, this process.

    Returns:
        `BulkResult` of these shards.

    Raises:
        ValueError: if a shard cannot be read (the others are done before), if `out` has results of another
            preset or other settings, or if a logit is not finite.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from focalnets.prediction.bulk import predict_shards
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "photos").mkdir()
    >>> Image.new("RGB", (32, 32)).save(folder / "photos" / "1.png")
    >>> _ = (folder / "shards.txt").write_text("photos")
    >>> result = predict_shards(
    ...     "focalnet_nano_cifar10", folder / "shards.txt", folder / "out", engine="keras"
    ... )
    >>> result.images, result.unreadable, result.files[0].name
    (1, 0, 'shard-000000.parquet')
    """
    check_count("top", top)
    return _counted(*_run(ClassesJob(top), preset, manifest, out, shard, batch_size, engine, ray))


def embed_shards(preset, manifest, out, shard=None, batch_size=64, engine="auto", ray=None):
    """Compute the features of the images in the shards of a manifest. Complete shards are skipped.

    The features are the input of the classification head: the feature map after the final normalization,
    averaged over its positions.

    Args:
        preset, manifest, shard, batch_size, engine, ray: See `predict_shards`.
        out: str or `pathlib.Path`. Folder of the Parquet files, see `predict_shards`. A row has `shard`,
            `row`, `key`, `embedding` (list of C float32, or null if the image could not be read), `label` and
            `problem`.

    Returns:
        `BulkResult` of these shards.

    Raises:
        ValueError: as of `predict_shards`, or if the network is an export without features.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from pyarrow import parquet
    >>> from focalnets.prediction.bulk import embed_shards
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "photos").mkdir()
    >>> Image.new("RGB", (32, 32)).save(folder / "photos" / "1.png")
    >>> _ = (folder / "shards.txt").write_text("photos")
    >>> result = embed_shards("focalnet_nano_cifar10", folder / "shards.txt", folder / "out", engine="keras")
    >>> parquet.read_schema(result.files[0]).field("embedding").type.list_size
    256
    """
    return _counted(*_run(FeaturesJob(), preset, manifest, out, shard, batch_size, engine, ray))


def evaluate_shards(preset, manifest, out, shard=None, batch_size=64, engine="auto", ray=None):
    """Measure a classifier on the labeled images in the shards of a manifest. Complete shards are skipped.

    The metrics are those of `evaluate` on the same images.

    Args:
        preset, manifest, shard, batch_size, engine, ray: See `predict_shards`.
        out: str or `pathlib.Path`. Folder of the Parquet files, see `predict_shards`. A row has `shard`,
            `row`, `key`, `predicted` (class name), `confidence` (probability of that class), `probability`
            and `rank` of the label (1 for the most probable class; null without a known label), `label` and
            `problem`.

    Returns:
        `BulkEvaluation` of these shards.

    Raises:
        ValueError: as of `predict_shards`.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from focalnets.prediction.bulk import evaluate_shards
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "photos").mkdir()
    >>> Image.new("RGB", (32, 32)).save(folder / "photos" / "1.png")  # folders have no labels
    >>> _ = (folder / "shards.txt").write_text("photos")
    >>> result = evaluate_shards(
    ...     "focalnet_nano_cifar10", folder / "shards.txt", folder / "out", engine="keras"
    ... )
    >>> result.images, result.unlabeled, result.evaluation
    (1, 1, None)
    """
    files, skipped = _run(ScoresJob(), preset, manifest, out, shard, batch_size, engine, ray)
    return _evaluated(files, skipped, preset, manifest)


def merge_shards(manifest, out, path):
    """Write the rows of all shards of a manifest to one Parquet file, in the order of the manifest.

    Args:
        manifest, out: See `predict_shards`. The results can be those of any job.
        path: str or `pathlib.Path`. File to write. Only one shard is in memory at a time.

    Returns:
        `BulkResult` of all shards.

    Raises:
        ValueError: if a shard is missing, or belongs to another manifest, network or job.
        FileExistsError: if the file exists.
    """
    shards, out = read_manifest(manifest), expanded(out)
    first = shard_file(out, 0)
    files = check_complete(shards, out, origin_settings(first) if first.exists() else {})
    merge_files(files, expanded(path))
    settle_left(out)  # of processes that were killed
    return _counted(files, len(files))


def merge_evaluations(preset, manifest, out):
    """Compute the metrics of all shards of a manifest from the results of `evaluate_shards`.

    Args:
        preset, manifest, out: See `evaluate_shards`.

    Returns:
        `BulkEvaluation` of all shards.

    Raises:
        ValueError: if a shard is missing, or belongs to another manifest, network or job.
    """
    shards, out = read_manifest(manifest), expanded(out)
    files = check_complete(shards, out, settings_of(preset, ScoresJob()))
    settle_left(out)  # of processes that were killed
    return _evaluated(files, len(files), preset, manifest)


def _run(job, preset, manifest, out, shard, batch_size, engine, ray):
    """Do the missing shards. Returns the files of all shards of this part, and how many existed."""
    shards = read_manifest(manifest)
    number, of = (0, 1) if shard is None else shard
    if not 0 <= number < of:
        raise ValueError(f"shard must be (i, n) with i from 0 to n - 1; got ({number}, {of}).")
    out = expanded(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    settings = settings_of(preset, job)
    part = range(number, len(shards), of)
    files = {index: shard_file(out, index) for index in part}
    tasks = [(index, shards[index]) for index in part if not files[index].exists()]
    missing = {index for index, _ in tasks}
    for index in part:
        if index not in missing:
            check_origin(files[index], {"shard": shards[index], **settings})
    if tasks:
        arguments = {"preset": preset, "batch_size": batch_size, "engine": engine, "job": job}
        do = functools.partial(_in_this_process if ray is None else _on_ray(ray), arguments)
        found = progress(do(out, settings, tasks), f"{job.name}: shards", len(tasks))
        problems = [problem for problem in found if problem is not None]
        if problems:
            raise ValueError(
                f"{len(problems)} of {len(part)} shards failed:\n"
                + "\n".join(problems[:20])
                + "\nRepair them and start again: complete shards are skipped."
            )
    return list(files.values()), len(part) - len(tasks)


def _in_this_process(arguments, out, settings, tasks):
    """Do shards. Yield the reason for each one that failed, and None for the others."""
    worker = ShardWorker(**arguments, out=out, settings=settings)
    for index, shard in tasks:
        try:
            worker.write(index, shard)
        except NotFiniteError:
            raise
        except ValueError as error:  # the next shards may be readable
            _log.warning("%s", error)
            yield str(error)
        else:
            yield None


def _on_ray(ray):
    from focalnets.prediction.ray_pool import as_pool

    return as_pool(ray).run


def _counted(files, skipped):
    counts = counts_of(files)
    labeled = counts["labeled"]
    accuracy = counts["right"] / labeled if labeled else None
    return BulkResult(files, counts["images"], counts["unreadable"], skipped, accuracy)


def _evaluated(files, skipped, preset, manifest):
    """`BulkEvaluation` of files. A few thousand rows are in memory at a time."""
    counts, names = counts_of(files), tuple(class_names_of(preset))
    totals, places = Totals(names), places_of(names)
    unlabeled, unknown = 0, {}
    columns = ["predicted", "confidence", "probability", "rank", "label", "problem"]
    for batch in batches_of(files, columns):
        batch = batch.filter(batch["problem"].is_null())
        known = batch.filter(batch["rank"].is_valid())
        found = {name: known[name].to_numpy() for name in ("confidence", "probability", "rank")}
        labels, predicted = (_indices(known[name], places) for name in ("label", "predicted"))
        totals.add(labels, predicted, **found)
        for row in batch.filter(batch["rank"].is_null())["label"].value_counts().to_pylist():
            if row["values"] is None:
                unlabeled += row["counts"]
            else:
                unknown[row["values"]] = unknown.get(row["values"], 0) + row["counts"]
    evaluation = totals.evaluation(data=str(manifest), split="all") if totals.images else None
    return BulkEvaluation(
        files=files,
        images=counts["images"],
        unreadable=counts["unreadable"],
        skipped=skipped,
        accuracy=None if evaluation is None else evaluation.top1,
        unlabeled=unlabeled,
        unknown=unknown,
        evaluation=evaluation,
    )


def _indices(column, places):
    """Class indices (N,) of a column of class names."""
    column = column.dictionary_encode()
    of_name = np.array([places[name] for name in column.dictionary.to_pylist()], "int64")
    return of_name[column.indices.to_numpy()]


def in_words(result):
    """One line about a `BulkResult`."""
    text = f"{result.images:,} {plural(result.images, 'image')} in {len(result.files)} shards"
    if result.skipped:
        text += f", {result.skipped} done before"
    if result.unreadable:
        text += f"; {result.unreadable:,} unreadable"
    return text if result.accuracy is None else f"{text}; accuracy {result.accuracy:.4f}"
