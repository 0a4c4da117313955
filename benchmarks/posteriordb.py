"""The bridge and every sampler behind it against the reference posteriors of posteriordb.

10,000 draws each, by Stan, of a regression (kidiq) and of a hierarchy (eight schools, as the reference is parametrised
and centred, which is harder). A cell is right if every marginal passes a Kolmogorov-Smirnov test against the reference
at the effective sizes of both (one in a thousand for all marginals together); with fewer than 200 effective draws no
test has power. The regression's flat priors are normal here, as proper priors must be: with standard deviations of 1000
for the intercept and mom_hs, and 10 for the two slopes per point of IQ, they move no mean by more than 0.002 of the
posterior's standard deviations, where the reference is known to 0.01. What is wrong is printed like the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from exactness import beside, ran, verdict
from tables import origin, publish, table

import numpyro_flowprior as fp

HEAD = "posterior|sampler|right|smallest p|marginal|mean, standard errors|width|effective draws|calls|seconds|it says"
WIDE = np.array([1000.0, 1000.0, 10.0, 10.0])


class Posterior(NamedTuple):
    """A model, its data, posteriordb's name of it, and where the model has the reference's parameters."""

    model: Callable[..., None]
    data: dict[str, Any]
    name: str
    columns: dict[str, str]  # {site: the reference's name}


def kidiq(kid_score: np.ndarray, design: np.ndarray) -> None:
    """Regression of a child's score on its mother's school, IQ and their product."""
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(4), WIDE).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("children", len(kid_score)):
        numpyro.sample("kid_score", dist.Normal(design @ beta, sigma), obs=kid_score)


def eight_schools(y: np.ndarray, sigma: np.ndarray, centred: bool) -> None:
    """Effects of coaching in eight schools, drawn from one distribution."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        if centred:
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        else:
            theta = numpyro.deterministic("theta", mu + tau * numpyro.sample("theta_trans", dist.Normal(0.0, 1.0)))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def posteriors(folder: Path) -> dict[str, Posterior]:
    """Returns {label: posterior}."""
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("kidiq", "eight_schools")}
    school, iq = (np.array(read["kidiq"][name], float) for name in ("mom_hs", "mom_iq"))
    design = np.column_stack([np.ones_like(iq), school, iq, school * iq])
    children = {"kid_score": np.array(read["kidiq"]["kid_score"], float), "design": design}
    schools = {name: np.array(read["eight_schools"][name], float) for name in ("y", "sigma")}
    hierarchy = {"theta": "theta", "mu": "mu", "tau": "tau"}
    return {
        "kidiq": Posterior(kidiq, children, "kidiq", {"beta": "beta", "sigma": "sigma"}),
        "eight schools": Posterior(eight_schools, {**schools, "centred": False}, "eight_schools", hierarchy),
        "eight schools, centred": Posterior(eight_schools, {**schools, "centred": True}, "eight_schools", hierarchy),
    }


def samplers() -> dict[str, Callable[..., fp.Chain]]:
    """Returns the samplers that this version has, with their defaults."""
    known = {"pocoMC": partial(fp.sample_pocomc, flow="maf3"), "emcee": fp.sample_emcee, "NUTS": fp.sample_nuts}
    blackjax = getattr(fp, "sample_blackjax", None)
    return {**known, "BlackJAX": blackjax} if blackjax else known


def in_reference_columns(chain: fp.Chain, density: fp.ModelDensity, columns: dict[str, str]) -> fp.Chain:
    """Returns a chain of the reference's parameters, counted from one as Stan does, whose effective size is its own."""
    values = {**density.constrain(chain.samples), **density.deterministics(chain.samples)}
    found = {}
    for site, name in columns.items():
        flat = values[site].reshape(chain.n, -1)
        one = values[site].ndim == 1
        found |= {name if one else f"{name}[{j + 1}]": column for j, column in enumerate(flat.T)}
    return fp.Chain(
        np.column_stack(list(found.values())),
        fp.ParameterSpace(list(found)),
        weights=chain.weights,
        chain_id=chain.chain_id,
        family_id=chain.family_id,
        rows="independent" if chain.rows == "independent" else None,
        info=chain.info,
    )


def cell(label: str, posterior: Posterior, reference: fp.Chain, name: str, sampler: Any) -> tuple[Any, ...]:
    """Returns the row of one sampler on one posterior."""
    density = fp.ModelDensity(posterior.model, **posterior.data)
    chain, seconds, says = ran(sampler, density)
    found = in_reference_columns(chain, density, posterior.columns).select(reference.names)
    marginals = beside(found, reference.samples, reference.effective_size)
    sizes = f"{found.effective_size:,.0f}", f"{chain.info['calls']:,}", f"{seconds:.0f}"
    return (label, name, verdict(found, marginals.agree), *marginals.worst(found.names), *sizes, says)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the reference chains and their data")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows, sizes = [], {}
    for label, posterior in posteriors(options.data).items():
        reference = fp.read_chain(options.data / f"chain_{posterior.name}.npz")
        sizes[posterior.name] = reference.effective_size
        for name, sampler in samplers().items():
            rows.append(cell(label, posterior, reference, name, sampler))
            print(rows[-1], flush=True)
    head = origin("python benchmarks/posteriordb.py --data <folder>", "pocomc", "emcee")
    known = ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items())
    about = f"{__doc__.split(chr(10) * 2, 1)[1]}\nEffective draws of the reference: {known}.\n"
    publish(["# Samplers against posteriordb\n", head, about, table(HEAD, rows)], options.output)


if __name__ == "__main__":
    main()
