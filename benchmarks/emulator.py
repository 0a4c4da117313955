"""What an emulator costs and how good it is: likelihoods per second, gradients, fits, against scikit-learn.

The likelihood of two heavy-ion systems: our compiled one against scikit-learn's predictions with a Cholesky
factorisation per point, in the same process; all in float64, and equal. As published codes do it (J. E. Bernhard's and
its successors), the prediction is asked for the covariance between the points, of which the diagonal is used; the
leanest way asks for deviations. Beside the rates
stands what part of the machine's matrix products they are: the 2 p n^2 operations of one point's variances over p
components and n runs, as a dense product has them, in relation to the measured rate of float64 products.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.linalg import cho_solve, cholesky
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from tables import origin, publish, seconds, table

import numpyro_flowprior as fp

SYSTEMS = {"Au+Au 200 GeV": "hic_auau200.npz", "Pb+Pb 2.76 TeV": "hic_pbpb2760.npz"}
BATCHES = (1, 64, 256, 1024, 8192)
COMPONENTS = 10
# The ranges and the start of our default, "rbf"
KERNEL = (ConstantKernel(1.0, (1e-2, 1e3)), (5e-2, 1e2), WhiteKernel(1e-2, (1e-6, 1.0)))
SPEED = (
    "batch|ours [1/s]|of the product rate|as published [1/s] (ratio)|leanest scikit-learn [1/s] (ratio)|"
    "gradient / value|compiled in [s]|gradient [s]"
)
FITS = (
    "system|runs x outputs|ours, first / again [s]|scikit-learn [s]|ratio|sum of log marginal likelihoods|theirs|"
    "our default start [s]|its sum"
)
QUALITY = "system|verdict|R^2 median|lowest|68 %|95 %|the same without rows beyond 4 sigma|left out, 95 %"


median_time = partial(seconds, calls=3)


class System(NamedTuple):
    """A system's files, our default emulator, and scikit-learn's own on the same components."""

    data: dict[str, np.ndarray]
    space: fp.ParameterSpace
    emulator: fp.GPEmulator
    models: list[GaussianProcessRegressor]
    outputs: Any
    truncation: np.ndarray
    fit_row: tuple[Any, ...]


def once(call: Callable[[], Any]) -> tuple[Any, float]:
    """Returns a call's value and time."""
    start = time.perf_counter()
    value = jax.block_until_ready(call())
    return value, time.perf_counter() - start


def product_rate() -> float:
    """Returns the float64 operations per second of matrix products, NumPy's or XLA's, whichever is faster."""
    a = np.random.default_rng(0).normal(size=(1536, 1536))
    on_device = jax.numpy.asarray(a)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(on_device))
    return 2 * 1536**3 / min(median_time(lambda: a @ a), median_time(lambda: product(on_device)))


def read_system(path: Path, label: str) -> System:
    """Returns a system with both emulators fitted: the same scaling, components, kernel, ranges and start."""
    data = dict(np.load(path, allow_pickle=False))
    space = fp.ParameterSpace(data["names"].tolist(), *data["bounds"].T)

    constant, length, white = KERNEL
    kernel = constant * RBF(np.full(space.dim, 2.0), length) + white

    def fit(kernel: Any) -> fp.GPEmulator:
        names, options = data["y_names"].tolist(), {"n_components": COMPONENTS, "progress": False}
        return fp.GPEmulator.fit(data["X"], data["Y"], space, kernel=kernel, output_names=names, **options)

    (_, first), (same, again) = once(lambda: fit(kernel)), once(lambda: fit(kernel))
    emulator, default = once(lambda: fit("rbf"))
    lower, upper = data["bounds"].T
    z = (data["X"] - lower) / (upper - lower)
    outputs = make_pipeline(StandardScaler(), PCA(COMPONENTS, whiten=True, svd_solver="full")).fit(data["Y"])
    scores = outputs.transform(data["Y"])
    models, theirs = once(
        lambda: [GaussianProcessRegressor(kernel, alpha=1e-10).fit(z, scores[:, k]) for k in range(COMPONENTS)]
    )
    values, defaults = ([report.log_likelihood for report in one.report] for one in (same, emulator))
    their_values = [model.log_marginal_likelihood_value_ for model in models]
    size, times = f"{len(z)} x {data['Y'].shape[1]}", f"{first:.1f} / {again:.1f}"
    sums = f"{sum(values):.2f}", f"{sum(their_values):.2f}"
    ratios = f"{theirs / first:.1f} / {theirs / again:.1f}"
    row = (label, size, times, f"{theirs:.1f}", ratios, *sums, f"{default:.1f}", f"{sum(defaults):.2f}")
    rest = data["Y"] - outputs.inverse_transform(scores)
    return System(data, space, emulator, models, outputs, np.cov(rest.T), row)


