"""`focalnets explain`."""

import itertools
import time

import numpy as np

from focalnets.commands.words import preset_and_images
from focalnets.conversion.open import open_classifier
from focalnets.data.datasets import open_dataset
from focalnets.data.find import (
    NO_PREPROCESSING,
    describe_unreadable,
    find_images,
    read_images,
    report_skipped,
)
from focalnets.explanation.epochs import draw_epochs, read_epochs
from focalnets.explanation.explain import Explainer
from focalnets.explanation.file_names import free_name
from focalnets.explanation.score import score
from focalnets.files import expanded
from focalnets.names import say
from focalnets.output.directories import new_output_directory
from focalnets.output.inputs import paths_among
from focalnets.output.manifest import Manifest
from focalnets.presets.checkpoints import DEFAULT
from focalnets.threads import parallel_map

_BATCH = 16  # images in memory


def run(arguments):
    """Write figures and arrays, a few images at a time: a folder can be larger than the memory."""
    if arguments.score is not None:
        _score(arguments)
        return
    if arguments.epochs is not None:
        _epochs(arguments)
        return
    preset, images = preset_and_images(arguments.preset, arguments.images)
    explainer = Explainer(
        preset,
        block=arguments.block,
        stage=arguments.stage,
        crop=not arguments.whole,
        target=arguments.target,
        versus=arguments.versus,
        reference=arguments.reference,
    )
    files = find_images(images)
    # Images are read twice: unreadable ones are reported before anything is drawn, and no pixels are stored.
    unreadable, stems, used = [], [], set()
    for image in read_images(files, explainer.channels, explainer.prepare):
        stems.append(None if image.problem else free_name(image.name, used))
        unreadable += [image.problem] if image.problem else []
    if unreadable and arguments.on_bad_image == "error":
        raise ValueError(describe_unreadable(unreadable))
    names = [name for stem in stems if stem is not None for name in explainer.files(stem)]
    names += ["explorer.html"] if arguments.html else []
    inputs = [*paths_among([preset, *images]), *files]
    with new_output_directory(arguments.out, "explanation", arguments.force, inputs, names) as directory:
        try:
            _write(directory, explainer, files, stems, arguments.html)
        finally:
            Manifest(directory).seal()
    report_skipped(unreadable)


def _write(directory, explainer, files, stems, html):
    """Write the files of each image. Its stem is None if the image is unreadable."""
    pages = []

    def explained():
        images = read_images(files, explainer.channels, explainer.prepare)
        readable = (
            (image, stem) for image, stem in zip(images, stems, strict=True) if stem and not image.problem
        )
        while batch := list(itertools.islice(readable, _BATCH)):
            names, pixels = [image.name for image, _ in batch], [image.pixels for image, _ in batch]
            found = explainer.explain(names, pixels)
            pages.extend(explainer.explorer_images(found) if html else [])
            yield zip(found, [stem for _, stem in batch], strict=True)

    next_seal = 0.0  # writing the list of a million files takes seconds

    def write(batch):
        nonlocal next_seal
        paths = []
        for one, stem in batch:
            paths += one.write(directory, stem)
            if (start := time.monotonic()) > next_seal:
                Manifest(directory).seal(finished=False)  # in case the process is killed
                end = time.monotonic()
                next_seal = end + 20 * (end - start)
        return paths

    # One thread writes while the next images are explained.
    for paths in parallel_map(write, explained(), workers=1):
        for path in paths:
            say(f"{'arrays' if path.suffix == '.npz' else 'figure'}: {path}")
    if html:
        explainer.write_page(directory / "explorer.html", pages)
        say(f"page: {directory / 'explorer.html'}")


def _score(arguments):
    preset = DEFAULT if arguments.preset is None else arguments.preset
    classifier = open_classifier(preset)
    if classifier.image_converter is None:
        raise ValueError(NO_PREPROCESSING)
    channels, prepare = classifier.backbone.image_shape[-1], classifier.image_converter.prepare
    dataset = open_dataset(arguments.score, channels, prepare, arguments.on_bad_image)
    split = dataset.splits["test"]
    rows = np.random.default_rng(0).permutation(len(split))[: arguments.limit or 200]
    names = ["scores.json", "scores.html"]
    inputs = paths_among([preset, arguments.score])
    with new_output_directory(arguments.out, "explanation", arguments.force, inputs, names) as directory:
        found = score(classifier, split.take(np.sort(rows)), arguments.score)
        for path in found.write(directory):
            say(f"scores: {path}")
        Manifest(directory).seal()
    print(found)
    report_skipped(dataset.unreadable)


def _epochs(arguments):
    frames = read_epochs(expanded(arguments.epochs) / "monitor")
    names = ["epochs.evidence.png", "epochs.levels.png", "epochs.gif"]
    inputs = paths_among([arguments.epochs])
    with new_output_directory(arguments.out, "explanation", arguments.force, inputs, names) as directory:
        for path in draw_epochs(directory, frames):
            say(f"figure: {path}")
        Manifest(directory).seal()
