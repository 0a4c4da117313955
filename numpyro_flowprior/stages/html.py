"""write_report: a staged analysis as one self-contained HTML file, for a collaborator or a referee.

The content of the page is here. How text becomes HTML is in markup.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.display import to_digits_of
from .._util.keys import seed_from_key
from .._util.storage import write_atomically
from .._util.version import __version__
from ..chains.chain import Chain
from ..diagnostics.report import QualityReport
from ..flows.layout import coupling_masks
from ..plots.corner import plot_corner
from ..plots.quality import plot_quality
from ..priors.flow_prior import FlowPrior
from ..priors.numpy_prior import NumpyPrior
from .analysis import (
    StagedAnalysis,
    StageResult,
    evidence_in_words,
    means_in_words,
    number_of_draws,
    standard_deviations,
    total_evidence_in_words,
)
from .guards import Guards
from .markup import Markup, badge, element, page, pairs, picture, side_by_side, table
from .pictures import plot_guards, plot_stages
from .tension import mean_shift

_MOST, _MOST_INTERVALS = 8, 32  # parameters of a corner plot, and of intervals, that stay legible on a page
_DRAWS = 20_000  # of a learned flow, for its picture
_LISTED = 8  # values of a list that are shown
_QUANTILES = (0.16, 0.5, 0.84)
_CONTOURS = (
    "Contours enclose 39, 86 and 99 % of the draws: 1, 2 and 3 sigma of a normal distribution in two dimensions."
)
_GLOSSARY = {
    "Pass": "No check found a difference that is large enough to matter and more than chance explains. This does not "
    "prove that the analysis is correct.",
    "Warn": "A check found something that should be understood before the result is used, or it had too few draws for "
    "a conclusion.",
    "Fail": "The sampler did not converge, or a difference is too large for the result to be used.",
    "Info": "Reported, but not judged. The text gives the reason.",
    "Verdict of a stage": "The worst verdict of its sampler, its guards and the flow learnt from its posterior. The "
    "analysis has the verdict of its worst stage.",
    "Guards": "Each stage from the second on uses a prior that was learnt from draws. Such a prior is accurate where "
    "there were draws. The guards check it in the region of the stage's posterior.",
    "Learned flow": "A normalizing flow trained on the stage's posterior. It is the prior of the next stage. Its "
    "report is based on draws that were not used in training.",
    "Shift": "Mean of this stage minus mean of the previous stage, in standard deviations of the previous stage.",
    "Log evidence": "Natural logarithm of the marginal likelihood of the stage's data, given the data of the previous "
    "stages. The log evidence of these stages is the sum, under the first prior. Where the exact prior of a "
    "stage is known, the change from the learned prior to it is added. The guards give this change.",
    "Effective size": "The number of independent draws with the same information as these draws, which have weights or "
    "are correlated.",
}


def write_report(
    analysis: StagedAnalysis,
    path: str | os.PathLike[str],
    *,
    title: str = "Staged analysis",
    date: str | None = None,
    key: jax.Array | None = None,
) -> Path:
    """Writes verdicts, parameters, guards, reports and pictures of all stages into an HTML file; returns its path.

    The file loads nothing from elsewhere. A click on the head of a column sorts a table; a click on a picture enlarges
    it. Without matplotlib the page has no pictures, and says so.

    Args:
        analysis: what `run_stages` or `load_stages` returned.
        path: where to write; an existing file is replaced atomically.
        title: heading of the page.
        date: date of the analysis, as text; None if it is not known.
        key: JAX random key for draws from the learned flows; None for key 0.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    text = report_page(jax.random.key(0) if key is None else key, analysis, title=title, date=date)
    write_atomically(path, text.encode())
    return path


def report_page(key: jax.Array, analysis: StagedAnalysis, *, title: str, date: str | None = None) -> str:
    """Returns the report as an HTML document."""
    stages = analysis.stages
    sections = [
        _section(jax.random.fold_in(key, number), number, stage, before)
        for number, (before, stage) in enumerate(zip((None, *stages[:-1]), stages, strict=True), start=1)
    ]
    return page(title, _overview(analysis, title, date), *sections, _settings(stages), _glossary())


def _overview(analysis: StagedAnalysis, title: str, date: str | None) -> Markup:
    facts = {
        "Verdict": badge(analysis.verdict),
        "Stages": ", ".join(analysis.chains),
        "Log evidence of these stages": _typeset(total_evidence_in_words(analysis)),
        "Date": date or "not recorded",
        "Report by": f"numpyro-flowprior {__version__}",
    }
    columns = ["Stage", "Verdict", "Sampler converged", "Guards", "Learned flow", "Draws", "Log evidence"]
    means = {name: _all_typeset(means_in_words(chain)) for name, chain in analysis.chains.items()}
    return element(
        "header",
        element("h1", title),
        table(facts.items()),
        table((_summary(number, stage) for number, stage in enumerate(analysis.stages, start=1)), head=columns),
        element("h2", "Posteriors of all stages"),
        side_by_side(means, "Mean \N{PLUS-MINUS SIGN} standard deviation", class_="numbers"),
        *([_intervals(analysis)] if len(analysis.stages) > 1 else []),
        _shared_corner(analysis.chains),
    )


