"""Put the weights of a run into the package: float16, evaluated as users will get them, with a model card.

    python benchmarks/ship_weights.py runs/cifar10_cpu DATA

The figures of the card, and `measured_top1` in presets/checkpoints.py, which this prints, are those of the
shipped file, not of the run.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

from focalnets.output.replace import new_directory
from focalnets.presets.checkpoints import BUNDLED, CHECKPOINTS, DEFAULT
from focalnets.presets.store import halve

CORRUPTED = 2000  # images that are classified 60 times

CARD = """# {name}

A focal modulation network for photographs of ten kinds of animals and vehicles, at 32 x 32 pixels. It is
here so that `focalnets predict`, `explain` and fine-tuning work at once, without a download.

| | |
|---|---|
| architecture | `{architecture}`, {parameters:,} parameters, {macs:.0f} million MACs an image |
| data | CIFAR-10 compressed again as JPEG: {training:,} images, {validation:,} to validate |
| recipe | `{recipe}`, seed {seed}: {epochs} epochs, {minutes:.0f} minutes on {machine} with {backend} |
| input | any image, which its own preprocessing resizes to 32 x 32 |
| classes | {classes} |
| weights | float16, {megabytes:.1f} MB; computed in float32, trained in {precision} |
| license | MIT, as focalnets |

## What it reaches

On the {images:,} test images of the same data: **{top1:.2%}** top-1, {top5:.2%} top-5, negative
log-likelihood {loss:.4f}, expected calibration error {ece:.2%}. Averaged over six views (mirrored, shifted by
a pixel): {tta_top1:.2%}. Validation accuracy, by which everything was chosen: {val:.2%}.

| class | recognized | mostly taken for instead |
|---|---|---|
{per_class}

Corrupted images (`focalnets evaluate --corruptions --limit {corruption_images}`: so many of them), top-1 by
severity 1 to 5; in the mean {corrupted:.1%}:

| corruption | 1 | 2 | 3 | 4 | 5 |
|---|---|---|---|---|---|
{corruptions}

JPEG at severity 5 (quality 40) costs less than at severity 4 (quality 50), because the test images are JPEG
files of quality 75 already. `docs/evaluation.md` explains it.

## Limits

- It knows these ten classes only, and takes everything for one of them: a face, a house, noise. Its
  probabilities mean something for images like those of CIFAR-10: one thing, in the middle, seen from near.
- 32 x 32 pixels: whatever is small in a larger image is lost when it is resized.
- Noise and strong blur cost much (see the table). It was trained on JPEG files, not on raw pixels.
- CIFAR-10 was collected from the web in 2008 and labeled by hand; about half a percent of its test labels
  are wrong (Northcutt et al., 2021), and it is no fair sample of the world. Use it to learn, to test and to
  start from, not to decide anything about people.
"""


def ship(run, data, name):
    """Write the preset, its evaluation and its card; the accuracy."""
    with new_directory(BUNDLED / name, "preset", force=True) as directory:
        halve(run, directory)
        record = _evaluated(directory, data, "--tta", "shift")
        corrupted = _evaluated(directory, data, "--corruptions", "--limit", CORRUPTED)
        record["corruptions"], record["corruption_images"] = corrupted["corruptions"], corrupted["images"]
        record["data"] = pathlib.Path(data).name
        (directory / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
        (directory / "README.md").write_text(card(pathlib.Path(run), directory, name, record))
    return record["top1"]


def _evaluated(directory, data, *options):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "evaluation"
        command = ["evaluate", directory, "--data", data, "--out", out, *options]
        subprocess.run([sys.executable, "-m", "focalnets", *map(str, command)], check=True)
        return json.loads((out / "evaluation.json").read_text())


def card(run, directory, name, record):
    """The text of the model card."""
    from focalnets.presets.architectures import ARCHITECTURES
    from focalnets.presets.cost import count_macs, count_parameters

    recipe, facts = (json.loads((run / one).read_text()) for one in ("recipe.json", "run.json"))
    with (run / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    best = max(float(row["val_accuracy"]) for row in history)
    last = float(history[-1]["val_accuracy"])
    architecture = ARCHITECTURES[CHECKPOINTS[name].architecture]
    names = list(record["per_class"])
    per_class = []
    for row, (one, share) in zip(record["confusion"], record["per_class"].items(), strict=True):
        most = max((count, other) for count, other in zip(row, names, strict=True) if other != one)
        per_class.append(f"| {one} | {share:.1%} | {most[1]} ({most[0]} of {sum(row)}) |")
    corruptions = [
        f"| {one.replace('_', ' ')} | {' | '.join(f'{share:.1%}' for share in shares)} |"
        for one, shares in record["corruptions"].items()
    ]
    shares = [share for row in record["corruptions"].values() for share in row]
    return CARD.format(
        **{key: record[key] for key in ("images", "top1", "top5", "loss", "ece", "corruption_images")},
        name=name,
        architecture=CHECKPOINTS[name].architecture,
        parameters=count_parameters(architecture),
        macs=count_macs(architecture) / 1e6,
        training=facts["images"]["train"],
        validation=facts["images"]["validation"],
        recipe=recipe["name"],
        seed=recipe["seed"],
        precision=recipe["precision"],
        epochs=len(history),
        minutes=float(history[-1]["minutes"]),
        machine=facts["machine"],
        backend=facts["backend"],
        classes=", ".join(names),
        megabytes=(directory / "model.weights.h5").stat().st_size / 1e6,
        tta_top1=record["tta"]["top1"],
        val=last if recipe["keep_weights"] == "last" else best,
        per_class="\n".join(per_class),
        corruptions="\n".join(corruptions),
        corrupted=sum(shares) / len(shares),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--name", default=DEFAULT)
    arguments = parser.parse_args()
    top1 = ship(arguments.run, arguments.data, arguments.name)
    print(f"measured_top1={round(100 * top1, 2)} belongs into presets/checkpoints.py")


if __name__ == "__main__":
    main()
