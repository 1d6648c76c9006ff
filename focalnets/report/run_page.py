"""report.html: a run on one page."""

import dataclasses

from focalnets.report.html import heading, image, numbers, pairs, write_page


def write_report(path, recipe, facts, rows, kept, sections):
    """Write the page.

    Args:
        path: file to write.
        recipe: the `Recipe`.
        facts: label -> text, what one wants to know first.
        rows: rows of the history.
        kept: that of the epoch whose weights were kept.
        sections: (heading, paths of PNGs) in order.
    """
    parts = [pairs(facts.items())]
    for text, images in sections:
        if images:
            parts += [heading(text), *(image(one) for one in images)]
    parts += [heading("Epochs"), _history(rows, kept), heading("Recipe")]
    fields = dataclasses.asdict(recipe)
    augmentation = fields.pop("augmentation")
    parts.append(pairs([*fields.items(), *((f"augmentation.{k}", v) for k, v in augmentation.items())]))
    write_page(path, recipe.name, parts)


def _history(rows, kept):
    """Ten epochs, evenly chosen, the one that was kept and the last."""
    step = max(1, -(-len(rows) // 10))
    shown = [row for i, row in enumerate(rows) if row is kept or i % step == 0 or i == len(rows) - 1]
    return numbers(list(rows[0]), [[f"{value:.5g}" for value in row.values()] for row in shown])
