"""`predict_shards`: classifies the shards of a large set of images, one Parquet file per shard.

A scheduler can run any part of the work anywhere and again: a file is written when it is complete, and shards
whose file exists are skipped.
"""

import collections
import contextlib
import hashlib
import io
import json
import logging
import pathlib
from dataclasses import dataclass

import numpy as np

from focalnets.data.find import NO_PREPROCESSING
from focalnets.data.shards.manifest import read_manifest
from focalnets.data.shards.read import read_shard
from focalnets.files import expanded, reason
from focalnets.images.decode import open_image
from focalnets.names import plural
from focalnets.output.files import writing
from focalnets.prediction.predictor import NOT_FINITE, Predictor, check_count, softmax
from focalnets.threads import cores, parallel_map

_log = logging.getLogger("focalnets")
_METADATA = b"focalnets"


@dataclass(frozen=True)
class BulkPredictions:
    """Result of `predict_shards` and `merge_shards`.

    Attributes:
        files: list of `pathlib.Path`. Parquet files.
        images: int. Number of rows in them.
        unreadable: int. Number of rows without a prediction.
        skipped: int. Number of shards that were complete already.
        accuracy: float or None. Fraction of labeled images whose first class is their label.
    """

    files: list[pathlib.Path]
    images: int
    unreadable: int
    skipped: int
    accuracy: float | None


def predict_shards(preset, manifest, out, shard=None, top=5, batch_size=64, engine="auto"):
    """Classify the shards of a manifest. Complete shards are skipped.

    Args:
        preset: See `predict`.
        manifest: str or `pathlib.Path`. List of shards, see `data.shards.manifest.read_manifest`.
        out: str or `pathlib.Path`. Folder of the Parquet files `shard-000000.parquet`, ..., one per line of
            the manifest, with one row per image: `shard` and `row` (int), `key` (str), `classes` (list of
            str), `probabilities` (list of float), `label` (class name or null), and `problem` (str, or null
            if the image was classified). Several processes may write it.
        shard: tuple (int, int) or None. `(3, 64)` does every 64th shard, starting with number 3, counted from
            0. Defaults to `None`, all shards.
        top: int. Number of classes per image. Defaults to 5.
        batch_size: int. Number of images per batch. Defaults to 64.
        engine: str. See `predict`. Defaults to "auto".

    Returns:
        `BulkPredictions` of these shards.

    Raises:
        ValueError: if a shard cannot be read (the others are done before), if `out` has results of another
            preset or other settings, or if a logit is not finite.
    """
    check_count("top", top)
    shards = read_manifest(manifest)
    number, of = (0, 1) if shard is None else shard
    if not 0 <= number < of:
        raise ValueError(f"shard must be (i, n) with i from 0 to n - 1; got ({number}, {of}).")
    out = expanded(out)
    out.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(preset, batch_size, engine)
    if not predictor.engine.takes_images:
        raise ValueError(NO_PREPROCESSING)
    settings = {"preset": _digest(preset), "top": top}
    files, skipped, problems = [], 0, []
    for index in range(number, len(shards), of):
        path = out / f"shard-{index:06}.parquet"
        stated = json.dumps({"shard": shards[index], **settings}, sort_keys=True)
        if path.exists():
            _check_same(path, stated)
            skipped += 1
            files.append(path)
            continue
        try:
            _write_shard(predictor, index, shards[index], path, top, stated)
        except ValueError as error:  # the next shards may be readable
            problems.append(str(error))
            _log.warning("%s", error)
            continue
        files.append(path)
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(range(number, len(shards), of))} shards failed:\n"
            + "\n".join(problems[:20])
            + "\nRepair them and start again: complete shards are skipped."
        )
    return _summary(files, skipped)


def merge_shards(manifest, out, path):
    """Write the rows of all shards of a manifest to one Parquet file, in the order of the manifest.

    Args:
        manifest, out: See `predict_shards`.
        path: str or `pathlib.Path`. File to write. Only one shard is in memory at a time.

    Returns:
        `BulkPredictions` of all shards.

    Raises:
        ValueError: if a shard is missing, or belongs to another manifest.
        FileExistsError: if the file exists.
    """
    from pyarrow import parquet

    shards, out = read_manifest(manifest), expanded(out)
    files = [out / f"shard-{index:06}.parquet" for index in range(len(shards))]
    if missing := [path.name for path in files if not path.exists()]:
        listed = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
        raise ValueError(f"{len(missing)} of {len(files)} shards are not done: {listed}. Predict them first.")
    for file, shard in zip(files, shards, strict=True):
        if (found := _stated(file).get("shard")) != shard:
            raise ValueError(f"{file} has the rows of {found}; expected those of {shard}.")
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(writing(expanded(path), own=False, replace=False))
        schema = parquet.read_schema(files[0]).remove_metadata()
        writer = stack.enter_context(contextlib.closing(parquet.ParquetWriter(partial, schema)))
        for file in files:
            writer.write_table(parquet.read_table(file).replace_schema_metadata())
    return _summary(files, len(files))


