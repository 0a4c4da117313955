"""StagedAnalysis: the results of a sequence of stages, with a summary as text and an export to ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._util.checks import shorten
from .._util.display import Displayed, with_error
from ..chains.chain import Chain
from ..diagnostics.importance import RELIABLE
from ..diagnostics.report import QualityReport, worst_verdict
from ..priors.flow_prior import FlowPrior
from .guards import Guards
from .staged_arviz import staged_arviz


@dataclass(frozen=True)
class StageResult:
    """The result of one stage.

    Attributes:
        name: name of the stage.
        chain: its posterior, as the sampler returned it, or reweighted to the exact prior (`info["psis"]`).
        learned: the flow trained on the chain, over the parameters that the stage hands on; None before it is trained.
        report: quality of the flow on held-out rows.
        guards: checks of the prior of this stage in the region of its posterior; None in the first stage.
        settings: the settings that `run_stages` used; None if they are not known.
        taught: the prior under which the chain was sampled if it was trained again for this stage (`StageOptions`:
            max_loss); None if it is the flow of the stage before.
    """

    name: str
    chain: Chain
    learned: FlowPrior | None = None
    report: QualityReport | None = None
    guards: Guards | None = None
    settings: Mapping[str, Any] | None = None
    taught: FlowPrior | None = None

    @property
    def converged(self) -> bool | None:
        """Whether the sampler reports convergence; None if it reports nothing."""
        return self.chain.info.get("converged")

    @property
    def log_evidence_change(self) -> tuple[float, float] | None:
        """What the exact prior adds to the log evidence of the chain, and its standard error.

        None if the prior is exact, if the exact prior is not known, or if the chain was reweighted to it.
        """
        if self.guards is None or self.guards.corrected:
            return None
        found: Mapping[str, Any] = self.guards.numbers.get("prior_error") or {}
        if found.get("log_evidence_change") is None:
            return None
        return found["log_evidence_change"], found["log_evidence_change_error"]

    @property
    def has_exact_evidence(self) -> bool:
        """Whether the log evidence of a later stage is known under its exact prior, by its change or by reweighting."""
        reweighted = self.guards is not None and self.guards.corrected
        k = self.chain.info.get("psis", {}).get("pareto_k", np.inf)
        return self.log_evidence_change is not None or (reweighted and k <= RELIABLE)

    @property
    def verdict(self) -> str:
        """The worst verdict of the sampler, the report and the guards: "pass", "warn" or "fail"."""
        found = ["fail" if self.converged is False else "pass"]
        found += [part.verdict for part in (self.report, self.guards) if part is not None]
        return worst_verdict(found, "pass")


@dataclass(frozen=True, repr=False)
class StagedAnalysis(Displayed):
    """The results of the stages that are done, in order."""

    stages: tuple[StageResult, ...]

    def __getitem__(self, name: str) -> StageResult:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"no stage {name!r}; the stages are {shorten([stage.name for stage in self.stages], 20)}")

    @property
    def chains(self) -> dict[str, Chain]:
        """The posterior chains, by stage."""
        return {stage.name: stage.chain for stage in self.stages}

    @property
    def priors(self) -> dict[str, FlowPrior]:
        """The flows trained on the posteriors, by stage."""
        return {stage.name: stage.learned for stage in self.stages if stage.learned is not None}

    @property
    def reports(self) -> dict[str, QualityReport]:
        """The quality reports of the flows on held-out rows, by stage."""
        return {stage.name: stage.report for stage in self.stages if stage.report is not None}

    @property
    def guards(self) -> dict[str, Guards]:
        """The results of the guards, by stage, from the second stage on."""
        return {stage.name: stage.guards for stage in self.stages if stage.guards is not None}

    @property
    def posterior(self) -> Chain:
        """The chain of the last stage: the posterior given all data."""
        return self.stages[-1].chain

    @property
    def log_evidence(self) -> float | None:
        """The log evidence of the data of these stages, comparable with that of a joint fit; None if one has none.

        It is the sum over the stages. Where the exact prior of a stage is known, the change from its learned prior to
        the exact one is included. The guards give that change.
        """
        values = [chain.log_evidence for chain in self.chains.values()]
        if None in values:
            return None
        changes = [stage.log_evidence_change[0] for stage in self.stages if stage.log_evidence_change is not None]
        return float(sum(value for value in values if value is not None) + sum(changes))

    @property
    def log_evidence_error(self) -> float | None:
        """Standard error of `log_evidence`; None if it is not known.

        The errors before the last stage whose exact prior is known cancel. Those of learned priors after it are left
        out.
        """
        errors: list[float | None] = []
        for stage in self.stages[self._last_exact :]:
            errors += [stage.chain.log_evidence_error, (stage.log_evidence_change or (0.0, 0.0))[1]]
        return None if None in errors else float(np.sqrt(np.sum(np.square(np.asarray(errors, np.float64)))))

    @property
    def _last_exact(self) -> int:
        """The number of the last stage with the log evidence under its exact prior; 0 is the first stage.

        The exact prior contains the log evidences of the stages before, divided out as they were found. So they cancel
        in the sum, with what they lack.
        """
        return max((number for number, stage in enumerate(self.stages) if stage.has_exact_evidence), default=0)

    @property
    def verdict(self) -> str:
        """The worst verdict of any stage: "pass", "warn" or "fail"."""
        return worst_verdict((stage.verdict for stage in self.stages), "pass")

    def to_arviz(self) -> Any:
        """Returns one InferenceData (DataTree with ArviZ 1.x) of all stages.

        The last stage has the groups of `to_arviz`. The names of groups of an earlier stage end in its name, as in
        `posterior_<name>` and `sample_stats_<name>`.

        Raises:
            ImportError: ArviZ is not installed.
        """
        return staged_arviz(self.chains)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready summary."""
        return {
            "verdict": self.verdict,
            "log_evidence": self.log_evidence,
            "log_evidence_error": self.log_evidence_error,
            "stages": [
                {
                    "name": stage.name,
                    "verdict": stage.verdict,
                    "parameters": list(stage.chain.names),
                    "mean": _by_name(stage.chain, stage.chain.mean()),
                    "standard_deviation": _by_name(stage.chain, standard_deviations(stage.chain)),
                    "effective_size": stage.chain.effective_size,
                    "log_evidence": stage.chain.log_evidence,
                    "log_evidence_error": stage.chain.log_evidence_error,
                    "log_evidence_change": stage.log_evidence_change and stage.log_evidence_change[0],
                    "converged": stage.converged,
                    "report": None if stage.report is None else stage.report.to_json(),
                    "guards": None if stage.guards is None else stage.guards.to_json(),
                }
                for stage in self.stages
            ],
        }

    def _headline(self) -> str:
        return f"{self.verdict}; {'; '.join(f'{stage.name}: {stage.verdict}' for stage in self.stages)}"

    def __str__(self) -> str:
        count = len(self.stages)
        head = f"staged analysis of {count} stage{'s' * (count != 1)}: {self.verdict.upper()}"
        lines = [head, *self._table(), ""]
        for stage in self.stages:
            lines += _words(stage)
        lines.append(f"log evidence of the data of these stages: {total_evidence_in_words(self)}")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        names = list(dict.fromkeys(name for stage in self.stages for name in stage.chain.names))
        width = max(9, *(len(name) for name in names))
        columns = [_column(stage, names) for stage in self.stages]
        widths = [max(map(len, column)) for column in columns]
        head = ["stage", *names]
        return [
            "  ".join([row.ljust(width), *(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))])
            for row, *cells in zip(head, *columns, strict=True)
        ]


