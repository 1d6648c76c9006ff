"""`focalnets convert`."""

import pathlib
import shutil
import sys
import tempfile

from focalnets.convert.architecture import is_doubtful
from focalnets.convert.convert import convert_checkpoint, export_checkpoint
from focalnets.convert.expand import expand_focal_windows
from focalnets.convert.open import checkpoint_file, dropping_damaged, ready_preset
from focalnets.convert.options import checked_out, read_flags
from focalnets.names import say
from focalnets.output.inputs import paths_among
from focalnets.output.replace import new_directory
from focalnets.presets.labels import read_labels
from focalnets.presets.load import load_any
from focalnets.presets.store import copy_preset, halve, read_config, save_preset


def run(arguments):
    """Convert, say what was found, chosen, assumed and verified."""
    out = checked_out(arguments.source, arguments.out, arguments.to)
    growing = arguments.window is not None or arguments.levels is not None
    if arguments.half:
        with tempfile.TemporaryDirectory() as folder:
            source = _as_preset(arguments, pathlib.Path(folder) / "preset")
            with new_directory(out, "preset", arguments.force, _inputs(arguments)) as partial:
                halve(source, partial)
        notes = ["weights in float16"]
    elif arguments.to is None and not growing:
        notes = _to_preset(arguments, out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = _as_preset(arguments, pathlib.Path(folder) / "preset")
            if growing:
                source = _expanded(source, pathlib.Path(folder) / "expanded", arguments)
            if arguments.to is None:
                with new_directory(out, "preset", arguments.force, _inputs(arguments)) as partial:
                    shutil.copytree(source, partial, dirs_exist_ok=True)
                notes = [f"expanded to windows {arguments.window} and levels {arguments.levels}"]
            else:
                notes = export_checkpoint(source, out, arguments.to, arguments.force, _inputs(arguments))
    for note in (*notes, f"written: {out}"):
        say(note)
    if doubtful := [note for note in notes if is_doubtful(note)]:
        print("Check these settings: a wrong one gives wrong outputs without an error.", file=sys.stderr)
        for note in doubtful:
            print(f"  {note}", file=sys.stderr)


def _inputs(arguments):
    """Paths that --force must not replace."""
    return paths_among([arguments.source, arguments.labels])


def _to_preset(arguments, out):
    labels = None
    if arguments.labels is not None:

        def labels(num_classes):
            return read_labels(arguments.labels, num_classes)

    if (ready := _ready(arguments)) is not None:
        with new_directory(out, "preset", arguments.force, _inputs(arguments)) as partial:
            copy_preset(ready, partial)
        return ["copied: it is a preset already"]
    file, published = checkpoint_file(arguments.source)
    with dropping_damaged(arguments.source, file):
        return convert_checkpoint(
            file,
            out,
            arguments.variant or published,
            read_flags(arguments.set),
            labels,
            arguments.force,
            arguments.entry,
            published is not None,
            _inputs(arguments),
        )


def _as_preset(arguments, folder):
    """The preset directory of the source, made in `folder` if it is none."""
    if (ready := _ready(arguments)) is not None:
        return ready
    _to_preset(arguments, folder)
    return folder


def _ready(arguments):
    """The source if it is a preset, which knows what --set, --labels and --variant would say."""
    ready = ready_preset(arguments.source)
    if ready is not None and (arguments.set or arguments.labels or arguments.variant or arguments.entry):
        raise ValueError(
            f"{arguments.source} is a preset already: --set, --labels, --variant and --entry are for "
            "checkpoints of other libraries."
        )
    return ready


def _expanded(preset, folder, arguments):
    _, image_converter = read_config(preset)
    expanded = expand_focal_windows(load_any(preset), arguments.window, arguments.levels)
    save_preset(expanded, folder, image_converter=image_converter)
    return folder
