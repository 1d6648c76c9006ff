"""evaluation.html: a page with all results of an evaluation."""

from focalnets.report.html import heading, image, numbers, pairs, paragraph, write_page


def write_evaluation_page(path, evaluation):
    """Write the page with the results of an `Evaluation` and the figures in the directory of `path`."""
    folder = path.parent
    parts = [pairs(evaluation.facts().items()), heading("Classes"), class_table(evaluation)]
    parts += [heading("Confusion"), image(folder / "confusion.png")]
    parts += [heading("Calibration"), image(folder / "reliability.png")]
    if evaluation.corruptions is not None:
        parts += [heading("Corruptions"), image(folder / "corruptions.png")]
        parts.append(paragraph("Corruptions of Hendrycks and Dietterich, with the severities of CIFAR-10-C."))
    if (folder / "mistakes.png").is_file():
        parts += [heading("Most confident errors"), image(folder / "mistakes.png")]
    write_page(path, f"{evaluation.data}, {evaluation.split}", parts)


def class_table(evaluation):
    """HTML table of the number of images, accuracy and most frequent confusion of each class."""
    names, rows = list(evaluation.per_class), []
    for place, (name, fraction) in enumerate(evaluation.per_class.items()):
        others = evaluation.confusion[place].copy()
        images, others[place] = others.sum(), 0
        most = others.argmax()
        correct = "no images" if fraction is None else f"{fraction:.2%}"
        rows.append((name, images, correct, f"{names[most]} ({others[most]})" if others[most] else ""))
    return numbers(("class", "images", "correct", "most often confused with"), rows)