def _column(stage: StageResult, names: list[str]) -> list[str]:
    cells = means_in_words(stage.chain)
    return [stage.name, *(cells.get(name, "-") for name in names)]


def means_in_words(chain: Chain) -> dict[str, str]:
    """Returns the mean and standard deviation of each parameter as text, by name."""
    values = zip(chain.names, chain.mean(), standard_deviations(chain), strict=True)
    return {name: with_error(mean, sigma) for name, mean, sigma in values}


def _words(stage: StageResult) -> list[str]:
    chain = stage.chain
    facts = [f"{number_of_draws(chain)} draws, effective size {chain.effective_size:.0f}"]
    evidence = evidence_in_words(chain.log_evidence, chain.log_evidence_error)
    if evidence:
        facts.append(f"log evidence {evidence}")
    lines = [f"{stage.name}: {stage.verdict.upper()}; {', '.join(facts)}"]
    if stage.converged is False:
        lines.append("  sampler: not converged")
    if stage.guards is not None:
        lines += [f"  {line}" for line in str(stage.guards).splitlines()]
    if stage.report is not None:
        lines.append(f"  flow trained on this posterior: {stage.report.summary.splitlines()[0]}")
    return lines


def number_of_draws(chain: Chain) -> int:
    """Returns the number of rows with a weight. Others, as particles of higher temperatures, only teach flows."""
    return int(np.count_nonzero(chain.probabilities))


def evidence_in_words(value: float | None, error: float | None) -> str:
    """Returns a number and its standard error as text, each if it is known and finite; empty without a number."""
    if value is None or not np.isfinite(value):
        return ""
    return f"{value:.3f}" if error is None or not np.isfinite(error) else f"{value:.3f} +- {error:.3f}"


def total_evidence_in_words(analysis: StagedAnalysis) -> str:
    """Returns the log evidence of all stages as text, and which learned priors it is not corrected for."""
    total = evidence_in_words(analysis.log_evidence, analysis.log_evidence_error)
    if not total:
        return "unknown: a sampler returned no evidence"
    left = [stage.name for stage in analysis.stages[analysis._last_exact + 1 :]]
    return f"{total} (under the learned prior in {shorten(left)})" if left else total


def standard_deviations(chain: Chain) -> np.ndarray:
    """Returns the standard deviation (d,) of each parameter."""
    return np.sqrt(np.diagonal(chain.covariance()))


def _by_name(chain: Chain, values: np.ndarray) -> Mapping[str, float]:
    return dict(zip(chain.names, values.tolist(), strict=True))
