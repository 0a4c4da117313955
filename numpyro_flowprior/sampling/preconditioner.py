"""Preconditioner: a RealNVP retrained at each temperature of a tempered run, on a few hundred weighted particles.

What makes so few enough is their log density, which the run knows: the flow regresses it, at the particles of all
temperatures, and so is tame in the tails too (the loss "log_variance"). Each training starts from the flow of the
temperature before, in coordinates whitened anew. Every array has a fixed shape: a run compiles four programs.
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
_FIRST_STEPS, _STEPS = 1500, 400  # from the identity, and from the flow of the temperature before
_TAUGHT, _HELD = 2048, 512  # rows of each kind that teach, and that choose the weights
_FORM = form_of(_TRAIN, _TAUGHT)
_FOLD = 5  # every fifth particle chooses and never teaches, at all temperatures
_SOFTENED = 0.3  # power of the weights by which particles are chosen for the regression: the tails too, not the deserts
_DEFENSIVE, _NU = 0.1, 4  # share of the evidence's draws with heavy tails, and their degrees of freedom
_JITTER = 1e-10  # of the variances: resampled particles may be fewer than dimensions


class _Frame(NamedTuple):
    """Where whitened coordinates are: u = loc + tril x."""

    loc: Any
    tril: Any


class Preconditioner:
    """A bijection between unconstrained coordinates u (d,) and latent ones theta (d,), in which the target is whiter.

    Args:
        dim: d.
        seed: of the first weights, the choice of rows and of draws.
        rows: how many points are mapped at a time: more are cut, fewer are padded.
    """

    def __init__(self, dim: int, *, seed: int, rows: int):
        self._dim, self._seed, self._rows = dim, seed, rows
        self._params: Params = jax.tree.map(np.asarray, init_trained(jax.random.key(seed), _CONFIG, dim))
        self._frame = _Frame(np.zeros(dim), np.eye(dim))
        self._fits = 0

    def fit(self, u: FloatArray, weights: FloatArray, log_p: FloatArray) -> None:
        """Trains further on particles.

        Args:
            u: (n, d) particles of all temperatures, in the order in which they came.
            weights: (n,) their weights at the temperature wanted, which sum to one.
            log_p: (n,) the target's log density in u there, up to a constant.
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

    def sample(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Returns points u (n, d) of the flow, the same at each call, and the log density they are drawn from (n,).

        A tenth of them have a Student distribution in theta: importance weights are then bounded in tails that the
        flow's own are too thin for (Hesterberg 1995, Technometrics 37, 185: a defensive mixture).
        """
        generator = np.random.default_rng([self._seed, self._fits])
        normal = generator.standard_normal((n, self._dim))
        wide = generator.random(n) < _DEFENSIVE
        theta = np.where(wide[:, None], normal / np.sqrt(generator.chisquare(_NU, (n, 1)) / _NU), normal)
        parts = multivariate_normal.logpdf, partial(multivariate_t.logpdf, df=_NU)
        log_q = np.logaddexp(
            *(
                np.log(share) + part(theta, np.zeros(self._dim), np.eye(self._dim))
                for share, part in zip((1 - _DEFENSIVE, _DEFENSIVE), parts, strict=True)
            )
        )
        u, log_det = self.from_latent(theta)
        return u, log_q - log_det

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all that `restore` needs, by name."""
        return {**flatten_params(self._params), **self._frame._asdict(), "fits": np.array(float(self._fits))}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Becomes the flow that `arrays` described."""
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
    """Returns what teaches, and the draws and points that choose: as many rows of each kind at every temperature."""
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
    """Returns n row numbers in proportion to shares; of all rows alike where no row has one."""
    total = shares.sum()
    return systematic_rows(key, shares / total if total > 0 else np.full(len(shares), 1 / len(shares)), n)


def _trained(key: jax.Array, params: Params, data: Data, held: tuple[Held, Held], total: int) -> Params:
    """Returns the weights that are best at the held rows, the first ones included."""
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
