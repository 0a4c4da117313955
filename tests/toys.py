"""Small priors, chains and models that several tests share."""

from __future__ import annotations

import ast
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec

import jax
import numpy as np
from scipy.signal import lfilter

import numpyro_flowprior as fp
from numpyro_flowprior import Chain, FlowConfig, FlowPrior, ParameterSpace, StageOptions
from numpyro_flowprior.flows.build import init_trained, stack_members
from numpyro_flowprior.flows.layout import is_ensemble

INF = np.inf

# name, (lower, upper) of each parameter, configuration
PRIOR_TABLE = [
    ("1-D interval, normal", [(0.0, 2.0)], FlowConfig(base="normal", layers=2, hidden=(8,))),
    ("1-D ensemble", [(-1.0, 3.0)], FlowConfig(layers=1, hidden=(8,), members=2)),
    ("1-D half line", [(2.0, INF)], FlowConfig(layers=1, hidden=(8,))),
    ("1-D line", [(-INF, INF)], FlowConfig(layers=1, hidden=(8,))),
    ("2-D box", [(0.0, 1.0), (1e-4, 0.28)], FlowConfig(layers=1, hidden=(8,))),
    ("2-D mixed", [(-INF, 1.0), (0.0, 5.0)], FlowConfig(layers=2, hidden=(8,), base="normal")),
    ("7-D box", [(0.02, 1.2)] * 7, FlowConfig(layers=2, hidden=(8, 8), masks="permuted")),
    ("2-D ensemble", [(0.0, 1.0), (0.0, INF)], FlowConfig(layers=1, hidden=(8,), members=3, background=True)),
    (
        "2-D full mixture",
        [(0.0, 1.0), (-INF, INF)],
        FlowConfig(layers=1, hidden=(8,), base="full_mixture", components=3, members=2, background=True),
    ),
    ("2-D spline", [(0.0, 1.0), (-INF, INF)], FlowConfig(layers=1, hidden=(8,), transformer="spline", bins=4)),
    ("3-D paper", [(-INF, INF)] * 3, FlowConfig.paper(2)),
    ("16-D mixed", [(0.0, INF), (-INF, INF), (-INF, 2.0), (0.1, 0.7)] * 4, FlowConfig(layers=1, hidden=(16,))),
]
PRIOR_IDS = [row[0] for row in PRIOR_TABLE]
PRIOR_ROWS = {row[0]: row for row in PRIOR_TABLE}


def make_prior(bounds, config: FlowConfig, seed: int = 0, strength: float = 0.3) -> FlowPrior:
    """Returns an untrained prior whose weights are all random, so that nothing in it is trivial."""
    lower, upper = np.array(bounds, dtype=float).T
    space = ParameterSpace([f"p{j}" for j in range(len(bounds))], lower, upper)
    rng = np.random.default_rng(seed)
    dim = space.dim
    members = [
        jax.tree.map(
            lambda a: np.asarray(a + strength * rng.normal(size=a.shape) / np.sqrt(max((*a.shape[:1], 1))), np.float32),
            init_trained(jax.random.key(seed + j), config, dim),
        )
        for j in range(config.members)
    ]
    trained = stack_members(members) if is_ensemble(config) else members[0]
    tril = np.tril(0.2 * rng.normal(size=(dim, dim)) / np.sqrt(dim), -1) + np.diag(rng.uniform(0.6, 1.1, dim))
    fixed = {
        "support": {"scale": rng.uniform(0.5, 2.0, dim)},
        "whitening": {"loc": 0.3 * rng.normal(size=dim), "tril": tril},
    }
    if is_ensemble(config):
        shares = 1.0 + np.arange(config.members)
        fixed["mixture"] = {"weights": np.append(0.95 * shares / shares.sum(), 0.05)}
    return FlowPrior(config, space, {**fixed, **trained})


def correlated_chain(n: int = 4000, seed: int = 0, **parts) -> Chain:
    """Returns independent draws of a correlated normal pair pushed into the unit square."""
    rng = np.random.default_rng(seed)
    z = rng.multivariate_normal([0.3, -0.2], [[1.0, 0.7], [0.7, 1.5]], size=n)
    return Chain(1.0 / (1.0 + np.exp(-z)), ParameterSpace(["a", "b"], 0.0, 1.0), **parts)


