"""Chain: weighted draws of named parameters, which every part of the package takes and returns."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
import numpy as np

from .._util.checks import ArrayLike, FloatArray, float_array, one_of, positive_int, real_in, require_finite, shorten
from .._util.display import Displayed, columns_of_text
from .._util.keys import seed_from_key
from .._util.messages import FlowPriorWarning
from .autocorrelation import integrated_time, sequences_of, times_of_directions
from .convergence import are_counts, r_hat
from .deal import HARDLY, LONG, blocks_of, deal_blocks, deal_rows
from .effective import Dependence, copies_of, effective_size, mean_and_error
from .order import IMPORTANCE, RowKind, RowOrder, checked_rows, recognised, walkers_in_turn
from .parameters import ParameterSpace, merge_spaces, require_space

WeightsKind = Literal["importance", "counts"]

_PER_DRAW = ("log_prob", "log_prior", "log_likelihood", "weights", "chain_id", "family_id")
_BLOCKS = 40  # a correlated chain is cut into at least this many blocks before a split
_LONGEST_STAY = 1e5  # weights with a larger range are importance weights, not steps of a Markov chain at a row
_WHOLE = 1e-6  # allowed distance of counts from whole numbers
_MOST_BLOCKS = 100_000  # more blocks would take time and memory, without better parts


class Chain(Displayed):
    """Weighted draws of named parameters, checked and immutable.

    Args:
        samples: (n, d) draws, one column per parameter of `space`, rows in the order drawn.
        space: the parameters and their declared support.
        log_prob: (n,) log density of the distribution that the samples represent, up to an additive constant.
            For a posterior: log prior + log likelihood.
        log_prior: (n,) normalised log prior per draw, if known.
        log_likelihood: (n,) log likelihood per draw, if known.
        weights: (n,) non-negative weights, any scale; None for equal weights.
        weights_kind: meaning of the weights. "counts": how many steps a Markov chain stayed at each row (GetDist,
            CosmoMC, Cobaya, MontePython). "importance": importance weights (nested samplers, pocoMC, reweighted draws).
            None: counts if they are multiples of the smallest, else importance weights. Equal weights are dropped.
        chain_id: (n,) integer label of the Markov chain (or walker) of each row; None for one sequence.
        family_id: (n,) integer label of the ancestor of each row. Particles of sequential Monte Carlo have common
            ancestors, and particles of one family are dependent, even in different chains. Such rows have no order in
            time. None if no rows are related.
        rows: meaning of the row order. "sequence": order in time; neighbours may be near copies. "independent": no
            meaning, as in sorted, shuffled or nested-sampling files. None: recognised from the rows (chains.order). If
            nothing is recognised, rows with importance weights are independent, and all others are a sequence.
        derived: {name: values (n,)} of quantities that are functions of the rows, such as sigma_8 of cosmological
            parameters. They are kept by all that chooses, weights or joins rows, and `select` makes parameters of them.
        log_evidence: log of the normalising constant (marginal likelihood), if known.
        log_evidence_error: its standard error.
        info: free-form record of the origin of the chain (sampler, seed, versions).

    Raises:
        TypeError: not real numbers, or `space` is not a ParameterSpace.
        ValueError: wrong shapes, NaN or infinite values (counted per column), samples outside the bounds (counted,
            parameters named), negative weights or weights without a positive finite sum.

    Example:
        >>> import numpy as np
        >>> from numpyro_flowprior import Chain, ParameterSpace
        >>> rows = np.random.default_rng(0).normal([1.0, 5.0], [0.1, 2.0], size=(1000, 2))
        >>> chain = Chain(rows, ParameterSpace(["a", "b"]))
        >>> chain
        Chain(1000 rows of a, b; samples only)
        >>> chain.mean().round(1)
        array([1. , 4.9])
        >>> chain.select(["b"]).thin(10).samples.shape
        (100, 1)
    """

    samples: FloatArray
    space: ParameterSpace
    log_prob: FloatArray | None
    log_prior: FloatArray | None
    log_likelihood: FloatArray | None
    weights: FloatArray | None
    weights_kind: WeightsKind | None
    chain_id: np.ndarray | None
    family_id: np.ndarray | None = None  # default for chains pickled without this field
    log_evidence: float | None
    log_evidence_error: float | None
    info: dict[str, Any]
    derived: Mapping[str, FloatArray] = MappingProxyType({})  # of chains that were pickled before there were any
    _rows: RowKind | None
    _inherited: RowOrder | None = None  # row order recognised in the chain that this one was made from

    def __init__(
        self,
        samples: ArrayLike,
        space: ParameterSpace,
        *,
        log_prob: ArrayLike | None = None,
        log_prior: ArrayLike | None = None,
        log_likelihood: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        weights_kind: WeightsKind | None = None,
        chain_id: ArrayLike | None = None,
        family_id: ArrayLike | None = None,
        rows: RowKind | None = None,
        derived: Mapping[str, ArrayLike] | None = None,
        log_evidence: float | None = None,
        log_evidence_error: float | None = None,
        info: Mapping[str, Any] | None = None,
    ):
        require_space(space, "chain.space")
        checked = _checked_samples(samples, space)
        n = len(checked)
        weights, weights_kind = _checked_kind(weights_kind, _checked_weights(weights, n))
        fields = {
            "samples": checked,
            "space": space,
            "log_prob": _checked_column(log_prob, "log_prob", n),
            "log_prior": _checked_column(log_prior, "log_prior", n),
            "log_likelihood": _checked_column(log_likelihood, "log_likelihood", n),
            "weights": weights,
            "weights_kind": weights_kind,
            "_rows": checked_rows(rows),
            "derived": _checked_derived(derived, space, n),
            "chain_id": _checked_labels(chain_id, "chain_id", n),
            "family_id": _checked_labels(family_id, "family_id", n),
            "log_evidence": None if log_evidence is None else float(log_evidence),
            "log_evidence_error": None if log_evidence_error is None else float(log_evidence_error),
            "info": dict(info or {}),
        }
        if family_id is not None and rows == "sequence":
            raise ValueError(
                "chain.family_id: expected none with rows='sequence'; got both. The dependence of rows follows "
                "from their order in time or from family labels, not from both. Leave one out."
            )
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)
        _warn_if_constant(self)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Chain is immutable; make a new one instead of setting {name!r}.")

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.samples)

    @property
    def dim(self) -> int:
        """Number of parameters, d."""
        return self.space.dim

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in column order."""
        return self.space.names

    @property
    def probabilities(self) -> FloatArray:
        """Weights normalised to sum to one, (n,); 1/n each without weights."""
        if self.weights is None:
            return np.full(self.n, 1.0 / self.n)
        return self.weights / self.weights.sum()

    @property
    def constant_columns(self) -> tuple[str, ...]:
        """Names of the parameters with a single value among the rows of positive weight."""
        rows = self.samples if self.weights is None else self.samples[self.weights > 0]
        same = np.ptp(rows, axis=0) == 0.0
        return tuple(name for name, flat in zip(self.names, same, strict=True) if flat)

    @cached_property
    def row_order(self) -> RowOrder:
        """The meaning of the row order, and the reason for it."""
        if self._inherited is not None:
            return self._inherited
        if self._rows == "independent":
            return RowOrder("independent", "declared with `rows`")
        if self.family_id is not None:
            return RowOrder("independent", "the rows have family labels")
        if self._rows == "sequence":
            in_turn = None if self.chain_id is not None else walkers_in_turn(self.samples)
            return in_turn or RowOrder("sequence", "declared with `rows`")
        importance = self.weights_kind == "importance"
        density = self.log_prob if self.log_likelihood is None else self.log_likelihood
        return recognised(self.samples, self.chain_id, importance=importance, density=density)

    @property
    def rows(self) -> RowKind:
        """The meaning of the row order: "sequence" or "independent"."""
        return self._rows or self.row_order.kind

    @cached_property
    def dependence(self) -> Dependence:
        """How the rows depend on each other: sequences in time, families, or copies of distinct rows."""
        if self.rows == "sequence":
            return Dependence(sequences=sequences_of(self.n, self.chain_id, self.row_order.period))
        families = None if self.family_id is None else np.unique(self.family_id, return_inverse=True)[1]
        return Dependence(copies=copies_of(self.samples), families=families)

    @cached_property
    def effective_size(self) -> float:
        """Number of independent draws that would determine the means of the parameters equally well.

        For a sequence it is n over the longest integrated autocorrelation time of any parameter. With counts or weights
        the same theory applies (chains.effective), as in GetDist. For independent rows it is Kish's
        (sum w)^2 / sum w^2, where copies of a row count as one. For rows with family labels it is the smallest value of
        any parameter, and at most Kish's. It refers to means only. How well the rows determine the shape of a density
        is a different number.
        """
        if self.dependence.sequences is not None and self.weights is None:
            return self.n / self.autocorrelation_time
        return effective_size(self.samples, self.probabilities, self.dependence)

    @cached_property
    def autocorrelation_time(self) -> float:
        """The longest integrated autocorrelation time of any parameter, in rows; 1 if independent, or below 10 rows."""
        if self.dependence.sequences is None or self.n < 10:
            return 1.0
        if self.weights is None:
            return float(integrated_time(self.samples, self.dependence.sequences).max())
        parts = (
            self.probabilities * (column - centre) for column, centre in zip(self.samples.T, self.mean(), strict=True)
        )
        return max(float(integrated_time(part[:, None], self.dependence.sequences)[0]) for part in parts)

    @cached_property
    def _mean_autocorrelation_time(self) -> float:
        """The mean autocorrelation time of the principal directions, in rows; at most `autocorrelation_time`."""
        if self.autocorrelation_time == 1.0 or self.dependence.sequences is None:
            return 1.0
        times = times_of_directions(self.samples, self.probabilities, self.dependence.sequences)
        if not len(times):
            return self.autocorrelation_time
        return min(float(np.mean(times)), self.autocorrelation_time)

    def mean_and_error(self, values: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Returns the weighted mean (k,) of functions of the rows, and its standard error (k,).

        The error accounts for the dependence between rows.

        Args:
            values: (n, k), or (n,) to get two numbers; finite wherever the weight is positive.
        """
        array = float_array(values, "mean_and_error: values")
        columns = array[:, None] if array.ndim == 1 else array
        if columns.ndim != 2 or len(columns) != self.n:
            raise ValueError(
                f"mean_and_error: values: expected shape ({self.n}, k) or ({self.n},), one value per row; got "
                f"{array.shape}."
            )
        mean, error = mean_and_error(columns, self.probabilities, self.dependence)
        return (mean[0], error[0]) if array.ndim == 1 else (mean, error)

    @cached_property
    def r_hat(self) -> FloatArray | None:
        """Rank-normalised split R-hat of each parameter, (d,): 1 where the chains agree, at most 1.01 if converged.

        None with fewer than two chains of four rows, with importance weights, and for independent rows (see
        `convergence.r_hat`).
        """
        if self.weights_kind == "importance" or self.rows == "independent":
            return None
        return r_hat(self.samples, self.chain_id, self.weights)

    def mean(self) -> FloatArray:
        """Returns the weighted mean, (d,)."""
        return self.probabilities @ self.samples

    def covariance(self) -> FloatArray:
        """Returns the weighted covariance, (d, d)."""
        centred = self.samples - self.mean()
        return (centred * self.probabilities[:, None]).T @ centred

    def quantile(self, q: ArrayLike) -> FloatArray:
        """Returns weighted quantiles of each parameter, (..., d), at q (...) in [0, 1]. Zero weights do not count."""
        q = float_array(q, "quantile: q")
        if not ((q >= 0.0) & (q <= 1.0)).all():
            raise ValueError(f"quantile: q: expected numbers in [0, 1]; got {shorten(q.ravel())}.")
        counted = self.probabilities > 0
        probabilities = self.probabilities[counted]
        columns = []
        for column in (self.samples[counted, j] for j in range(self.dim)):
            order = np.argsort(column)
            weights = probabilities[order]
            centres = np.cumsum(weights) - 0.5 * weights
            columns.append(np.interp(q, centres, column[order]))
        return np.stack(columns, axis=-1)

    def select(self, names: Sequence[str]) -> Chain:
        """Returns the chain of the named parameters (their marginal).

        The per-draw log densities belong to the full set of parameters. They are dropped, unless the names are only
        reordered. Derived quantities may be among the names; they become parameters without bounds.
        """
        wanted = [name for name in names if name in self.derived] if self.derived and not isinstance(names, str) else []
        if wanted:
            return self._with_derived(wanted).select(names)
        space = self.space.select(names)
        columns = [self.space.index(name) for name in space.names]
        parts = self._parts()
        if set(space.names) != set(self.names):
            parts.update(log_prob=None, log_prior=None, log_likelihood=None)
        return self._heir(Chain(self.samples[:, columns], space, **parts))

    def _with_derived(self, names: Sequence[str]) -> Chain:
        """Returns the chain in which derived quantities are further parameters."""
        space = merge_spaces([self.space, ParameterSpace(names)])
        columns = [self.samples, *(self.derived[name][:, None] for name in names)]
        left = {name: values for name, values in self.derived.items() if name not in names}
        parts = {**self._parts(), "derived": left, **dict.fromkeys(("log_prob", "log_prior", "log_likelihood"))}
        return self._heir(Chain(np.hstack(columns), space, **parts))

    def thin(self, n: int) -> Chain:
        """Returns every n-th row of each sequence, or of all rows if their order has no meaning."""
        step = positive_int(n, "thin")
        sequences = self.dependence.sequences or [np.arange(self.n)]
        return self.take(np.sort(np.concatenate([rows[::step] for rows in sequences])))

    def resample(self, key: jax.Array, n: int) -> Chain:
        """Returns n equally weighted rows, drawn by systematic resampling, which adds the least noise."""
        n = positive_int(n, "resample")
        return self.take(systematic_rows(key, self.probabilities, n)).replace(weights=None)

    def split(self, key: jax.Array, fraction: float) -> tuple[Chain, Chain]:
        """Returns two disjoint parts, the first with about `fraction` of the rows.

        Independent rows are dealt one by one, but copies and families stay together. If rows have weights, each part
        gets its share of the heavy rows. Rows of a sequence are dealt in blocks of ten autocorrelation times, so that
        near-copies of a row do not end up in both parts. This time is the mean over the principal directions, because
        rows are near copies only if they are near in all of them. The time of a single slow parameter would make blocks
        so long that whole regions are missing from a part. There are at least 40 blocks. In short chains with long
        autocorrelation times the blocks are therefore shorter, and some near-copies do end up in both parts.
        """
        fraction = real_in(fraction, "split fraction", 0.0, 1.0, open_low=True, open_high=True)
        first, second = self.deal(key, [fraction, 1.0 - fraction])
        return self.take(first), self.take(second)

    def deal(self, key: jax.Array, fractions: Sequence[float]) -> list[np.ndarray]:
        """Returns sorted row numbers of disjoint parts with about the given fractions of the rows (see `split`)."""
        if self.n < len(fractions):
            raise ValueError(f"split: expected at least {len(fractions)} rows; got {self.n}.")
        generator, tau = _generator(key), self._mean_autocorrelation_time
        sequences = self.dependence.sequences
        if sequences is None or (tau < HARDLY and self.weights is not None):
            return deal_rows(generator, self.probabilities, self.dependence.groups, fractions)
        length = 1 if tau < HARDLY else max(1, min(int(np.ceil(LONG * tau)), self.n // _BLOCKS))
        length = max(length, self.n // _MOST_BLOCKS)
        return deal_blocks(generator, blocks_of(sequences, length), self.probabilities, fractions)

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Chain:
        """Returns the chain of the chosen rows, with all their fields."""
        parts = self._parts()
        for name in _PER_DRAW:
            if parts[name] is not None:
                parts[name] = parts[name][rows]
        parts["derived"] = {name: values[rows] for name, values in self.derived.items()}
        samples = self.samples[rows]
        if samples.base is None:
            samples.setflags(write=False)  # a new array, which need not be copied again
        return self._heir(Chain(samples, self.space, **parts))

    def replace(self, **changes: Any) -> Chain:
        """Returns a copy with some fields changed.

        The kind of new weights is inferred from them if it is not given. The recognised row order is kept, unless the
        samples, chain ids, families or `rows` change. New weights also discard it if it was based only on them. New
        samples discard derived quantities.
        """
        parts = {"samples": self.samples, "space": self.space, **self._parts()}
        unknown = changes.keys() - parts.keys()
        if unknown:
            raise TypeError(f"replace: no field named {shorten(sorted(unknown))}; the fields are {shorten(parts, 20)}.")
        if "weights" in changes and "weights_kind" not in changes:
            changes["weights_kind"] = None
        if "samples" in changes:
            parts["derived"] = None
        if changes.keys() & {"samples", "chain_id"}:
            parts["chain_id"] = self.chain_id  # without walkers that were recognised
        forget = {"samples", "chain_id", "family_id", "rows"} | (
            {"weights"} if self.row_order.why == IMPORTANCE else set()
        )
        parts.update(changes)
        made = Chain(parts.pop("samples"), parts.pop("space"), **parts)
        return made if changes.keys() & forget else self._heir(made)

    def _heir(self, made: Chain) -> Chain:
        """Returns `made` with the row order recognised in this chain, because its own rows show less of it."""
        if made._rows is None:
            object.__setattr__(made, "_inherited", replace(self.row_order, period=1))
        return made

    def _parts(self) -> dict[str, Any]:
        names = (*_PER_DRAW, "derived", "weights_kind", "log_evidence", "log_evidence_error", "info")
        parts = {**{name: getattr(self, name) for name in names}, "rows": self._rows}
        if self.chain_id is None and self.row_order.period > 1:  # a subset of rows or columns may not show it
            parts["chain_id"] = np.arange(self.n) % self.row_order.period
        return parts

    def fingerprint(self) -> str:
        """Returns the SHA-256 of names, samples, weights, families and row order, which identifies the chain."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        digest.update(self.samples.data)
        if self.weights is not None:
            digest.update(self.probabilities.tobytes())
        usual = "independent" if self.weights_kind == "importance" else "sequence"
        if self.family_id is not None:
            digest.update(self.family_id.data)
        if self.weights_kind == "counts" or self.rows != usual:
            digest.update(f"{self.weights_kind} {self.rows}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.n

    def _headline(self) -> str:
        extras = [name for name in _PER_DRAW if getattr(self, name) is not None]
        evidence = "" if self.log_evidence is None else f", log evidence {self.log_evidence:.3f}"
        extras += [f"derived {shorten(self.derived)}"] if self.derived else []
        return f"{self.n} rows of {', '.join(self.names)}; {', '.join(extras) or 'samples only'}{evidence}"

    def __str__(self) -> str:
        numbers = np.vstack([self.mean(), np.sqrt(np.diagonal(self.covariance())), self.quantile([0.05, 0.5, 0.95])])
        rows = [["parameter", "mean", "deviation", "5 %", "median", "95 %", "bounds", "unit"]]
        for j, name in enumerate(self.names):
            lower, upper = self.space.bounds[j]
            mean, deviation = numbers[:2, j]
            apart = np.log10(abs(mean) / deviation) if mean and deviation else 0.0  # an epoch needs more digits
            digits = int(np.clip(np.ceil(apart) + 3, 6, 17))
            rows.append(
                [name, *(f"{x:.{digits}g}" for x in numbers[:, j]), f"({lower:.6g}, {upper:.6g})", self.space.units[j]]
            )
        size = f"effective sample size {self.effective_size:.0f}; rows: {self.row_order.kind}"
        return f"{self!r}\n{size}\n{columns_of_text(rows)}"


def systematic_rows(key: jax.Array, probabilities: FloatArray, n: int) -> np.ndarray:
    """Returns n row numbers, drawn in proportion to the probabilities by systematic resampling."""
    positions = (np.arange(n) + float(jax.random.uniform(key))) / n
    return np.minimum(np.searchsorted(np.cumsum(probabilities), positions), len(probabilities) - 1)


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(seed_from_key(key))


def _checked_samples(samples: Any, space: ParameterSpace) -> FloatArray:
    array = float_array(samples, "chain.samples")
    if array.ndim != 2 or array.shape[1] != space.dim:
        raise ValueError(
            f"chain.samples: expected shape (n, {space.dim}) for names [{shorten(space.names, 40)}]; "
            f"got {array.shape}. Pass the matching ParameterSpace."
        )
    if len(array) == 0:
        raise ValueError("chain.samples: expected at least one row; got none.")
    if not _is_constant(array) and (array is samples or array.base is not None):
        array = array.copy()
    require_finite(array, "chain.samples", columns=space.names)
    _require_inside(array, space)
    return array


def _is_constant(array: FloatArray) -> bool:
    """Returns whether the values cannot change: read-only memory, or a file mapped for reading."""
    owner = array if array.base is None else array.base
    return not array.flags.writeable and (owner is array or (isinstance(owner, np.memmap) and owner.mode == "r"))


def _require_inside(samples: FloatArray, space: ParameterSpace) -> None:
    below, above = samples < space.lower, samples > space.upper
    outside = below | above
    if not outside.any():
        return
    columns = np.flatnonzero(outside.any(axis=0))
    reports = [
        f"{space.names[j]!r}: {int(outside[:, j].sum())} rows, range {samples[:, j].min():.6g} to "
        f"{samples[:, j].max():.6g} against [{space.lower[j]:g}, {space.upper[j]:g}]"
        for j in columns
    ]
    raise ValueError(
        f"chain.samples: expected all rows inside the bounds; {int(outside.any(axis=1).sum())} of {len(samples)} rows "
        f"are outside ({'; '.join(reports)}). Correct the bounds in the ParameterSpace, or the samples."
    )


def _checked_derived(derived: Any, space: ParameterSpace, n: int) -> dict[str, FloatArray]:
    if derived is None:
        return {}
    if not isinstance(derived, Mapping):
        raise TypeError(f"chain.derived: expected a dictionary {{name: values}}; got {type(derived).__name__}.")
    both = [name for name in derived if name in space.names]
    if both:
        raise ValueError(f"chain.derived: expected names that are not parameters; got {shorten(both, 40)}.")
    checked = {}
    for name, values in derived.items():
        column = float_array(values, f"chain.derived[{name!r}]", shape=(n,)).copy()
        require_finite(column, f"chain.derived[{name!r}]")
        column.setflags(write=False)
        checked[str(name)] = column
    return checked


def _checked_column(values: Any, name: str, n: int) -> FloatArray | None:
    if values is None:
        return None
    array = float_array(values, f"chain.{name}", shape=(n,)).copy()
    require_finite(array, f"chain.{name}")
    return array


def _checked_weights(weights: Any, n: int) -> FloatArray | None:
    array = _checked_column(weights, "weights", n)
    if array is None:
        return None
    if (array < 0).any():
        raise ValueError(
            f"chain.weights: expected non-negative weights; {int((array < 0).sum())} of {n} are negative "
            f"(smallest {array.min():g}). If they are log weights, exponentiate them."
        )
    total = array.sum()
    if not (total > 0 and np.isfinite(total)):
        raise ValueError(f"chain.weights: expected a positive, finite sum; got {total:g}.")
    return array


def _checked_kind(kind: Any, weights: FloatArray | None) -> tuple[FloatArray | None, WeightsKind | None]:
    """Returns the weights and their kind. Equal weights give None, and whole multiples of the smallest are counts.

    Multiples of 0.1, 0.01, ... are rounded importance weights if their sum exceeds one. If it does not, they may be
    counts divided by their sum, for example multiples of 0.0001 from 10,000 steps.
    """
    if kind is not None:
        one_of(kind, "chain.weights_kind", get_args(WeightsKind))
    if weights is None or np.ptp(weights) == 0.0:
        return None, None
    if kind is None:
        least = weights[weights > 0].min()
        if weights.max() <= _LONGEST_STAY * least:
            steps = weights / least
            whole = np.allclose(steps, np.round(steps), rtol=0.0, atol=_WHOLE)
            if whole and not (_is_decimal_place(least) and weights.sum() > 1.0 + _WHOLE):
                return np.round(steps), "counts"
        return weights, "importance"
    if kind == "counts" and not are_counts(weights):
        raise ValueError(
            "chain.weights: expected whole numbers with weights_kind='counts', the steps at each row; got fractions, "
            f"{shorten(weights[np.round(weights) != weights], 3)}. Pass weights_kind='importance'."
        )
    return weights, kind


def _is_decimal_place(step: float) -> bool:
    """Returns whether a step is 0.1, 0.01, ..., as in rounded numbers."""
    places = -np.log10(step)
    return bool(places > 0.5 and abs(places - np.round(places)) < _WHOLE)


def _checked_labels(labels: Any, name: str, n: int) -> np.ndarray | None:
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"chain.{name}: expected {n} integers, one per row; got dtype {array.dtype}, shape {array.shape}."
        )
    return array.astype(np.int64)


def _warn_if_constant(chain: Chain) -> None:
    constant = chain.constant_columns if chain.n > 1 else ()
    if constant:
        kept = [name for name in chain.names if name not in constant]
        advice = f"Use chain.select({kept}) to leave it out." if kept else "No parameter varies: is the sampler stuck?"
        warnings.warn(
            f"chain: {shorten(constant, 40)} takes a single value in every row. No density can be learnt from a "
            f"constant column. {advice}",
            FlowPriorWarning,
            stacklevel=3,
        )