def _intervals(analysis: StagedAnalysis) -> Markup:
    names = list(dict.fromkeys(name for chain in analysis.chains.values() for name in chain.names))
    caption = (
        "Median, 68 % and 95 % intervals of each parameter. At the right: the width of the 68 % interval relative to "
        "the first stage that has the parameter."
    )
    shown, left_out = _first(names, _MOST_INTERVALS, "plot_stages")
    words = f"intervals of {', '.join(analysis.chains)}"
    return picture(lambda: plot_stages(analysis, names=shown), words, f"{caption}{left_out}")


def _first(names: Sequence[str], most: int, plot: str) -> tuple[Sequence[str], str]:
    """Returns the first parameters, as many as stay legible, and a sentence on the others, if there are any."""
    if len(names) <= most:
        return names, ""
    return names[:most], f" The first {most} of {len(names)} parameters: {plot}(..., names=[...]) draws others."


def _summary(number: int, stage: StageResult) -> list[str]:
    return [
        element("a", f"{number}. {stage.name}", href=f"#stage-{number}"),
        badge(stage.verdict),
        "not recorded" if stage.converged is None else _words(stage.converged),
        _badge_of(stage.guards),
        _badge_of(stage.report),
        _draws(stage.chain),
        _evidence(stage.chain),
    ]


def _badge_of(part: Guards | QualityReport | None) -> str:
    return "none" if part is None else badge(part.verdict)


def _draws(chain: Chain) -> str:
    return f"{number_of_draws(chain)} (effective size {chain.effective_size:.0f})"


def _evidence(chain: Chain) -> str:
    words = evidence_in_words(chain.log_evidence, chain.log_evidence_error)
    return _typeset(words) or "unknown: the sampler gives none"


def _typeset(text: str) -> str:
    return text.replace("+-", "\N{PLUS-MINUS SIGN}")


def _all_typeset(record: Mapping[str, str]) -> dict[str, str]:
    return {name: _typeset(text) for name, text in record.items()}


def _shared_corner(chains: Mapping[str, Chain]) -> Markup:
    first, *others = chains.values()
    names = [name for name in first.names if all(name in chain.names for chain in others)]
    if not names:
        return element("p", "No picture: the stages have no parameter in common.", class_="note")
    return _corner(chains, names, "Posteriors of all stages, over the parameters that they share.")


def _corner(chains: Mapping[str, Chain], names: Sequence[str], caption: str) -> Markup:
    shown, left_out = _first(names, _MOST, "plot_corner")
    words = f"corner plot of {', '.join(chains)}"
    return picture(lambda: plot_corner(chains, names=shown), words, f"{caption}{left_out} {_CONTOURS}")


def _section(key: jax.Array, number: int, stage: StageResult, before: StageResult | None) -> Markup:
    return element(
        "section",
        element("h2", f"Stage {number}: {stage.name} ", badge(stage.verdict), id=f"stage-{number}"),
        element("h3", "Parameters"),
        _parameters(stage.chain, None if before is None else before.chain),
        element("h3", "Sampler"),
        pairs(_sampler(stage.chain)),
        *_guards(stage.guards, first=before is None),
        *_learned(key, stage),
    )


def _parameters(chain: Chain, before: Chain | None) -> Markup:
    shifts = {} if before is None else _shifts(before, chain)
    head = ["Parameter", "Unit", "Mean", "Standard deviation", *(f"{100 * q:.0f} %" for q in _QUANTILES)]
    sigmas = standard_deviations(chain)
    columns = [sigmas, chain.mean(), sigmas, *chain.quantile(_QUANTILES)]
    rows = [
        [name, unit, *to_digits_of(sigma, values, digits=3), *([shifts.get(name, "new")] if before else [])]
        for name, unit, sigma, *values in zip(chain.names, chain.space.units, *columns, strict=True)
    ]
    return table(rows, head=[*head, *(["Shift [sigma]"] if before else [])], class_="numbers")


def _shifts(before: Chain, after: Chain) -> dict[str, str]:
    names = [name for name in before.names if name in after.names]
    if not names:
        return {}
    with np.errstate(invalid="ignore", divide="ignore"):  # where the earlier one takes a single value
        shifts = mean_shift(before.select(names), after.select(names))
    return {name: f"{shift:+.2f}" if np.isfinite(shift) else "-" for name, shift in zip(names, shifts, strict=True)}


