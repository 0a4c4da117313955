"""How results show themselves: a short line in a list, the whole table in print, the same in a notebook."""

from __future__ import annotations

from html import escape

from .checks import printable


class Displayed:
    """Base of results: `str` is the table, `_headline` what `repr` says in one line, and notebooks show the table."""

    def _headline(self) -> str:
        """Returns what the result is, in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._headline()})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def columns_of_text(rows: list[list[str]]) -> str:
    """Returns rows of cells as lines of aligned columns, the first of them to the left."""
    rows = [[printable(cell) for cell in row] for row in rows]  # names in a file may hold anything
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if j == 0 else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
