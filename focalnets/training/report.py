"""report.html: a run on one page, pictures inside, nothing loaded from elsewhere."""

import base64
import dataclasses
import html
import pathlib

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; height: auto; display: block; margin: 0.5rem 0 1.5rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
td, th { border-bottom: 1px solid #ddd; padding: 0.15rem 0.8rem 0.15rem 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write_report(path, recipe, facts, rows, sections):
    """Write the page.

    Args:
        path: file to write.
        recipe: the `Recipe`.
        facts: label -> text, what one wants to know first.
        rows: rows of the history.
        sections: (heading, paths of PNGs) in order.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(recipe.name)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(recipe.name)}</h1>",
        _table(facts.items()),
    ]
    for heading, pictures in sections:
        if pictures:
            parts.append(f"<h2>{_text(heading)}</h2>")
            parts += [_picture(picture) for picture in pictures]
    parts.append("<h2>Epochs</h2>")
    parts.append(_history(rows))
    parts.append("<h2>Recipe</h2>")
    fields = dataclasses.asdict(recipe)
    augmentation = fields.pop("augmentation")
    parts.append(_table([*fields.items(), *((f"augmentation.{k}", v) for k, v in augmentation.items())]))
    parts.append("</body></html>\n")
    pathlib.Path(path).write_text("\n".join(parts), encoding="utf-8")


def _text(value):
    return html.escape(str(value))


def _table(pairs):
    lines = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in pairs)
    return f"<table>{lines}</table>"


def _history(rows):
    """Ten epochs, evenly chosen, and the best."""
    best = max(rows, key=lambda row: row["val_accuracy"])
    step = max(1, -(-len(rows) // 10))
    shown = [row for i, row in enumerate(rows) if row is best or i % step == 0 or i == len(rows) - 1]
    head = "".join(f'<th class="number">{_text(name)}</th>' for name in rows[0])
    lines = ""
    for row in shown:
        cells = "".join(f'<td class="number">{value:.5g}</td>' for value in row.values())
        lines += f"<tr>{cells}</tr>"
    return f"<table><tr>{head}</tr>{lines}</table>"


def _picture(path):
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{_text(pathlib.Path(path).stem)}">'
