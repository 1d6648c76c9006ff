"""`focalnets evaluate`."""

import contextlib

import numpy as np

from focalnets.data.find import report_skipped
from focalnets.data.inputs import data_paths
from focalnets.names import json_text, printable, say
from focalnets.output.directories import new_output_directory
from focalnets.output.inputs import paths_among
from focalnets.prediction.evaluate import evaluate
from focalnets.prediction.evaluation import fill
from focalnets.presets.checkpoints import CHECKPOINTS


def run(arguments):
    """Evaluate, write the figures and print the numbers."""
    with contextlib.ExitStack() as stack:
        directory = None
        if arguments.out is not None:
            inputs = [*paths_among([arguments.preset]), *data_paths(arguments.data)]
            output = new_output_directory(arguments.out, "evaluation", arguments.force, inputs)
            directory = stack.enter_context(output)
        found = evaluate(
            arguments.preset,
            arguments.data,
            arguments.split,
            arguments.restrict,
            arguments.tta,
            arguments.corruptions,
            arguments.limit,
            arguments.batch_size,
            arguments.on_bad_image,
            arguments.cache_images,
        )
        if directory is not None:
            fill(directory, found, arguments.html)
    if arguments.as_json:
        print(json_text(found.record()))
    else:
        _print(found, CHECKPOINTS.get(arguments.preset))
        if directory is not None:
            say(f"confusion matrix: {directory / 'confusion.png'}")
            say(f"calibration: {directory / 'reliability.png'}")
        if arguments.html:
            say(f"page: {directory / 'evaluation.html'}")
    report_skipped(found.unreadable)


def _print(found, checkpoint):
    _print_shares({name: [share] for name, share in found.per_class.items()})
    print(f"images: {found.images}")
    print(f"loss (negative log-likelihood): {found.loss:.4f}")
    print(f"expected calibration error: {found.ece:.4f}")
    if found.top5 is not None:
        print(f"top-5 accuracy: {found.top5:.4f}")
    print(f"top-1 accuracy: {found.top1:.4f}")
    if found.tta is not None:
        print(f"top-1 accuracy with test-time augmentation ({found.tta['views']}): {found.tta['top1']:.4f}")
    if found.corruptions is not None:
        print("top-1 accuracy by corruption, severities 1 to 5:")
        _print_shares(found.corruptions)
        mean = np.mean(list(found.corruptions.values()))
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
