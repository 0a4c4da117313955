"""compare: the differences between two chains of the same parameters, and how much of them is noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from scipy.stats import f as f_ratio

from .._util.checks import ArrayLike, FloatArray, positive_int
from .._util.display import Displayed
from .._util.json_numbers import numbers, rounded
from .._util.keys import seed_or_zero
from ..chains.chain import Chain
from .divergences import Grid, MarginalKL
from .independent import independent_rows
from .modes import ModeWeights, mode_weights
from .noise_floor import noise_floors, spread
from .two_sample import ClassifierTest, classifier_test
from .units import units_of
from .whitening import whitening

_MOST_CLASSIFIED = 10_000  # rows of each chain that the classifier uses, at most
_CLEARLY = 3.0  # a first-order variance this many standard deviations above noise shows a real difference
_MOST_ROWS = 200_000  # rows of each chain in the histograms, at most
_FEWEST_CLASSIFIED = 20  # with fewer rows of a chain, a fold may contain rows of one chain only


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """Comparison of two chains, a and b; a is the reference.

    Attributes:
        kl: divergences KL(a || b) of the marginals, nats.
        floor: (repeats,) noise floor: average divergences between random parts of the pooled rows, nats.
        floor_mean, floor_std: mean and standard deviation over the repeats of the floor of each marginal, nats.
        shift: (d,) difference of the means b - a, in standard deviations of a.
        width_ratio: (d,) standard deviation of b divided by that of a.
        bins: largest number of histogram bins along an axis.
        modes: shares of separated modes, by parameter.
        classifier: how well a classifier distinguishes rows of a from rows of b; None if not requested, or with too few
            rows.
        first_order: additional standard error of the average divergence if a and b differ, nats; zero if no difference
            is found.
    """

    kl: MarginalKL
    floor: FloatArray
    floor_mean: MarginalKL
    floor_std: MarginalKL
    shift: FloatArray
    width_ratio: FloatArray
    bins: int
    modes: tuple[ModeWeights, ...] = ()
    classifier: ClassifierTest | None = None
    first_order: float = 0.0

    @property
    def excess(self) -> float:
        """Average divergence minus the mean noise floor, nats."""
        return self.kl.average - float(self.floor.mean())

    @property
    def excess_error(self) -> float:
        """Standard error of the excess, nats.

        It combines the standard deviation of the floor over the repeats, the standard error of the mean floor and, if a
        and b differ, the uncertainty of their difference due to finite numbers of draws (`first_order`). NaN with a
        single repeat.
        """
        repeats = len(self.floor)
        if repeats < 2:
            return float("nan")
        return float(np.hypot(self.floor.std(ddof=1) * np.sqrt(1.0 + 1.0 / repeats), self.first_order))

    @property
    def worst(self) -> tuple[str, float, float]:
        """The parameter or pair with the most significant excess over its floor; its excess and error, nats.

        Significance is the excess divided by the standard deviation of the floor. With a single repeat, which gives no
        standard deviation, the largest excess is used. This is the largest of many values: for equal densities of seven
        parameters it is typically two or three errors. `chances` gives probabilities, for bins that are filled.
        """
        names = [*self.kl.names, *(" and ".join(pair) for pair in self.kl.pairs)]
        value, mean, std = (
            np.concatenate([part.one_d, part.two_d]) for part in (self.kl, self.floor_mean, self.floor_std)
        )
        excess = value - mean
        j = int(np.argmax(excess / std if (std > 0).all() else excess))
        return names[j], float(excess[j]), float(std[j])

    def chances(self) -> MarginalKL:
        """Returns p-values: the probabilities of divergences at least this large if a and b have the same density.

        They hold for independent rows. The divergences are then proportional to a chi-square variable. If all cells are
        well filled, as with bins of equal mass, it has one degree of freedom less than there are cells (Wilks 1938).
        Many cells of a pair are not well filled. The degrees of freedom of pairs are therefore estimated from the mean
        and variance of the floors, for all pairs together. The mean floor over few repeats also follows a chi-square
        distribution, so that the ratio of divergence and mean floor follows an F distribution.
        """
        one, two = (
            f_ratio.sf(value / np.where(floor > 0, floor, np.inf), freedom, freedom * len(self.floor))
            for value, floor, freedom in zip(_parts(self.kl), _parts(self.floor_mean), self._freedom, strict=True)
        )
        return MarginalKL(self.kl.names, one, two)

    def quantiles(self, chance: float) -> MarginalKL:
        """Returns the divergences, nats, that independent samples of one density exceed with a given probability."""
        one, two = (
            floor * f_ratio.isf(chance, freedom, freedom * len(self.floor))
            for floor, freedom in zip(_parts(self.floor_mean), self._freedom, strict=True)
        )
        return MarginalKL(self.kl.names, one, two)

    @property
    def _freedom(self) -> tuple[float, float]:
        """Degrees of freedom of the divergences of single parameters and of pairs.

        The variance of the floors of pairs is increased by one standard error. This gives fewer degrees of freedom and
        larger p-values, which is conservative.
        """
        mean, std = self.floor_mean.two_d, self.floor_std.two_d
        if not (std > 0).any():
            return self.bins - 1.0, self.bins**2 - 1.0
        variance = float(np.mean(std**2)) * (1.0 + np.sqrt(2.0 / (len(std) * len(self.floor))))
        return self.bins - 1.0, 2.0 * float(np.mean(mean**2)) / variance

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record; numbers have four digits, and NaN, which JSON does not allow, becomes null.

        Modes and classifier are left out if the comparison has none.
        """
        names = self.kl.names
        test = self.classifier
        parts = {"": self.kl, "_floor": self.floor_mean, "_floor_std": self.floor_std}
        return {
            "average_kl": rounded(self.kl.average),
            "noise_floor": rounded(self.floor.mean()),
            "noise_floor_std": rounded(self.floor.std(ddof=1) if len(self.floor) > 1 else np.nan),
            "excess": rounded(self.excess),
            "excess_error": rounded(self.excess_error),
            "first_order": rounded(self.first_order),
            **{f"marginal_kl{end}": dict(zip(names, rounded(kl.one_d), strict=True)) for end, kl in parts.items()},
            **{f"pair_kl{end}": rounded(kl.two_d) for end, kl in parts.items()},  # order of itertools.combinations
            "bins": self.bins,
            "floors": rounded(self.floor),
            "shift_in_sigma": dict(zip(names, rounded(self.shift), strict=True)),
            "width_ratio": dict(zip(names, rounded(self.width_ratio), strict=True)),
            **({"modes": [mode.to_json() for mode in self.modes]} if self.modes else {}),
            **({"classifier": {part: rounded(value) for part, value in asdict(test).items()}} if test else {}),
        }

    @classmethod
    def from_json(cls, record: Any) -> Comparison:
        """Returns the comparison from a record of `to_json`, to four digits; KeyError if an entry is missing."""
        names = tuple(record["marginal_kl"])

        def marginals(end: str) -> MarginalKL:
            one, two = record[f"marginal_kl{end}"], record[f"pair_kl{end}"]
            return MarginalKL(names, numbers([one[name] for name in names]), numbers(two))

        shift, width = (numbers([record[part][name] for name in names]) for part in ("shift_in_sigma", "width_ratio"))
        floors = numbers(record["floors"]), marginals("_floor"), marginals("_floor_std")
        modes = tuple(ModeWeights.from_json(part) for part in record.get("modes", ()))
        test = record.get("classifier")
        classifier = ClassifierTest(**dict(zip(test, numbers(test.values()).tolist(), strict=True))) if test else None
        first_order = float(record.get("first_order", 0.0))
        return cls(marginals(""), *floors, shift, width, record["bins"], modes, classifier, first_order)

    def _headline(self) -> str:
        excess = f"excess {self.excess:.4f} +- {self.excess_error:.4f} nats"
        return f"{len(self.kl.names)} parameters; average KL {self.kl.average:.4f}, {excess}"

    def __str__(self) -> str:
        head = (
            f"average KL {self.kl.average:.4f} nats, noise floor {self.floor.mean():.4f}, "
            f"excess {self.excess:.4f} +- {self.excess_error:.4f}"
        )
        width = max(16, *(len(name) for name in self.kl.names))
        rows = [f"{'parameter':>{width}s} {'KL (1-D)':>9s} {'floor':>8s} {'shift/sigma':>12s} {'width ratio':>12s}"]
        for j, name in enumerate(self.kl.names):
            rows.append(
                f"{name:>{width}s} {self.kl.one_d[j]:9.4f} {self.floor_mean.one_d[j]:8.4f} "
                f"{self.shift[j]:12.3f} {self.width_ratio[j]:12.3f}"
            )
        name, excess, error = self.worst
        compared = len(self.kl.one_d) + len(self.kl.two_d)
        rows.append(f"most significant excess of {compared} marginals: {name}, {excess:.4f} +- {error:.4f} nats")
        if self.modes:
            rows += [f"{'share of the mode at':>30s} {'first':>19s} {'second':>19s} {'difference/sigma':>16s}"]
            rows += [str(mode) for mode in self.modes]
        if self.classifier is not None:
            rows.append(f"classifier: {self.classifier}")
        return "\n".join([head, *rows])


