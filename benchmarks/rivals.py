"""Other densities to compare ours with: each learns from whitened rows and returns a log density.

flowjax (`pip install flowjax`) and zuko (`pip install zuko`, with torch) keep a tenth of the rows for early stopping,
and are trained again at a lower learning rate while there is time left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.mixture import GaussianMixture

Densities = Callable[[np.ndarray], np.ndarray]  # points (n, d), whitened, to log densities (n,)
Method = Callable[[np.ndarray, float], Densities]  # rows (n, d), whitened, and seconds that it may use
PATIENCE, BATCH, RATE = 10, 512, 1e-3  # flowjax's own defaults (5, 100, 5e-4) are no better and slower
LONGEST = 3.0  # times the seconds that it may use, after which a training that is not finished is stopped
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def gaussian(x: np.ndarray, seconds: float) -> Densities:
    """Returns the standard normal: the Gaussian of the chain's own moments."""
    return lambda points: -0.5 * np.sum(points**2 + np.log(2 * np.pi), axis=1)


def mixture(x: np.ndarray, seconds: float) -> Densities:
    """Returns the mixture of up to 32 Gaussians of lowest BIC, each number fitted three times.

    Larger numbers are tried until BIC has risen twice in succession.
    """
    tried: list[tuple[float, GaussianMixture]] = []
    for k in COMPONENTS:
        if 5 * k < len(x):
            fit = GaussianMixture(k, random_state=0, n_init=3, reg_covar=1e-5).fit(x)
            tried.append((fit.bic(x), fit))
        if len(tried) > 2 and tried[-3][0] < tried[-2][0] < tried[-1][0]:
            break
    return min(tried, key=lambda one: one[0])[1].score_samples


def rates(start: float, seconds: float) -> Iterator[float]:
    """Yields learning rates, each a third of the one before, while there is time."""
    rate = RATE
    while rate == RATE or (time.perf_counter() - start < seconds and rate > 1e-5):
        yield rate
        rate /= 3.0


def of_flowjax(kind: str, *, knots: int = 0) -> Method:
    """Returns a flow of flowjax; `knots` for a rational-quadratic spline in place of an affine transformer."""

    def method(x: np.ndarray, seconds: float) -> Densities:
        from flowjax import bijections, distributions, flows
        from flowjax.train import fit_to_data

        options: dict[str, Any] = {"base_dist": distributions.Normal(jnp.zeros(x.shape[1]))}
        if knots:
            options["transformer"] = bijections.RationalQuadraticSpline(knots=knots, interval=5)
        flow, best = getattr(flows, kind)(jax.random.key(0), **options), np.inf
        settings = {"max_epochs": 1000, "max_patience": PATIENCE, "batch_size": BATCH, "show_progress": False}
        for rate in rates(time.perf_counter(), seconds):
            trained, losses = fit_to_data(jax.random.key(0), flow, x.astype(np.float32), learning_rate=rate, **settings)
            if min(losses["val"]) < best:
                flow, best = trained, min(losses["val"])
        density = jax.jit(lambda points: flow.log_prob(points))
        return lambda points: np.asarray(density(points.astype(np.float32)), np.float64)

    return method


def of_zuko(kind: str, **options: Any) -> Method:
    """Returns a flow of zuko with conditioners of two layers of 64 units."""

    def method(x: np.ndarray, seconds: float) -> Densities:
        import torch
        import zuko

        torch.manual_seed(0)
        flow = getattr(zuko.flows, kind)(x.shape[1], hidden_features=(64, 64), **options)
        rows = torch.as_tensor(np.random.default_rng(0).permutation(x), dtype=torch.float32)
        held, rows = rows[: len(x) // 10], rows[len(x) // 10 :]
        start, best, kept = time.perf_counter(), np.inf, flow.state_dict()
        for rate in rates(start, seconds):
            flow.load_state_dict(kept)
            optimiser, since = torch.optim.Adam(flow.parameters(), lr=rate), 0
            while since < PATIENCE and time.perf_counter() - start < LONGEST * seconds:
                for batch in rows[torch.randperm(len(rows))].split(BATCH):
                    optimiser.zero_grad()
                    (-flow().log_prob(batch).mean()).backward()
                    torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
                    optimiser.step()
                with torch.no_grad():
                    loss = float(-flow().log_prob(held).mean())
                since += 1
                if loss < best:
                    best, since = loss, 0
                    kept = {name: value.clone() for name, value in flow.state_dict().items()}
        flow.load_state_dict(kept)

        def density(points: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                parts = torch.as_tensor(points, dtype=torch.float32).split(4096)
                return torch.cat([flow().log_prob(part) for part in parts]).double().numpy()

        return density

    return method


RIVALS: dict[str, Method] = {
    "Gaussian": gaussian,
    "Gaussian mixture, by BIC": mixture,
    "flowjax coupling": of_flowjax("coupling_flow"),
    "flowjax masked autoregressive": of_flowjax("masked_autoregressive_flow"),
    "flowjax masked autoregressive, splines": of_flowjax("masked_autoregressive_flow", knots=8),
    "flowjax block neural autoregressive": of_flowjax("block_neural_autoregressive_flow"),
    "zuko masked autoregressive": of_zuko("MAF", transforms=5, randperm=True),
    "zuko neural spline": of_zuko("NSF", transforms=5, randperm=True),
    "zuko neural autoregressive": of_zuko("NAF", transforms=3, randperm=True),
}
