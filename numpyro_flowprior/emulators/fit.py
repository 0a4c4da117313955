"""Fits one Gaussian process per principal component, by maximising its marginal likelihood over the kernel parameters.

Each start of each component is a separate task; the tasks run in parallel threads. Prediction is in `gaussian_process`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np

from .._util.checks import FloatArray
from .._util.messages import FlowPriorWarning
from .._util.progress import progress_bar
from .gaussian_process import Components
from .kernel_trees import KernelRange, nodes_of, stack_kernels
from .kernels import Kernel
from .marginal_likelihood import GPData, Maximum, best_start, cholesky, inverse_of, maximise, random_start

_THREADS = 4  # at most, because LAPACK starts its own threads as well
_AT_END = 1e-3  # distance that still counts as being at the end of a range, as a fraction of its logarithmic width


@dataclass(frozen=True)
class ComponentReport:
    """How the fit of one component went.

    Attributes:
        explained: fraction of the total variance in this component, or None if unknown.
        log_likelihood: log marginal likelihood of its scores.
        kernel: the fitted kernel as text.
        notes: remarks on the optimisation. A parameter at the end of its range is normal for an input without effect.
    """

    explained: float | None
    log_likelihood: float
    kernel: str
    notes: tuple[str, ...]


def fit_components(
    design: FloatArray,
    scores: FloatArray,
    noise: FloatArray,
    explained: FloatArray,
    search: KernelRange,
    inputs: Sequence[str],
    *,
    restarts: int,
    seed: int,
    progress: bool,
) -> tuple[Components, tuple[ComponentReport, ...]]:
    """Returns one Gaussian process per component, and how each fit went.

    Args:
        design: (n, d) scaled inputs.
        scores: (n, p) targets with unit variance.
        noise: (n, p) known noise variances of the scores.
        explained: (p,) fractions of the total variance, for the report.
        search: kernels to start from, and ranges of their parameters.
        inputs: (d,) names of the inputs, for the report.
        restarts: further starting points of the optimiser, drawn from the ranges.
        seed: seed of these draws.
        progress: whether to show a progress bar.

    Raises:
        ValueError: the covariance matrix of a component is not positive definite.
    """
    data = [GPData(design, scores[:, k], noise[:, k]) for k in range(scores.shape[1])]
    best = [_highest(climbs) for climbs in _climb_all(data, search, restarts, seed, progress)]
    inverses = np.stack([_inverse_factor(k, found.kernel, data[k]) for k, found in enumerate(best)])
    solved = np.einsum("kji,kj->ki", inverses, np.einsum("kij,jk->ki", inverses, scores))
    components = Components(stack_kernels([found.kernel for found in best]), design, solved, inverses)
    reports = tuple(
        ComponentReport(float(share), found.log_likelihood, str(found.kernel), _notes(found, search, inputs))
        for share, found in zip(explained, best, strict=True)
    )
    return components, reports


def _climb_all(
    data: list[GPData], search: KernelRange, restarts: int, seed: int, progress: bool
) -> list[list[Maximum]]:
    """Returns the maxima of each component, one per start: first the best start of `search`, then random starts."""
    tasks = list(product(range(len(data)), range(1 + restarts)))

    def climb(task: tuple[int, int]) -> Maximum:
        k, start = task
        if start == 0:
            return maximise(search, best_start(search, data[k]), data[k])
        return maximise(search, random_start(search, np.random.default_rng([seed, k, start])), data[k])

    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        found = list(
            progress_bar(pool.map(climb, tasks), total=len(tasks), desc="fitting", unit="GP", disable=not progress)
        )
    finally:
        pool.shutdown(cancel_futures=True)
    return [found[k * (1 + restarts) : (k + 1) * (1 + restarts)] for k in range(len(data))]


def _inverse_factor(k: int, kernel: Kernel, data: GPData) -> FloatArray:
    factor = cholesky(kernel, data)
    if factor is None:
        raise ValueError(
            f"component {k}: its covariance matrix is not positive definite. Add a WhiteKernel to the kernel "
            "(repeated design points need one), or pass Y_error."
        )
    return inverse_of(factor)


def _highest(climbs: list[Maximum]) -> Maximum:
    return max(climbs, key=lambda found: found.log_likelihood)


def _notes(found: Maximum, search: KernelRange, inputs: Sequence[str]) -> tuple[str, ...]:
    notes = [f"failed to converge: {found.failure}"] if found.failure else []
    for node, lower, upper in zip(*map(nodes_of, (found.kernel, search.lower, search.upper)), strict=True):
        for field in fields(node):
            if not isinstance(getattr(node, field.name), Kernel):
                ends = np.asarray(getattr(lower, field.name)), np.asarray(getattr(upper, field.name))
                notes += _at_ends(f"{type(node).__name__}.{field.name}", getattr(node, field.name), *ends, inputs)
    return tuple(notes)


def _at_ends(name: str, value: Any, lower: FloatArray, upper: FloatArray, inputs: Sequence[str]) -> list[str]:
    notes = []
    for index in np.ndindex(np.shape(value)):
        where = f"{name} of {inputs[index[0]]!r}" if index else name
        width = np.log(upper[index] / lower[index])
        for end, word in ((lower[index], "lower"), (upper[index], "upper")):
            if width > 0 and abs(np.log(value[index] / end)) < _AT_END * width:
                notes.append(f"{where} is at the {word} end of its range, {end:g}")
    return notes


def warn_if_unfinished(reports: tuple[ComponentReport, ...]) -> None:
    """Warns once if the optimiser stopped early for some components, but not about parameters at the end of a range."""
    unfinished = [k for k, report in enumerate(reports) if any("failed to converge" in note for note in report.notes)]
    if unfinished:
        warnings.warn(
            f"GPEmulator.fit: the optimiser did not converge for component {', '.join(map(str, unfinished))}; see "
            "emulator.report[k].notes. Try more restarts, a larger design or another kernel.",
            FlowPriorWarning,
            stacklevel=3,
        )
