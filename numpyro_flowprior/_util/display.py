"""How results are displayed: `repr` is one line, `str` the whole table, and a notebook shows the table."""

from __future__ import annotations

from html import escape

from .checks import printable


class Displayed:
    """Base class of results: `str` is the table, `repr` shows the one-line `_headline`, notebooks show the table."""

    def _headline(self) -> str:
        """Returns a summary of the result in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._headline()})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def columns_of_text(rows: list[list[str]]) -> str:
    """Returns rows of cells as lines of text in aligned columns. The first column is left-aligned."""
    rows = [[printable(cell) for cell in row] for row in rows]  # names in a file may contain any character
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if j == 0 else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
