"""QualityReport: the results of the tests of a prior, as numbers, as text and as a record in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm

from .._util.display import Displayed
from .._util.json_numbers import rounded
from .comparison import Comparison
from .coverage import Extrapolation, Tail, Uniformity
from .straight_edges import StraightEdge
from .two_sample import ClassifierTest

VERDICTS = ("pass", "warn", "fail")  # from best to worst
FALSE_ALARMS = 1e-3  # largest fraction of correct priors with a warning, if there are enough rows
_LATER = ("loss", "loss_error")  # missing in records of earlier versions
_ENOUGH_BEYOND = 10  # independent held-out rows needed in a tail to test it
_EXACT = ("effective_size", "log_density", "log_density_error", "gain", "gain_error", "worst")


@dataclass(frozen=True, repr=False)
class QualityReport(Displayed):
    """The results of the tests of a prior on held-out draws, with a verdict.

    Attributes:
        rows: number of held-out rows.
        effective_size: effective sample size of the held-out rows.
        independent_rows: number of thinned or resampled rows, treated as independent with equal weights in the tests.
        undefined: number of held-out rows at which the density is zero, infinite or NaN.
        log_density: weighted mean of log q over the held-out rows, nats, in the units of the parameters.
        log_density_error: standard error of `log_density`.
        gain: mean of log q minus the log density of the Gaussian with the moments of the training chain in the same
            unconstrained space, nats; positive if the flow is better than this Gaussian.
        gain_error: standard error of `gain` (paired).
        worst: lowest log q - log Gaussian of the held-out rows, nats. Rows with less than a thousandth of the mean
            weight are ignored: at tempered particles of negligible weight, q may correctly be far below a Gaussian.
        comparison: the independent rows compared with about four times as many prior draws. The histogram bins have
            equal prior mass. Their number is chosen so that a cell of a pair has ten rows on average.
        density_ranks: ranks of log q at held-out rows among prior draws; they test the coverage of the highest-density
            regions.
        ranks: {name: the same for the values of each parameter} (probability integral transform).
        tails: held-out rows in the regions of lowest prior density and in both tails of each parameter.
        classifier: how well a classifier distinguishes held-out rows from prior draws.
        extrapolation: how much of the prior, and of the declared box, lies beyond the rows of the chain.
        loss: KL divergence from the log density of the chain to the prior, nats, at the held-out draws
            (`posterior_divergence`); NaN if the chain has no log density.
        loss_error: standard error of `loss`.
        repeated: {name: number of distinct values} of parameters with far fewer distinct draws than the spacing of
            float64 numbers explains.
        edges: straight edges of the rows with prior mass beyond them. Training rows are used if the held-out rows are
            few. Nothing is reported for fewer than 2,000 rows.
        verdict: "pass", "warn" or "fail".
        reasons: the reasons for the verdict, in words.
    """

    rows: int
    effective_size: float
    independent_rows: int
    undefined: int
    log_density: float
    log_density_error: float
    gain: float
    gain_error: float
    worst: float
    comparison: Comparison
    density_ranks: Uniformity
    ranks: Mapping[str, Uniformity]
    tails: tuple[Tail, ...]
    classifier: ClassifierTest
    extrapolation: Extrapolation
    verdict: str = "pass"
    reasons: tuple[str, ...] = ()
    loss: float = float("nan")
    loss_error: float = float("nan")
    repeated: Mapping[str, int] = field(default_factory=dict)
    edges: tuple[StraightEdge, ...] = ()

    @property
    def tested_to(self) -> tuple[float, float]:
        """How far out the prior was tested: the share of its mass that was not tested, and the distance in sigma.

        The share is the mass of lowest density in which ten of the independent rows are expected. The distance is that
        of a normal variable with the same probability in both tails together.
        """
        share = min(_ENOUGH_BEYOND / max(self.independent_rows, 1), 1.0)
        return share, float(norm.isf(share / 2.0))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record; NaN and infinity, which JSON does not allow, become null."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            **{name: getattr(self, name) for name in ("rows", "independent_rows", "undefined")},
            **{name: _json_number(getattr(self, name)) for name in (*_EXACT, *_LATER)},
            "comparison": self.comparison.to_json(),
            "density_ranks": _record(self.density_ranks),
            "ranks": {name: _record(ranks) for name, ranks in self.ranks.items()},
            "tails": [_record(tail) for tail in self.tails],
            "classifier": _record(self.classifier),
            "extrapolation": _record(self.extrapolation),
            "repeated": dict(self.repeated),
            "edges": [asdict(edge) for edge in self.edges],
        }

    @classmethod
    def from_json(cls, record: Any) -> QualityReport:
        """Returns the report from a record of `to_json`; numbers keep the precision of the record.

        Raises:
            ValueError: an entry is missing or unknown, for example in a record of an earlier version of the package.
        """
        try:
            exact: dict[str, Any] = {name: _number(record[name]) for name in _EXACT}
            exact |= {name: _number(record.get(name)) for name in _LATER}
            return cls(
                **exact,
                **{name: record[name] for name in ("rows", "independent_rows", "undefined", "verdict")},
                reasons=tuple(record["reasons"]),
                comparison=Comparison.from_json(record["comparison"]),
                density_ranks=_ranks(record["density_ranks"]),
                ranks={name: _ranks(part) for name, part in record["ranks"].items()},
                tails=tuple(Tail(**part) for part in record["tails"]),
                classifier=ClassifierTest(**_numbers(record["classifier"])),
                extrapolation=Extrapolation(**_numbers(record["extrapolation"])),
                repeated=dict(record.get("repeated", {})),
                edges=tuple(_edge(part) for part in record.get("edges", [])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"quality report: expected the entries of this version; got a missing or unknown one ({error}). The "
                "record may come from another version of the package. Make the report again with quality_report."
            ) from error

    @property
    def summary(self) -> str:
        """The verdict with its reasons, as text."""
        if self.reasons:
            return f"{self.verdict.upper()}\n" + "\n".join(f"  - {reason}" for reason in self.reasons)
        kl = self.comparison.kl
        return (
            f"PASS: no difference that matters in {len(kl.one_d)} parameters, {len(kl.two_d)} pairs, "
            f"{len(self.tails)} tails, ranks, classifier and extrapolation,\n  on {self.independent_rows} independent "
            f"rows (at most {_percent(FALSE_ALARMS)} of correct priors get a warning)"
        )

    @property
    def statements(self) -> dict[str, str]:
        """The results of the tests as text, by subject."""
        beyond = self.extrapolation
        by_density = [tail for tail in self.tails if tail.subject == "density"]
        oddest = min((tail for tail in self.tails if tail.subject != "density"), key=lambda tail: tail.p_value)
        share, sigma = self.tested_to
        name, ranks = min(self.ranks.items(), key=lambda item: item[1].p_value)
        return {
            "held-out rows": f"{self.rows} (effective size {self.effective_size:.0f}; {self.independent_rows} taken as "
            "independent)",
            "held-out log density": f"{self.log_density:.4f} +- {self.log_density_error:.4f} nats",
            "gain over a Gaussian": f"{self.gain:.4f} +- {self.gain_error:.4f} nats (worst row {self.worst:.1f})",
            "marginals": str(self.comparison),
            "ranks": f"density off by up to {_percent(self.density_ranks.distance)} "
            f"(p = {self.density_ranks.p_value:.2g}); "
            f"worst parameter {name}, by up to {_percent(ranks.distance)} (p = {ranks.p_value:.2g})",
            "tails": f"by density, {', '.join(_tail(tail) for tail in by_density)};\n"
            f"  worst parameter {oddest.subject}, {_tail(oddest)} at the {oddest.side} end (p = {oddest.p_value:.2g})",
            "tested to": f"{sigma:.1f} sigma: {_ENOUGH_BEYOND} held-out rows are expected in the {_percent(share)} of "
            "lowest density; the prior is not tested farther out",
            **({} if np.isnan(self.loss) else {"taught density": self._of_loss}),
            "classifier": str(self.classifier),
            **({"edges": "; ".join(map(str, self.edges))} if self.edges else {}),
            "extrapolation": f"{_percent(beyond.share)} +- {_percent(beyond.error)} of the prior is beyond the chain "
            f"({_percent(beyond.expected)} expected), and {_percent(beyond.box)} of the declared box",
        }

    @property
    def _of_loss(self) -> str:
        return f"KL from the chain's log density to the prior: {self.loss:.4f} +- {self.loss_error:.4f} nats"

    def _headline(self) -> str:
        gain = f"{self.gain:.3g} +- {self.gain_error:.2g} nats better than a Gaussian"
        return f"{self.verdict}; {self.independent_rows} independent rows; {gain}"

    def __str__(self) -> str:
        found = (f"{subject}: {words}" for subject, words in self.statements.items())
        return "\n".join([f"verdict: {self.summary}", *found])


def worst_verdict(verdicts: Iterable[str], default: str) -> str:
    """Returns the worst of the verdicts; other words, such as "info", are ignored. Without verdicts, the default."""
    return max((verdict for verdict in verdicts if verdict in VERDICTS), key=VERDICTS.index, default=default)


def _tail(tail: Tail) -> str:
    return f"{_percent(tail.found)} +- {_percent(tail.error)} in the outer {_percent(tail.expected)}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.2g} %" if abs(share) < 0.0995 else f"{100.0 * share:.0f} %"


def _json_number(value: float) -> float | None:
    return float(value) if value - value == 0 else None  # inf - inf and NaN are NaN


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(value) for name, value in record.items()}


def _record(part: Any) -> dict[str, Any]:
    fields = asdict(part)
    return {name: rounded(value) if isinstance(value, float) else value for name, value in fields.items()}


def _edge(record: Mapping[str, Any]) -> StraightEdge:
    lists = {name: tuple(record[name]) for name in ("names", "coefficients")}
    return StraightEdge(**lists, bound=record["bound"], beyond=record["beyond"])


def _ranks(record: Mapping[str, Any]) -> Uniformity:
    return Uniformity(_number(record["distance"]), _number(record["p_value"]), tuple(record["counts"]))
