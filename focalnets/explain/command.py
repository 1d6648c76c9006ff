"""`focalnets explain`."""

import functools
import os
import time
import unicodedata

import numpy as np

from focalnets.convert.open import open_classifier
from focalnets.data.pictures import (
    NO_PREPROCESSING,
    describe_bad,
    find_pictures,
    read_pictures,
    report_skipped,
)
from focalnets.explain.inputs import chosen_blocks, preset_and_pictures
from focalnets.explain.modulation import modulation_maps, modulation_model
from focalnets.explain.render import draw_panels
from focalnets.names import say
from focalnets.output.directories import new_output_directory
from focalnets.output.files import seal, writing
from focalnets.output.inputs import paths_among


def run(arguments):
    """Write, for each picture, a panel of what each block modulates with, and the arrays behind it."""
    preset, pictures = preset_and_pictures(arguments.preset, arguments.pictures)
    classifier = open_classifier(preset)
    blocks = chosen_blocks(
        [block.name for block in classifier.backbone.blocks], arguments.block, arguments.stage
    )
    channels = classifier.backbone.image_shape[-1]
    files = find_pictures(pictures)
    if classifier.image_converter is None:
        raise ValueError(NO_PREPROCESSING)
    prepare = functools.partial(classifier.image_converter.prepare, crop=arguments.crop)
    # Read twice: bad pictures are named before anything is drawn, and pixels are not kept until then.
    bad, stems, used = [], [], set()
    for picture in read_pictures(files, channels, prepare):
        stems.append(None if picture.problem else _free_name(picture.name, used))
        bad += [picture.problem] if picture.problem else []
    if bad and arguments.on_bad_image == "error":
        raise ValueError(describe_bad(bad))
    ends = (".npz", *(f".{block}.png" for block in blocks))
    names = [f"{stem}{end}" for stem in stems if stem is not None for end in ends]
    inputs = [*paths_among([preset, *pictures]), *files]
    with new_output_directory(arguments.out, "explanation", arguments.force, inputs, names) as directory:
        try:
            _write(directory, classifier, blocks, read_pictures(files, channels, prepare), stems)
        finally:
            seal(directory)
    report_skipped(bad)


def _write(directory, classifier, blocks, pictures, stems):
    """Write panels and arrays of each picture under its stem, None if it could not be read."""
    graph = modulation_model(classifier)
    next_seal = 0.0  # the list of a million files takes seconds to write
    for picture, stem in zip(pictures, stems, strict=True):
        if picture.problem or stem is None:
            continue
        pixels = picture.pixels
        found = modulation_maps(classifier, pixels[None], graph=graph, blocks=blocks)
        arrays = {"image": pixels}
        for name in blocks:
            arrays[f"{name}.gates"] = found[name].gates[0]
            arrays[f"{name}.modulator_norm"] = found[name].modulator_norm[0]
            path = directory / f"{stem}.{name}.png"
            draw_panels(path, pixels[None], found[name], [""], heading=f"{stem}, {name}")
            say(f"panel: {path}")
        with writing(directory / f"{stem}.npz") as partial:
            np.savez_compressed(partial, **arrays)
        say(f"arrays: {directory / stem}.npz")
        if (start := time.monotonic()) > next_seal:
            seal(directory, finished=False)  # should the process be killed
            end = time.monotonic()
            next_seal = end + 20 * (end - start)


def _free_name(name, used):
    """The picture's name without folder and suffix, with a number if another one has it, in whatever case:
    file systems differ in whether they tell A from a. No file system takes names of over 255 bytes."""
    stem = name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    stem = os.fsdecode(os.fsencode(stem)[:200]) if len(os.fsencode(stem)) > 200 else stem
    candidate, number = stem, 1
    while _folded(candidate) in used:
        number += 1
        candidate = f"{stem}-{number}"
    used.add(_folded(candidate))
    return candidate


def _folded(name):
    return unicodedata.normalize("NFC", name).casefold()
