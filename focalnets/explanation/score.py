"""Scores of exact evidence and of the other maps over a data set."""

from dataclasses import dataclass

import numpy as np

from focalnets.explanation.attribution import EvidenceModels, evidence
from focalnets.explanation.comparison import COMPARISONS
from focalnets.explanation.faithfulness import LOWER_IS_BETTER, METRICS, Interval, faithfulness
from focalnets.models.evidence import target_vector
from focalnets.output.files import write_json
from focalnets.progress import progress
from focalnets.report.html import heading, numbers, paragraph, write_page

EVIDENCE, CAM = "exact evidence", "CAM"
_BATCH = 64


@dataclass(frozen=True, repr=False)
class Scores:
    """Faithfulness of several maps on the same images.

    Attributes:
        data: str. Name of the images.
        values: dict of map -> dict of metric -> float array (N,). See `faithfulness`.
    """

    data: str
    values: dict

    @property
    def images(self):
        """Number of images."""
        return len(self.values[EVIDENCE][METRICS[0]])

    def mean(self, name, metric):
        """`Interval` of a metric of a map."""
        return Interval.of(self.values[name][metric])

    def margin(self, name, metric):
        """`Interval` of the paired difference, exact evidence minus a map. Positive if evidence is better."""
        difference = self.values[EVIDENCE][metric] - self.values[name][metric]
        return Interval.of(-difference if metric in LOWER_IS_BETTER else difference)

    def record(self):
        """Values for JSON."""
        rows = {
            name: {
                metric: {**vars(self.mean(name, metric)), "margin": vars(self.margin(name, metric))}
                for metric in METRICS
            }
            for name in self.values
        }
        return {"data": self.data, "images": self.images, "cells": 8, "steps": 8, "maps": rows}

    def rows(self):
        """Rows of the table: name of the map, and the mean of each metric with its interval."""
        return [(name, *(str(self.mean(name, metric)) for metric in METRICS)) for name in self.values]

    def __repr__(self):
        lines = [("map", *METRICS), *self.rows()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) for line in lines]
        note = f"{self.images} images of {self.data}; 95 % intervals; deletion: lower is better"
        return "\n".join([*text, note])

    def _repr_html_(self):
        return numbers(("map", *METRICS), self.rows())

    def write(self, directory):
        """Write scores.json and scores.html into an existing directory, and yield each path."""
        write_json(directory / "scores.json", self.record())
        yield directory / "scores.json"
        margins = [
            (name, *(str(self.margin(name, metric)) for metric in METRICS))
            for name in self.values
            if name != EVIDENCE
        ]
        parts = [
            paragraph(f"{self.images} images. Each cell is a mean with its 95 % bootstrap interval."),
            self._repr_html_(),
            paragraph("Deletion: lower is better. Insertion, SRG and ROAD: higher is better."),
            heading("How much better exact evidence is, image by image"),
            numbers(("map", *METRICS), margins),
            paragraph(
                "An interval above 0 means that exact evidence is better. docs/explanation.md defines "
                "the metrics."
            ),
        ]
        write_page(directory / "scores.html", f"Faithfulness of maps on {self.data}", parts)
        yield directory / "scores.html"


def score(classifier, split, data="", maps=None):
    """Measure the faithfulness of exact evidence and of other maps on images.

    The explained class of an image is the predicted one.

    Args:
        classifier: `FocalNetImageClassifier` with preprocessing.
        split: `Split` of prepared images.
        data: str. Name of the images, for the table. Defaults to "".
        maps: list of str. Names of maps to compare, see `COMPARISONS`. Defaults to all.

    Returns:
        `Scores`.

    >>> import numpy as np
    >>> import focalnets
    >>> from focalnets.explanation.score import score
    >>> net = focalnets.FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    >>> digits = focalnets.open_dataset("digits", prepare=net.image_converter.prepare).splits["test"]
    >>> sorted(score(net, digits.take(range(4)), maps=["random"]).values)
    ['CAM', 'exact evidence', 'random']
    """
    color = 255 * np.array(classifier.image_converter.mean)
    found, models = {}, EvidenceModels(classifier)

    def probabilities(images):
        logits = np.float64(classifier.predict(images, batch_size=_BATCH, verbose=0))
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    starts = range(0, len(split), _BATCH)
    for start in progress(starts, "scoring maps"):
        images = split.batch(np.arange(start, min(start + _BATCH, len(split))))
        classes = classifier.predict(images, batch_size=_BATCH, verbose=0).argmax(axis=-1)
        targets = np.stack([target_vector(classifier.num_classes, one) for one in classes])
        exact = evidence(classifier, images, targets, models=models)
        drawn = {EVIDENCE: exact.map(), CAM: exact.at("norm")}
        for name in COMPARISONS if maps is None else maps:
            drawn[name] = COMPARISONS[name](classifier, images, targets)
        for name, scores in faithfulness(probabilities, images, classes, drawn, color).items():
            found.setdefault(name, []).append(scores)
    values = {
        name: {metric: np.concatenate([one[metric] for one in batches]) for metric in METRICS}
        for name, batches in found.items()
    }
    return Scores(data, values)
