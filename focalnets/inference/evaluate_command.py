"""`focalnets evaluate`."""

import json

import numpy as np

from focalnets._io import listed, new_output_directory
from focalnets.data.datasets import open_dataset
from focalnets.data.pictures import report_skipped
from focalnets.inference.evaluate import evaluate, figures, write_evaluation
from focalnets.inference.predictor import Predictor
from focalnets.presets.checkpoints import CHECKPOINTS
from focalnets.presets.labels import in_words


def run(arguments):
    """Classify a split and compare with its labels."""
    predictor = Predictor(arguments.preset, arguments.batch_size)
    dataset = open_dataset(
        arguments.data,
        predictor.channels,
        predictor.prepare,
        arguments.on_bad_image,
        arguments.keep,
        only=(arguments.split,),
    )
    names = predictor.class_names
    data_names = in_words(dataset.class_names)  # ImageNet's folders have WordNet's identifiers for names
    unknown = sorted(set(data_names) - set(names))
    if unknown:
        raise ValueError(
            f"The preset does not know the classes {listed(unknown)} of the data; it knows {listed(names)}."
        )
    split = dataset.splits[arguments.split]
    directory = None if arguments.out is None else new_output_directory(arguments.out, arguments.force)
    places = np.array([names.index(name) for name in data_names])  # the data may lack some classes
    logits = predictor.logits_of_split(split)
    if arguments.restrict:
        kept = np.sort(places)
        names = tuple(names[place] for place in kept)
        logits, places = logits[:, kept], np.searchsorted(kept, places)
    found = evaluate(logits, places[split.labels], names)

    if directory is not None:
        write_evaluation(directory, found, arguments.data, arguments.split)
    if arguments.as_json:
        record = figures(found, arguments.data, arguments.split)
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        width = max(len(name) for name in names)
        for name, share in found.per_class.items():
            print(f"{name:<{width}}  {'no images' if share is None else f'{share:7.2%}'}")
        print(f"images: {found.images}")
        print(f"loss: {found.loss:.4f}")
        if found.top5 is not None:
            print(f"top-5 accuracy: {found.top5:.4f}")
        print(f"top-1 accuracy: {found.top1:.4f}")
        if arguments.preset in CHECKPOINTS and (published := CHECKPOINTS[arguments.preset].published_top1):
            print(f"published by its authors, on ImageNet-1k's validation images: {published / 100:.4f}")
        if directory is not None:
            print(f"confusion matrix: {directory / 'confusion.png'}")
    report_skipped(dataset.bad)
