"""evaluation.html: an evaluation on one page."""

import numpy as np

from focalnets.explain.page import heading, numbers, pairs, paragraph, picture, write_page
from focalnets.explain.render import label
from focalnets.inference.pictures import draw_mistakes
from focalnets.inference.predictor import softmax

MISTAKES = 24


def write_evaluation_page(path, title, evaluation, more):
    """Write the page, from the figures and from the pictures that lie beside it.

    Args:
        path: file to write.
        title: what was evaluated.
        evaluation: an `Evaluation`.
        more: "tta" and "corruptions" of evaluation.json, where they were computed.
    """
    facts = {"images": f"{evaluation.images:,}", "top-1 accuracy": f"{evaluation.top1:.2%}"}
    if evaluation.top5 is not None:
        facts["top-5 accuracy"] = f"{evaluation.top5:.2%}"
    facts["negative log-likelihood"] = f"{evaluation.loss:.4f} nats"
    facts["expected calibration error"] = f"{evaluation.ece:.2%}"
    if "tta" in more:
        tta = more["tta"]
        facts[f"averaged over views ({tta['views']})"] = (
            f"top-1 {tta['top1']:.2%}, negative log-likelihood {tta['loss']:.4f}, "
            f"calibration error {tta['ece']:.2%}"
        )
    names = list(evaluation.per_class)
    classes = []
    for place, (name, share) in enumerate(evaluation.per_class.items()):
        others = evaluation.confusion[place].copy()
        images, others[place] = others.sum(), 0
        most = others.argmax()
        classes.append(
            (
                name,
                images,
                "no images" if share is None else f"{share:.2%}",
                f"{names[most]} ({others[most]})" if others[most] else "",
            )
        )
    parts = [pairs(facts.items()), heading("Classes")]
    parts.append(numbers(("class", "images", "recognised", "mostly taken for instead"), classes))
    parts += [heading("Confusion"), picture(path.parent / "confusion.png")]
    parts += [heading("Calibration"), picture(path.parent / "reliability.png")]
    if "corruptions" in more:
        parts += [heading("Corruptions"), picture(path.parent / "corruptions.png")]
        parts.append(paragraph("After Hendrycks and Dietterich, with the strengths of their CIFAR-10-C."))
    if (path.parent / "mistakes.png").is_file():
        parts += [heading("Surest mistakes"), picture(path.parent / "mistakes.png")]
    write_page(path, title, parts)


def write_mistakes(path, split, logits, labels, class_names):
    """Write a PNG of the images that the net was surest of, and wrong; none if it made no mistake."""
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:MISTAKES]
    if not len(wrong):
        return
    names = [label(name, 16) for name in class_names]
    titles = [f"{names[labels[i]]}\nas {names[predicted[i]]} {probabilities[i].max():.0%}" for i in wrong]
    draw_mistakes(path, split.batch(wrong), titles)
