"""`focalnets evaluate`."""

import contextlib

import numpy as np

from focalnets.commands.shards import print_result, shard_options
from focalnets.data.find import report_skipped
from focalnets.data.inputs import data_paths
from focalnets.names import json_text, listed, printable, say
from focalnets.output.directories import new_output_directory
from focalnets.output.inputs import paths_among
from focalnets.prediction.evaluate import evaluate
from focalnets.prediction.evaluation import fill
from focalnets.presets.checkpoints import CHECKPOINTS


def run(arguments):
    """Evaluate a classifier, print the metrics and write the figures."""
    if arguments.manifest is not None:
        _run_shards(arguments)
        return
    with contextlib.ExitStack() as stack:
        directory = None
        if arguments.out is not None:
            inputs = [*paths_among([arguments.preset]), *data_paths(arguments.data)]
            output = new_output_directory(arguments.out, "evaluation", arguments.force, inputs)
            directory = stack.enter_context(output)
        found = evaluate(
            arguments.preset,
            arguments.data,
            split=arguments.split,
            restrict=arguments.restrict,
            tta=arguments.tta,
            corruptions=arguments.corruptions,
            limit=arguments.limit,
            batch_size=arguments.batch_size,
            on_bad_image=arguments.on_bad_image,
            cache_images=arguments.cache_images,
        )
        if directory is not None:
            fill(directory, found, arguments.html)
    if arguments.as_json:
        print(json_text(found.record()))
    else:
        _print(found, CHECKPOINTS.get(arguments.preset))
        _print_files(directory, arguments.html)
    report_skipped(found.unreadable)


def _run_shards(arguments):
    from focalnets.prediction.bulk import evaluate_shards, merge_evaluations

    directory = None
    if arguments.merge is None:
        result = evaluate_shards(
            arguments.preset, batch_size=arguments.batch_size, **shard_options(arguments)
        )
    else:
        result = merge_evaluations(arguments.preset, arguments.manifest, arguments.out)
        if result.evaluation is None:
            raise ValueError(
                f"No image has a label that is a class of {arguments.preset}. {_left_out(result)}"
            )
        inputs = paths_among([arguments.preset, arguments.out])
        with new_output_directory(arguments.merge, "evaluation", arguments.force, inputs) as directory:
            fill(directory, result.evaluation, arguments.html)
    found = result.evaluation
    if arguments.as_json:
        counts = {"rows": result.images, "unreadable": result.unreadable, "unlabeled": result.unlabeled}
        counts["unknown_labels"] = result.unknown
        print(json_text({**({} if found is None else found.record()), **counts}))
        return
    if found is not None:
        _print(found, CHECKPOINTS.get(arguments.preset))
        _print_files(directory, arguments.html)
    print_result(result, arguments.out)
    if left_out := _left_out(result):
        say(left_out)


def _left_out(result):
    """Sentence about the rows that are not evaluated, or ""."""
    parts = []
    if result.unreadable:
        parts.append(f"{result.unreadable:,} unreadable")
    if result.unlabeled:
        parts.append(f"{result.unlabeled:,} without a label")
    if count := sum(result.unknown.values()):
        names = sorted(result.unknown, key=result.unknown.get, reverse=True)
        parts.append(f"{count:,} with labels that the network does not know ({listed(names, 5)})")
    return f"Not evaluated: {', '.join(parts)}." if parts else ""


def _print_files(directory, has_page):
    if directory is not None:
        say(f"confusion matrix: {directory / 'confusion.png'}")
        say(f"calibration: {directory / 'reliability.png'}")
        if has_page:
            say(f"page: {directory / 'evaluation.html'}")


def _print(found, checkpoint):
    _print_fractions({name: [accuracy] for name, accuracy in found.per_class.items()})
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
        _print_fractions(found.corruptions)
        mean = np.mean(list(found.corruptions.values()))
        print(f"top-1 accuracy, mean over corruptions and severities: {mean:.4f}")
    if checkpoint is not None and checkpoint.published_top1:
        published = checkpoint.published_top1 / 100
        print(f"published top-1 accuracy, on the validation images of ImageNet-1k: {published:.4f}")
    if checkpoint is not None and checkpoint.measured_top1:
        measured = checkpoint.measured_top1 / 100
        print(f"top-1 accuracy in the model card, on the test images of {checkpoint.data}: {measured:.4f}")


def _print_fractions(rows):
    names = [printable(name) for name in rows]
    width = max(map(len, names))
    for name, fractions in zip(names, rows.values(), strict=True):
        texts = ["no images" if one is None else f"{one:7.2%}" for one in fractions]
        print(f"{name:<{width}}  {'  '.join(texts)}")
