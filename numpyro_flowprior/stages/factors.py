"""Is a product of learned posteriors right where it lies? Each factor is judged there, in its own tail.

A learned density is only as good as its rows. The product of two posteriors lies between them, where one or both may
have few rows, and every quality report refers to the bulk. So the rows of each factor are weighted to the product. This
counts those that carry it, and gives a second answer. Flows trained on the halves of the rows show how much the answer
depends on the rows that there happen to be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.stats import chi2

from .._util.batches import in_float64
from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..diagnostics.importance import RELIABLE, DensityReport
from ..diagnostics.report import worst_verdict
from ..priors.moments import draws_of
from ..priors.protocol import ParameterPrior
from ..sampling.reweight import reweight
from ..sampling.weighted_draws import IMPORTANCE
from .agreement import Suspiciousness
from .findings import FEW_ROWS, Finding, graded
from .guards import Guards
from .halved_rows import HalvedRows, halved_rows

_ROWS = 20_000  # draws that stand for the rows of an analysis without a chain
_SHIFT = (0.3, 0.1)  # shift of a mean, in standard deviations of the product; more: fail, warn
_WIDTH = (0.2, 0.03)  # relative change of a standard deviation
_WIDTH_BY_ROWS = (0.3, 0.1)  # the same for its standard error due to the rows
_TENSION = 3.0  # sigma
_NO_MEAN = 1.0  # Pareto k
_EFFICIENT = 0.3  # least importance efficiency of a learned posterior that agrees with the exact one
_POCOMC = "a run of pocoMC alone, because draws of the posteriors, and of a flow, could not be weighted to it"
_FAR = "Shares of separated modes may be off by more than their errors. Fit all data together if there are any."
_ADVICE = (
    "The learned density is not known well enough where the product lies. Use more rows of this analysis, or rows of a "
    "tempered run, pass its exact density (densities=), or fit all data together."
)


@dataclass(frozen=True)
class Factor:
    """One of the posteriors of a combination.

    Attributes:
        name: of the analysis.
        posterior: its learned density, on the shared parameters.
        chain: its rows, with all their columns; None if only the density is known.
        exact: agreement of its exact density with the learned one, if the product has the exact one; else None.
    """

    name: str
    posterior: ParameterPrior
    chain: Chain | None
    exact: DensityReport | None = None


def reliable(rows: Chain | None) -> bool:
    """Returns whether weighted rows have a Pareto k that allows conclusions."""
    return rows is not None and bool(rows.info["psis"]["pareto_k"] <= RELIABLE)


def reweighted(factor: Factor, log_ratio: Callable[[str | None, FloatArray], FloatArray]) -> Chain | None:
    """Returns the rows of an analysis, or draws of its density, weighted to the product; None if it is zero at all.

    Args:
        factor: the analysis.
        log_ratio: the log density of the product, divided by the posterior of the analysis with a name, or by none.
    """
    names, space = factor.posterior.space.names, factor.posterior.space
    if factor.exact is not None and factor.chain is None:
        return None  # nobody asks, and its density is not called for nothing
    if factor.chain is not None:
        rows, theta = factor.chain, factor.chain.select(names).samples
        log_weights = log_ratio(factor.name, theta)
    else:
        theta = draws_of(factor.posterior, jax.random.key(1), _ROWS)
        rows = Chain(theta, space.unbounded(), rows="independent")
        log_weights = log_ratio(None, theta) - in_float64(factor.posterior.log_prob, theta)
    if not np.isfinite(log_weights).any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # judged below
        made = reweight(rows, np.where(np.isnan(log_weights), -np.inf, log_weights))
    return made.replace(log_evidence=None, log_evidence_error=None)  # of one analysis and the others' ratio


def judged(
    key: jax.Array,
    factors: Mapping[str, Factor],
    rows: Mapping[str, Chain | None],
    product: Chain,
    agreement: Suspiciousness,
    settings: Mapping[str, Any],
    *,
    splits: int,
    sampled_by_default: bool,
) -> tuple[Guards, dict[str, HalvedRows]]:
    """Returns the guards of a combination, and the product with flows of the halves of the rows of each analysis.

    Args:
        key: JAX random key.
        factors: the posteriors by name.
        rows: `reweighted` of each.
        product: draws of the product.
        agreement: the tension of the analyses.
        settings: of `fit_flow`, for the flows of half of the rows.
        splits: number of random splits of the rows of each analysis into halves; may be 0.
        sampled_by_default: whether the user left the choice of the sampler to `combine`.
    """
    findings, numbers = [of_agreement(agreement)], {"suspiciousness": agreement.log_suspiciousness}
    halved: dict[str, HalvedRows] = {}
    if product.info.get("sampler") != IMPORTANCE and sampled_by_default:
        findings.append(Finding("draws of the product", "warn", _POCOMC, _FAR))
    exact = {name: factor.exact for name, factor in factors.items() if factor.exact is not None}
    if exact:
        findings += [*(of_constant(name, report) for name, report in exact.items()), of_exact(list(exact), product)]
    keys = dict(zip(sorted(factors), jax.random.split(key, len(factors)), strict=True))
    for name, one_key in keys.items():
        factor, weighted = factors[name], rows[name]
        if factor.exact is not None:  # it does not matter how few rows there are
            continue
        findings += [of_rows(factor, weighted), of_answer(name, weighted, product)]
        if not splits or factor.chain is None:
            continue
        size = float(weighted.info["psis"]["effective_size"]) if weighted is not None and reliable(weighted) else 0.0
        given = factor.chain, factor.posterior, product, settings
        halves = halved_rows(one_key, *given, splits=splits, effective_rows=size if size >= FEW_ROWS[1] else 0.0)
        findings.append(of_halves(name, halves))
        numbers[f"{name}: shift by half of the rows"] = float(np.abs(halves.shifts).max())
        numbers[f"{name}: change of a width by half of the rows"] = float(np.abs(halves.widths).max())
        numbers[f"{name}: error of the log Bayes factor due to the rows"] = halves.error_of_log_evidence
        halved[name] = halves
    for name, weighted in rows.items():
        if weighted is not None:
            numbers |= {f"{name}: {what}": weighted.info["psis"][what] for what in ("pareto_k", "effective_size")}
    return Guards(tuple(findings), numbers), halved


def of_agreement(found: Suspiciousness) -> Finding:
    """Returns the finding on the tension of the analyses."""
    subject = "agreement of the analyses"
    if not np.isfinite(found.p_value):
        return Finding(
            subject,
            "info",
            "no test: the analyses constrain nothing together, or they and the result have different priors",
        )
    text = str(found)
    if found.sigma < _TENSION:
        return Finding(subject, "pass", text)
    return Finding(subject, "warn", text, "The data disagree. See which parameters pull before you quote the product.")


def of_constant(name: str, report: DensityReport) -> Finding:
    """Returns the finding on the constant of an exact density, which draws of the learned posterior give."""
    subject = f"exact density of {name}, compared with the learned posterior"
    text = (
        f"importance efficiency {100 * report.efficiency:.1f} %, Pareto k {report.pareto_k:.2f}, KL "
        f"{report.kl_to_prior:.3f} nats"
    )
    close = report.efficiency >= _EFFICIENT
    reliable = report.evidence_is_reliable
    verdict = "pass" if reliable and close else "warn" if reliable else "fail"
    advice = (
        "They differ more than a trained flow does. Are the parameters of the function in the order of the shared "
        "ones, and is it this posterior?"
    )
    return Finding(subject, verdict, text, "" if verdict == "pass" else advice)


def of_exact(names: list[str], product: Chain) -> Finding:
    """Returns the finding on the weights that give the product the exact densities of some analyses."""
    record = product.info["psis"]
    size, k = record["effective_size"], record["pareto_k"]
    text = f"{size:.3g} effective draws, Pareto k {k:.2f}"
    verdict = "fail" if size < FEW_ROWS[0] or k > RELIABLE else "warn" if size < FEW_ROWS[1] else "pass"
    advice = "" if verdict == "pass" else "The learned product is too far from the exact one to weight its draws."
    return Finding(f"draws weighted to the exact density of {', '.join(names)}", verdict, text, advice)


def of_rows(factor: Factor, weighted: Chain | None) -> Finding:
    """Returns the finding on the number of rows of an analysis that carry the product."""
    if factor.chain is None:
        subject = f"draws of {factor.name} that carry the product"
    else:
        subject = f"rows of {factor.name} that carry the product"
    if weighted is None:
        return Finding(subject, "fail", "none: the product is zero at all of them", _ADVICE)
    record = weighted.info["psis"]
    size = record["effective_size"]
    text = f"{size:.3g} (Pareto k {record['pareto_k']:.2f})"
    if factor.chain is None:
        text = f"{text}; not known for rows, as the chain was not given"
    k = record["pareto_k"]  # above one, not even the mean of the weights exists, nor does the number of rows
    verdict = "warn" if size < FEW_ROWS[1] or k > RELIABLE else "pass"
    verdict = "fail" if size < FEW_ROWS[0] or k > _NO_MEAN else verdict
    return Finding(subject, verdict, text, "" if verdict == "pass" else _ADVICE)


def of_answer(name: str, weighted: Chain | None, product: Chain) -> Finding:
    """Returns the finding on the answer of an analysis' own rows, compared with the draws of the product."""
    subject = f"{name} weighted by the others, compared with the product"
    if not reliable(weighted):
        return Finding(subject, "info", "not compared: too few rows carry the product")
    assert weighted is not None
    weighted = weighted.select(product.names)
    (mean, error), (mean_own, error_own) = (one.mean_and_error(one.samples) for one in (product, weighted))
    (width, width_error), (width_own, width_error_own) = (_widths(one) for one in (product, weighted))
    shift, errors = (mean_own - mean) / width, np.hypot(error, error_own) / width
    ratio = width_own / width
    change, width_errors = ratio - 1.0, ratio * np.hypot(width_error, width_error_own)
    worst, widest = (int(np.argmax(np.abs(by) - 3.0 * of)) for by, of in ((shift, errors), (change, width_errors)))
    text = (
        f"means differ by up to {abs(shift[worst]):.3f} +- {errors[worst]:.3f} standard deviations "
        f"({product.names[worst]}), widths by up to {100 * abs(change[widest]):.1f} +- "
        f"{100 * width_errors[widest]:.1f} % ({product.names[widest]})"
    )
    verdicts = {
        graded(float(abs(shift[worst]) - 3.0 * errors[worst]), _SHIFT),
        graded(float(abs(change[widest]) - 3.0 * width_errors[widest]), _WIDTH),
    }
    verdict = worst_verdict(verdicts, "pass")
    return Finding(subject, verdict, text, "" if verdict == "pass" else _ADVICE)


