"""`focalnets explain`."""

import time

from focalnets.commands.words import preset_and_images
from focalnets.data.find import describe_unreadable, find_images, read_images, report_skipped
from focalnets.explanation.explain import Explainer
from focalnets.explanation.file_names import free_name
from focalnets.names import say
from focalnets.output.directories import new_output_directory
from focalnets.output.inputs import paths_among
from focalnets.output.manifest import Manifest


def run(arguments):
    """Write figures and arrays, one image at a time: a folder can be larger than the memory."""
    preset, images = preset_and_images(arguments.preset, arguments.images)
    explainer = Explainer(preset, arguments.block, arguments.stage, arguments.crop)
    files = find_images(images)
    # Images are read twice: unreadable ones are reported before anything is drawn, and no pixels are stored.
    unreadable, stems, used = [], [], set()
    for image in read_images(files, explainer.channels, explainer.prepare):
        stems.append(None if image.problem else free_name(image.name, used))
        unreadable += [image.problem] if image.problem else []
    if unreadable and arguments.on_bad_image == "error":
        raise ValueError(describe_unreadable(unreadable))
    ends = (".npz", *(f".{block}.png" for block in explainer.blocks))
    names = [f"{stem}{end}" for stem in stems if stem is not None for end in ends]
    inputs = [*paths_among([preset, *images]), *files]
    with new_output_directory(arguments.out, "explanation", arguments.force, inputs, names) as directory:
        try:
            _write(directory, explainer, files, stems)
        finally:
            Manifest(directory).seal()
    report_skipped(unreadable)


def _write(directory, explainer, files, stems):
    """Write the files of each image. Its stem is None if the image is unreadable."""
    next_seal = 0.0  # writing the list of a million files takes seconds
    images = read_images(files, explainer.channels, explainer.prepare)
    for image, stem in zip(images, stems, strict=True):
        if image.problem or stem is None:
            continue
        for path in explainer.explain(image.name, image.pixels).write(directory, stem):
            say(f"{'arrays' if path.suffix == '.npz' else 'panel'}: {path}")
        if (start := time.monotonic()) > next_seal:
            Manifest(directory).seal(finished=False)  # in case the process is killed
            end = time.monotonic()
            next_seal = end + 20 * (end - start)