def _parts(kl: MarginalKL) -> tuple[FloatArray, FloatArray]:
    return kl.one_d, kl.two_d


def compare(
    a: Chain,
    b: Chain,
    *,
    bounds: ArrayLike | None = None,
    bins: int | None = None,
    repeats: int = 32,
    modes: Mapping[str, Any] | None = None,
    classify: bool = True,
    key: jax.Array | None = None,
) -> Comparison:
    """Returns the differences between chain b and the reference chain a.

    The excess over the noise floor and its error are also valid for dependent rows: for sequences, with or without
    chain ids, for multiplicities, importance weights and families of particles (diagnostics.noise_floor).

    Args:
        a: reference chain.
        b: chain to compare; it may have more parameters than a, in any order.
        bounds: None for bins that follow the draws of both chains; "declared" for equal bins between the declared
            bounds of a, as in the paper; or a (d, 2) range for equal bins (see `marginal_kl`).
        bins: number of bins along each axis; None to choose it from the number of rows, or 75 if `bounds` are given.
        repeats: how many times the rows are divided at random for the noise floor.
        modes: {parameter: value or values between its modes} to compare the shares of these modes; None to search for
            valleys of the marginals (`diagnostics.modes`), {} for no modes.
        classify: whether to train a classifier to distinguish the two chains (`diagnostics.two_sample`).
        key: random key for the noise floor and for the rows and folds of the classifier; None for jax.random.key(0).

    If a chain has more than 200,000 rows, the divergences use at most 200,000 of them.

    Raises:
        ValueError: b lacks a parameter of a; the draws of a parameter are all in one bin; a chain is shorter than eight
            autocorrelation times, or has fewer than four (effective) families; or modes names an unknown parameter.

    Example:
        >>> import numpy as np
        >>> from numpyro_flowprior import Chain, ParameterSpace, compare
        >>> rows, space = np.random.default_rng(0).normal(size=(2, 4000, 1)), ParameterSpace(["a"])
        >>> found = compare(Chain(rows[0], space), Chain(rows[1] + 0.5, space))
        >>> found.shift.round(1)  # standard deviations of the first chain
        array([0.5])
        >>> found.excess > 3 * found.excess_error
        True
    """
    repeats, seed = positive_int(repeats, "compare: repeats"), seed_or_zero(key)
    b = b if b.names == a.names else b.select(a.names)
    chains = [_shortened(chain, seed + j) for j, chain in enumerate((a, b))]
    grid = Grid.of(chains[0], chains[1], bounds, bins, "compare")
    shares, test = mode_weights(a, b, modes), _classifier(a, b, seed) if classify else None
    sigma_a, sigma_b = (np.sqrt(np.diagonal(chain.covariance())) for chain in (a, b))
    cells, weights = [grid.cells(chain.samples) for chain in chains], [chain.probabilities for chain in chains]
    found = list(noise_floors(grid, chains, cells, repeats=repeats, seed=seed))
    one, two = (np.array([getattr(floor, part) for floor, _ in found]) for part in ("one_d", "two_d"))
    ddof = min(1, repeats - 1)
    variance = spread(grid, cells, weights, [units_of(chain) for chain in chains])
    return Comparison(
        kl=grid.divergence(cells, weights),
        floor=np.array([floor.average for floor, _ in found]),
        floor_mean=MarginalKL(a.names, one.mean(axis=0), two.mean(axis=0)),
        floor_std=MarginalKL(a.names, one.std(axis=0, ddof=ddof), two.std(axis=0, ddof=ddof)),
        shift=(b.mean() - a.mean()) / sigma_a,
        width_ratio=sigma_b / sigma_a,
        bins=max(grid.sizes),
        modes=shares,
        classifier=test,
        first_order=_beyond_noise(variance, np.array([by_noise for _, by_noise in found])),
    )


