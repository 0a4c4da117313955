"""Two heavy-ion systems in two stages and at once: is the posterior of Au+Au, as a flow, a faithful prior for Pb+Pb?

Stage one calibrates Au+Au at 200 GeV; a flow learns its posterior of the 16 shared parameters; stage two calibrates
Pb+Pb at 2.76 TeV with that prior and a normalisation of its own. Beside it the one-shot fit of all 18 parameters,
twice: how far two joint fits with different seeds are apart is the control.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
from tables import origin, table

import numpyro_flowprior as fp

FILES = {"AuAu": "hic_auau200.npz", "PbPb": "hic_pbpb2760.npz"}
BINS = (75, 20)  # the default of `compare`, and coarser histograms, whose noise floor is lower
TAUGHT = 3  # times as many draws in stage one, from which the flow learns by likelihood alone: without norm_AuAu there
# is no log density of the 16 shared parameters
DRAWN = 8  # parameters in the corner plot
FULL = {"n_total": 4096, "n_effective": 1024, "n_active": 512, "flow": "maf3"}
QUICK = {"n_total": 1024, "n_effective": 512, "n_active": 256, "flow": "maf3"}
EMULATORS = "system|runs x observables|components|R^2 median|R^2 lowest|68 %|95 %|rows|left out|fit [s]"
RUNS = "run|parameters|rows|effective draws|likelihood calls|iterations|seconds|log Z"
PARAMETERS = "parameter|joint|stage two|stage one|shift [sigma]|width ratio|KL [nats]"


@dataclass(frozen=True)
class System:
    """One collision system: its emulator, measurements with their errors, and the table's row on the emulator."""

    emulator: fp.GPEmulator
    y: np.ndarray
    error: np.ndarray
    row: tuple[Any, ...]


def read_system(path: Path, label: str, components: int) -> System:
    """Returns a system with its emulator fitted and validated; `norm` becomes `norm_<label>`, one per system."""
    data = dict(np.load(path, allow_pickle=False))
    names = [f"norm_{label}" if name == "norm" else str(name) for name in data["names"]]
    labels = [name.replace("_over_s", "/s").replace("_in_GeV", "").replace("_", " ") for name in names]
    space, outputs = fp.ParameterSpace(names, *data["bounds"].T, labels=labels), data["y_names"].tolist()
    start = time.perf_counter()
    emulator = fp.GPEmulator.fit(data["X"], data["Y"], space, n_components=components, output_names=outputs)
    seconds = time.perf_counter() - start
    complete = np.isfinite(np.hstack([data["X_val"], data["Y_val"]])).all(axis=1)
    found = emulator.validate(data["X_val"][complete], data["Y_val"][complete])
    r2 = f"{np.median(found.r2):.4f}", f"{found.r2.min():.3f} ({outputs[np.argmin(found.r2)]})"
    coverage = f"{found.coverage_68.mean():.3f}", f"{found.coverage_95.mean():.3f}"
    size = f"{len(data['X'])} x {len(outputs)}"
    row = (label, size, components, *r2, *coverage, complete.sum(), (~complete).sum(), f"{seconds:.0f}")
    return System(emulator, data["y_exp"], data["y_err"], row)


def joint_likelihood(*systems: System) -> fp.EmulatorLikelihood:
    """Returns the likelihood of all measurements of some systems, in one distribution."""
    y, error = (np.concatenate([getattr(system, part) for system in systems]) for part in ("y", "error"))
    return fp.EmulatorLikelihood([system.emulator for system in systems], y, np.diag(error**2))


def flat_model(space: fp.ParameterSpace, likelihood: fp.EmulatorLikelihood) -> None:
    """Stage one, and the joint fit: flat priors on everything."""
    theta = space.as_dict(numpyro.sample("theta", fp.UniformPrior(space)))
    numpyro.sample("y", likelihood(theta), obs=likelihood.observed)


def second_model(prior: fp.FlowPrior, norm: fp.ParameterSpace, likelihood: fp.EmulatorLikelihood) -> None:
    """Stage two: the flow on the shared parameters, a flat prior on the system's own normalisation."""
    theta = prior.space.as_dict(numpyro.sample("shared", prior))
    theta[norm.names[0]] = numpyro.sample(norm.names[0], numpyro.distributions.Uniform(norm.lower[0], norm.upper[0]))
    numpyro.sample("y", likelihood(theta), obs=likelihood.observed)


def run(systems: dict[str, System], *, quick: bool, seed: int) -> tuple[dict[str, fp.Chain], fp.FlowFit]:
    """Returns the chains of both stages and of the joint fit, and the flow between the stages."""
    keys = jax.random.split(jax.random.key(seed), 5)
    first, second = systems.values()
    space, other = (system.emulator.space for system in systems.values())
    shared = [name for name in space.names if name in other.names]
    norm = other.select([name for name in other.names if name not in shared])
    names, lower, upper = ((*getattr(space, part), *getattr(norm, part)) for part in ("names", "lower", "upper"))
    both = fp.ParameterSpace(names, lower, upper, labels=[*space.labels, *norm.labels])

    def sample(key: jax.Array, model: Any, *args: Any, draws: int = 1) -> fp.Chain:
        sizes = dict(QUICK if quick else FULL)
        sizes["n_total"] *= draws
        chain = fp.sample_pocomc(key, fp.ModelDensity(model, *args), **sizes)
        print(chain, chain.info, sep="\n", flush=True)
        return chain

    chains = {"stage one": sample(keys[0], flat_model, space, joint_likelihood(first), draws=TAUGHT)}
    train = fp.TrainConfig(max_steps=800 if quick else 3000)
    fit = fp.fit_flow(keys[1], chains["stage one"].select(shared), train=train)
    print(fit.report, flush=True)
    chains["stage two"] = sample(keys[2], second_model, fit.prior, norm, joint_likelihood(second))
    chains["joint"] = sample(keys[3], flat_model, both, joint_likelihood(first, second))
    chains["joint, again"] = sample(keys[4], flat_model, both, joint_likelihood(first, second))
    return chains, fit