def _widths(chain: Chain) -> tuple[FloatArray, FloatArray]:
    """Returns the standard deviations (d,) of draws, and their relative standard errors (d,)."""
    variance, error = chain.mean_and_error((chain.samples - chain.mean()) ** 2)
    return np.sqrt(variance), 0.5 * error / variance


def of_halves(name: str, halves: HalvedRows) -> Finding:
    """Returns the finding on the error of the product due to the rows of an analysis.

    Each shift is one draw of a normal variable, and small shifts of few parameters may be luck. The root mean square of
    k shifts is therefore divided by the root of chi^2_k / k at its 5 % quantile, but by one half at least. The same
    holds for changes of widths.
    """
    subject = f"error of the product due to the rows of {name}"
    shifts, widths = (np.sqrt(np.mean(one**2, axis=0)) for one in (halves.shifts, halves.widths))
    rms, rms_width = (float(np.sqrt(np.mean(one**2))) for one in (shifts, widths))
    luck = min(2.0, 1.0 / np.sqrt(chi2(halves.shifts.size).ppf(0.05) / halves.shifts.size))
    worst = int(np.argmax(shifts))
    text = (
        f"means are uncertain by {rms:.3f} standard deviations (root mean square; {shifts[worst]:.3f} for "
        f"{halves.product.names[worst]}), widths by {100 * rms_width:.1f} %, the log density of {name} by "
        f"{halves.scatter:.2f} nats there"
    )
    verdicts = {graded(rms * luck, _SHIFT), graded(rms_width * luck, _WIDTH_BY_ROWS)}
    verdict = worst_verdict(verdicts, "pass")
    return Finding(subject, verdict, text, "" if verdict == "pass" else _ADVICE)
