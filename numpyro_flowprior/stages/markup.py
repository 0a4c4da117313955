"""HTML as nested calls. Text is escaped, except `Markup`. Pictures, style and script are in the page itself."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

from .._util.checks import printable
from ..plots.canvas import VERDICT_COLOURS

_EMPTY = ("img", "meta")
_DPI = 150
_MARKS = {"pass": "\N{CHECK MARK}", "warn": "!", "fail": "\N{MULTIPLICATION SIGN}", "info": "i"}
_COLOURS = "".join(
    f".{word} {{ background: {colour}; border-color: {colour}; }}\n" for word, colour in VERDICT_COLOURS.items()
)
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --back: #ffffff; --band: #f4f6f8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --soft: #a0a8b2; --line: #3b424b; --back: #15181c; --band: #1f242a; }
}
body { margin: 2rem auto; max-width: 66rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--back); overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.5rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.6rem 0 .4rem; }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .93em; font-variant-numeric: tabular-nums; }
thead th { cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--band); white-space: nowrap; }
tbody th { font-weight: 600; }
.numbers td, .numbers thead th + th { text-align: right; white-space: nowrap; }
pre { margin: 0; font: .92em/1.4 ui-monospace, monospace; white-space: pre-wrap; }
dl { columns: 19rem; column-gap: 2.5rem; font-size: .93em; font-variant-numeric: tabular-nums; }
dl div { display: flex; justify-content: space-between; gap: 1.5rem; break-inside: avoid; padding: .2rem 0;
  border-bottom: 1px solid var(--line); }
dt { font-weight: 600; }
dd { margin: 0; text-align: right; }
figure { margin: 1.2rem 0; break-inside: avoid; }
img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }
figure img { cursor: zoom-in; }
figure.large { position: fixed; inset: 0; z-index: 1; margin: 0; padding: 1rem; overflow: auto;
  background: var(--back); }
figure.large img { cursor: zoom-out; max-width: none; min-width: 100%; }
figcaption, .note { color: var(--soft); font-size: .93em; }
.verdict { display: inline-block; padding: 0 .55em; border-width: 1.5px; border-style: solid; border-radius: .3em;
  font-size: .78rem; font-weight: 700; line-height: 1.6; white-space: nowrap; vertical-align: middle; color: #ffffff; }
.info { color: var(--soft); font-weight: 400; }
@media print {
  body { margin: 0; max-width: none; font-size: 9.5pt; }
  section { break-before: page; }
  h2, h3 { break-after: avoid; }
  tr, .numbers { break-inside: avoid; }
  .wide { overflow: visible; }
  .verdict { color: #000000; background: none; }
  img { max-height: 22cm; width: auto; }
}
"""

# Sorts a table by the column whose head is clicked, and enlarges a picture. Without "<" and "&", as XML asks.
_SCRIPT = """
function order(cell) {
  var text = cell.textContent.trim();
  var number = parseFloat(text.replace("\u2212", "-"));
  return isNaN(number) ? text : number;
}
function sort(head) {
  var table = head.closest("table"), body = table.tBodies[0];
  var column = Array.prototype.indexOf.call(head.parentNode.children, head);
  var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  var rows = Array.from(body.rows);
  rows.sort(function (a, b) {
    var x = order(a.cells[column]), y = order(b.cells[column]);
    if (typeof x !== typeof y) { return typeof x === "number" ? -1 : 1; }
    return x === y ? 0 : (x > y ? sign : -sign);
  });
  rows.forEach(function (row) { body.appendChild(row); });
  table.querySelectorAll("thead th").forEach(function (other) { other.removeAttribute("aria-sort"); });
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}
function act(event) {
  if (event.type === "keydown") { if (event.key !== "Enter") { return; } }
  var image = event.target.closest("figure img"), head = event.target.closest("thead th");
  if (image) { image.parentNode.classList.toggle("large"); }
  if (head) { sort(head); }
}
document.addEventListener("click", act);
document.addEventListener("keydown", act);
"""
# Whatever the page says, nothing is fetched, and no other script runs.
_DIGEST = b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """Returns an element; underscores at the end of an attribute's name, as in `class_`, are left out."""
    words = [tag, *(f'{name.rstrip("_")}="{_escaped(value)}"' for name, value in attributes.items())]
    if tag in _EMPTY:
        return Markup(f"<{' '.join(words)}/>")
    return Markup(f"<{' '.join(words)}>{''.join(map(_escaped, children))}</{tag}>")


def _escaped(text: str) -> str:
    return text if isinstance(text, Markup) else escape("\n".join(map(printable, text.split("\n"))))


def table(rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), **attributes: str) -> Markup:
    """Returns a table whose rows are named by their first cells, its columns by `head`."""
    lines = [
        element("tr", element("th", first, scope="row"), *(element("td", _block(cell)) for cell in rest))
        for first, *rest in rows
    ]
    top = (
        [element("thead", element("tr", *(element("th", cell, scope="col", tabindex="0") for cell in head)))]
        if head
        else []
    )
    return element("div", element("table", *top, element("tbody", *lines), **attributes), class_="wide")


def pairs(record: Mapping[str, str]) -> Markup:
    """Returns the entries of a record as a list in columns."""
    return element("dl", *(element("div", element("dt", name), element("dd", text)) for name, text in record.items()))


def _block(text: str) -> str:
    return element("pre", text) if "\n" in text and not isinstance(text, Markup) else text


def side_by_side(columns: Mapping[str, Mapping[str, str]], subject: str, **attributes: str) -> Markup:
    """Returns a table of several records, a column for each; a dash where one lacks what another has."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = ([name, *(column.get(name, "-") for column in columns.values())] for name in names)
    return table(rows, head=[subject, *columns], **attributes)


def badge(verdict: str) -> Markup:
    """Returns a verdict as a word with a mark; its colour says nothing more."""
    return element("span", f"{_MARKS.get(verdict, '?')} {verdict.upper()}", class_=f"verdict {verdict}")


def picture(draw: Callable[[], Any], words: str, caption: str) -> Markup:
    """Returns a matplotlib Figure as an image with a caption, or what to install for it.

    Args:
        draw: makes the figure; if it raises ImportError there is no picture.
        words: description of the image, for readers who do not see it.
        caption: text below it.
    """
    try:
        figure = draw()
    except ImportError as error:
        return element("p", f"No picture: {error}", class_="note")
    content = BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    source = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
    return element("figure", element("img", src=source, alt=words, tabindex="0"), element("figcaption", caption))


def page(title: str, *body: str) -> str:
    """Returns a whole document, which is well-formed XML too."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", content=_POLICY, **{"http-equiv": "Content-Security-Policy"}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_COLOURS + _STYLE)),
    )
    whole = element("html", head, element("body", *body, element("script", Markup(_SCRIPT))), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
