"""QualityReport: what is known of a prior's faithfulness, its record in a file and its words on a screen."""

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

VERDICTS = ("pass", "warn", "fail")  # from good to bad
FALSE_ALARMS = 1e-3  # reports with a warning among those of right priors, at most, when rows are not few
_LATER = ("loss", "loss_error")  # that records of earlier versions lack
_ENOUGH_BEYOND = 10  # independent held-out rows, without which a tail is not tested
_EXACT = ("effective_size", "log_density", "log_density_error", "gain", "gain_error", "worst")


@dataclass(frozen=True, repr=False)
class QualityReport(Displayed):
    """A prior judged on held-out draws.

    Attributes:
        rows: number of held-out rows.
        effective_size: of the held-out rows.
        independent_rows: those of them, thinned or resampled, that the tests take for independent and equally weighted.
        undefined: held-out rows at which the density is zero, infinite or NaN.
        log_density: weighted mean of log q over them, nats, in the parameters' own units.
        log_density_error: its standard error.
        gain: mean of log q minus log density of the Gaussian with the training chain's moments in the same
            unconstrained space, nats; positive if the flow is better than that Gaussian.
        gain_error: its standard error (paired).
        worst: lowest log q - log Gaussian of any held-out row that counts (weight above a thousandth of the mean: a
            tempered particle of next to no weight may rightly be far below a Gaussian), nats.
        comparison: the independent rows against draws from the prior, about four times as many. The histograms divide
            each parameter into parts of equal prior mass, few enough that a pair's cells hold ten rows on average.
        density_ranks: ranks of log q at held-out rows among draws of the prior: the coverage of its highest-density
            regions.
        ranks: {name: the same for each parameter's value} (probability integral transform).
        tails: held-out rows in the prior's regions of lowest density and in both tails of each parameter.
        classifier: whether a classifier tells held-out rows from the prior's draws.
        extrapolation: how much of the prior, and of the declared box, is where the chain has no rows.
        loss: KL divergence from the chain's own log density to the prior's, nats, at its held-out draws
            (`posterior_divergence`); NaN where the chain has none.
        loss_error: its standard error.
        repeated: {name: distinct values} of parameters whose draws repeat far more than the numbers of float64 near
            them make them.
        edges: straight edges of the rows, those that training saw, beyond which a part of the prior is. Of fewer than
            2,000 rows too little is known to say.
        verdict: "pass", "warn" or "fail".
        reasons: what led to the verdict, in words.
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
        """How far out the prior was tested: the share of its mass beyond, and that in standard deviations.

        Beyond lie ten of the independent rows, in the regions of lowest density; the standard deviations are those of
        a normal variable that is farther from its mean, on either side, as often.
        """
        share = min(_ENOUGH_BEYOND / max(self.independent_rows, 1), 1.0)
        return share, float(norm.isf(share / 2.0))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record; NaN and infinity, which JSON lacks, become null."""
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
        """Returns the report that `to_json` described; numbers that were rounded there stay so.

        Raises:
            ValueError: the record lacks a part, such as one written by an earlier version of the package.
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
                f"quality report: the record lacks a part, or has one too many ({error}); it may come from another "
                "version of the package. Make the report anew with quality_report."
            ) from error

    @property
    def summary(self) -> str:
        """The verdict in a sentence or a few."""
        if self.reasons:
            return f"{self.verdict.upper()}\n" + "\n".join(f"  - {reason}" for reason in self.reasons)
        kl = self.comparison.kl
        return (
            f"PASS: no difference that matters in {len(kl.one_d)} parameters, {len(kl.two_d)} pairs, "
            f"{len(self.tails)} tails, ranks, classifier and reach,\n  on {self.independent_rows} independent rows "
            f"(of right priors, at most {_percent(FALSE_ALARMS)} are warned of)"
        )

    @property
    def statements(self) -> dict[str, str]:
        """The numbers in words, by what they are of."""
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
            "ranks": f"density off by {_percent(self.density_ranks.distance)} (p = {self.density_ranks.p_value:.2g}); "
            f"oddest parameter {name}, by {_percent(ranks.distance)} (p = {ranks.p_value:.2g})",
            "tails": f"{', '.join(_tail(tail) for tail in by_density)} of lowest density;\n"
            f"  oddest parameter {oddest.subject}, {_tail(oddest)} at its {oddest.side} end (p = {oddest.p_value:.2g})",
            "tested to": f"{sigma:.1f} sigma: {_ENOUGH_BEYOND} held-out rows are in the {_percent(share)} of lowest "
            "density; farther out nothing is tested",
            **({} if np.isnan(self.loss) else {"taught density": self._of_loss}),
            "classifier": str(self.classifier),
            **({"edges": "; ".join(map(str, self.edges))} if self.edges else {}),
            "extrapolation": f"{_percent(beyond.share)} +- {_percent(beyond.error)} of the prior is beyond the chain "
            f"({_percent(beyond.expected)} expected), and {_percent(beyond.box)} of the box",
        }

    @property
    def _of_loss(self) -> str:
        return f"KL from the chain's log density to the prior {self.loss:.4f} +- {self.loss_error:.4f} nats"

    def _headline(self) -> str:
        gain = f"{self.gain:.3g} +- {self.gain_error:.2g} nats better than a Gaussian"
        return f"{self.verdict}; {self.independent_rows} independent rows; {gain}"

    def __str__(self) -> str:
        found = (f"{subject}: {words}" for subject, words in self.statements.items())
        return "\n".join([f"verdict: {self.summary}", *found])


def worst_verdict(verdicts: Iterable[str], default: str) -> str:
    """Returns the worst of verdicts; what is none ("info") does not count."""
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
