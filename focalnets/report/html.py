"""Self-contained HTML pages with embedded images."""

import base64
import html
import io
import pathlib

from focalnets.output.files import writing

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; height: auto; display: block; margin: 0.5rem 0 1.5rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
td, th { border-bottom: 1px solid #ddd; padding: 0.15rem 0.8rem 0.15rem 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write_page(path, title, parts):
    """Write a page.

    Args:
        path: Path of the file to write.
        title: str. Title and heading of the page.
        parts: list of str. HTML from the functions below, in order.

    >>> import pathlib, tempfile
    >>> from focalnets.report.html import heading, pairs, write_page
    >>> page = pathlib.Path(tempfile.mkdtemp()) / "page.html"
    >>> write_page(page, "A run", [heading("Facts"), pairs([("images", 10)])])
    >>> "<th>images</th><td>10</td>" in page.read_text()
    True
    """
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1>",
    ]
    text = "\n".join([*head, *parts, "</body></html>\n"])
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def heading(text):
    return f"<h2>{_text(text)}</h2>"


def paragraph(text):
    return f"<p>{_text(text)}</p>"


def pairs(items):
    """Table of (name, value) rows."""
    lines = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in items)
    return f"<table>{lines}</table>"


def numbers(columns, rows):
    """Table with the names of the columns, and right-aligned rows of cells."""

    def line(tag, cells):
        inner = "".join(f'<{tag} class="number">{_text(cell)}</{tag}>' for cell in cells)
        return f"<tr>{inner}</tr>"

    return f"<table>{line('th', columns)}{''.join(line('td', row) for row in rows)}</table>"


def image(path):
    """PNG file, embedded in the page."""
    return _png(pathlib.Path(path).read_bytes(), pathlib.Path(path).stem)


def pil_image(image, text):
    """PIL image, embedded in the page as a PNG with an alternative text."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return _png(stream.getvalue(), text)


def _png(data, text):
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{_text(text)}">'


def _text(value):
    return html.escape(str(value))
