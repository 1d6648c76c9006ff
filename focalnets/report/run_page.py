"""report.html: a page with all results of a run."""

import dataclasses

from focalnets.report.html import heading, image, numbers, pairs, paragraph, write_page


def write_report(path, recipe, facts, rows, saved, sections):
    """Write the page.

    Args:
        path: Path of the file to write.
        recipe: `Recipe` of the run.
        facts: dict. Label -> text of the most important results.
        rows: list of dicts. Rows of the history.
        saved: dict. Row of the epoch whose weights are saved.
        sections: list of (heading, text that tells how to read the figures or "", paths of PNGs).
    """
    parts = [pairs(facts.items())]
    for title, text, images in sections:
        if images:
            parts += [heading(title), *([paragraph(text)] if text else []), *(image(one) for one in images)]
    parts += [heading("Epochs"), _history(rows, saved), heading("Recipe")]
    fields = dataclasses.asdict(recipe)
    augmentation = fields.pop("augmentation")
    parts.append(pairs([*fields.items(), *((f"augmentation.{k}", v) for k, v in augmentation.items())]))
    write_page(path, recipe.name, parts)


def _history(rows, saved):
    """Table of about ten evenly spaced epochs, the last epoch, and the epoch whose weights are saved."""
    step = max(1, -(-len(rows) // 10))
    shown = [row for i, row in enumerate(rows) if row is saved or i % step == 0 or i == len(rows) - 1]
    return numbers(list(rows[0]), [[f"{value:.5g}" for value in row.values()] for row in shown])
