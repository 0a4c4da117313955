"""Preconditioner: a RealNVP retrained at each temperature of a tempered run, on a few hundred weighted particles.

So few particles are enough because the run knows their log density. The flow is fitted to it by regression, at the
particles of all temperatures, and so behaves well in the tails too (the loss "log_variance"). Each training starts from
the flow of the previous temperature, in coordinates that are whitened again. Every array has a fixed shape, so a run
compiles only four programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import multivariate_normal, multivariate_t

from .._util.batches import in_batches
from .._util.checks import FloatArray
from ..chains.chain import systematic_rows
from ..flows.build import Whitening, build_whitened_flow, init_trained
from ..flows.config import FlowConfig
from ..flows.layout import Params, flatten_params, unflatten_params
from ..training.config import TrainConfig
from ..training.steps import (
    Data,
    Held,
    Rows,
    amounts_of,
    first_state,
    form_of,
    listed,
    make_rows,
    run_between,
    validation_loss,
)

_CONFIG = FlowConfig(layers=3, hidden=(32,), base="normal")
_TRAIN = TrainConfig(loss="log_variance", learning_rate=3e-3, batch_size=256, eval_every=50, patience=4)
_FIRST_STEPS, _STEPS = 1500, 400  # from the identity, and from the flow of the previous temperature
_TAUGHT, _HELD = 2048, 512  # rows of each kind for training, and held-out rows that select the flow's weights
_FORM = form_of(_TRAIN, _TAUGHT)
_FOLD = 5  # every fifth particle is held out and never used for training, at all temperatures
_SOFTENED = 0.3  # power of the weights that selects particles for the regression: with the tails, not the empty regions
_DEFENSIVE, _NU = 0.1, 4  # fraction of the draws for the evidence with heavy tails, and their degrees of freedom
_JITTER = 1e-10  # relative to the variances: there may be fewer distinct particles than dimensions


class _Frame(NamedTuple):
    """The map from whitened coordinates x: u = loc + tril x."""

    loc: Any
    tril: Any


class Preconditioner:
    """A bijection between unconstrained coordinates u (d,) and latent ones theta (d,), where the target is more normal.

    Args:
        dim: number of coordinates, d.
        seed: seeds the initial weights, the selection of rows, and the draws.
        rows: number of points mapped at a time; more points are split, fewer are padded.
    """

    def __init__(self, dim: int, *, seed: int, rows: int):
        self._dim, self._seed, self._rows = dim, seed, rows
        self._params: Params = jax.tree.map(np.asarray, init_trained(jax.random.key(seed), _CONFIG, dim))
        self._frame = _Frame(np.zeros(dim), np.eye(dim))
        self._fits = 0

    def fit(self, u: FloatArray, weights: FloatArray, log_p: FloatArray) -> None:
        """Continues the training on particles.

        Args:
            u: (n, d) particles of all temperatures, in the order of the run.
            weights: (n,) their weights at the temperature of the target, which sum to one.
            log_p: (n,) log density of the target in u at the particles, up to a constant.
        """
        key = jax.random.fold_in(jax.random.key(self._seed), self._fits)
        self._frame = _moments(u, weights)
        data, held = _posed(key, u, weights, log_p, self._frame)
        self._params = _trained(key, self._params, data, held, _STEPS if self._fits else _FIRST_STEPS)
        self._fits += 1

    def to_latent(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns theta (n, d) and log |det dtheta / du| (n,) at u (n, d), in float64."""
        return self._mapped(_to_latent, u)

    def from_latent(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns u (n, d) and log |det du / dtheta| (n,) at theta (n, d), in float64."""
        return self._mapped(_from_latent, theta)

    def sample(self, n: int, block: int = 0) -> tuple[FloatArray, FloatArray]:
        """Returns points u (n, d) from the flow, the same for each block, and the log density (n,) they are drawn from.

        A tenth of them have a Student t distribution in theta. This bounds the importance weights where the tails of
        the flow are too thin (Hesterberg 1995, Technometrics 37, 185: a defensive mixture).
        """
        generator = np.random.default_rng([self._seed, self._fits, block])
        normal = generator.standard_normal((n, self._dim))
        wide = generator.random(n) < _DEFENSIVE
        theta = np.where(wide[:, None], normal / np.sqrt(generator.chisquare(_NU, (n, 1)) / _NU), normal)
        u, log_det = self.from_latent(theta)
        return u, self._log_mixture(theta) - log_det

    def log_prob(self, u: FloatArray) -> FloatArray:
        """Returns the log density (n,) of the draws of `sample` at points u (n, d)."""
        theta, log_det = self.to_latent(u)
        return self._log_mixture(theta) + log_det

    def _log_mixture(self, theta: FloatArray) -> FloatArray:
        parts = multivariate_normal.logpdf, partial(multivariate_t.logpdf, df=_NU)
        log_q: FloatArray = np.logaddexp(
            *(
                np.log(share) + part(theta, np.zeros(self._dim), np.eye(self._dim))
                for share, part in zip((1 - _DEFENSIVE, _DEFENSIVE), parts, strict=True)
            )
        )
        return log_q

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays that `restore` needs, by name."""
        return {**flatten_params(self._params), **self._frame._asdict(), "fits": np.array(float(self._fits))}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores the flow from the result of `arrays`."""
        self._params = unflatten_params(self._params, arrays)
        self._frame = _Frame(arrays["loc"], arrays["tril"])
        self._fits = int(arrays["fits"])

    def _mapped(self, function: Any, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        with jax.enable_x64(True):
            mapped = partial(function, self._params, self._frame)
            return in_batches(mapped, np.asarray(points, np.float64), size=self._rows)


def _moments(u: FloatArray, weights: FloatArray) -> _Frame:
    loc = weights @ u
    centred = u - loc
    covariance = (centred * weights[:, None]).T @ centred
    spread = np.diagonal(covariance)
    return _Frame(loc, np.linalg.cholesky(covariance + _JITTER * np.diag(spread + np.finfo(float).tiny)))


def _posed(
    key: jax.Array, u: FloatArray, weights: FloatArray, log_p: FloatArray, frame: _Frame
) -> tuple[Data, tuple[Held, Held]]:
    """Returns training rows, and held-out draws and points; their numbers are the same at every temperature."""
    fold = np.arange(len(u)) % _FOLD == 0
    middle = log_p[np.argsort(log_p)][np.searchsorted(np.cumsum(weights[np.argsort(log_p)]), 0.5)]
    softened = weights**_SOFTENED
    keys = jax.random.split(key, 4)
    drawn, pointed, held_drawn, held_pointed = (
        _numbers(k, share, n)
        for k, share, n in (
            (keys[0], np.where(fold, 0.0, weights), _TAUGHT),
            (keys[1], np.where(fold, 0.0, softened), _TAUGHT),
            (keys[2], np.where(fold, weights, 0.0), _HELD),
            (keys[3], np.where(fold, softened, 0.0), _HELD),
        )
    )
    x = np.linalg.solve(frame.tril, (u - frame.loc).T).T
    log_p = log_p + np.log(np.diagonal(frame.tril)).sum() - middle

    def rows(numbers: np.ndarray) -> Rows:
        return make_rows(x[numbers], log_p[numbers])

    taught = np.arange(_TAUGHT)
    data = Data(rows(np.concatenate([drawn, pointed])), listed(taught, _TAUGHT), listed(taught + _TAUGHT, _TAUGHT))
    return data, (Held(rows(held_drawn), _HELD), Held(rows(held_pointed), _HELD))


def _numbers(key: jax.Array, shares: FloatArray, n: int) -> np.ndarray:
    """Returns n row numbers drawn in proportion to shares; in equal proportions if all shares are zero."""
    total = shares.sum()
    return systematic_rows(key, shares / total if total > 0 else np.full(len(shares), 1 / len(shares)), n)


def _trained(key: jax.Array, params: Params, data: Data, held: tuple[Held, Held], total: int) -> Params:
    """Returns the weights with the lowest loss at the held-out rows; the initial weights are candidates too."""
    amounts = amounts_of(_TRAIN, max_steps=total)
    judge = partial(validation_loss, config=_CONFIG, form=_FORM)
    best, lowest, since = params, float(judge(params, *held, amounts)), 0
    state = first_state(params, amounts, form=_FORM)
    for start in range(0, total, _TRAIN.eval_every):
        stop = start + _TRAIN.eval_every
        params, state = run_between(key, params, state, data, amounts, start, stop, config=_CONFIG, form=_FORM)
        loss = float(judge(params, *held, amounts))
        best, lowest, since = (params, loss, 0) if loss < lowest else (best, lowest, since + 1)
        if since >= _TRAIN.patience or not np.isfinite(loss):
            break
    return jax.tree.map(np.asarray, best)


@jax.jit
def _to_latent(params: Params, frame: _Frame, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, outer = Whitening(*frame).inverse_and_log_det(u)
    theta, inner = build_whitened_flow(_CONFIG, u.shape[1], params, u.dtype).bijector.inverse_and_log_det(x)
    return theta, outer + inner


@jax.jit
def _from_latent(params: Params, frame: _Frame, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, inner = build_whitened_flow(_CONFIG, theta.shape[1], params, theta.dtype).bijector.forward_and_log_det(theta)
    u, outer = Whitening(*frame).forward_and_log_det(x)
    return u, outer + inner