def _sampler(chain: Chain) -> dict[str, str]:
    said = {name: value for name, value in chain.info.items() if name != "versions"}
    return {"draws": _draws(chain), "log evidence": _evidence(chain), **_flat(said)}


def _flat(record: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Returns the entries of a record, and of the records in it, in words."""
    entries: dict[str, str] = {}
    for name, value in record.items():
        subject = above + str(name).replace("_", " ")
        entries |= _flat(value, f"{subject}: ") if isinstance(value, Mapping) else {subject: _words(value)}
    return entries


def _words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float | np.floating):
        return "unknown" if np.isnan(value) else f"{value:.5g}".replace("inf", "infinite")
    if isinstance(value, list | tuple | np.ndarray):
        few = len(value) <= _LISTED
        items = [_words(item) for item in (value if few else [*value[: _LISTED - 1], value[-1]])]
        return ", ".join(items if few else [*items[:-1], "...", f"{items[-1]} ({len(value)} values)"])
    return str(value)


def _guards(guards: Guards | None, *, first: bool) -> list[Markup]:
    if guards is None:
        why = "None: the prior of the first stage was not learnt." if first else "None for this posterior."
        return [element("h3", "Guards"), element("p", why)]
    rows = [
        [finding.subject, badge(finding.verdict), _typeset(finding.text), finding.advice] for finding in guards.findings
    ]
    corrected = "The posterior was reweighted to the exact prior, which removes the error of the learned prior."
    return [
        element("h3", "Guards ", badge(guards.verdict)),
        *([element("p", corrected)] if guards.corrected else []),
        picture(
            lambda: plot_guards(guards),
            f"guards: {guards.verdict}",
            "The learned prior where the posterior is. A panel without its input says so; the table has all guards.",
        ),
        table(rows, head=["Question", "Verdict", "Answer", "Advice"]),
    ]


def _learned(key: jax.Array, stage: StageResult) -> list[Markup]:
    report, prior = stage.report, stage.learned
    head = "Flow learnt from this posterior "
    if report is None:
        why = "It has no report." if prior else "None: the run ended before it was trained."
        parts = [element("h3", head), element("p", why)]
    else:
        parts = [element("h3", head, badge(report.verdict)), *_quality(report, prior)]
    return parts if prior is None else [*parts, _chain_and_flow(key, stage.chain, prior)]


def _quality(report: QualityReport, prior: FlowPrior | None) -> list[Markup]:
    reasons = [element("li", _typeset(reason)) for reason in report.reasons]
    labels = None if prior is None else prior.space.labels
    return [
        element("ul", *reasons) if reasons else element("p", "No relevant difference was found."),
        table(_all_typeset(report.statements).items()),
        picture(
            lambda: plot_quality(report, labels=labels),
            f"quality report: {report.verdict}",
            "The flow, tested on draws that were not used in training.",
        ),
    ]


def _chain_and_flow(key: jax.Array, chain: Chain, prior: FlowPrior) -> Markup:
    chains = {"chain": chain.select(prior.names), "learned flow": _flow_draws(key, prior)}
    return _corner(chains, prior.names, f"The stage's posterior and {_DRAWS} draws from the flow learnt from it.")


def _flow_draws(key: jax.Array, prior: FlowPrior) -> Chain:
    """Returns draws from a flow, by NumPy, because JAX would compile first."""
    masks = coupling_masks(prior.config, prior.space.dim)
    flow = NumpyPrior(prior.config, prior.space, masks, prior.params)
    return Chain(flow.sample(np.random.default_rng(seed_from_key(key)), _DRAWS), prior.space)


def _settings(stages: Sequence[StageResult]) -> Markup:
    learned = {stage.name: stage.learned for stage in stages}
    parts = {
        "Settings of the run": {stage.name: _flat(stage.settings or {}) for stage in stages},
        "Flow": {name: {} if flow is None else _flat(flow.config.to_json()) for name, flow in learned.items()},
        "Training": {
            name: {} if flow is None else _flat(flow.info.get("training", {})) for name, flow in learned.items()
        },
        "Versions": {stage.name: _versions(stage) for stage in stages},
    }
    tables = [side_by_side(part, name) for name, part in parts.items() if any(part.values())]
    return element("section", element("h2", "Settings and versions"), *tables)


def _versions(stage: StageResult) -> dict[str, str]:
    """Returns the versions of the packages used for the stage and its flow; two versions where they differ."""
    infos = [stage.chain.info, {} if stage.learned is None else stage.learned.info]
    records = [_flat(info.get("versions", {})) for info in infos]
    names = dict.fromkeys(name for record in records for name in record)
    return {name: ", ".join(dict.fromkeys(record[name] for record in records if name in record)) for name in names}


def _glossary() -> Markup:
    return element("section", element("h2", "What the words mean"), table(_GLOSSARY.items()))
