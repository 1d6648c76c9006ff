"""Final files of a complete run: the preset, panels, evaluation and report."""

import pathlib
from dataclasses import dataclass

import keras
import numpy as np

from focalnets import __version__
from focalnets.data.loader import Loader
from focalnets.explanation.attribution import EvidenceModels
from focalnets.explanation.epochs import epoch_arrays
from focalnets.explanation.modulation import modulation_maps
from focalnets.ops.processes import alone, fetch
from focalnets.output.files import shared_directory
from focalnets.prediction.evaluation import evaluate_logits, write_evaluation
from focalnets.presets.store import write_preset_files
from focalnets.report.explanation_figure import draw_evidence_grid
from focalnets.report.figures import draw_panels
from focalnets.report.html import pairs
from focalnets.report.run_page import write_report
from focalnets.training.checkpoint import read_weights

PANEL_IMAGES = 8

# How to read the figures of the report.
_EVIDENCE = (
    "Red regions speak for the true class, and blue regions speak against it. All evidence of an image adds "
    "up to the difference of the logit from that of a gray image."
)
_GATES = (
    "Gates and modulators show what the network computed, not what it decided by. A gate multiplies the "
    "context of its window at each position; the modulator multiplies the query."
)


@dataclass(frozen=True, repr=False)
class TrainResult:
    """Result of `train` and `resume`.

    Attributes:
        directory, curves, panels, report: Paths of the run directory and its figures and page.
        history: list of dict. One row per epoch.
        kept: dict. Row of the epoch whose weights are saved. None if the run stopped at its time limit; then
            `panels` is empty, and `report` and `test_accuracy` are None.
        test_accuracy: float, 0 to 1. None if the data set has no test split.
        skipped: list of str. Unreadable images that were left out, with the reason.
    """

    directory: pathlib.Path
    curves: pathlib.Path
    panels: list[pathlib.Path]
    report: pathlib.Path | None
    history: list[dict]
    kept: dict | None
    test_accuracy: float | None
    skipped: list[str]

    @property
    def complete(self):
        """Whether training is complete."""
        return self.kept is not None

    @property
    def facts(self):
        """Dict of the printed results as text, by label."""
        facts = {"run directory": str(self.directory), "epochs": str(len(self.history))}
        if not self.complete:
            return {**facts, "state": "stopped at the time limit. Use focalnets.resume to continue."}
        facts["validation accuracy"] = f"{self.kept['val_accuracy']:.2%} in epoch {self.kept['epoch']}"
        if self.test_accuracy is not None:
            facts["test accuracy"] = f"{self.test_accuracy:.2%}"
        return {**facts, "report": str(self.report)}

    def __repr__(self):
        width = max(map(len, self.facts))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.facts.items())

    def _repr_html_(self):
        return pairs(self.facts.items())


def finalize(trainer, directory, recorder):
    """Assign the chosen weights, and write preset, panels, evaluation and report. Only process 0 writes.

    Args:
        trainer: `Trainer` after training.
        directory: `pathlib.Path`. Run directory.
        recorder: `RunRecorder` of the run.

    Returns:
        `TrainResult`.
    """
    recipe, rows = trainer.recipe, recorder.rows
    best = trainer.task.best_row(rows)
    kept = best if recipe.keep_weights == "best" else rows[-1]
    curves = directory / "curves.png"
    chosen = None
    if recipe.keep_weights == "last" and recipe.ema_decay:
        chosen = fetch(trainer.classifier.optimizer.averages, everywhere=False)
    classifier = trainer.single()
    if not recorder.writes:
        return TrainResult(directory, curves, [], None, rows, kept, None, trainer.dataset.unreadable)
    if recipe.keep_weights == "best":
        chosen = read_weights(directory / "best.npz")
    with alone():
        return _finalize(trainer, classifier, chosen, directory, recorder, kept)


def _finalize(trainer, classifier, chosen, directory, recorder, kept):
    recipe, rows = trainer.recipe, recorder.rows
    if chosen is not None:
        for variable, value in zip(classifier.trainable_variables, chosen, strict=True):
            variable.assign(value)
    write_preset_files(classifier, directory)
    test = trainer.dataset.splits.get("test")
    shown, kind = (trainer.validation, "validation") if test is None else (test, "test")
    panels = _draw_panels(classifier, shown, kind, directory / "panels")
    found = evaluate_logits(
        _logits(trainer, classifier, shown),
        shown.labels,
        classifier.class_names,
        data=trainer.settings["data"],
        split=kind,
    )
    write_evaluation(directory, found)
    test_accuracy = None if test is None else found.top1
    facts = {
        "validation accuracy": f"{kept['val_accuracy']:.4f} in epoch {kept['epoch']}",
        "test accuracy": "no test split" if test_accuracy is None else f"{test_accuracy:.4f}",
        "training": f"{recorder.minutes:.1f} minutes, {rows[-1]['images_per_second']:.0f} images/s",
        "data": trainer.settings["data"],
        "images": f"{len(trainer.training):,} to train, {len(trainer.validation):,} to validate",
        "parameters": f"{classifier.count_params():,}",
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}, focalnets {__version__}",
    }
    filmstrips = sorted((directory / "monitor").glob("filmstrip.*.png"))
    sections = [
        ("Curves", "", [directory / "curves.png"]),
        (f"Confusion of {kind} images", "", [directory / "confusion.png"]),
        (f"What the network looked at, {kind} images", _EVIDENCE, panels[:1]),
        (f"Gates and modulators, {kind} images", _GATES, panels[1:]),
        ("During training", "", filmstrips),
    ]
    report = directory / "report.html"
    write_report(report, recipe, facts, rows, kept, sections)
    curves = directory / "curves.png"
    return TrainResult(
        directory, curves, panels, report, rows, kept, test_accuracy, trainer.dataset.unreadable
    )


def _draw_panels(classifier, split, kind, folder):
    """Draw the last block of each stage, for the first image of up to `PANEL_IMAGES` classes."""
    shown = split.one_of_each(PANEL_IMAGES)
    titles = [classifier.class_names[label] for label in shown.labels]
    images = shown.images
    last_blocks = [stage[-1].name for stage in classifier.backbone.stages]
    maps = modulation_maps(classifier, images, blocks=last_blocks)
    shared_directory(folder, "run")
    models = EvidenceModels(classifier, eager=True)
    found = epoch_arrays(classifier, images, shown.labels, models, levels=False)
    texts = [f"{name}: {value:.0%}" for name, value in zip(titles, found["probability"], strict=True)]
    columns = {"evidence": found["evidence"]}
    paths = [folder / "evidence.png"]
    draw_evidence_grid(paths[0], images, columns, {"evidence": texts}, f"{kind} images")
    for name in last_blocks:
        paths.append(folder / f"{name}.png")
        draw_panels(paths[-1], images, maps[name], titles, heading=f"{name}, {kind} images")
    return paths


def _logits(trainer, classifier, split):
    loader = Loader(split, trainer.task, trainer.recipe.batch_size)
    return np.concatenate([classifier.predict_on_batch(images) for images, *_ in loader])
