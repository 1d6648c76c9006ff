"""`focalnets evaluate`."""

import contextlib
import functools
import sys

import numpy as np

from focalnets._io import listed
from focalnets.data.corruptions import SEVERITIES, corrupt, corruptions_of
from focalnets.data.datasets import open_dataset
from focalnets.data.inputs import data_paths
from focalnets.data.naming import ALL, distinct_class_names, split_for
from focalnets.data.pictures import report_skipped
from focalnets.inference.evaluate import evaluate, figures, write_evaluation
from focalnets.inference.evaluation_page import write_evaluation_page, write_mistakes
from focalnets.inference.pictures import draw_corruptions
from focalnets.inference.predictor import Predictor
from focalnets.inference.views import VIEWS
from focalnets.names import json_text, printable, say
from focalnets.output.directories import new_output_directory
from focalnets.output.files import filling
from focalnets.output.inputs import paths_among
from focalnets.presets.checkpoints import CHECKPOINTS
from focalnets.presets.labels import in_words


def run(arguments):
    """Classify a split and compare with its labels."""
    with contextlib.ExitStack() as outputs:
        _run(arguments, outputs)


def _run(arguments, outputs):
    predictor = Predictor(arguments.preset, arguments.batch_size)
    chosen = split_for(arguments.split) or arguments.split
    dataset = open_dataset(
        arguments.data,
        predictor.channels,
        predictor.prepare,
        arguments.on_bad_image,
        arguments.keep,
        only=None if chosen == ALL else (chosen,),
    )
    # ImageNet's folders have WordNet's identifiers for names.
    names, data_names = in_words(predictor.class_names), in_words(dataset.class_names)
    names, data_names = distinct_class_names(names), distinct_class_names(data_names)
    unknown = sorted(set(data_names) - set(names))
    if unknown:
        raise ValueError(
            f"The preset does not know the classes {listed(unknown)} of the data; it knows {listed(names)}."
        )
    split = dataset.everything() if chosen == ALL else dataset.splits[chosen]
    if arguments.limit is not None:
        split = _some(split, arguments.limit)
    if dataset.drawn_from is not None and chosen != ALL:
        part = {"test": "a fifth", "train": "four fifths"}[chosen]
        print(
            f"Evaluating {len(split):,} of {dataset.drawn_from:,} images (the {chosen} split, {part} of each "
            "class, drawn by file name). Use --split all to evaluate every image.",
            file=sys.stderr,
        )
    directory = None
    if arguments.out is not None:
        inputs = [*paths_among([arguments.preset]), *data_paths(arguments.data)]
        output = new_output_directory(arguments.out, "evaluation", arguments.force, inputs)
        directory = outputs.enter_context(output)
    places = np.array([names.index(name) for name in data_names])  # the data may lack some classes
    kept = np.sort(places) if arguments.restrict else np.arange(len(names))
    names = tuple(names[place] for place in kept)
    labels = np.searchsorted(kept, places)[split.labels]

    logits = functools.partial(predictor.logits_of_split, split, kept if arguments.restrict else None)

    plain = logits()
    found = evaluate(plain, labels, names)
    more = {}
    if arguments.tta != "none":
        views = VIEWS[arguments.tta]
        averaged = evaluate(logits(views=views, text=f"classifying {len(views)} views"), labels, names)
        more["tta"] = {
            "views": arguments.tta,
            "top1": averaged.top1,
            "loss": averaged.loss,
            "ece": averaged.ece,
        }
    if arguments.corruptions:
        more["corruptions"] = _corruptions(logits, labels, predictor.channels)
    if directory is not None:
        with filling(directory, "evaluation") as partial:
            write_evaluation(partial, found, arguments.data, arguments.split, more)
            if "corruptions" in more:
                draw_corruptions(partial / "corruptions.png", more["corruptions"], found.top1)
            if arguments.html:
                write_mistakes(partial / "mistakes.png", split, plain, labels, names)
                title = f"{arguments.preset} on {arguments.data}, {arguments.split}"
                write_evaluation_page(partial / "evaluation.html", title, found, more)
    if arguments.as_json:
        record = {**figures(found, arguments.data, arguments.split), **more}
        print(json_text(record))
    else:
        _print(found, more, CHECKPOINTS.get(arguments.preset))
        if directory is not None:
            say(f"confusion matrix: {directory / 'confusion.png'}")
            say(f"calibration: {directory / 'reliability.png'}")
        if arguments.html:
            say(f"page: {directory / 'evaluation.html'}")
    report_skipped(dataset.bad)


def _print(found, more, checkpoint):
    _print_shares({name: [share] for name, share in found.per_class.items()})
    print(f"images: {found.images}")
    print(f"loss (negative log-likelihood): {found.loss:.4f}")
    print(f"expected calibration error: {found.ece:.4f}")
    if found.top5 is not None:
        print(f"top-5 accuracy: {found.top5:.4f}")
    print(f"top-1 accuracy: {found.top1:.4f}")
    if "tta" in more:
        print(f"top-1 accuracy, averaged over views ({more['tta']['views']}): {more['tta']['top1']:.4f}")
    if "corruptions" in more:
        print("top-1 accuracy by corruption, severities 1 to 5:")
        _print_shares(more["corruptions"])
        mean = np.mean(list(more["corruptions"].values()))
        print(f"top-1 accuracy, mean over corruptions and severities: {mean:.4f}")
    if checkpoint is not None and checkpoint.published_top1:
        share = checkpoint.published_top1 / 100
        print(f"published by its authors, on ImageNet-1k's validation images: {share:.4f}")
    if checkpoint is not None and checkpoint.measured_top1:
        print(
            f"stated in its model card, on the test images of {checkpoint.data}: "
            f"{checkpoint.measured_top1 / 100:.4f}"
        )


def _print_shares(rows):
    names = [printable(name) for name in rows]
    width = max(map(len, names))
    for name, shares in zip(names, rows.values(), strict=True):
        texts = ["no images" if share is None else f"{share:7.2%}" for share in shares]
        print(f"{name:<{width}}  {'  '.join(texts)}")


def _some(split, limit):
    """`limit` images of a split, each class by its fraction of the images."""
    if limit >= len(split):
        return split
    generator = np.random.default_rng(0)
    places = np.empty(len(split))  # of each image on the way from 0 to 1 that every class takes evenly
    for label in np.unique(split.labels):
        rows = generator.permutation(np.flatnonzero(split.labels == label))
        places[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return split.take(np.sort(np.argsort(places, kind="stable")[:limit]))


def _corruptions(logits, labels, channels):
    """Name -> top-1 accuracy at each severity."""
    found, names = {}, corruptions_of(channels)
    for number, name in enumerate(names, start=1):
        found[name] = []
        for severity in SEVERITIES:
            changed = logits(
                change=functools.partial(corrupt, name=name, severity=severity),
                text=f"corruption {number} of {len(names)}, {name}, severity {severity}",
            )
            found[name].append(float(np.mean(changed.argmax(axis=-1) == labels)))
    return found