def _write_shard(predictor, index, shard, path, top, stated):
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [
            ("shard", pyarrow.int32()),
            ("row", pyarrow.int64()),
            ("key", pyarrow.string()),
            ("classes", pyarrow.list_(pyarrow.string())),
            ("probabilities", pyarrow.list_(pyarrow.float32())),
            ("label", pyarrow.string()),
            ("problem", pyarrow.string()),
        ],
        metadata={_METADATA: stated.encode()},
    )
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(writing(path, own=False))
        writer = stack.enter_context(contextlib.closing(parquet.ParquetWriter(partial, schema)))
        for rows in _batches(_predicted(predictor, read_shard(shard), top), 4096):
            table = [{"shard": index, **row} for row in rows]
            writer.write_table(pyarrow.Table.from_pylist(table, schema))


def _predicted(predictor, images, top):
    """Yield one row per image, in order. Threads decode a few images in advance."""

    def prepared(numbered):
        row, image = numbered
        if image.problem is not None:
            return row, image, None, image.problem
        try:
            pixels = predictor.prepare(open_image(io.BytesIO(image.data), predictor.channels, image.key))
        except ValueError as error:
            return row, image, None, str(error)
        return row, image, pixels, None

    for batch in _batches(parallel_map(prepared, enumerate(images), cores()), predictor.batch_size):
        groups = collections.defaultdict(list)  # networks for images of any size
        for place, (_, _, pixels, _) in enumerate(batch):
            if pixels is not None:
                groups[pixels.shape].append(place)
        found = {}
        for places in groups.values():
            logits = predictor.engine.run(np.stack([batch[place][2] for place in places]))
            if not np.isfinite(logits).all():
                raise RuntimeError(NOT_FINITE)
            found |= dict(zip(places, softmax(logits), strict=True))
        for place, (row, image, _, problem) in enumerate(batch):
            best = np.argsort(-found[place], kind="stable")[:top] if place in found else []
            yield {
                "row": row,
                "key": image.key,
                "classes": [predictor.class_names[one] for one in best],
                "probabilities": [float(found[place][one]) for one in best],
                "label": _class_name(image.label, predictor.class_names),
                "problem": problem,
            }


def _class_name(label, names):
    """Class of a label, which is a name or an index. Other labels are returned unchanged."""
    if label is None or label in names or not label.isdecimal() or int(label) >= len(names):
        return label
    return names[int(label)]


def _batches(items, size):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _stated(path):
    """Origin that a file of results states, as a dict."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is damaged: {reason(error)}. Remove it.") from error
    return json.loads(metadata.get(_METADATA, b"{}"))


def _check_same(path, stated):
    found, expected = _stated(path), json.loads(stated)
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path} has results for {name} {found.get(name)!r}; expected {value!r}. Choose another "
                "folder, or remove them."
            )


def _summary(files, skipped):
    from pyarrow import parquet

    images = unreadable = labeled = right = 0
    for path in files:
        columns = parquet.read_table(path, columns=["classes", "label", "problem"]).to_pylist()
        images += len(columns)
        unreadable += sum(row["problem"] is not None for row in columns)
        known = [row for row in columns if row["label"] is not None and row["problem"] is None]
        labeled += len(known)
        right += sum(row["classes"][0] == row["label"] for row in known)
    return BulkPredictions(files, images, unreadable, skipped, right / labeled if labeled else None)


def _digest(preset):
    """Hash of the weights of a preset directory, or the name of any other preset."""
    path = expanded(str(preset)) / "model.weights.h5"
    if not path.is_file():
        return str(preset)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def summary_in_words(result):
    """One line about a `BulkPredictions`."""
    text = f"{result.images:,} {plural(result.images, 'image')} in {len(result.files)} shards"
    if result.skipped:
        text += f", {result.skipped} done before"
    if result.unreadable:
        text += f"; {result.unreadable:,} unreadable"
    return text if result.accuracy is None else f"{text}; accuracy {result.accuracy:.4f}"
