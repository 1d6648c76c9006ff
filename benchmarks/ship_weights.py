"""Add the weights of a run to the package as float16, with their evaluation and a model card.

    python benchmarks/ship_weights.py runs/cifar10_cpu DATA

The model card and the printed `measured_top1` for presets/checkpoints.py have the metrics of the float16
weights, not of the run.
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

CORRUPTED = 2000  # number of images, each of which is classified 60 times

CARD = """# {name}

A focal modulation network for photographs of ten kinds of animals and vehicles, 32 x 32 pixels. It ships with
the package, so that `focalnets predict`, `explain` and fine-tuning work without a download.

| | |
|---|---|
| architecture | `{architecture}`, {parameters:,} parameters, {macs:.0f} million MACs per image |
| data | CIFAR-10 recompressed as JPEG: {training:,} training and {validation:,} validation images |
| recipe | `{recipe}`, seed {seed}: {epochs} epochs, {minutes:.0f} minutes on {machine} with {backend} |
| input | images of any size, which the preprocessing resizes to 32 x 32 |
| classes | {classes} |
| weights | float16, {megabytes:.1f} MB; loaded as float32, trained in {precision} |
| license | MIT, as focalnets |

## Results

On the {images:,} test images: **{top1:.2%}** top-1 accuracy, {top5:.2%} top-5 accuracy, negative
log-likelihood {loss:.4f}, expected calibration error {ece:.2%}. With test-time augmentation (mirrored and
shifted images): {tta_top1:.2%}. The validation accuracy, on which all settings were chosen, is {val:.2%}.

| class | accuracy | most often confused with |
|---|---|---|
{per_class}

Top-1 accuracy on {corruption_images:,} corrupted images
(`focalnets evaluate --corruptions --limit {corruption_images}`) at severities 1 to 5. The mean is
{corrupted:.1%}.

| corruption | 1 | 2 | 3 | 4 | 5 |
|---|---|---|---|---|---|
{corruptions}

The accuracy is higher for JPEG at severity 5 (quality 40) than at severity 4 (quality 50), because the test
images already are JPEG files of quality 75. `docs/evaluation.md` explains the effect.

## Limitations

- The network assigns one of these ten classes to every image, including faces, houses and noise. Its
  probabilities are meaningful only for images like those of CIFAR-10: one object, centered, at close range.
- Small details of larger images are lost when they are resized to 32 x 32 pixels.
- Noise and strong blur reduce the accuracy (see the table). The network was trained on JPEG files, not on raw
  pixels.
- CIFAR-10 was collected from the web in 2008 and labeled by hand. About half a percent of its test labels
  are wrong (Northcutt et al., 2021), and it is not a representative sample of the world. Use the network to
  learn, to test and as a starting point, but not for decisions about people.
"""


def ship(run, data, name):
    """Write the preset, its evaluation and its model card, and return the top-1 accuracy."""
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
    """Text of the model card."""
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
    for row, (one, accuracy) in zip(record["confusion"], record["per_class"].items(), strict=True):
        most = max((count, other) for count, other in zip(row, names, strict=True) if other != one)
        per_class.append(f"| {one} | {accuracy:.1%} | {most[1]} ({most[0]} of {sum(row)}) |")
    corruptions = [
        f"| {one.replace('_', ' ')} | {' | '.join(f'{accuracy:.1%}' for accuracy in row)} |"
        for one, row in record["corruptions"].items()
    ]
    accuracies = [accuracy for row in record["corruptions"].values() for accuracy in row]
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
        corrupted=sum(accuracies) / len(accuracies),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--name", default=DEFAULT)
    arguments = parser.parse_args()
    top1 = ship(arguments.run, arguments.data, arguments.name)
    print(f"Set measured_top1={round(100 * top1, 2)} in presets/checkpoints.py.")


if __name__ == "__main__":
    main()
