"""Shares of separate modes by pocoMC: from its particles alone, and from draws of its flow, over seeds.

    python benchmarks/shares.py --output benchmarks/results/shares.md

The likelihood has a wide mode with a known share, and a narrow one, in a flat box. "Pulls" are deviations over the
stated error. Runs that say that they did not converge, and those that miss a mode altogether, are only counted.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp

HEAD = (
    "parameters, share, distance [widths]|posterior|runs with both modes|share - exact|root mean square|stated error|"
    "width of the pulls|log Z - exact, root mean square|pulls of log Z|not converged, it says|one mode missed"
)
CASES = ((2, 0.4, 8.0), (5, 0.4, 6.0), (7, 0.16, 4.0), (10, 0.4, 3.0))
NARROW, EDGE = 0.5, 10.0  # width of the second mode relative to the first, and half of the box


def density(d: int, share: float, apart: float) -> fp.ModelDensity:
    """Returns a posterior with two modes; its log evidence is -d log 20."""

    def model() -> None:
        x = numpyro.sample("x", dist.Uniform(-EDGE, EDGE).expand([d]).to_event(1))
        wide = dist.Normal(-apart / 2, 1.0).log_prob(x).sum()
        narrow = dist.Normal(apart / 2, NARROW).log_prob(x).sum()
        numpyro.factor("modes", jnp.logaddexp(jnp.log(share) + wide, jnp.log1p(-share) + narrow))

    return fp.ModelDensity(model)


def rows_of(case: tuple[int, float, float], seeds: int) -> list[tuple[str, ...]]:
    """Returns the rows of a case, for particles alone and with draws of the flow."""
    d, share, apart = case
    posterior, rows = density(*case), []
    for what, draws in (("particles", 0), ("draws of the flow", 4096)):
        found, errors, evidences, evidence_errors, warned, missed = [], [], [], [], 0, 0
        for seed in range(seeds):
            chain = fp.sample_pocomc(jax.random.key(seed), posterior, n_evidence=draws, progress=False)
            value, error = chain.mean_and_error((chain.samples.mean(1, keepdims=True) < 0.0).astype(float))
            warned += not chain.info["converged"]
            if not chain.info["converged"]:
                continue
            if not 0.01 < value[0] < 0.99:
                missed += 1
                continue
            found.append(value[0] - share)
            errors.append(error[0])
            evidences.append(chain.log_evidence + d * np.log(2 * EDGE))
            evidence_errors.append(np.nan if chain.log_evidence_error is None else chain.log_evidence_error)

        def rms(values: list[float]) -> float:
            return float(np.sqrt(np.mean(np.square(values))))

        if not found:
            rows.append((f"{d}, {share}, {apart:g}", what, "0", *6 * [""], str(warned), str(missed)))
            continue
        pulls = np.array(evidences) / evidence_errors
        rows.append(
            (
                f"{d}, {share}, {apart:g}",
                what,
                str(len(found)),
                f"{np.mean(found):+.4f}",
                f"{rms(found):.4f}",
                f"{np.mean(errors):.4f}",
                f"{rms(np.array(found) / errors):.2f}",
                f"{rms(evidences):.4f}",
                "" if draws == 0 else f"{rms(pulls):.2f}",
                str(warned),
                str(missed),
            )
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row for case in CASES for row in rows_of(case, options.seeds)]
    page = ["# Shares of modes\n", origin("python benchmarks/shares.py", "pocomc"), table(HEAD, rows)]
    publish(page, options.output)


if __name__ == "__main__":
    main()
