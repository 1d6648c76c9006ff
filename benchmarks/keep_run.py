"""Store the records of a training run, and write the table of results from all stored runs.

    python benchmarks/keep_run.py runs/cifar10_cpu     copy the records to results/, and write the table
    python benchmarks/keep_run.py                      write the table only

The records are history.csv (validation metrics), recipe.json and evaluation.json (test metrics). The table is
in focalnets/training/recipes/README.md, between two marks.
"""

import argparse
import csv
import dataclasses
import datetime
import json
import pathlib
import statistics

import measure

from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.cost import count_macs, count_parameters
from focalnets.training.recipe import load_recipe, recipe_names

README = pathlib.Path(__file__).parents[1] / "focalnets" / "training" / "recipes" / "README.md"
BEGIN, END = "<!-- written by benchmarks/keep_run.py -->\n", "<!-- end -->"
TUTORIAL = 0.688  # validation accuracy of the tutorial
COLUMNS = (
    "recipe",
    "seed",
    "network",
    "parameters",
    "MACs",
    "epochs",
    "changes to the recipe",
    "machine",
    "minutes",
    "images/s",
    "minutes to 68.8 %",
    "validation",
    "test",
    "date",
)


def keep(run):
    """Copy the records of a run, without paths of this machine."""
    run = pathlib.Path(run)
    recipe, facts = (json.loads((run / name).read_text()) for name in ("recipe.json", "run.json"))
    evaluation = json.loads((run / "evaluation.json").read_text())
    recipe["data"] = evaluation["data"] = pathlib.Path(recipe["data"]).name
    day = datetime.date.fromtimestamp((run / "evaluation.json").stat().st_mtime)
    name = recipe["name"].replace("_", "-")
    machine = facts["machine"].replace(" ", "-")
    where = f"{facts['backend']}_{recipe['precision']}_{machine}"
    stem = f"train_{name}_seed{recipe['seed']}_{where}_{day}"
    history = (run / "history.csv").read_text()
    while (path := measure.RESULTS / f"{stem}.history.csv").exists() and path.read_text() != history:
        stem += "-b"  # another run of the same day
    path.write_text(history)
    for kind, record in (("recipe", recipe), ("evaluation", evaluation)):
        (measure.RESULTS / f"{stem}.{kind}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"stored: {stem}")


def rows():
    """List the rows of the table, one per stored run."""
    found = []
    ends = ".evaluation.json"
    for stem in sorted(path.name.removesuffix(ends) for path in measure.RESULTS.glob(f"train_*{ends}")):
        evaluation, recipe = (
            json.loads((measure.RESULTS / f"{stem}.{kind}.json").read_text())
            for kind in ("evaluation", "recipe")
        )
        with (measure.RESULTS / f"{stem}.history.csv").open() as file:
            history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        _, _, _, backend, precision, *machine, day = stem.split("_")
        name = recipe["architecture"] or pathlib.Path(recipe["preset"]).name
        architecture = ARCHITECTURES.get(recipe["architecture"])
        if architecture:
            classes = len(evaluation["per_class"])
            architecture = dataclasses.replace(architecture, num_classes=classes)
        passed = [row["minutes"] for row in history if row["val_accuracy"] >= TUTORIAL]
        best = max(row["val_accuracy"] for row in history)
        validation = history[-1]["val_accuracy"] if recipe["keep_weights"] == "last" else best
        speeds = sorted(row["images_per_second"] for row in history)
        found.append(
            (
                recipe["name"],
                recipe["seed"],
                name,
                f"{count_parameters(architecture) / 1e6:.2f} M" if architecture else "",
                f"{count_macs(architecture, recipe['image_size']) / 1e6:.0f} M" if architecture else "",
                len(history),
                changes(recipe),
                f"{'_'.join(machine)}, {backend}, {precision}",
                f"{history[-1]['minutes']:.0f}",
                f"{speeds[len(speeds) // 2]:.0f}",
                f"{passed[0]:.0f}" if passed else "never",
                f"{validation:.2%}",
                f"{evaluation['top1']:.2%}" if evaluation["split"] == "test" else "",
                day[:10],
            )
        )
    return found


def changes(recipe):
    """Fields in which a run differs from the current recipe of the same name, with the values of the run."""
    if recipe["name"] not in recipe_names():
        return "the recipe does not exist"
    today = json.loads(json.dumps(dataclasses.asdict(load_recipe(recipe["name"]))))
    today, then = (
        {**one, **{f"augmentation.{name}": value for name, value in one["augmentation"].items()}}
        for one in (today, recipe)
    )
    if not recipe["preset"]:  # older records have these defaults instead of None
        filled = {"crop_fraction": 1.0, "interpolation": "bicubic"}
        today, then = (
            {**one, **{name: one[name] or filled[name] for name in filled}} for one in (today, then)
        )
    shown = {"augmentation", "data", "preset", "seed", "precision", "epochs"}
    changed = [name for name in today if name not in shown and then.get(name) != today[name]]
    return ", ".join(f"{name.removeprefix('augmentation.')} {then.get(name)}" for name in changed)


def table():
    found = rows()
    lines = [COLUMNS, ["---"] * len(COLUMNS), *found]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines) + seeds(found)


def seeds(found):
    """One line per recipe with several seeds: mean and range of the test accuracies."""
    tests = {}
    for row in map(dict, (zip(COLUMNS, row, strict=True) for row in found)):
        if row["test"]:
            alike = tuple(
                row[column] for column in ("recipe", "network", "epochs", "changes to the recipe", "machine")
            )
            tests.setdefault(alike, {})[row["seed"]] = float(row["test"].rstrip("%"))
    return "".join(
        f"\n`{recipe}`, {len(values)} seeds: mean test accuracy {statistics.mean(values):.2f} %, range "
        f"{min(values):.2f} to {max(values):.2f} %.\n"
        for recipe, values in ((recipe, of_seed.values()) for (recipe, *_), of_seed in tests.items())
        if len(values) > 1
    )


def write_table():
    text = README.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:start] + table() + text[stop:])
    print(f"table: {README}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="*", help="run directories whose records are stored")
    for run in parser.parse_args().run:
        keep(run)
    write_table()


if __name__ == "__main__":
    main()
