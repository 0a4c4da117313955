"""ScanResult: the result of a scan, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._util.display import Displayed
from .grid import Settings, varied
from .rungs import Outcome

_SHOWN = 10  # rows of the table that are printed
_ORDER = ("finished", "stopped", "waiting", "diverged", "failed")


@dataclass(frozen=True, repr=False)
class ScanResult(Displayed):
    """The result of `scan_flows`.

    Attributes:
        candidates: the settings tried, in the grid's order.
        table: one row per candidate, the best first. Candidates that reached a later rung come first; within a rung
            they are sorted by held-out log density. Failed candidates come last. The columns are "candidate", the index
            in `candidates`; the settings; "rung", the last rung at which it was judged, from 1 (0: none); "rows" and
            "steps" of its training at that rung, summed over members; "log_density", the mean of log q at held-out
            rows, nats in the parameters' units; "error", its standard error (all candidates are judged on the same
            rows, so differences between them have smaller errors); "seconds" of all its trainings, compilation
            included (a shared training counts for each candidate); "status": "finished", "stopped" (others were
            better), "waiting" (the scan was interrupted), "diverged" or "failed"; "message", the reason of a failure.
        interrupted: whether the scan was stopped from the keyboard; the table then shows the work done so far.
    """

    candidates: tuple[Settings, ...]
    table: tuple[dict[str, Any], ...]
    interrupted: bool = False

    @property
    def best(self) -> Settings:
        """The best candidate's settings: `fit_flow(key, chain, *result.best)` trains it in full.

        Raises:
            ValueError: no candidate could be trained.
        """
        first = self.table[0]
        if first["log_density"] is None:
            raise ValueError(f"ScanResult.best: no candidate was trained; message of the first: {first['message']}")
        return self.candidates[first["candidate"]]

    def _headline(self) -> str:
        first = self.table[0]
        found = "none trained" if first["log_density"] is None else f"best log density {first['log_density']:.4f} nats"
        return f"{len(self.table)} candidates; {found}{'; interrupted' * self.interrupted}"

    def __str__(self) -> str:
        shown = [name for name in self.table[0] if name not in ("candidate", "message")]
        cells = [shown, *([_text(row[name]) for name in shown] for row in self.table[:_SHOWN])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
        counts = [(status, sum(row["status"] == status for row in self.table)) for status in _ORDER]
        told = ", ".join(f"{count} {status}" for status, count in counts if count)
        return "\n".join([*lines, f"{len(self.table)} candidates: {told}" + "; interrupted" * self.interrupted])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def make_table(
    candidates: Sequence[Settings],
    firsts: Sequence[int],
    outcomes: Mapping[tuple[int, int], Outcome],
    rungs: Sequence[tuple[int | None, int]],
    waiting: Sequence[int],
) -> tuple[dict[str, Any], ...]:
    """Returns the table of a ScanResult.

    Args:
        candidates: the settings of all candidates.
        firsts: for each candidate, the index of the first one with the same training, which has the outcomes.
        outcomes: by (candidate, rung), rungs counted from 1.
        rungs: (rows, number of trainings) of each rung; rows is None for training in full.
        waiting: the candidates that were still to be trained when the scan was interrupted.
    """
    table = []
    for j, (first, settings) in enumerate(zip(firsts, varied(candidates), strict=True)):
        done = [(rung, outcomes[first, rung]) for rung in range(1, len(rungs) + 1) if (first, rung) in outcomes]
        rung, last = done[-1] if done else (0, {"status": "waiting"})
        status = last["status"]
        if status == "trained":
            status = "finished" if rung == len(rungs) else "waiting" if first in waiting else "stopped"
        steps, budget = last.get("steps", 0), rungs[rung - 1][0] if rung else 0
        row = {
            "candidate": j,
            **settings,
            "rung": rung,
            "rows": steps * candidates[j].train.batch_size if budget is None else budget,
            "steps": steps,
            "log_density": last.get("log_density"),
            "error": last.get("error"),
            "seconds": round(sum(outcome["seconds"] for _, outcome in done), 3),
            "status": status,
            "message": last.get("message", ""),
        }
        table.append(row)
    judged = [row for row in table if row["log_density"] is not None]
    others = [row for row in table if row["log_density"] is None]
    judged.sort(key=lambda row: (-row["rung"], -row["log_density"]))
    return (*judged, *sorted(others, key=lambda row: _ORDER.index(row["status"])))