def taken_over(system: System) -> fp.GPEmulator:
    """Returns scikit-learn's emulator as ours."""
    inputs = MinMaxScaler().fit(system.data["bounds"].T)
    return fp.GPEmulator.from_sklearn(
        system.models, system.space, inputs=inputs, outputs=system.outputs, truncation=system.truncation
    )


def with_scikit_learn(system: System, *, published: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Returns theta (n, d) -> log likelihoods (n,): scikit-learn's predictions, then a factorisation per point.

    As published, variances are the diagonal of the covariance between all points of the batch; or the leanest way
    that we know, which asks for the deviations alone.
    """
    lower, upper = system.data["bounds"].T
    scaler, pca = system.outputs[0], system.outputs[1]
    loadings = (pca.components_ * np.sqrt(pca.explained_variance_)[:, None] * scaler.scale_).T
    y, fixed = system.data["y_exp"], system.truncation + np.diag(system.data["y_err"] ** 2)

    def log_likelihood(theta: np.ndarray) -> np.ndarray:
        options = {"return_cov" if published else "return_std": True}
        moments = [model.predict((theta - lower) / (upper - lower), **options) for model in system.models]
        mean = np.stack([one[0] for one in moments], axis=-1)
        variance = np.stack([np.diag(one[1]) if published else one[1] ** 2 for one in moments], axis=-1)
        centre = scaler.inverse_transform(pca.inverse_transform(mean))
        found = np.empty(len(theta))
        for n in range(len(theta)):
            factor = cholesky((loadings * variance[n]) @ loadings.T + fixed, lower=True, check_finite=False)
            residual = y - centre[n]
            squared = residual @ cho_solve((factor, True), residual, check_finite=False)
            found[n] = -0.5 * (squared + 2 * np.log(np.diag(factor)).sum() + len(y) * np.log(2 * np.pi))
        return found

    return log_likelihood


def speed(system: System, likelihood: fp.EmulatorLikelihood) -> tuple[list[tuple[Any, ...]], str]:
    """Returns the rows of the table of rates, and a sentence on how far the two likelihoods are apart."""

    def log_likelihood(theta: jax.Array) -> jax.Array:
        return likelihood(theta).log_prob(likelihood.observed)

    value = jax.jit(log_likelihood)
    both = jax.jit(jax.value_and_grad(lambda theta: log_likelihood(theta).sum()))
    ways = [with_scikit_learn(system, published=published) for published in (True, False)]
    rng, rows, apart = np.random.default_rng(0), [], 0.0
    operations = 2 * COMPONENTS * len(system.data["X"]) ** 2
    for batch in BATCHES:
        theta = rng.uniform(*system.space.bounds.T, (batch, system.space.dim))
        points = jax.numpy.asarray(theta)
        found, compiled = once(lambda points=points: value(points))
        _, compiled_both = once(lambda points=points: both(points))
        ours = median_time(lambda points=points: value(points))
        gradient = median_time(lambda points=points: both(points))
        theirs = []
        for way, most in zip(ways, (1024, 8192), strict=True):  # the covariance of more points at once is too large
            parts = np.array_split(theta, -(-batch // most))
            expected, _ = once(lambda way=way, parts=parts: np.concatenate([way(part) for part in parts]))
            theirs.append(median_time(lambda way=way, parts=parts: [way(part) for part in parts]))
            apart = max(apart, float(np.max(np.abs(found - expected) / (1 + np.abs(expected)))))
        rate = product_rate()
        rows.append(
            (
                batch,
                f"{batch / ours:,.0f}",
                f"{batch / ours * operations / rate:.2f}",
                *(f"{batch / used:,.0f} ({used / ours:.1f})" for used in theirs),
                f"{gradient / ours:.1f}",
                f"{compiled - ours:.1f}",
                f"{compiled_both - gradient:.1f}",
            )
        )
        print(rows[-1], flush=True)
    return rows, f"Largest difference of the log likelihoods l, over 1 + |l|: {apart:.1e}.\n"


def quality(label: str, system: System) -> tuple[Any, ...]:
    """Returns the row of held-out quality, with and without the runs that lie far off in everything."""
    X, Y = system.data["X_val"], system.data["Y_val"]
    complete = np.isfinite(np.hstack([X, Y])).all(axis=1)
    found = system.emulator.validate(X[complete], Y[complete])
    near = np.sqrt(np.mean(found.residuals**2, axis=1)) < 4
    kept = system.emulator.validate(X[complete][near], Y[complete][near])
    alone = system.emulator.leave_one_out(system.data["Y"])
    lowest = f"{found.r2.min():.3f} ({found.output_names[int(np.argmin(found.r2))]})"
    without = f"{kept.coverage_68.mean():.3f}, {kept.coverage_95.mean():.3f} ({int((~near).sum())} rows)"
    inside = f"{found.coverage_68.mean():.3f}", f"{found.coverage_95.mean():.3f}"
    return (
        label,
        found.verdict,
        f"{np.median(found.r2):.3f}",
        lowest,
        *inside,
        without,
        f"{alone.coverage_95.mean():.3f}",
    )


def precision(system: System, likelihood: fp.EmulatorLikelihood) -> str:
    """Returns what float32 costs at the 64 runs of the design that fit the data best."""
    values = np.asarray(likelihood(system.data["X"]).log_prob(likelihood.observed))
    best = system.data["X"][np.argsort(-values)[:64]]
    return (
        f"float32 would be off by up to {likelihood.float32_error(best):.2g} in the log likelihood of the best 64 runs."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with hic_auau200.npz and hic_pbpb2760.npz")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    command = "python benchmarks/emulator.py --data <folder>"
    parts = ["# Emulators: speed and quality\n", origin(command, "scikit-learn"), __doc__.split("\n\n", 1)[1]]
    fits, checks = [], []
    warnings.simplefilter("ignore", ConvergenceWarning)  # parameters at the ends of their ranges
    with jax.enable_x64(True):
        parts.append(f"Device: {jax.devices()[0].device_kind}; products: {product_rate() / 1e9:.0f} GFlop/s.\n")
        for label, name in SYSTEMS.items():
            system = read_system(options.data / name, label)
            fits.append(system.fit_row)
            print(system.fit_row, flush=True)
            cov = np.diag(system.data["y_err"] ** 2)
            likelihood = fp.EmulatorLikelihood(taken_over(system), system.data["y_exp"], cov)
            rows, difference = speed(system, likelihood)
            checks.append(quality(label, system))
            parts += [f"## {label}\n", table(SPEED, rows), difference, precision(system, likelihood) + "\n"]
    parts += ["## Fits, from the same start; and from the best of our default's sixteen\n", table(FITS, fits)]
    parts += ["## Held-out runs, and runs left out one by one\n"]
    publish([*parts, table(QUALITY, checks)], options.output)


if __name__ == "__main__":
    main()