def _shortened(chain: Chain, seed: int) -> Chain:
    """Returns at most 200,000 rows: evenly spaced, or resampled if they have importance weights."""
    if chain.n <= _MOST_ROWS:
        return chain
    if chain.weights_kind == "importance":
        return chain.resample(jax.random.key(seed), _MOST_ROWS)
    return chain.thin(-(-chain.n // _MOST_ROWS))


def _beyond_noise(variance: float, by_noise: FloatArray) -> float:
    """Returns the standard error from a variance minus the mean for noise; zero if noise can explain the variance."""
    mean, scatter = float(np.nanmean(by_noise)), float(np.nanstd(by_noise))
    return float(np.sqrt(variance - mean)) if variance > mean + _CLEARLY * scatter else 0.0


def _classifier(a: Chain, b: Chain, seed: int) -> ClassifierTest | None:
    """Returns the test on nearly independent rows of both chains, whitened together; None with too few rows."""
    keys = jax.random.split(jax.random.key(seed))
    chosen = [
        chain.samples[independent_rows(key, chain, np.empty((chain.n, 0)), _MOST_CLASSIFIED)]
        for key, chain in zip(keys, (a, b), strict=True)
    ]
    if min(map(len, chosen)) < _FEWEST_CLASSIFIED:
        return None
    rows = np.concatenate(chosen)
    return classifier_test(np.random.default_rng(seed), *np.split(whitening(rows)(rows), [len(chosen[0])]))