def report(systems: dict[str, System], chains: dict[str, fp.Chain], fit: fp.FlowFit, command: str) -> str:
    """Returns the results as Markdown."""
    one, two, joint = (chains[name] for name in ("stage one", "stage two", "joint"))
    (z1, e1), (z2, e2), (z, e) = ((chain.log_evidence, chain.log_evidence_error) for chain in (one, two, joint))
    compared = {bins: fp.compare(joint.select(two.names), two, bins=bins) for bins in BINS}
    control = {bins: fp.compare(joint, chains["joint, again"], bins=bins) for bins in BINS}
    shown, flow = compared[BINS[0]], fit.report
    marginals = (
        (name, *(moments(chain, name) for chain in (joint, two, one)), f"{shift:+.2f}", f"{ratio:.2f}", f"{kl:.3f}")
        for name, shift, ratio, kl in zip(two.names, shown.shift, shown.width_ratio, shown.kl.one_d, strict=True)
    )
    parts = [
        "# Heavy-ion calibration: Au+Au, then Pb+Pb, against the joint fit\n",
        origin(command, "pocomc"),
        "## Emulators on the held-out design\n\nRows with NaN are left out. Coverage: mean over the observables.\n",
        table(EMULATORS, (system.row for system in systems.values())),
        f"## The flow: Au+Au's posterior of {fit.prior.space.dim} shared parameters\n",
        f"Held-out gain over a Gaussian {flow.gain:.3f} +- {flow.gain_error:.3f} nats ({flow.rows} rows, effective "
        f"{flow.effective_size:.0f}); verdict: {flow.verdict} ({'; '.join(flow.reasons) or 'no remarks'}); "
        f"{fit.history.seconds:.0f} s, best step {fit.history.best_step}.\n",
        f"## Runs: pocoMC, {', '.join(f'{name} {joint.info[name]}' for name in list(FULL)[:3])}; {TAUGHT} times "
        "the draws in stage one\n",
        table(RUNS, ((name, *run_row(chain)) for name, chain in chains.items())),
        f"log Z1 + log Z2 = {z1 + z2:.2f} +- {np.hypot(e1, e2):.2f}; log Z joint = {z:.2f} +- {e:.2f}; difference "
        f"{z1 + z2 - z:+.2f} +- {np.sqrt(e1**2 + e2**2 + e**2):.2f} (the samplers' errors; the flow's are not in them)."
        f"\n\n## Stage two against the joint fit, {two.dim} parameters\n",
        "The floor is what finite draws alone give in histograms of that many bins; the excess is what counts.\n",
        *(
            f"{bins} bins per axis: average KL {c.kl.average:.4f} nats, floor {c.floor.mean():.4f}, excess "
            f"{c.excess:+.4f} +- {c.excess_error:.4f}.\n"
            for bins, c in compared.items()
        ),
        "The same between the two joint fits, which differ in their seed alone: excess "
        + ", ".join(f"{c.excess:+.4f} +- {c.excess_error:.4f} ({bins} bins)" for bins, c in control.items())
        + ". The floor takes pocoMC's weighted particles as independent, which they are not quite.\n",
        table(PARAMETERS, marginals),
    ]
    return "\n".join(parts)


def run_row(chain: fp.Chain) -> tuple[Any, ...]:
    """Returns what a run cost and gave, in the order of the table's columns."""
    info, evidence = chain.info, f"{chain.log_evidence:.2f} +- {chain.log_evidence_error:.2f}"
    cost = info["calls"], info["iterations"], f"{info['seconds']:.0f}"
    return chain.dim, chain.n, f"{chain.effective_size:.0f}", *cost, evidence


def moments(chain: fp.Chain, name: str) -> str:
    """Returns a parameter's mean and standard deviation as text; a dash where the chain lacks it."""
    marginal = chain.select([name]) if name in chain.names else None
    return "-" if marginal is None else f"{marginal.mean()[0]:.3g} +- {np.sqrt(marginal.covariance()[0, 0]):.2g}"


def draw(chains: dict[str, fp.Chain], path: Path) -> None:
    """Draws the shared parameters that the joint fit constrains most, against their prior boxes."""
    joint, one, two = (chains[name] for name in ("joint", "stage one", "stage two"))
    joint = joint.select([name for name in one.names if name in two.names])
    width = np.sqrt(np.diagonal(joint.covariance())) / np.diff(joint.space.bounds, axis=1)[:, 0]
    legends = {"joint fit": joint, "stage one: Au+Au": one, "stage two: Pb+Pb, prior from Au+Au": two}
    names = [joint.names[j] for j in np.sort(np.argsort(width)[:DRAWN])]
    fp.plot_corner(legends, names=names, bins=30).savefig(path, dpi=75)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with hic_auau200.npz and hic_pbpb2760.npz")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for table and picture")
    parser.add_argument("--quick", action="store_true", help="small samples, 5 components: for trying it out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    systems = {label: read_system(args.data / file, label, 5 if args.quick else 10) for label, file in FILES.items()}
    chains, fit = run(systems, quick=args.quick, seed=args.seed)
    options = " --quick" * args.quick + f" --seed {args.seed}" * (args.seed != 0)
    text = report(systems, chains, fit, f"python benchmarks/heavy_ion.py --data ../shared/data{options}")
    (args.out / "heavy_ion.md").write_text(text)
    print(text)
    draw(chains, args.out / "heavy_ion_corner.png")


if __name__ == "__main__":
    main()