def mixture_prior(dim: int, components) -> FlowPrior:
    """Returns a prior that is a Gaussian mixture exactly: (weight, mean, standard deviations) of each component."""
    config = FlowConfig(layers=0, base="mixture", components=len(components))
    weights, means, scales = zip(*components, strict=True)
    means, scales = (np.array([np.broadcast_to(part, dim) for part in parts], float) for parts in (means, scales))
    trained = init_trained(jax.random.key(0), config, dim)
    bound = 3.0  # of the base's log scales (flows.base), approached through a tanh
    trained["base"] = {
        "logits": np.log(np.array(weights, np.float32)),
        "mean": means.astype(np.float32),
        "log_scale": (bound * np.arctanh(np.log(scales) / bound)).astype(np.float32),
    }
    fixed = {"support": {"scale": np.ones(dim)}, "whitening": {"loc": np.zeros(dim), "tril": np.eye(dim)}}
    return FlowPrior(config, ParameterSpace([f"p{j}" for j in range(dim)]), {**fixed, **trained})


def mixture_rows(rng: np.random.Generator, n: int, dim: int, components) -> np.ndarray:
    """Returns n draws (n, dim) of the same mixture, without the package."""
    weights, means, scales = zip(*components, strict=True)
    choice = rng.choice(len(weights), n, p=weights)
    means, scales = (np.array([np.broadcast_to(part, dim) for part in parts], float) for parts in (means, scales))
    return means[choice] + scales[choice] * rng.normal(size=(n, dim))


def autoregression(n: int, rho: float, dim: int = 2, seed: int = 0, n_chains: int = 1) -> np.ndarray:
    """Returns (chains * n, dim) rows of stationary first-order autoregressions of unit variance."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n_chains, n, dim))
    noise[:, 1:] *= np.sqrt(1.0 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1).reshape(-1, dim)


def metropolis(n: int, step: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns distinct rows, and how long a Metropolis chain on two normal parameters stayed at each."""
    rng = np.random.default_rng(seed)
    rows, counts = [rng.normal(size=2)], [1]
    for proposal, level in zip(step * rng.normal(size=(n, 2)), np.log(rng.random(n)), strict=True):
        new = rows[-1] + proposal
        if level < 0.5 * (rows[-1] @ rows[-1] - new @ new):
            rows.append(new)
            counts.append(1)
        else:
            counts[-1] += 1
    return np.array(rows), np.array(counts)


def operations(function, *arguments):
    """Yields every operation (a JaxprEqn) of a traced function, those of functions that it calls too."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    yield from walk(jax.make_jaxpr(function)(*arguments).jaxpr)


def coarse_products(function, *arguments):
    """Returns how many matrix products a traced function has, and those of them that a GPU may do in few digits."""
    products = [found for found in operations(function, *arguments) if found.primitive.name == "dot_general"]
    best = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    return len(products), [found for found in products if found.params["precision"] != best]


def names_that_are_missing(code: str) -> list[tuple[str, str]]:
    """Returns the (module, name) that code imports and that do not exist."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = [(node.module, alias.name) for node in imports for alias in node.names]
    return [
        (module, name)
        for module, name in names
        if not (hasattr(import_module(module), name) or find_spec(f"{module}.{name}"))
    ]


def weighted_rows(density, x, log_proposal, **info):
    """Returns the posterior of a model as weighted rows x (n, d), which are draws of a proposal, with its evidence."""
    log_prior, log_likelihood = density.log_prior_and_likelihood(x)
    log_weights = log_prior + log_likelihood - log_proposal
    weights = np.exp(log_weights - log_weights.max())
    return Chain(
        x,
        density.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        weights=weights,
        weights_kind="importance",
        log_evidence=float(np.log(weights.mean()) + log_weights.max()),
        log_evidence_error=float(weights.std() / weights.mean() / np.sqrt(len(x))),
        info=info,
    )


def run_stages(key, stages, first_prior, **given):
    """run_stages, with the options of the stages beside the others; each stage is sampled once unless asked for."""
    given = {"max_passes": 1, "live": False, **given}
    options = {field.name: given.pop(field.name) for field in fields(StageOptions) if field.name in given}
    return fp.run_stages(key, stages, first_prior, options=StageOptions(**options), **given)
